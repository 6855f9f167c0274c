//! Holders of leases and locks: each keeps a lease alive, asks for locks, writes under their
//! tokens, stands still at times, and writes down what it believed and until when.
//!
//! A holder trusts its lease for the time to live from when it *asked*, less what clocks may drift.
//! A keep-alive that is answered with less, before that time is over, is a broken promise.

use std::time::Duration;

use atoll_base::{Code, LeaseId, Rng, ShardId, Time};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_machine::{
    AcquireOp, Claim, Command, Guard, GuardedOp, LeaseOp, LeaseReply, LockOp, LockReply, Mode, Op,
    PutOp, Reply, Token, Wait,
};
use bytes::Bytes;

use super::Around;
use super::agent::Caller;
use super::desk::{Desk, Fate};
use super::pursuit::{End, Pursuit};
use crate::check::holding::{GuardedWrite, Hold, HoldEnd, trusted};
use crate::history::{Call, KeyNumber, OperationNumber, Return};
use crate::value::{GUARDED_FROM, LEASED_FROM, encode_key, encode_value};

/// The slot for work, and the one that keeps the lease alive.
const WORK: usize = 0;
const BEAT: usize = 1;

/// What a slot is busy with.
#[derive(Debug)]
pub(crate) enum Job {
    Grant {
        id: LeaseId,
        began: Time,
    },
    Attach,
    Acquire {
        claim: Claim,
        lock: u32,
        called: Time,
    },
    Write {
        token: Token,
        number: OperationNumber,
        called: Time,
    },
    Release,
    Revoke,
    KeepAlive,
    /// Whether the lease's key is gone.
    Look,
}

/// A lease as its holder knows it.
#[derive(Clone, Copy, Debug)]
struct Session {
    id: LeaseId,
    ttl: Duration,
    delay: Duration,
    /// It lives until then at least.
    until: Time,
}

/// A lock that is held, for all that its holder knows.
#[derive(Clone, Copy, Debug)]
struct Held {
    lock: u32,
    token: Token,
    called: Time,
    from: Time,
}

/// One holder.
pub(crate) struct Holder {
    desk: Desk<Job>,
    rng: Rng,
    shard: ShardId,
    /// Locks to choose from: few make waits.
    locks: u64,
    session: Option<Session>,
    /// What the grant under way asks for.
    wanted: (Duration, Duration),
    held: Option<Held>,
    /// What it held before, for all that it knows: a client that stood still writes on.
    before: Option<Held>,
    last_lease: u64,
    last_request: u64,
    has_key: bool,
    is_closing: bool,
}

