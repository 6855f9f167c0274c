//! The load of one cell: clients in closed loops for a bounded time.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use atoll_base::Rng;
use tokio::task::LocalSet;

use crate::histogram::Histogram;
use crate::target::Client;
use crate::workload::{RANGE_KEYS, Workload};

/// Keys that one batch of the filling writes; etcd takes at most 128 in one transaction.
const FILL_BATCH: u64 = 100;

/// What the clients do.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Operation {
    /// Writes a random key.
    Put,
    /// Reads a random key.
    Get,
    /// Reads a random range of 100 keys.
    Range,
    /// Reads 100 keys of a listing that begins at a random key and goes on to the last one.
    Page,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Range => "range",
            Self::Page => "page",
        })
    }
}

/// What the clients saw.
pub(crate) struct Seen {
    /// Latencies of what succeeded within the measured time.
    pub(crate) latencies: Histogram,
    /// What failed in the measured time.
    pub(crate) errors: u64,
    /// The first failure's text.
    pub(crate) first_error: Option<String>,
}

/// When the load begins to count and when it ends.
#[derive(Clone, Copy)]
pub(crate) struct Window {
    /// From here on operations are counted.
    pub(crate) from: Instant,
    /// No operation begins after this, and none that ends after it is counted.
    pub(crate) to: Instant,
}

/// Runs `count` clients, spread evenly over the connections, until the window has passed.
pub(crate) async fn run<C: Client>(
    connections: &[C],
    count: usize,
    operation: Operation,
    workload: &Workload,
    window: Window,
) -> Result<Seen> {
    let local = LocalSet::new();
    let mut tasks = Vec::with_capacity(count);
    for number in 0..count {
        let client = connections[number % connections.len()].clone();
        let rng = Rng::new(1 + number as u64);
        tasks.push(local.spawn_local(closed_loop(
            client,
            rng,
            operation,
            workload.clone(),
            window,
        )));
    }
    let mut seen = Seen { latencies: Histogram::new(), errors: 0, first_error: None };
    local.await;
    for task in tasks {
        let one = task.await?;
        seen.latencies.add(&one.latencies);
        seen.errors += one.errors;
        seen.first_error = seen.first_error.or(one.first_error);
    }
    Ok(seen)
}

async fn closed_loop<C: Client>(
    mut client: C,
    mut rng: Rng,
    operation: Operation,
    workload: Workload,
    window: Window,
) -> Seen {
    let mut seen = Seen { latencies: Histogram::new(), errors: 0, first_error: None };
    loop {
        let begin = Instant::now();
        if begin >= window.to {
            return seen;
        }
        let done = one(&mut client, &mut rng, operation, &workload).await;
        let end = Instant::now();
        let is_counted = end >= window.from && end < window.to;
        match done {
            Ok(()) if is_counted => seen.latencies.record(end - begin),
            Ok(()) => {}
            Err(error) => {
                seen.errors += u64::from(is_counted);
                seen.first_error.get_or_insert_with(|| format!("{error:#}"));
                // Not to spin on a server that refuses at once.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn one<C: Client>(
    client: &mut C,
    rng: &mut Rng,
    operation: Operation,
    workload: &Workload,
) -> Result<()> {
    match operation {
        Operation::Put => client.put(workload.any_key(rng), workload.any_value(rng)).await,
        Operation::Get => {
            ensure!(client.get(workload.any_key(rng)).await?, "a key that was filled in is gone");
            Ok(())
        }
        Operation::Range => {
            let count = client.range(workload.any_range(rng)).await? as u64;
            ensure!(count == RANGE_KEYS, "a range of {RANGE_KEYS} keys held {count}");
            Ok(())
        }
        Operation::Page => {
            let count = client.page(workload.any_range(rng).start, RANGE_KEYS).await? as u64;
            ensure!(count == RANGE_KEYS, "a page of {RANGE_KEYS} keys held {count}");
            Ok(())
        }
    }
}

/// Writes every key once, in batches, a few of them at a time.
pub(crate) async fn fill<C: Client>(
    connections: &[C],
    keys: u64,
    workload: &Workload,
) -> Result<()> {
    let next = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let tasks: Vec<_> = (0_u64..)
        .zip(connections.iter().cloned())
        .map(|(number, mut client)| {
            let (next, workload) = (Rc::clone(&next), workload.clone());
            let mut rng = Rng::new(number);
            local.spawn_local(async move {
                while next.get() < keys {
                    let first = next.get();
                    let end = keys.min(first + FILL_BATCH);
                    next.set(end);
                    let pairs =
                        (first..end).map(|n| (Workload::key(n), workload.any_value(&mut rng)));
                    client.put_all(pairs.collect()).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    local.await;
    for task in tasks {
        task.await??;
    }
    Ok(())
}
