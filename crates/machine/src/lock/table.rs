//! All locks of a shard, and what commands do to them. Claims are written to the batch's overlay as
//! they change, one small record each: a queue of ten thousand costs a newcomer one record.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::codec::DecodeError;
use atoll_base::{Code, Failure, LeaseId, Term, planted};
use atoll_storage::Tree;
use bytes::Bytes;

use super::queue::{Delay, Lock, Standing};
use crate::counters::Counters;
use crate::effect::{Effect, Left};
use crate::keys::{self, Scope};
use crate::lease::LeaseTable;
use crate::limits::MachineLimits;
use crate::lock_op::{AcquireOp, Claim, LockInfo, LockOp, LockReply, Mode, Place, Token, Wait};
use crate::overlay::Overlay;

/// What a command works with beside the locks.
pub(crate) struct Step<'s, 'e> {
    pub(crate) scope: &'s Scope,
    pub(crate) limits: &'s MachineLimits,
    pub(crate) leases: &'s LeaseTable,
    pub(crate) counters: &'s mut Counters,
    pub(crate) overlay: &'s mut Overlay<'e>,
    pub(crate) effects: &'s mut Vec<Effect>,
    /// The term of the entry.
    pub(crate) term: Term,
}

impl Step<'_, '_> {
    fn put_claim(&mut self, lock: &Bytes, place: u64, standing: &Standing) {
        self.overlay.put(Tree::Meta, self.scope.claim_key(lock, place), standing.encode());
    }

    fn put_lock(&mut self, name: &Bytes, lock: &Lock) {
        match lock.encode() {
            Some(bytes) => self.overlay.put(Tree::Meta, self.scope.lock_key(name), bytes),
            None => self.overlay.delete(Tree::Meta, self.scope.lock_key(name)),
        }
    }

    /// Refuses what a leader proposed in another term than the entry's (E2).
    pub(crate) fn check_term(&self, term: Term) -> Result<(), Failure> {
        if term == self.term {
            return Ok(());
        }
        atoll_base::reached!("an expiry of an earlier term was refused");
        let text = format!("expiry refused: proposed in term {term}, entry is of {}", self.term);
        Err(Failure::new(Code::PreconditionFailed, text))
    }
}

/// The locks of a shard.
#[derive(Default, Debug)]
pub(crate) struct LockTable {
    locks: BTreeMap<Bytes, Lock>,
    /// The locks that each session has claims on.
    by_session: BTreeMap<LeaseId, BTreeSet<Bytes>>,
    claims: u64,
}

fn text(name: &[u8]) -> impl std::fmt::Display {
    name.escape_ascii()
}

impl LockTable {
    pub(crate) fn info(&self, name: &[u8]) -> Option<LockInfo> {
        self.locks.get(name).map(Lock::info)
    }

    pub(crate) fn place(&self, claim: &Claim) -> Place {
        let lock = self.locks.get(&claim.lock);
        lock.map_or(Place::Nowhere, |lock| lock.place_of(claim.session, claim.request))
    }

    pub(crate) fn holds(&self, name: &[u8], token: Token) -> bool {
        self.locks.get(name).is_some_and(|lock| lock.holder_with(token).is_some())
    }

    /// What a leader that starts must count: the effects that would have told it.
    pub(crate) fn timed(&self) -> Vec<Effect> {
        let mut all = Vec::new();
        for (name, lock) in &self.locks {
            all.extend(lock.delay.map(|Delay { number, delay_ms }| Effect::Delayed {
                lock: name.clone(),
                number,
                delay_ms,
            }));
            for (place, standing) in lock.waiting() {
                if let Wait::For(ms) = standing.wait {
                    let (claim, wait_ms) = (standing.claim(name), Some(ms));
                    all.push(Effect::Waits { claim, place, wait_ms });
                }
            }
        }
        all
    }

