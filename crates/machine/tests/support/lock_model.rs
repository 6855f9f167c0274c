//! Leases and locks as one would write them without an index: lists, gone through every time.

use std::collections::BTreeMap;

use atoll_base::{Code, LeaseId, Term};
use atoll_machine::{
    AcquireOp, Busy, Claim, Leadership, LockHolder, LockOp, LockReply, Mode, Token, Wait,
};
use bytes::Bytes;

struct ModelClaim {
    place: u64,
    session: LeaseId,
    request: u64,
    mode: Mode,
    value: Bytes,
    token: Option<Token>,
}

#[derive(Default)]
struct ModelLock {
    limit: Option<u64>,
    delay: Option<(u64, u64)>,
    /// In the order in which they came.
    claims: Vec<ModelClaim>,
}

#[derive(Default)]
pub(crate) struct LockModel {
    /// Birth and lock delay.
    leases: BTreeMap<LeaseId, (u64, u64)>,
    locks: BTreeMap<Bytes, ModelLock>,
    serial: u64,
    fence: u64,
}

impl ModelLock {
    fn fits(&self, mode: Mode) -> bool {
        let mut held = self.claims.iter().filter(|c| c.token.is_some()).map(|c| c.mode);
        let permits = |mode| if let Mode::Permits(n) = mode { n } else { 0 };
        self.delay.is_none()
            && match mode {
                Mode::Exclusive => held.next().is_none(),
                Mode::Shared => held.all(|mode| mode == Mode::Shared),
                Mode::Permits(n) => n + held.map(permits).sum::<u64>() <= self.limit.unwrap_or(0),
            }
    }

    fn busy(&self) -> Busy {
        let holder =
            |c: &ModelClaim| Some(LockHolder { session: c.session, token: c.token?, mode: c.mode });
        let mut holders: Vec<LockHolder> = self.claims.iter().filter_map(holder).collect();
        holders.sort_by_key(|h| h.token);
        let held = holders.len() as u64;
        holders.truncate(16);
        Busy { holders, held, waiting: self.claims.len() as u64 - held }
    }
}

impl LockModel {
    pub(crate) fn lease(&self, id: LeaseId) -> Result<(u64, u64), Code> {
        self.leases.get(&id).copied().ok_or(Code::NotFound)
    }

    pub(crate) fn grant_lease(&mut self, id: LeaseId, delay_ms: u64) -> Result<(), Code> {
        if self.leases.contains_key(&id) {
            return Err(Code::AlreadyExists);
        }
        self.serial += 1;
        self.leases.insert(id, (self.serial, delay_ms));
        Ok(())
    }

    pub(crate) fn end_lease(&mut self, id: LeaseId, delay_ms: u64) {
        self.leases.remove(&id);
        let names: Vec<Bytes> = self.locks.keys().cloned().collect();
        for name in names {
            let lock = self.locks.get_mut(&name).unwrap();
            let held = lock.claims.iter().any(|c| c.session == id && c.token.is_some());
            lock.claims.retain(|claim| claim.session != id);
            if held && delay_ms > 0 {
                self.serial += 1;
                let before = lock.delay.map_or(0, |(_, ms)| ms);
                lock.delay = Some((self.serial, before.max(delay_ms)));
            }
            self.settle(&name);
        }
    }

    pub(crate) fn holds(&self, name: &Bytes, token: Token) -> bool {
        let lock = self.locks.get(name);
        lock.is_some_and(|lock| lock.claims.iter().any(|c| c.token == Some(token)))
    }

    pub(crate) fn leadership(&self, name: &Bytes) -> Option<Leadership> {
        let claims = &self.locks.get(name)?.claims;
        let leader = claims.iter().find(|c| c.token.is_some() && c.mode == Mode::Exclusive)?;
        let (session, value) = (leader.session, leader.value.clone());
        Some(Leadership { session, token: leader.token?, value })
    }

    pub(crate) fn names(&self) -> Vec<Bytes> {
        self.locks.keys().cloned().collect()
    }

    fn settle(&mut self, name: &Bytes) {
        let lock = self.locks.get_mut(name).unwrap();
        while let Some(at) = lock.claims.iter().position(|c| c.token.is_none())
            && lock.fits(lock.claims[at].mode)
        {
            self.fence += 1;
            lock.claims[at].token = Some(Token(self.fence));
        }
        if lock.claims.is_empty() && lock.delay.is_none() && lock.limit.unwrap_or(0) == 0 {
            self.locks.remove(name);
        }
    }

