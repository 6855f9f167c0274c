//! The load of one cell: clients, each with one request at a time, for a bounded time.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use atoll_base::Rng;
use tokio::task::LocalSet;

use crate::fanout;
use crate::seen::{Pace, Seen, Window};
use crate::target::{Client, Streams};
use crate::workload::{RANGE_KEYS, Workload};

/// Who waits for so long for the last answer will not get it.
const ANSWER_MAX: Duration = Duration::from_secs(10);
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
    /// Writes a key if it is still as it was when the client last saw it. Clients share no keys.
    Cas,
    /// Takes one lock that all clients want, and gives it back at once; what is counted are the
    /// hand-overs, and the latency is the time from asking to having it.
    Lock,
    /// Changes of one key reach as many watchers as there are clients, each on a stream of its
    /// own; what is counted are deliveries, and the latency is the time from sending the change.
    Watch,
    /// The same with one stream of watches for each connection.
    #[value(name = "watch-shared")]
    #[serde(rename = "watch-shared")]
    WatchShared,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Range => "range",
            Self::Page => "page",
            Self::Cas => "cas",
            Self::Lock => "lock",
            Self::Watch => "watch",
            Self::WatchShared => "watch-shared",
        })
    }
}

/// Keys of its own that a client of [`Operation::Cas`] writes.
const CAS_KEYS: u64 = 16;
/// The lock that all want.
const LOCK: &str = "bench/lock";

/// Runs `count` clients, spread evenly over the connections, until the window has passed.
pub(crate) async fn run<C: Client>(
    connections: &[C],
    count: usize,
    operation: Operation,
    workload: &Workload,
    window: Window,
) -> Result<Seen> {
    let is_paced =
        !matches!(operation, Operation::Watch | Operation::WatchShared | Operation::Lock);
    ensure!(window.rate.is_none() || is_paced, "{operation} takes no --rate");
    match operation {
        Operation::Watch => return fanout::run(connections, count, Streams::Own, window).await,
        Operation::WatchShared => {
            return fanout::run(connections, count, Streams::Shared, window).await;
        }
        _ => {}
    }
    let local = LocalSet::new();
    let mut tasks = Vec::with_capacity(count);
    for number in 0..count {
        let client = connections[number % connections.len()].clone();
        let own = CasKeys { number: number as u64, clients: count as u64, seen: BTreeMap::new() };
        let rng = Rng::new(1 + number as u64);
        let workload = workload.clone();
        let pace = Pace::new(window, number, count);
        let one = Loop { client, rng, operation, workload, window, pace, own };
        let ends = (window.to + ANSWER_MAX).into();
        tasks.push(local.spawn_local(tokio::time::timeout_at(ends, one.run())));
    }
    let mut seen = Seen::new();
    local.await;
    for task in tasks {
        seen.add(task.await?.context("a call was never answered")?);
    }
    Ok(seen)
}

/// One client, which waits for one answer at a time.
struct Loop<C> {
    client: C,
    rng: Rng,
    operation: Operation,
    workload: Workload,
    window: Window,
    pace: Pace,
    own: CasKeys,
}

/// The keys that only this client swaps, and the revisions at which it saw them.
struct CasKeys {
    number: u64,
    clients: u64,
    seen: BTreeMap<u64, u64>,
}

impl<C: Client> Loop<C> {
    async fn run(mut self) -> Seen {
        let mut seen = Seen::new();
        if self.operation == Operation::Lock {
            self.contend(&mut seen).await;
            return seen;
        }
        loop {
            let begin = self.pace.begin().await;
            if Instant::now() >= self.window.to {
                return seen;
            }
            match self.one().await {
                Ok(()) => seen.record(begin, Instant::now(), self.window),
                Err(error) => seen.fail(error, self.window).await,
            }
        }
    }

    async fn one(&mut self) -> Result<()> {
        let Self { client, rng, workload, .. } = self;
        match self.operation {
            Operation::Put => client.put(workload.any_key(rng), workload.any_value(rng)).await,
            Operation::Get => {
                let is_there = client.get(workload.any_key(rng)).await?;
                ensure!(is_there, "a key that was filled in is gone");
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
            Operation::Cas => self.swap().await,
            Operation::Lock | Operation::Watch | Operation::WatchShared => {
                bail!("{} is no single request", self.operation)
            }
        }
    }

    /// The first swap of a key fails and learns its revision; all others must succeed.
    async fn swap(&mut self) -> Result<()> {
        let CasKeys { number, clients, seen } = &mut self.own;
        let key = self.rng.below(CAS_KEYS) * *clients + *number;
        let expected = seen.get(&key).copied();
        let value = self.workload.any_value(&mut self.rng);
        let swap = self.client.cas(Workload::key(key), expected.unwrap_or(0), value).await?;
        seen.insert(key, swap.revision);
        let is_right = swap.is_done == expected.is_some();
        ensure!(is_right, "nobody else writes key {key}, seen at {expected:?}: {swap:?}");
        Ok(())
    }

    async fn contend(mut self, seen: &mut Seen) {
        let mut client = match self.client.contender().await {
            Ok(client) => client,
            Err(error) => return seen.fail(error, self.window).await,
        };
        loop {
            let begin = Instant::now();
            if begin >= self.window.to {
                break;
            }
            // Those who still wait when the window has passed are not waited for.
            let locked = tokio::time::timeout_at(self.window.to.into(), client.lock(LOCK)).await;
            match locked {
                Err(_) => break,
                Ok(Ok(held)) => {
                    seen.record(begin, Instant::now(), self.window);
                    if let Err(error) = client.unlock(held).await {
                        seen.fail(error, self.window).await;
                    }
                }
                Ok(Err(error)) => seen.fail(error, self.window).await,
            }
        }
        // Or the next cell would wait for the lock until a lease ends.
        if let Err(error) = client.leave().await {
            seen.fail(error, self.window).await;
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
