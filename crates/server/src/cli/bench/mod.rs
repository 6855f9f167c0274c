//! `bench`: puts load on a cluster and measures it. Each client is one task that has one call under
//! way; what it prints is what such clients saw.

mod histogram;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use atoll_base::Rng;
use atoll_client::{Bytes, Failure, Keys, Keyspace, Options};
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::task::JoinSet;

use self::histogram::Histogram;
use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, say, table};

/// Keys that a range call reads.
const RANGE_KEYS: u64 = 100;
/// Keys per batch while filling.
const FILL_BATCH: u64 = 500;

/// What the clients do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Work {
    /// Set random keys
    Put,
    /// Read random keys, linearizable
    Get,
    /// Read 100 keys in a row
    Range,
    /// Nine gets to one put
    Mixed,
}

/// `atoll bench`.
#[derive(Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    data: DataArgs,
    /// What to do
    #[arg(value_enum)]
    work: Work,
    /// Clients at once
    #[arg(long, short = 'c', default_value_t = 64, value_parser = client_count())]
    clients: u32,
    /// For how long, in seconds
    #[arg(long, short = 'd', default_value_t = 10.0)]
    duration: f64,
    /// How many different keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    value_size: usize,
    /// Set every key before the measurement; gets and ranges need it once
    #[arg(long)]
    fill: bool,
    /// Connections per node
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=4))]
    connections: u8,
    /// Where random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn client_count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=100_000)
}

/// What one client saw.
struct Seen {
    times: Histogram,
    errors: u64,
    first_error: Option<Failure>,
}

impl BenchArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let duration = Duration::try_from_secs_f64(self.duration)
            .map_err(|e| Problem::usage(format!("--duration {}: {e}", self.duration)))?;
        let options = Options {
            connections_per_node: usize::from(self.connections),
            in_flight_max: 100_000,
            ..Options::default()
        };
        let client = self.data.connect.client_with(options).await?;
        let keyspace = client.keyspace(&self.data.keyspace);
        if self.fill {
            self.fill_keys(&keyspace).await?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let mut rng = Rng::new(self.seed);
        let mut clients = JoinSet::new();
        let started = Instant::now();
        for _ in 0..self.clients {
            let load = Load {
                keyspace: keyspace.clone(),
                work: self.work,
                keys: self.keys,
                value: Bytes::from(vec![b'v'; self.value_size]),
                rng: rng.fork(),
            };
            clients.spawn(load.run(Arc::clone(&stop)));
        }
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        stop.store(true, Ordering::Relaxed);
        let mut all = Seen { times: Histogram::new(), errors: 0, first_error: None };
        while let Some(seen) = clients.join_next().await {
            let seen = seen.map_err(|e| Problem::local("a client's task", &e))?;
            all.times.merge(&seen.times);
            all.errors += seen.errors;
            all.first_error = all.first_error.or(seen.first_error);
        }
        self.report(&all, started.elapsed())?;
        match (all.times.total(), all.first_error) {
            (0, Some(failure)) => Err(failure.into()),
            _ => Ok(Ended::Well),
        }
    }

    async fn fill_keys(&self, keyspace: &Keyspace) -> Result<(), Problem> {
        let value = Bytes::from(vec![b'v'; self.value_size]);
        let mut running = JoinSet::new();
        for first in (0..self.keys).step_by(FILL_BATCH as usize) {
            let mut batch = keyspace.batch();
            for i in first..(first + FILL_BATCH).min(self.keys) {
                batch = batch.put(key(i), value.clone());
            }
            if running.len() >= 8 {
                filled(running.join_next().await)?;
            }
            running.spawn(batch.commit());
        }
        while !running.is_empty() {
            filled(running.join_next().await)?;
        }
        Ok(())
    }

    fn report(&self, seen: &Seen, elapsed: Duration) -> Result<(), Problem> {
        let (total, seconds) = (seen.times.total(), elapsed.as_secs_f64());
        let rate = total as f64 / seconds;
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let quantile = |per_mille| millis(seen.times.quantile(per_mille));
        if let Some(failure) = &seen.first_error {
            eprintln!("first error: {failure}");
        }
        let work = self.work.to_possible_value();
        let work = work.map_or(String::new(), |w| w.get_name().to_owned());
        if self.data.format() == Format::Json {
            return say(json!({
                "work": work,
                "clients": self.clients,
                "value_size": self.value_size,
                "keys": self.keys,
                "seconds": seconds,
                "calls": total,
                "errors": seen.errors,
                "calls_per_second": rate,
                "p50_ms": quantile(500),
                "p99_ms": quantile(990),
                "p999_ms": quantile(999),
                "max_ms": millis(seen.times.max()),
            }));
        }
        let mut rows = table([
            "work", "clients", "calls/s", "p50 ms", "p99 ms", "p999 ms", "max ms", "errors",
        ]);
        rows.add_row([
            work,
            self.clients.to_string(),
            format!("{rate:.0}"),
            format!("{:.2}", quantile(500)),
            format!("{:.2}", quantile(990)),
            format!("{:.2}", quantile(999)),
            format!("{:.2}", millis(seen.times.max())),
            seen.errors.to_string(),
        ]);
        say(rows)
    }
}

type Filled = Option<Result<Result<atoll_client::BatchDone, Failure>, tokio::task::JoinError>>;

fn filled(done: Filled) -> Result<(), Problem> {
    if let Some(done) = done {
        done.map_err(|e| Problem::local("a batch's task", &e))??;
    }
    Ok(())
}

/// 16 bytes.
fn key(i: u64) -> Bytes {
    Bytes::from(format!("bench-{i:010}"))
}

struct Load {
    keyspace: Keyspace,
    work: Work,
    keys: u64,
    value: Bytes,
    rng: Rng,
}

impl Load {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Seen {
        let mut seen = Seen { times: Histogram::new(), errors: 0, first_error: None };
        while !stop.load(Ordering::Relaxed) {
            let before = Instant::now();
            match self.call().await {
                Ok(()) => seen.times.add(before.elapsed()),
                Err(failure) => {
                    seen.errors += 1;
                    seen.first_error = seen.first_error.or(Some(failure));
                }
            }
        }
        seen
    }

    async fn call(&mut self) -> Result<(), Failure> {
        let i = self.rng.below(self.keys);
        let work = match self.work {
            Work::Mixed if self.rng.chance(1, 10) => Work::Put,
            Work::Mixed => Work::Get,
            other => other,
        };
        match work {
            Work::Put => self.keyspace.put(key(i), self.value.clone()).await.map(drop),
            Work::Range => {
                let keys = Keys::between(key(i), key(i + RANGE_KEYS));
                self.keyspace.scan(keys).collect().await.map(drop)
            }
            Work::Get | Work::Mixed => self.keyspace.get(key(i)).await.map(drop),
        }
    }
}