    /// Does one command.
    pub(crate) fn apply(
        &mut self,
        op: LockOp,
        step: &mut Step<'_, '_>,
    ) -> Result<LockReply, Failure> {
        if let Some(name) = op.lock() {
            check_name(name, step)?;
        }
        match op {
            LockOp::Acquire(acquire) => return self.acquire(acquire, step),
            LockOp::Release { lock, session, token } => {
                let place = self.held_place(&lock, session, token)?;
                self.take_out(&lock, place, None, step);
                self.settle(&lock, step);
            }
            LockOp::Cancel(claim) => return self.cancel(&claim, step),
            LockOp::ExpireWait { lock, place, term } => {
                step.check_term(term)?;
                let standing = self.locks.get(&lock).and_then(|l| l.standing(place));
                if standing.is_none_or(|standing| standing.token.is_some()) {
                    let text = format!("nobody waits at place {place} of lock {}", text(&lock));
                    return Err(Failure::new(Code::NotFound, text));
                }
                atoll_base::reached!("a wait for a lock ended without it");
                self.take_out(&lock, place, Some(Left::WaitOver), step);
                self.settle(&lock, step);
            }
            LockOp::EndDelay { lock, number, term } => {
                step.check_term(term)?;
                let found = self.locks.get_mut(&lock);
                let Some(found) = found.filter(|l| l.delay.is_some_and(|d| d.number == number))
                else {
                    let text = format!("lock {} has no delay {number}", text(&lock));
                    return Err(Failure::new(Code::NotFound, text));
                };
                atoll_base::reached!("a lock's delay ended");
                found.delay = None;
                step.put_lock(&lock, found);
                step.effects.push(Effect::DelayEnded { lock: lock.clone(), number });
                self.settle(&lock, step);
            }
            LockOp::SetSemaphore { lock, limit } => self.set_semaphore(&lock, limit, step)?,
            LockOp::Proclaim { lock, session, token, value } => {
                self.proclaim(&lock, session, token, value, step)?;
            }
            LockOp::RaiseFence { floor } => {
                step.counters.fence = step.counters.fence.max(floor.0);
            }
        }
        Ok(LockReply::Done)
    }

    fn acquire(
        &mut self,
        acquire: AcquireOp,
        step: &mut Step<'_, '_>,
    ) -> Result<LockReply, Failure> {
        let AcquireOp { claim, mode, wait, value } = acquire;
        step.leases.check_lives(claim.session)?;
        match self.place(&claim) {
            Place::Holds(token) => {
                atoll_base::reached!("a holder asked again and got its token");
                return Ok(LockReply::Acquired { token });
            }
            Place::Waits => {
                atoll_base::reached!("a waiter asked again and kept its place");
                return Ok(LockReply::Queued { claim });
            }
            Place::Nowhere => {}
        }
        self.check_acquire(&claim.lock, mode, &value, step)?;
        let lock = self.locks.entry(claim.lock.clone()).or_default();
        let is_free = !lock.has_queue() && lock.fits(mode);
        if !is_free && wait == Wait::No {
            // It is there: what nobody knows of is free.
            return Ok(LockReply::Busy(lock.busy()));
        }
        let place = step.counters.next_serial();
        let Claim { session, request, .. } = claim;
        let standing = Standing { session, request, mode, wait, value, token: None };
        lock.insert(place, standing);
        self.claims += 1;
        self.by_session.entry(session).or_default().insert(claim.lock.clone());
        if is_free {
            let token = self.grant(&claim.lock, place, step);
            return Ok(LockReply::Acquired { token });
        }
        let lock = &self.locks[&claim.lock];
        if let Some(standing) = lock.standing(place) {
            step.put_claim(&claim.lock, place, standing);
        }
        let wait_ms = if let Wait::For(ms) = wait { Some(ms) } else { None };
        step.effects.push(Effect::Waits { claim: claim.clone(), place, wait_ms });
        Ok(LockReply::Queued { claim })
    }

