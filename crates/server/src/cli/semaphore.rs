//! `semaphore`.

use atoll_client::Attempt;
use clap::Args;

use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::lock::{show, tell};
use super::text::TextArgs;
use super::ward::{WardArgs, interrupted, seconds};

/// `atoll semaphore`.
#[derive(Args)]
pub(crate) struct SemaphoreArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    /// The semaphore
    name: String,
    /// Only set how many permits there are; 0 closes it
    #[arg(
        long,
        value_name = "PERMITS",
        conflicts_with_all = ["permits", "wait", "attempt", "command"]
    )]
    limit: Option<u64>,
    /// How many permits to hold
    #[arg(long, short = 'n', default_value_t = 1)]
    permits: u64,
    /// Wait at most so long for them, in seconds; without this, for as long as it takes
    #[arg(long, value_name = "SECONDS")]
    wait: Option<f64>,
    /// Do not wait: end with 3 if there are not enough
    #[arg(long = "try", conflicts_with = "wait")]
    attempt: bool,
    /// Only say how it stands
    #[arg(long, conflicts_with_all = ["limit", "permits", "wait", "attempt", "command"])]
    show: bool,
    #[command(flatten)]
    ward: WardArgs,
}

impl SemaphoreArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let keyspace = self.data.keyspace().await?;
        let client = keyspace.client().clone();
        let mut semaphore = keyspace.semaphore(self.text.encoding().decode(&self.name)?);
        if let Some(limit) = self.limit {
            semaphore.set_limit(limit).await?;
            eprintln!("semaphore {} has {limit} permits", self.name);
            return Ok(Ended::Well);
        }
        if self.show {
            let info = semaphore.info().await?;
            if info.is_none() {
                eprintln!("not found: set its permits with --limit");
                return Ok(Ended::NotFound);
            }
            return show(info, self.data.format());
        }
        semaphore = semaphore.ttl(self.ward.ttl()?);
        if let Some(wait) = self.wait {
            semaphore = semaphore.wait(seconds("--wait", wait)?);
        }
        let asked = async {
            match self.attempt {
                true => semaphore.try_acquire(self.permits).await,
                false => semaphore.acquire(self.permits).await.map(Attempt::Held),
            }
        };
        let attempt = tokio::select! {
            attempt = asked => attempt,
            () = interrupted() => {
                client.close().await;
                return Err(Problem::Local("interrupted while waiting for permits".to_owned()));
            }
        };
        let ended = match attempt? {
            Attempt::Held(held) => {
                tell(&self.name, held.token().0, self.data.format());
                self.ward.run(held, keyspace.name()).await
            }
            Attempt::Busy(busy) => {
                let (held, waiting) = (busy.held, busy.waiting);
                eprintln!("semaphore {}: {held} hold permits, {waiting} wait", self.name);
                Ok(Ended::ConditionsFailed)
            }
        };
        client.close().await;
        ended
    }
}