    fn find(&self, claim: &Claim) -> Option<&ModelClaim> {
        let claims = &self.locks.get(&claim.lock)?.claims;
        claims.iter().find(|c| (c.session, c.request) == (claim.session, claim.request))
    }

    fn held(&mut self, name: &Bytes, session: LeaseId, token: Token) -> Result<usize, Code> {
        let lock = self.locks.get(name);
        let holds = |c: &ModelClaim| c.token == Some(token) && c.session == session;
        lock.and_then(|l| l.claims.iter().position(holds)).ok_or(Code::PreconditionFailed)
    }

    pub(crate) fn lock(&mut self, op: &LockOp) -> Result<LockReply, Code> {
        match op {
            LockOp::Acquire(acquire) => return self.acquire(acquire),
            LockOp::Release { lock, session, token } => {
                let at = self.held(lock, *session, *token)?;
                self.locks.get_mut(lock).unwrap().claims.remove(at);
                self.settle(lock);
            }
            LockOp::Cancel(claim) => {
                let found = self.find(claim).ok_or(Code::NotFound)?;
                if let Some(token) = found.token {
                    return Ok(LockReply::Acquired { token });
                }
                let place = found.place;
                let lock = self.locks.get_mut(&claim.lock).unwrap();
                lock.claims.retain(|c| c.place != place);
                self.settle(&claim.lock);
            }
            LockOp::ExpireWait { term, .. } | LockOp::EndDelay { term, .. } if *term != Term(1) => {
                return Err(Code::PreconditionFailed);
            }
            LockOp::ExpireWait { lock, place, .. } => {
                let found = self.locks.get_mut(lock).ok_or(Code::NotFound)?;
                let waits = |c: &ModelClaim| c.place == *place && c.token.is_none();
                let at = found.claims.iter().position(waits).ok_or(Code::NotFound)?;
                found.claims.remove(at);
                self.settle(lock);
            }
            LockOp::EndDelay { lock, number, .. } => {
                let found = self.locks.get_mut(lock).ok_or(Code::NotFound)?;
                found.delay.filter(|(is, _)| is == number).ok_or(Code::NotFound)?;
                found.delay = None;
                self.settle(lock);
            }
            LockOp::SetSemaphore { lock, limit } => {
                let found = self.locks.entry(lock.clone()).or_default();
                if found.limit.is_none() && !found.claims.is_empty() {
                    return Err(Code::AlreadyExists);
                }
                found.limit = Some(*limit);
                found.claims.retain(|c| {
                    c.token.is_some() || matches!(c.mode, Mode::Permits(n) if n <= *limit)
                });
                self.settle(lock);
            }
            LockOp::Proclaim { lock, session, token, value } => {
                let at = self.held(lock, *session, *token)?;
                self.locks.get_mut(lock).unwrap().claims[at].value = value.clone();
            }
            LockOp::RaiseFence { floor } => self.fence = self.fence.max(floor.0),
        }
        Ok(LockReply::Done)
    }

    fn acquire(&mut self, acquire: &AcquireOp) -> Result<LockReply, Code> {
        let AcquireOp { claim, mode, wait, value } = acquire;
        self.lease(claim.session)?;
        if let Some(found) = self.find(claim) {
            return Ok(match found.token {
                Some(token) => LockReply::Acquired { token },
                None => LockReply::Queued { claim: claim.clone() },
            });
        }
        let limit = self.locks.get(&claim.lock).and_then(|lock| lock.limit);
        match (mode, limit) {
            (Mode::Permits(_), None) => return Err(Code::NotFound),
            (Mode::Permits(n), Some(limit)) if *n == 0 || *n > limit => {
                return Err(Code::InvalidArgument);
            }
            (Mode::Exclusive | Mode::Shared, Some(_)) => return Err(Code::InvalidArgument),
            _ => {}
        }
        let lock = self.locks.entry(claim.lock.clone()).or_default();
        let has_queue = lock.claims.iter().any(|c| c.token.is_none());
        if *wait == Wait::No && (has_queue || !lock.fits(*mode)) {
            return Ok(LockReply::Busy(lock.busy()));
        }
        self.serial += 1;
        let Claim { session, request, .. } = *claim;
        let (place, mode, value) = (self.serial, *mode, value.clone());
        lock.claims.push(ModelClaim { place, session, request, mode, value, token: None });
        self.settle(&claim.lock);
        Ok(match self.find(claim).unwrap().token {
            Some(token) => LockReply::Acquired { token },
            None => LockReply::Queued { claim: claim.clone() },
        })
    }
}