    fn check_acquire(
        &self,
        name: &Bytes,
        mode: Mode,
        value: &Bytes,
        step: &Step<'_, '_>,
    ) -> Result<(), Failure> {
        let lock = self.locks.get(name);
        let limit = lock.and_then(|lock| lock.limit);
        match (mode, limit) {
            (Mode::Permits(_), None) => {
                let text = format!("semaphore {} not found", text(name));
                return Err(Failure::new(Code::NotFound, text));
            }
            (Mode::Permits(permits), Some(limit)) if permits == 0 || permits > limit => {
                let name = text(name);
                let text = format!("{permits} permits asked of semaphore {name}, limit is {limit}");
                return Err(Failure::new(Code::InvalidArgument, text));
            }
            (Mode::Exclusive | Mode::Shared, Some(_)) => {
                let text = format!("{} is a semaphore: ask for permits", text(name));
                return Err(Failure::new(Code::InvalidArgument, text));
            }
            _ => {}
        }
        let (bytes, max) = (value.len() as u64, step.limits.lock_value_bytes_max);
        if bytes > max {
            let text = format!("lock value has {bytes} bytes, limit is {max}");
            return Err(Failure::new(Code::TooLarge, text));
        }
        self.check_room(name, step)
    }

    fn check_room(&self, name: &Bytes, step: &Step<'_, '_>) -> Result<(), Failure> {
        let (claims, claims_max) = (self.claims, step.limits.claims_max);
        let (locks, locks_max) = (self.locks.len() as u64, step.limits.locks_max);
        let is_full = locks >= locks_max && !self.locks.contains_key(name);
        if claims < claims_max && !is_full {
            return Ok(());
        }
        let text = format!(
            "shard {} has {claims} claims on {locks} locks, limits {claims_max} and {locks_max}",
            step.scope.shard
        );
        Err(Failure::new(Code::Overloaded, text))
    }

    /// Gives a claim its token, which is larger than all before it (F1).
    fn grant(&mut self, name: &Bytes, place: u64, step: &mut Step<'_, '_>) -> Token {
        step.counters.fence += 1;
        let token = Token(step.counters.fence);
        let lock = self.locks.get_mut(name).expect("a lock with a claim is there");
        let standing = lock.grant(place, token).expect("the claim was just found");
        step.put_claim(name, place, standing);
        if standing.mode == Mode::Exclusive {
            let (lock, leadership) = (name.clone(), lock.leadership());
            step.effects.push(Effect::Leads { lock, leadership });
        }
        token
    }

    /// The place of the claim that `session` holds with `token` (F5).
    fn held_place(&self, name: &Bytes, session: LeaseId, token: Token) -> Result<u64, Failure> {
        let held = self.locks.get(name).and_then(|lock| lock.holder_with(token));
        match held {
            Some((place, standing)) if standing.session == session => Ok(place),
            _ => {
                let text = format!(
                    "session {session} does not hold lock {} with token {token}",
                    text(name)
                );
                Err(Failure::new(Code::PreconditionFailed, text))
            }
        }
    }

    fn cancel(&mut self, claim: &Claim, step: &mut Step<'_, '_>) -> Result<LockReply, Failure> {
        match self.place(claim) {
            Place::Holds(token) => {
                atoll_base::reached!("a holder asked again and got its token");
                return Ok(LockReply::Acquired { token });
            }
            Place::Waits => {}
            Place::Nowhere => {
                let (session, request) = (claim.session, claim.request);
                let name = text(&claim.lock);
                let text =
                    format!("request {request} of session {session} is not with lock {name}");
                return Err(Failure::new(Code::NotFound, text));
            }
        }
        let lock = self.locks.get(&claim.lock);
        if let Some(place) = lock.and_then(|lock| lock.find(claim.session, claim.request)) {
            self.take_out(&claim.lock, place, Some(Left::Cancelled), step);
            self.settle(&claim.lock, step);
        }
        Ok(LockReply::Done)
    }

