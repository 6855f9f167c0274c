//! Keeps leases alive: one task per client.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_base::ShardId;
use atoll_coord::{AnswerBody, RequestBody};
use atoll_machine::{LeaseOp, Op};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pulse::{Moment, Pulse, Standing};
use super::tenure::{Tenure, Terms};
use crate::call::{Inner, Where};

/// Beats without a claim after which a session is given up: two of its lives.
const IDLE_BEATS_MAX: u32 = 12;
/// How long giving up a lease may take; the shard ends it anyway.
const REVOKE_TIMEOUT: Duration = Duration::from_secs(2);

/// The leases of a client and the sessions among them.
#[derive(Default)]
pub(crate) struct Heart {
    beating: Mutex<Beating>,
    wake: Notify,
}

#[derive(Default)]
struct Beating {
    pulses: Vec<Beat>,
    tenures: BTreeMap<Terms, Arc<Tenure>>,
    /// The grants of sessions that are under way, so that callers at the same time share one.
    granting: BTreeMap<Terms, Arc<tokio::sync::Mutex<()>>>,
}

struct Beat {
    pulse: Arc<Pulse>,
    due: Instant,
}

impl Heart {
    fn lock(&self) -> MutexGuard<'_, Beating> {
        self.beating.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a lease alive from now on, until it is lost.
    pub(crate) fn keep(&self, pulse: Arc<Pulse>) {
        let due = Instant::now() + pulse.interval();
        self.lock().pulses.push(Beat { pulse, due });
        self.wake.notify_one();
    }

    /// The session that claims of these terms live by, if there is one that lives.
    pub(super) fn tenure(&self, terms: &Terms) -> Option<Arc<Tenure>> {
        let found = self.lock().tenures.get(terms).cloned();
        found.filter(|tenure| tenure.pulse.standing() != Standing::Lost)
    }

    /// What those hold who make a session of these terms.
    pub(super) fn granting(&self, terms: &Terms) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.lock().granting.entry(*terms).or_default())
    }

    /// Takes a session in and keeps it alive.
    pub(super) fn begin(&self, terms: Terms, tenure: Arc<Tenure>) {
        self.keep(Arc::clone(&tenure.pulse));
        let mut beating = self.lock();
        beating.tenures.insert(terms, tenure);
        beating.granting.remove(&terms);
    }

    /// Ends all sessions, and with them what they hold and wait for.
    pub(crate) async fn close(&self, inner: &Arc<Inner>) {
        let tenures = std::mem::take(&mut self.lock().tenures);
        let mut ending = JoinSet::new();
        for tenure in tenures.into_values() {
            let lives = tenure.pulse.standing() != Standing::Lost;
            tenure.pulse.lose();
            if lives {
                ending.spawn(revoke(Arc::clone(inner), Arc::clone(&tenure.pulse)));
            }
        }
        while ending.join_next().await.is_some() {}
    }

    /// Runs until it is aborted.
    pub(crate) async fn run(self: Arc<Self>, inner: Arc<Inner>) {
        let mut calls = JoinSet::new();
        loop {
            for (shard, pulses) in self.take_due(&inner) {
                calls.spawn(beat(Arc::clone(&inner), shard, pulses));
            }
            let next = self.lock().pulses.iter().map(|beat| beat.due).min();
            let sleep = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.wake.notified() => {}
                Some(_) = calls.join_next() => {}
            }
        }
    }

    /// Those whose turn it is, with those whose turn is soon: what leaves together costs less.
    fn take_due(&self, inner: &Arc<Inner>) -> BTreeMap<ShardId, Vec<Arc<Pulse>>> {
        let now = Instant::now();
        let mut beating = self.lock();
        let beating = &mut *beating;
        beating.pulses.retain(|beat| beat.pulse.standing() != Standing::Lost);
        let mut due: BTreeMap<ShardId, Vec<Arc<Pulse>>> = BTreeMap::new();
        for beat in &mut beating.pulses {
            if beat.due <= now + beat.pulse.interval() / 4 {
                beat.due = now + beat.pulse.interval();
                due.entry(beat.pulse.shard).or_default().push(Arc::clone(&beat.pulse));
            }
        }
        beating.tenures.retain(|_, tenure| {
            if tenure.pulse.standing() == Standing::Lost {
                return false;
            }
            let beats = due.get(&tenure.pulse.shard);
            if beats.is_some_and(|beats| beats.iter().any(|p| Arc::ptr_eq(p, &tenure.pulse))) {
                // Nobody can take it up meanwhile: that needs this lock.
                if Arc::strong_count(tenure) > 1 {
                    tenure.note_use();
                } else if tenure.note_idle() > IDLE_BEATS_MAX {
                    give_up(inner, Arc::clone(&tenure.pulse));
                    return false;
                }
            }
            true
        });
        due
    }
}

/// Sends one heartbeat of leases of one shard.
async fn beat(inner: Arc<Inner>, shard: ShardId, pulses: Vec<Arc<Pulse>>) {
    let leases = pulses.iter().map(|pulse| pulse.lease).collect();
    let interval = pulses.iter().map(|pulse| pulse.interval()).min().unwrap_or_default();
    let deadline = Instant::now() + interval;
    let sent = Moment::now();
    let body = RequestBody::KeepAlive { leases };
    let kept = match inner.read(Where::Shard(shard), body, deadline).await {
        Ok((_, AnswerBody::KeptAlive(kept))) => kept,
        Ok((_, other)) => {
            tracing::warn!(%shard, ?other, "a heartbeat was answered with something else");
            return;
        }
        Err(failure) => {
            // The next one is on its way; time decides how the leases stand.
            tracing::debug!(%shard, %failure, "heartbeat failed");
            return;
        }
    };
    for (pulse, kept) in pulses.iter().zip(kept) {
        debug_assert_eq!(pulse.lease, kept.id, "leases are answered in the order of the question");
        match kept.ttl {
            Some(_) => pulse.acknowledged(sent),
            None => pulse.lose(),
        }
    }
}

/// Ends a lease that is no longer needed, in the background.
pub(super) fn give_up(inner: &Arc<Inner>, pulse: Arc<Pulse>) {
    pulse.lose();
    let inner = Arc::clone(inner);
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(revoke(inner, pulse));
}

async fn revoke(inner: Arc<Inner>, pulse: Arc<Pulse>) {
    let (shard, id) = (pulse.shard, pulse.lease);
    let deadline = Instant::now() + REVOKE_TIMEOUT;
    let revoke = Op::Lease(LeaseOp::Revoke { id });
    if let Err(failure) = inner.command(Where::Shard(shard), revoke, deadline).await {
        tracing::debug!(%shard, lease = %id, %failure, "a lease was left to expire");
    }
}
