//! A command that runs under something that is held, and ends when that is lost.
//!
//! The command's process group gets what this process is told (`TERM`, `HUP`, `USR1`, `USR2`, and
//! `INT` and `QUIT` unless a terminal sends them to both anyway). When the holding is lost, it gets
//! `TERM`, and `KILL` after a grace. On a terminal the command stays in the group of its shell, so
//! that reading and job control work; then only the command itself is ended, not what it started.

use std::io::IsTerminal as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use atoll_client::{Holding, Mode, Standing};
use clap::Args;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::exit::{Ended, Problem};
use super::guard::{GUARD, guard_text};

/// How the command is treated.
#[derive(Args, Clone, Debug)]
pub(crate) struct WardArgs {
    /// How long the cluster waits for a sign of life before it gives what is held to the next one,
    /// in seconds, at least 2
    #[arg(long, default_value_t = 15.0, value_name = "SECONDS")]
    ttl: f64,
    /// How long the command has between TERM and KILL when what is held was lost, in seconds
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    grace: f64,
    /// The command to run; without one, what is held is kept until this is interrupted
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// A flag's seconds as a duration.
pub(crate) fn seconds(flag: &str, value: f64) -> Result<Duration, Problem> {
    Duration::try_from_secs_f64(value)
        .map_err(|error| Problem::usage(format!("{flag} {value} is no time: {error}")))
}

impl WardArgs {
    pub(crate) fn ttl(&self) -> Result<Duration, Problem> {
        seconds("--ttl", self.ttl)
    }

    /// Runs the command, or waits to be interrupted; then lets go.
    pub(crate) async fn run(&self, held: Holding, keyspace: &str) -> Result<Ended, Problem> {
        let grace = seconds("--grace", self.grace)?;
        let ended = match self.command.split_first() {
            Some((program, args)) => {
                let mut command = Command::new(program);
                command.args(args);
                tell(&mut command, &held, keyspace);
                Ward::start(command, grace)?.watch_over(&held).await?
            }
            None => tokio::select! {
                () = held.lost() => Ended::Lost,
                () = interrupted() => Ended::Well,
            },
        };
        if ended == Ended::Lost {
            eprintln!("atoll: {} was lost, somebody else may hold it", shown(&held));
            return Ok(ended);
        }
        let name = shown(&held);
        match held.release().await {
            Ok(()) => Ok(ended),
            Err(failure) if failure.code == atoll_client::Code::PreconditionFailed => {
                eprintln!("atoll: {name} was lost before the command ended: {failure}");
                Ok(Ended::Lost)
            }
            Err(failure) => {
                eprintln!("atoll: {name} ends with its session: {failure}");
                Ok(ended)
            }
        }
    }
}

fn shown(held: &Holding) -> String {
    held.name().escape_ascii().to_string()
}

/// What the command finds in its environment.
fn tell(command: &mut Command, held: &Holding, keyspace: &str) {
    let token = held.token();
    command.env("ATOLL_LOCK_TOKEN", token.to_string());
    command.env("ATOLL_LOCK_SESSION", held.session().0.to_string());
    command.env_remove(GUARD);
    let Ok(name) = std::str::from_utf8(held.name()) else { return };
    command.env("ATOLL_LOCK", name);
    if held.mode() == Mode::Exclusive {
        command.env(GUARD, guard_text(name, token, keyspace));
    }
}

/// Waits for the user to have enough.
pub(crate) async fn interrupted() {
    let mut told = signals();
    let _ = told.recv().await;
}

/// What this process is told.
fn signals() -> mpsc::Receiver<Signal> {
    let (sender, told) = mpsc::channel(8);
    let all = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];
    for one in all {
        let Ok(mut stream) = signal(SignalKind::from_raw(one.as_raw())) else { continue };
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(one).await.is_err() {
                    return;
                }
            }
        });
    }
    told
}

/// The command while it runs.
struct Ward {
    pid: Pid,
    has_terminal: bool,
    grace: Duration,
    ended: oneshot::Receiver<std::io::Result<ExitStatus>>,
}

impl Ward {
    fn start(mut command: Command, grace: Duration) -> Result<Self, Problem> {
        let program = command.get_program().to_string_lossy().into_owned();
        let has_terminal = std::io::stdin().is_terminal();
        if !has_terminal {
            command.process_group(0);
        }
        let mut child: Child =
            command.spawn().map_err(|e| Problem::local(format!("start of {program}"), &e))?;
        let pid = Pid::from_child(&child);
        let (sender, ended) = oneshot::channel();
        std::thread::spawn(move || drop(sender.send(child.wait())));
        Ok(Self { pid, has_terminal, grace, ended })
    }

    fn send(&self, signal: Signal) {
        let sent = match self.has_terminal {
            true => kill_process(self.pid, signal),
            false => kill_process_group(self.pid, signal),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "the command has ended");
        }
    }

    async fn watch_over(mut self, held: &Holding) -> Result<Ended, Problem> {
        let mut told = signals();
        let mut standing = Standing::Held;
        loop {
            tokio::select! {
                ended = &mut self.ended => return code(ended),
                Some(signal) = told.recv() => {
                    let has_it = matches!(signal, Signal::INT | Signal::QUIT) && self.has_terminal;
                    if !has_it {
                        self.send(signal);
                    }
                }
                now = held.changed(standing) => {
                    standing = now;
                    match standing {
                        Standing::Held => eprintln!("atoll: the cluster is heard of again"),
                        Standing::Suspended => eprintln!(
                            "atoll: nothing was heard of the cluster for a while; {} is sure for \
                             another {:.1} s",
                            shown(held),
                            held.sure_for().as_secs_f64()
                        ),
                        Standing::Lost => return self.end().await,
                    }
                }
            }
        }
    }

    /// Ends the command: what protected it is gone.
    async fn end(mut self) -> Result<Ended, Problem> {
        self.send(Signal::TERM);
        if tokio::time::timeout(self.grace, &mut self.ended).await.is_err() {
            self.send(Signal::KILL);
            let _ = self.ended.await;
        } else if !self.has_terminal {
            // What it started and left behind.
            self.send(Signal::KILL);
        }
        Ok(Ended::Lost)
    }
}

/// As shells do it: the exit code, or 128 and the signal.
fn code(
    ended: Result<std::io::Result<ExitStatus>, oneshot::error::RecvError>,
) -> Result<Ended, Problem> {
    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(Problem::local("the wait for the command", &error)),
        Err(error) => return Err(Problem::local("the wait for the command", &error)),
    };
    let signal = status.signal().map_or(255, |signal| 128 + signal);
    Ok(Ended::Command(u8::try_from(status.code().unwrap_or(signal)).unwrap_or(255)))
}