    fn set_semaphore(
        &mut self,
        name: &Bytes,
        limit: u64,
        step: &mut Step<'_, '_>,
    ) -> Result<(), Failure> {
        let found = self.locks.get(name);
        if found.is_some_and(|lock| lock.limit.is_none() && lock.has_claims()) {
            let text = format!("lock {} is no semaphore and is in use", text(name));
            return Err(Failure::new(Code::AlreadyExists, text));
        }
        if found.is_none() {
            self.check_room(name, step)?;
        }
        let lock = self.locks.entry(name.clone()).or_default();
        lock.limit = Some(limit);
        step.put_lock(name, lock);
        // What can never be granted must not hold up the rest.
        let is_over = |standing: &Standing| matches!(standing.mode, Mode::Permits(n) if n > limit);
        let over = lock.waiting().filter(|(_, standing)| is_over(standing));
        let over: Vec<u64> = over.map(|(place, _)| place).collect();
        for place in over {
            self.take_out(name, place, Some(Left::LimitShrunk), step);
        }
        self.settle(name, step);
        Ok(())
    }

    fn proclaim(
        &mut self,
        name: &Bytes,
        session: LeaseId,
        token: Token,
        value: Bytes,
        step: &mut Step<'_, '_>,
    ) -> Result<(), Failure> {
        let place = self.held_place(name, session, token)?;
        let (bytes, max) = (value.len() as u64, step.limits.lock_value_bytes_max);
        if bytes > max {
            let text = format!("lock value has {bytes} bytes, limit is {max}");
            return Err(Failure::new(Code::TooLarge, text));
        }
        let Some(lock) = self.locks.get_mut(name) else { return Ok(()) };
        if let Some(standing) = lock.set_value(place, value) {
            step.put_claim(name, place, standing);
            if standing.mode == Mode::Exclusive {
                let (lock, leadership) = (name.clone(), lock.leadership());
                step.effects.push(Effect::Leads { lock, leadership });
            }
        }
        Ok(())
    }

