//! The client's session at one shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use atoll_base::{Code, Failure, Happened, LeaseId, ShardId};
use atoll_coord::{AnswerBody, RequestBody};
use atoll_machine::{LeaseOp, LeaseReply, Op, Reply};
use bytes::Bytes;
use tokio::time::Instant;

use super::pulse::{Moment, Pulse};
use crate::call::{Where, unexpected};
use crate::keyspace::Keyspace;

/// What tells sessions of a client apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Terms {
    pub(crate) shard: ShardId,
    pub(crate) ttl: Duration,
    pub(crate) lock_delay: Duration,
}

/// A lease that claims live by.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) pulse: Arc<Pulse>,
    requests: AtomicU64,
    idle_beats: AtomicU32,
}

impl Tenure {
    pub(crate) fn session(&self) -> LeaseId {
        self.pulse.lease
    }

    /// A number for a request, never given again.
    pub(crate) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    /// A claim lives by it at this beat.
    pub(super) fn note_use(&self) {
        self.idle_beats.store(0, Ordering::Relaxed);
    }

    /// None does; returns at how many beats in a row.
    pub(super) fn note_idle(&self) -> u32 {
        self.idle_beats.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// The client's session at the shard that holds `key`; made if there is none that lives.
pub(crate) async fn tenure(
    keyspace: &Keyspace,
    key: &Bytes,
    (ttl, lock_delay): (Duration, Duration),
    deadline: Instant,
) -> Result<Arc<Tenure>, Failure> {
    let whom = Where::Key { keyspace: &keyspace.name, key };
    let shard = keyspace.inner().locate(whom, deadline).await?.shard;
    let terms = Terms { shard, ttl, lock_delay };
    let heart = keyspace.client.heart();
    if let Some(found) = heart.tenure(&terms) {
        return Ok(found);
    }
    let granting = heart.granting(&terms);
    let _one = granting.lock().await;
    if let Some(found) = heart.tenure(&terms) {
        return Ok(found);
    }
    let pulse = grant(keyspace, shard, None, (ttl, lock_delay), deadline).await?;
    let (requests, idle_beats) = (AtomicU64::new(1), AtomicU32::new(0));
    let tenure = Arc::new(Tenure { pulse: Arc::new(pulse), requests, idle_beats });
    heart.begin(terms, Arc::clone(&tenure));
    Ok(tenure)
}

/// Grants a lease of a shard.
pub(super) async fn grant(
    keyspace: &Keyspace,
    shard: ShardId,
    id: Option<LeaseId>,
    (ttl, lock_delay): (Duration, Duration),
    deadline: Instant,
) -> Result<Pulse, Failure> {
    let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let op = LeaseOp::Grant { id, ttl_ms: millis(ttl), lock_delay_ms: millis(lock_delay) };
    let sent = Moment::now();
    let applied = keyspace.inner().command(Where::Shard(shard), Op::Lease(op), deadline).await?;
    let (id, ttl) = match applied.reply {
        Reply::Lease(LeaseReply::Granted { id, ttl_ms }) => (id, Duration::from_millis(ttl_ms)),
        other => return Err(unexpected("the grant of a lease", &AnswerBody::Command(other))),
    };
    if sent.elapsed() < ttl / 3 {
        return Ok(Pulse::new(shard, id, ttl, sent));
    }
    // The grant took so long to be heard of that little is left of what is sure.
    let sent = Moment::now();
    let body = RequestBody::KeepAlive { leases: vec![id] };
    match keyspace.inner().read(Where::Shard(shard), body, deadline).await? {
        (_, AnswerBody::KeptAlive(kept)) if kept.iter().all(|kept| kept.ttl.is_some()) => {
            Ok(Pulse::new(shard, id, ttl, sent))
        }
        (_, AnswerBody::KeptAlive(_)) => {
            let text = format!("lease {id} of {ttl:?} ended before its grant was heard of");
            Err(Failure::new(Code::DeadlineExceeded, text).with_happened(Happened::No))
        }
        (_, other) => Err(unexpected("a keep-alive", &other)),
    }
}
