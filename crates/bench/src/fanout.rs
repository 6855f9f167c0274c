//! Changes of one key that reach many watchers.
//!
//! A few writers go round in a closed loop: each writes the key and waits until every watcher has
//! told of it, then writes again. So no system is asked for more than it can deliver, the rate is
//! that of deliveries, and the latency, from sending the write to each delivery, is comparable
//! between systems of different speed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::task::LocalSet;

use crate::seen::{Seen, Window};
use crate::target::{Client, Streams};

/// The key that all watch.
const KEY: &[u8] = b"bench/watched";
/// Writers, each with one change on its way at a time.
const WRITERS: usize = 16;
/// Bytes of a value: who wrote it, and padding.
const VALUE_BYTES: usize = 64;
/// How long all watchers may take to tell of one change before it counts as lost.
const LOST: Duration = Duration::from_secs(10);

/// One writer's change on its way.
struct Round {
    sent: Cell<Instant>,
    number: Cell<u64>,
    missing: Cell<usize>,
    complete: Notify,
}

struct Board {
    rounds: Vec<Round>,
    seen: RefCell<Seen>,
    window: Window,
}

impl Board {
    /// A watcher told of a change.
    fn saw(&self, value: &[u8]) {
        let Some((writer, number)) = read(value) else { return };
        let Some(round) = self.rounds.get(writer) else { return };
        if round.number.get() != number {
            return;
        }
        self.seen.borrow_mut().record(round.sent.get(), Instant::now(), self.window);
        let missing = round.missing.get().saturating_sub(1);
        round.missing.set(missing);
        if missing == 0 {
            round.complete.notify_one();
        }
    }
}

fn value(writer: usize, number: u64) -> Bytes {
    let mut value = vec![0; VALUE_BYTES];
    value[..8].copy_from_slice(&(writer as u64).to_le_bytes());
    value[8..16].copy_from_slice(&number.to_le_bytes());
    value.into()
}

fn read(value: &[u8]) -> Option<(usize, u64)> {
    let (writer, rest) = value.split_first_chunk::<8>()?;
    let (number, _) = rest.split_first_chunk::<8>()?;
    Some((usize::try_from(u64::from_le_bytes(*writer)).ok()?, u64::from_le_bytes(*number)))
}

/// Runs the writers until the window has passed; `watchers` watches tell.
pub(crate) async fn run<C: Client>(
    connections: &[C],
    watchers: usize,
    streams: Streams,
    window: Window,
) -> Result<Seen> {
    let round = || Round {
        sent: Cell::new(window.from),
        number: Cell::new(0),
        missing: Cell::new(0),
        complete: Notify::new(),
    };
    let rounds = (0..WRITERS).map(|_| round()).collect();
    let board = Rc::new(Board { rounds, seen: RefCell::new(Seen::new()), window });
    let local = LocalSet::new();
    local.run_until(watch_and_write(connections, watchers, streams, &board)).await?;
    drop(local);
    let board = Rc::into_inner(board).context("a watcher outlived its watch")?;
    Ok(board.seen.into_inner())
}

async fn watch_and_write<C: Client>(
    connections: &[C],
    watchers: usize,
    streams: Streams,
    board: &Rc<Board>,
) -> Result<()> {
    let groups = match streams {
        Streams::Own => watchers,
        Streams::Shared => connections.len(),
    };
    let mut watching = tokio::task::JoinSet::new();
    let mut standing = Vec::new();
    for group in 0..groups {
        let mut client = connections[group % connections.len()].clone();
        let count = watchers / groups + usize::from(group < watchers % groups);
        let (stood, stands) = oneshot::channel();
        standing.push(stands);
        let board = board.clone();
        watching.spawn_local(async move {
            client.watch(Bytes::from_static(KEY), count, stood, |value| board.saw(value)).await
        });
    }
    for stands in standing {
        if stands.await.is_err() {
            let ended = watching.join_next().await.context("no watch ended")?;
            ended?.context("a watch did not stand")?;
        }
    }
    let mut writing = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let client = connections[writer % connections.len()].clone();
        writing.spawn_local(write(client, writer, watchers, board.clone()));
    }
    while let Some(done) = writing.join_next().await {
        done??;
    }
    watching.shutdown().await;
    Ok(())
}

async fn write<C: Client>(
    mut client: C,
    writer: usize,
    watchers: usize,
    board: Rc<Board>,
) -> Result<()> {
    let round = &board.rounds[writer];
    for number in 1.. {
        let now = Instant::now();
        if now >= board.window.to {
            break;
        }
        round.sent.set(now);
        round.number.set(number);
        round.missing.set(watchers);
        client.put(Bytes::from_static(KEY), value(writer, number)).await?;
        let all = tokio::time::timeout(LOST, round.complete.notified()).await;
        let missing = round.missing.get();
        ensure!(all.is_ok(), "{missing} of {watchers} watchers never told of a change");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_name_their_writer_and_round() {
        assert_eq!(read(&value(7, 1 << 40)), Some((7, 1 << 40)));
        assert_eq!(value(7, 1).len(), VALUE_BYTES);
        assert_eq!(read(b"short"), None);
    }
}
