//! `lock`.

use atoll_client::{Attempt, Busy, LockInfo, Mode};
use clap::Args;
use serde_json::{Value, json};

use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, say};
use super::text::TextArgs;
use super::ward::{WardArgs, interrupted, seconds};

/// `atoll lock`.
#[derive(Args)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    /// The lock
    name: String,
    /// Hold it together with others that want it so
    #[arg(long)]
    shared: bool,
    /// Wait at most so long for it, in seconds; without this, for as long as it takes
    #[arg(long, value_name = "SECONDS")]
    wait: Option<f64>,
    /// Do not wait: end with 3 if others have it
    #[arg(long = "try", conflicts_with = "wait")]
    attempt: bool,
    /// Keep the lock closed for so long after its holder was not heard of any more, in seconds: for
    /// what cannot check tokens
    #[arg(long, default_value_t = 0.0, value_name = "SECONDS")]
    delay: f64,
    /// Only say who holds it and who waits
    #[arg(long, conflicts_with_all = ["shared", "wait", "attempt", "command"])]
    show: bool,
    #[command(flatten)]
    ward: WardArgs,
}

impl LockArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let keyspace = self.data.keyspace().await?;
        let client = keyspace.client().clone();
        let mut lock = keyspace.lock(self.text.encoding().decode(&self.name)?);
        if self.show {
            return show(lock.info().await?, self.data.format());
        }
        lock = lock.ttl(self.ward.ttl()?).delay_after_expiry(seconds("--delay", self.delay)?);
        if self.shared {
            lock = lock.shared();
        }
        if let Some(wait) = self.wait {
            lock = lock.wait(seconds("--wait", wait)?);
        }
        let asked = async {
            match self.attempt {
                true => lock.try_acquire().await,
                false => lock.acquire().await.map(Attempt::Held),
            }
        };
        let attempt = tokio::select! {
            attempt = asked => attempt,
            () = interrupted() => {
                client.close().await;
                return Err(Problem::Local("interrupted while waiting for the lock".to_owned()));
            }
        };
        let ended = match attempt? {
            Attempt::Held(held) => {
                tell(&self.name, held.token().0, self.data.format());
                self.ward.run(held, keyspace.name()).await
            }
            Attempt::Busy(busy) => {
                eprintln!(
                    "lock {} is taken: {} hold it, {} wait",
                    self.name, busy.held, busy.waiting
                );
                Ok(Ended::ConditionsFailed)
            }
        };
        client.close().await;
        ended
    }
}

/// Says on standard error that it is held: standard output is the command's.
pub(super) fn tell(name: &str, token: u64, format: Format) {
    match format {
        Format::Json => eprintln!("{}", json!({ "held": name, "token": token })),
        Format::Table => eprintln!("holding {name} with token {token}"),
    }
}

fn mode(mode: Mode) -> Value {
    match mode {
        Mode::Exclusive => json!("exclusive"),
        Mode::Shared => json!("shared"),
        Mode::Permits(permits) => json!(permits),
    }
}

fn busy_json(busy: &Busy) -> Value {
    let holder = |holder: &atoll_client::LockHolder| {
        json!({
            "session": holder.session.0,
            "token": holder.token.0,
            "mode": mode(holder.mode),
        })
    };
    let holders: Vec<Value> = busy.holders.iter().map(holder).collect();
    json!({ "held": busy.held, "waiting": busy.waiting, "holders": holders })
}

/// Prints how a lock or semaphore stands.
pub(super) fn show(info: Option<LockInfo>, format: Format) -> Result<Ended, Problem> {
    let Some(info) = info else {
        if format == Format::Json {
            say(json!({ "held": 0, "waiting": 0, "holders": [] }))?;
        } else {
            eprintln!("free");
        }
        return Ok(Ended::Well);
    };
    if format == Format::Json {
        let mut object = busy_json(&info.busy);
        object["limit"] = json!(info.limit);
        object["delay_ms"] = json!(info.delay_ms);
        say(object)?;
        return Ok(Ended::Well);
    }
    if let Some(limit) = info.limit {
        say(format!("limit {limit}"))?;
    }
    if let Some(delay) = info.delay_ms {
        say(format!("closed, for at most {delay} ms: its holder was not heard of any more"))?;
    }
    for holder in &info.busy.holders {
        let how = match holder.mode {
            Mode::Exclusive => "alone".to_owned(),
            Mode::Shared => "shared".to_owned(),
            Mode::Permits(permits) => format!("{permits} permits"),
        };
        say(format!("session {} with token {}, {how}", holder.session, holder.token))?;
    }
    say(format!("{} hold it, {} wait", info.busy.held, info.busy.waiting))?;
    Ok(Ended::Well)
}