    /// Takes a claim out; nothing is granted yet.
    fn take_out(&mut self, name: &Bytes, place: u64, why: Option<Left>, step: &mut Step<'_, '_>) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        let Some(standing) = lock.remove(place) else { return };
        self.claims -= 1;
        step.overlay.delete(Tree::Meta, step.scope.claim_key(name, place));
        if !lock.has_claims_of(standing.session)
            && let Some(names) = self.by_session.get_mut(&standing.session)
        {
            names.remove(name);
            if names.is_empty() {
                self.by_session.remove(&standing.session);
            }
        }
        match (standing.token, why) {
            (None, Some(why)) => {
                let claim = standing.claim(name);
                step.effects.push(Effect::LeftQueue { claim, place, why });
            }
            (Some(_), _) if standing.mode == Mode::Exclusive => {
                step.effects.push(Effect::Leads { lock: name.clone(), leadership: None });
            }
            _ => {}
        }
    }

    /// Grants what can be granted from the head of the queue on (F3), and forgets a lock that
    /// nobody has anything to do with.
    fn settle(&mut self, name: &Bytes, step: &mut Step<'_, '_>) {
        while let Some(place) = self.locks.get(name).and_then(Lock::ready) {
            let token = self.grant(name, place, step);
            if let Some(standing) = self.locks.get(name).and_then(|lock| lock.standing(place)) {
                let claim = standing.claim(name);
                step.effects.push(Effect::Granted { claim, place, token });
            }
        }
        if self.locks.get(name).is_some_and(Lock::is_idle) {
            self.locks.remove(name);
            step.overlay.delete(Tree::Meta, step.scope.lock_key(name));
        }
    }

    /// A session ended: takes out all that it held and waited for, then grants to others (F4).
    /// Locks that it held stay closed for `delay_ms`.
    pub(crate) fn session_ended(
        &mut self,
        session: LeaseId,
        delay_ms: u64,
        step: &mut Step<'_, '_>,
    ) {
        let names = self.by_session.get(&session).cloned().unwrap_or_default();
        for name in &names {
            let Some(lock) = self.locks.get(name) else { continue };
            let places = lock.places_of(session);
            let held = places.iter().filter_map(|place| lock.standing(*place));
            let held = held.filter(|standing| standing.token.is_some()).count();
            for place in places {
                self.take_out(name, place, Some(Left::SessionEnded), step);
            }
            if held > 0 && delay_ms > 0 && !planted!(DelayIgnored) {
                self.delay(name, delay_ms, step);
            }
            self.settle(name, step);
        }
    }

    /// Closes a lock; a delay that is under way is only made longer.
    fn delay(&mut self, name: &Bytes, delay_ms: u64, step: &mut Step<'_, '_>) {
        let Some(lock) = self.locks.get_mut(name) else { return };
        let delay_ms = lock.delay.map_or(0, |delay| delay.delay_ms).max(delay_ms);
        let number = step.counters.next_serial();
        lock.delay = Some(Delay { number, delay_ms });
        step.put_lock(name, lock);
        step.effects.push(Effect::Delayed { lock: name.clone(), number, delay_ms });
    }

    /// Takes in a record of the engine: of a lock, or of a claim.
    pub(crate) fn load(&mut self, key: &Bytes, value: Bytes) -> Result<(), DecodeError> {
        let malformed = DecodeError::Truncated { what: "lock key", offset: 0, needed: 1 };
        match key.get(8) {
            Some(&keys::LOCK) => self.locks.entry(key.slice(9..)).or_default().load(value),
            Some(&keys::CLAIM) => {
                let (name, place) = keys::parse_claim_key(key).ok_or(malformed)?;
                let session =
                    self.locks.entry(name.clone()).or_default().load_claim(place, value)?;
                self.by_session.entry(session).or_default().insert(name);
                self.claims += 1;
                Ok(())
            }
            _ => Err(malformed),
        }
    }

    /// The records that the engine should hold, and what does not hold of the locks.
    pub(crate) fn inspect(
        &self,
        scope: &Scope,
        leases: &LeaseTable,
        fence: u64,
    ) -> Result<BTreeMap<Bytes, Bytes>, String> {
        let mut records = BTreeMap::new();
        let mut by_session: BTreeMap<LeaseId, BTreeSet<Bytes>> = BTreeMap::new();
        let mut claims = 0;
        for (name, lock) in &self.locks {
            if let Some(fault) = lock.fault().or(lock.is_idle().then_some("is kept for nothing")) {
                return Err(format!("lock {} {fault}", text(name)));
            }
            if let Some(bytes) = lock.encode() {
                records.insert(scope.lock_key(name).into(), bytes.into());
            }
            for (place, standing) in lock.claims() {
                claims += 1;
                by_session.entry(standing.session).or_default().insert(name.clone());
                records.insert(scope.claim_key(name, place).into(), standing.encode().into());
                if leases.get(standing.session).is_none() {
                    let (session, name) = (standing.session, text(name));
                    return Err(format!("lock {name} has a claim of session {session} (F4)"));
                }
                if standing.token.is_some_and(|token| token.0 > fence) {
                    return Err(format!("lock {} has a token above {fence} (F1)", text(name)));
                }
            }
        }
        if by_session != self.by_session || claims != self.claims {
            return Err(format!("{claims} claims differ from the {} indexed", self.claims));
        }
        Ok(records)
    }
}

fn check_name(name: &Bytes, step: &Step<'_, '_>) -> Result<(), Failure> {
    let (bytes, max) = (name.len() as u64, step.limits.key_bytes_max);
    if bytes == 0 {
        return Err(Failure::new(Code::InvalidArgument, "lock name is empty"));
    }
    if bytes > max {
        let text = format!("lock name has {bytes} bytes, limit is {max}");
        return Err(Failure::new(Code::TooLarge, text));
    }
    if step.scope.range.contains(name) {
        return Ok(());
    }
    let text = format!("shard {} does not hold the lock", step.scope.shard);
    Err(Failure::new(Code::StaleEpoch, text))
}
