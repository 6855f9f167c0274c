//! The task that has the log while the disk is fast.

use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::worker::{Full, Group, Worker};
use crate::drive::mailbox::Taken;
use crate::drive::metrics::observe;
use crate::drive::threads::abort::AbortOnPanic;
use crate::drive::threads::alarm::Alarm;

/// A larger write is a thread's.
const BYTES_MAX: usize = 256 << 10;

/// Writes until the queue is closed and empty.
pub(super) async fn run(mut worker: Box<Worker>) {
    let hub = worker.hub.clone();
    let mut alarm = Alarm::new();
    let mut jobs = Vec::new();
    hub.metrics.log_inline.set(1);
    loop {
        let until = worker.next_maintenance();
        let waits = poll_fn(|context| match hub.log.mailbox.poll_filled(context) {
            Poll::Ready(()) => Poll::Ready(Waited::Filled),
            Poll::Pending => alarm.poll(until, context).map(|()| Waited::Idle),
        });
        if waits.await == Waited::Idle {
            worker = by_thread(worker, Worker::maintain).await;
            continue;
        }
        after_those_woken().await;
        match hub.log.mailbox.take(&mut jobs, Some(Duration::ZERO)) {
            Taken::Items(waited) => {
                observe(&hub.metrics.log_wait, waited);
                worker = commit(worker, Group::of(&mut jobs)).await;
            }
            Taken::TimedOut | Taken::Nudged => {}
            Taken::Closed => return,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Waited {
    Filled,
    Idle,
}

/// Writes here if that takes no longer than it should; gives the log to a thread for a while when
/// it did.
async fn commit(mut worker: Box<Worker>, group: Group) -> Box<Worker> {
    if group.bytes() > BYTES_MAX || !worker.is_plain(&group) {
        return by_thread(worker, |worker| worker.commit(group)).await;
    }
    let guard = AbortOnPanic("a write to the log");
    let written = worker.try_commit(group);
    drop(guard);
    let took = match written {
        Ok(took) => took,
        Err(Full(group)) => return by_thread(worker, |worker| worker.commit(group)).await,
    };
    let metrics = worker.hub.metrics.clone();
    metrics.log_inline_writes.inc();
    let now = Instant::now();
    let Some(pause) = worker.pace.pause_after(took, now) else { return worker };
    tracing::debug!(?took, ?pause, "the disk is slow: the log has its own thread for a while");
    metrics.log_inline_pauses.inc();
    metrics.log_inline.set(0);
    let worker = by_thread(worker, move |worker| worker.work(Some(now + pause))).await;
    metrics.log_inline.set(1);
    worker
}

/// Lends the log to a thread.
async fn by_thread(
    mut worker: Box<Worker>,
    work: impl FnOnce(&mut Worker) + Send + 'static,
) -> Box<Worker> {
    let done = tokio::task::spawn_blocking(move || {
        let guard = AbortOnPanic("a thread with the log");
        work(&mut worker);
        drop(guard);
        worker
    });
    match done.await {
        Ok(worker) => worker,
        // The runtime ends, and this task with it.
        Err(_) => std::future::pending().await,
    }
}

/// Ready when the tasks have run that are ready now, and those that they wake: a lane's messages
/// pass from a link's queue to its stream and from there to its connection, which sends them.
async fn after_those_woken() {
    for _ in 0..2 {
        let mut is_behind = false;
        poll_fn(|context| {
            if std::mem::replace(&mut is_behind, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
