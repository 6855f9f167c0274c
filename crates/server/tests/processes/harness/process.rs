//! One `atoll` process.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use super::wait::eventually;

/// What a process can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Signal {
    Kill,
    Stop,
    Continue,
    Interrupt,
    Terminate,
}

/// A process of the binary under test; killed and awaited when dropped.
pub(crate) struct Process {
    child: Child,
    output: PathBuf,
    name: String,
}

/// A command of the binary under test that knows nothing of the surroundings: no variables of
/// Atoll, no `atoll.toml`.
pub(crate) fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ATOLL_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

impl Process {
    /// Starts `atoll ARGS` in `folder`; what it says goes to `NAME.log` there, behind what earlier
    /// ones of this name said.
    pub(crate) fn start(folder: &Path, name: &str, args: &[String]) -> Self {
        Self::start_with(folder, name, args, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_with(
        folder: &Path,
        name: &str,
        args: &[String],
        variables: &[(&str, &str)],
    ) -> Self {
        let output = folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&output).expect("a log file");
        let child = command(folder)
            .args(args)
            .envs(variables.iter().copied())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        Self { child, output, name: name.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it and its predecessors have said.
    pub(crate) fn said(&self) -> String {
        let bytes = std::fs::read(&self.output).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn send(&self, signal: Signal) {
        use rustix::process::{Pid, Signal as Number, kill_process};
        let number = match signal {
            Signal::Kill => Number::KILL,
            Signal::Stop => Number::STOP,
            Signal::Continue => Number::CONT,
            Signal::Interrupt => Number::INT,
            Signal::Terminate => Number::TERM,
        };
        let id = i32::try_from(self.child.id()).expect("a process id");
        let pid = Pid::from_raw(id).expect("a process id is not zero");
        kill_process(pid, number).expect("the process is there: nobody has awaited it");
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be awaited")
    }

    /// Waits until it has ended and gives its exit code.
    pub(crate) async fn exit_code(&mut self, deadline: Duration) -> i32 {
        let what = format!("{} ends", self.name);
        let status =
            eventually(&what, deadline, async || self.ended().ok_or_else(|| "it runs".to_owned()))
                .await;
        assert_eq!(status.signal(), None, "{} was ended by a signal:\n{}", self.name, self.said());
        status.code().expect("no signal, so a code")
    }

    /// Bytes of memory that it has in use.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident_bytes(&self.id().to_string())
    }

    /// How many files and sockets it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).map_or(0, Iterator::count)
    }

    /// Panics when it has ended or said that something panicked.
    pub(crate) fn check_sound(&mut self) {
        let said = self.said();
        if let Some(status) = self.ended() {
            panic!("{} ended with {status}:\n{}", self.name, tail(&said));
        }
        let panicked = said.lines().find(|l| l.contains("panicked") || l.contains("quarantined"));
        assert_eq!(panicked, None, "{} is not sound:\n{}", self.name, tail(&said));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- {} said:\n{}", self.name, tail(&self.said()));
        }
    }
}

/// The resident memory of a process, or of this one (`self`).
pub(crate) fn resident_bytes(process: &str) -> u64 {
    let path = format!("/proc/{process}/statm");
    let statm = std::fs::read_to_string(path).unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Asks `path` of an HTTP server: status code and body, or why not.
pub(crate) fn http_get(address: &str, path: &str) -> Result<(u16, String), String> {
    let ask = || -> std::io::Result<String> {
        let address = address.parse().map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().map_err(|e| e.to_string())?;
    let code = answer.split_whitespace().nth(1).and_then(|c| c.parse().ok());
    let code = code.ok_or_else(|| format!("no status in {answer:?}"))?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((code, body.to_owned()))
}