impl Holder {
    pub(crate) fn new(number: u32, shard: ShardId, locks: u64, mut rng: Rng) -> Self {
        Self {
            desk: Desk::new(number, 2, rng.fork()),
            rng,
            shard,
            locks,
            session: None,
            wanted: (Duration::ZERO, Duration::ZERO),
            held: None,
            before: None,
            last_lease: 0,
            last_request: 0,
            has_key: false,
            is_closing: false,
        }
    }

    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        self.rest(20, around);
    }

    /// Keeps nothing alive any more.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// What is still there of a holder that has closed.
    pub(crate) fn debt(&self) -> Option<String> {
        let busy = !self.desk.is_idle() || self.session.is_some();
        let shard = self.shard;
        let key = self.has_key.then(|| format!("a lease of shard {shard} that ended has a key"));
        key.or_else(|| busy.then(|| format!("a lease of shard {shard} does not end")))
    }

    fn rest(&mut self, most_ms: u64, around: &mut Around<'_>) {
        let delay = Duration::from_micros(self.rng.range(1, most_ms * 1_000));
        self.desk.set_timer(WORK, delay, around);
    }

    fn call(&mut self, slot: usize, job: Job, body: RequestBody, around: &mut Around<'_>) {
        let patience = Duration::from_millis(self.rng.range(500, 4_000));
        let pursuit = Pursuit::new(self.shard, body, around.fabric.now().after(patience));
        self.desk.pursue(slot, job, pursuit, around);
    }

    fn op(&mut self, job: Job, op: Op, around: &mut Around<'_>) {
        self.call(WORK, job, RequestBody::Command(Command::anonymous(op)), around);
    }

    /// Chooses what to do next.
    fn work(&mut self, around: &mut Around<'_>) {
        let now = around.fabric.now();
        if self.session.is_some_and(|s| self.is_closing || s.until <= now) {
            // Whatever it holds is held no more, for all that it knows.
            self.drop_session(HoldEnd::Expired, around);
        }
        let Some(session) = self.session else {
            return match (self.is_closing, self.has_key) {
                (false, _) => self.grant(around),
                (true, true) => self.look(around),
                (true, false) => {}
            };
        };
        let choice = self.rng.below(20);
        if let Some(before) = self.before.filter(|_| self.rng.chance(1, 6)) {
            return self.write(before, around);
        }
        match (self.held, choice) {
            (_, 0) => {
                self.drop_session(HoldEnd::Released, around);
                self.op(Job::Revoke, Op::Lease(LeaseOp::Revoke { id: session.id }), around);
            }
            (Some(held), 1..7) => {
                self.let_go(HoldEnd::Released, around);
                let (lock, session) = (self.lock_name(held.lock), session.id);
                let release = LockOp::Release { lock, session, token: held.token };
                self.op(Job::Release, Op::Lock(release), around);
            }
            (Some(held), _) => self.write(held, around),
            (None, _) => self.acquire(session, around),
        }
    }

    fn grant(&mut self, around: &mut Around<'_>) {
        self.last_lease += 1;
        let id = LeaseId((u64::from(self.desk.number()) << 32) + self.last_lease);
        let ttl_ms = self.rng.range(300, 2_500);
        let lock_delay_ms = if self.rng.chance(1, 2) { self.rng.range(1, 800) } else { 0 };
        self.wanted = (Duration::from_millis(ttl_ms), Duration::from_millis(lock_delay_ms));
        let op = Op::Lease(LeaseOp::Grant { id: Some(id), ttl_ms, lock_delay_ms });
        self.op(Job::Grant { id, began: around.fabric.now() }, op, around);
    }

    fn acquire(&mut self, session: Session, around: &mut Around<'_>) {
        self.last_request += 1;
        let lock = self.rng.below(self.locks) as u32;
        let claim =
            Claim { lock: self.lock_name(lock), session: session.id, request: self.last_request };
        self.claim(claim, lock, around.fabric.now(), around);
    }

    /// Asks for a lock, first called for at `called`: the same claim again gets the same answer.
    fn claim(&mut self, claim: Claim, lock: u32, called: Time, around: &mut Around<'_>) {
        let wait = match self.rng.below(3) {
            0 => Wait::No,
            1 => Wait::For(self.rng.range(1, 1_500)),
            _ => Wait::Forever,
        };
        let job = Job::Acquire { claim: claim.clone(), lock, called };
        let acquire = AcquireOp { claim, mode: Mode::Exclusive, wait, value: Bytes::new() };
        self.op(job, Op::Lock(LockOp::Acquire(acquire)), around);
    }

    /// Writes under the lock's token, whether or not it is still held.
    fn write(&mut self, held: Held, around: &mut Around<'_>) {
        let value = around.record.next_value();
        let key = KeyNumber(GUARDED_FROM + held.lock);
        let now = around.fabric.now();
        let place = (self.shard, key);
        let history = &mut around.record.history;
        let number = history.call(now, self.desk.number(), place, Call::Put(value));
        let value = encode_value(value, 0, around.shell.shape.padding_max);
        let put = PutOp { key: encode_key(self.shard, key), value, ..PutOp::default() };
        let guard = Guard {
            keyspace: around.shell.keyspace(self.shard),
            lock: self.lock_name(held.lock),
            token: held.token,
        };
        let op = Op::Guarded(GuardedOp { guards: vec![guard], op: Box::new(Op::Put(put)) });
        self.op(Job::Write { token: held.token, number, called: now }, op, around);
    }

    fn lock_name(&self, lock: u32) -> Bytes {
        encode_key(self.shard, KeyNumber(GUARDED_FROM + 500 + lock))
    }

    fn leased_key(&self) -> Bytes {
        encode_key(self.shard, KeyNumber(LEASED_FROM + self.desk.number()))
    }

    fn look(&mut self, around: &mut Around<'_>) {
        let (key, consistency) = (self.leased_key(), Consistency::Linearizable);
        self.call(WORK, Job::Look, RequestBody::Get { key, at: None, consistency }, around);
    }

    /// Keeps the lease alive.
    fn beat(&mut self, around: &mut Around<'_>) {
        let Some(session) = self.session.filter(|_| !self.is_closing) else { return };
        let body = RequestBody::KeepAlive { leases: vec![session.id] };
        self.call(BEAT, Job::KeepAlive, body, around);
    }

    fn next_beat(&mut self, around: &mut Around<'_>) {
        let Some(session) = self.session else { return };
        // Now and then too late, or at the very moment when the lease ends.
        let (from, to) = match self.rng.below(30) {
            0..2 => (Duration::ZERO, session.ttl * 2),
            2..4 if self.held.is_some() => (session.ttl, session.ttl * 2),
            4..7 => (session.ttl - session.ttl / 100, session.ttl + session.ttl / 100),
            _ => (Duration::ZERO, session.ttl / 3),
        };
        let nanos = |length: Duration| u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let delay = Duration::from_nanos(self.rng.range(nanos(from) + 1, nanos(to) + 2));
        self.desk.set_timer(BEAT, delay, around);
    }

    fn ended(&mut self, job: Job, end: End, sent: Time, around: &mut Around<'_>) {
        let now = around.fabric.now();
        match (job, end) {
            (Job::Grant { id, began }, End::Answered(body)) => {
                let AnswerBody::Command(Reply::Lease(LeaseReply::Granted { ttl_ms, .. })) = *body
                else {
                    return;
                };
                let ttl = Duration::from_millis(ttl_ms);
                // An earlier attempt may have granted it.
                let until = began.after(trusted(ttl));
                self.session = Some(Session { id, ttl, delay: self.wanted.1, until });
                self.beat(around);
                if !self.has_key || self.rng.chance(1, 3) {
                    self.attach(id, around);
                }
            }
            (Job::KeepAlive, End::Answered(body)) => self.kept_alive(&body, sent, around),
            (Job::KeepAlive, _) => self.next_beat(around),
            (Job::Acquire { claim, lock, called }, End::Answered(body)) => {
                // The lease may have ended while the lock was waited for.
                let lives = self.session.is_some_and(|s| s.id == claim.session);
                if lives
                    && let AnswerBody::Command(Reply::Lock(LockReply::Acquired { token })) = *body
                {
                    self.held = Some(Held { lock, token, called, from: now });
                }
            }
            (Job::Write { token, number, called }, End::Answered(body)) => {
                let AnswerBody::Command(Reply::Put { revision, .. }) = *body else { return };
                let (shard, key) = around.record.history.target(number);
                around.record.history.done(number, Return::Put, revision);
                let lock = (shard, key.0 - GUARDED_FROM);
                let write = GuardedWrite { lock, token: token.0, called, revision };
                around.record.holding.writes.push(write);
            }
            (Job::Write { token, number, .. }, End::Refused(failure)) => {
                around.record.history.refused(number);
                let is_held = self.held.is_some_and(|held| held.token == token);
                if failure.code == Code::PreconditionFailed && is_held {
                    self.lost(&failure.message, around);
                }
            }
            (Job::Acquire { claim, lock, called }, End::Unknown) => {
                // It may hold the lock and not know its token: it asks again, or ends its lease.
                let lives = self.session.is_some_and(|s| s.id == claim.session && s.until > now);
                if lives && !self.is_closing && self.rng.chance(2, 3) {
                    return self.claim(claim, lock, called, around);
                }
                let Some(session) = self.session else { return };
                self.drop_session(HoldEnd::Released, around);
                self.op(Job::Revoke, Op::Lease(LeaseOp::Revoke { id: session.id }), around);
            }
            (Job::Look, End::Answered(body)) => {
                if let AnswerBody::Get { kv, .. } = *body {
                    self.has_key = kv.is_some();
                }
            }
            _ => {}
        }
    }

    fn attach(&mut self, lease: LeaseId, around: &mut Around<'_>) {
        self.has_key = true;
        let value = encode_value(around.record.next_value(), 0, 0);
        let key = self.leased_key();
        let put = PutOp { key, value, lease: Some(lease), ..PutOp::default() };
        self.op(Job::Attach, Op::Put(put), around);
    }

    fn kept_alive(&mut self, body: &AnswerBody, sent: Time, around: &mut Around<'_>) {
        let AnswerBody::KeptAlive(kept) = body else { return };
        let now = around.fabric.now();
        let Some(kept) = kept.first() else { return };
        let Some(session) = self.session.as_mut().filter(|s| s.id == kept.id) else { return };
        match kept.ttl {
            Some(ttl) => {
                session.until = session.until.max(sent.after(trusted(ttl)));
                self.next_beat(around);
            }
            None => {
                // It may have been so since the question was sent.
                if sent < session.until && now < session.until {
                    let what = format!("{session:?} ended at {now:?}, asked for at {sent:?}");
                    around.record.report("lease length", what);
                }
                self.drop_session(HoldEnd::Expired, around);
            }
        }
    }

    /// Was told that its token is no longer good.
    fn lost(&mut self, why: &str, around: &mut Around<'_>) {
        let now = around.fabric.now();
        if let (Some(held), Some(session)) = (self.held, self.session)
            && now < session.until
        {
            let what = format!("{held:?} under {session:?} was refused at {now:?}: {why}");
            around.record.report("mutual exclusion", what);
        }
        self.let_go(HoldEnd::Expired, around);
    }

    /// Believes in its lease no more.
    fn drop_session(&mut self, end: HoldEnd, around: &mut Around<'_>) {
        self.let_go(end, around);
        self.session = None;
        around.record.holding.leases += 1;
    }

    /// Writes down a hold that is over.
    fn let_go(&mut self, end: HoldEnd, around: &mut Around<'_>) {
        let (Some(held), Some(session)) = (self.held.take(), self.session) else { return };
        self.before = Some(held);
        let now = around.fabric.now();
        let until = match end {
            HoldEnd::Released => now.min(session.until),
            HoldEnd::Expired => session.until,
        };
        if until <= held.from {
            return;
        }
        let lock = (self.shard, held.lock);
        let (called, from) = (held.called, held.from);
        let (token, delay) = (held.token.0, session.delay);
        let hold = Hold { lock, token, called, from, until, end, delay };
        around.record.holding.holds.push(hold);
    }
}

impl Caller for Holder {
    type Job = Job;

    fn desk(&mut self) -> &mut Desk<Job> {
        &mut self.desk
    }

    fn settle(&mut self, fate: Fate<Job>, around: &mut Around<'_>) {
        match fate {
            Fate::Open => {}
            Fate::Free(BEAT) => self.beat(around),
            Fate::Free(_) => self.work(around),
            Fate::Ended { slot, job, end, sent, .. } => {
                self.ended(job, end, sent, around);
                if slot == WORK && self.desk.is_free(WORK) {
                    // Now and then it stands still for longer than its lease lives.
                    let most = if self.rng.chance(1, 12) { 3_000 } else { 120 };
                    self.rest(most, around);
                }
            }
        }
    }
}
