//! Leases and locks as they work together with keys: what ending a lease ends, and what a guard
//! lets through. Also how a machine's leases and locks are read.

use atoll_base::{Code, Failure, LeaseId, planted};
use atoll_storage::{Direction, Engine, Tree};
use bytes::Bytes;

use crate::apply::ApplyBatch;
use crate::command::{GuardedOp, Op, TxnOp, TxnStep};
use crate::effect::Effect;
use crate::error::MachineError;
use crate::keys::{borrowed, parse_attached_key};
use crate::kv::Stop;
use crate::lease::Lease;
use crate::lease_op::{LeaseOp, LeaseReply};
use crate::lock::{LockTable, Step, Touched, stale};
use crate::lock_op::{Claim, Guard, LockInfo, LockOp, Place};
use crate::machine::{ShardMachine, damaged};
use crate::reply::Reply;

impl<'a> ApplyBatch<'a> {
    /// The locks, and what a command on them works with.
    fn locks(&mut self) -> (&mut LockTable, Step<'_, 'a>) {
        let kv = &mut self.kv;
        let step = Step {
            scope: &kv.scope,
            limits: &kv.limits,
            leases: &kv.leases,
            counters: &mut kv.counters,
            overlay: &mut kv.overlay,
            effects: &mut self.effects,
            term: self.term,
        };
        (&mut self.locks, step)
    }

    pub(crate) fn lock(&mut self, op: LockOp) -> Result<Reply, Stop> {
        let (locks, mut step) = self.locks();
        Ok(Reply::Lock(locks.apply(op, &mut step)?))
    }

    pub(crate) fn lease(&mut self, op: LeaseOp) -> Result<Reply, Stop> {
        let reply = match op {
            LeaseOp::Grant { id, ttl_ms, lock_delay_ms } => {
                let (shard, kv) = (self.kv.scope.shard, &mut self.kv);
                let times = (ttl_ms, lock_delay_ms);
                let (id, Lease { ttl_ms, birth, .. }) =
                    kv.leases.grant(shard, id, times, &kv.limits, &mut kv.counters)?;
                self.effects.push(Effect::LeaseGranted { id, birth, ttl_ms });
                LeaseReply::Granted { id, ttl_ms }
            }
            LeaseOp::Revoke { id } => {
                self.kv.leases.check_lives(id)?;
                self.end_lease(id, 0)?
            }
            LeaseOp::Expire { id, birth, term } => {
                let (_, step) = self.locks();
                step.check_term(term)?;
                let lease = *self.kv.leases.check_lives(id)?;
                if lease.birth != birth {
                    let text = format!(
                        "lease {id} is of birth {}, the expiry is of birth {birth}",
                        lease.birth
                    );
                    return Err(Failure::new(Code::PreconditionFailed, text).into());
                }
                atoll_base::reached!("a lease expired");
                self.end_lease(id, lease.lock_delay_ms)?
            }
        };
        Ok(Reply::Lease(reply))
    }

    /// Deletes the lease's keys in one revision and ends what it holds and waits for (E3).
    fn end_lease(&mut self, id: LeaseId, delay_ms: u64) -> Result<LeaseReply, MachineError> {
        let (revision, deleted) = self.kv.delete_attached(id)?;
        self.kv.leases.end(id);
        let (locks, mut step) = self.locks();
        locks.session_ended(id, delay_ms, &mut step);
        self.effects.push(Effect::LeaseEnded { id });
        Ok(LeaseReply::Ended { revision, deleted })
    }

    /// A write on condition (F7).
    pub(crate) fn guarded(&mut self, guarded: GuardedOp) -> Result<Reply, MachineError> {
        let GuardedOp { guards, op } = guarded;
        let (count, max) = (guards.len() as u64, self.kv.limits.guards_max);
        if count > max {
            let text = format!("command has {count} guards, limit is {max}");
            return Ok(Reply::Failed(Failure::new(Code::TooLarge, text)));
        }
        let mut touched = Vec::new();
        touches(&op, &mut touched);
        for guard in &guards {
            let refusal = match self.is_home(guard) {
                true => self.refusal_at_home(guard),
                false => self.kv.marks().refusal(guard, &touched)?,
            };
            if let Some(failure) = refusal
                && !planted!(FencingIgnored)
            {
                atoll_base::reached!("a write under an old token was refused");
                return Ok(Reply::Failed(failure));
            }
        }
        let before = self.kv.state.revision;
        let reply = self.perform(Op::clone(&op))?;
        if matches!(reply, Reply::Failed(_)) {
            return Ok(reply);
        }
        for guard in &guards {
            if self.is_home(guard) {
                continue;
            }
            for one in &touched {
                match one {
                    Touched::Put(key) => {
                        // Not where it stands on the side of a transaction that was not done.
                        let found = self.kv.current(key)?;
                        if found.is_some_and(|found| found.record.mod_revision > before) {
                            self.kv.marks().remember(guard, key)?;
                        }
                    }
                    Touched::Delete(..) => self.kv.marks().raise_floor(guard)?,
                }
            }
        }
        Ok(reply)
    }

    /// Whether the guard's lock is this shard's.
    fn is_home(&self, guard: &Guard) -> bool {
        let scope = &self.kv.scope;
        guard.keyspace == scope.keyspace && scope.range.contains(&guard.lock)
    }

    fn refusal_at_home(&self, guard: &Guard) -> Option<Failure> {
        if self.locks.holds(&guard.lock, guard.token) {
            return None;
        }
        let holders = self.locks.info(&guard.lock).map(|info| info.busy.holders);
        let tokens = holders.unwrap_or_default().into_iter().map(|h| h.token.to_string());
        let tokens: Vec<String> = tokens.collect();
        Some(match tokens.is_empty() {
            true => stale(guard, "nobody holds it"),
            false => stale(guard, &format!("it is held with {}", tokens.join(", "))),
        })
    }
}

/// What a command may write, on both sides of transactions.
fn touches<'t>(op: &'t Op, all: &mut Vec<Touched<'t>>) {
    match op {
        Op::Put(put) => all.push(Touched::Put(&put.key)),
        Op::Delete(delete) => all.push(Touched::Delete(&delete.key, &delete.end)),
        Op::Txn(txn) => txn_touches(txn, all),
        _ => {}
    }
}

fn txn_touches<'t>(txn: &'t TxnOp, all: &mut Vec<Touched<'t>>) {
    for step in txn.then.iter().chain(&txn.otherwise) {
        match step {
            TxnStep::Put(put) => all.push(Touched::Put(&put.key)),
            TxnStep::Delete(delete) => all.push(Touched::Delete(&delete.key, &delete.end)),
            TxnStep::Txn(txn) => txn_touches(txn, all),
            TxnStep::Range(_) => {}
        }
    }
}

impl ShardMachine {
    /// A lease, if it lives.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<Lease> {
        self.leases.get(id).copied()
    }

    /// At most `limit` leases, in the order of their ids, behind `after`.
    pub fn leases_after(
        &self,
        after: Option<LeaseId>,
        limit: usize,
    ) -> impl Iterator<Item = (LeaseId, Lease)> {
        self.leases.after(after).map(|(id, lease)| (id, *lease)).take(limit)
    }

    /// At most `limit` keys attached to a lease, in order, behind `after`.
    ///
    /// # Errors
    /// `Damaged` when the engine fails.
    pub fn lease_keys(
        &self,
        engine: &dyn Engine,
        id: LeaseId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Bytes>, Failure> {
        let view = engine.view();
        let span = self.scope.attached_span(id, after);
        let mut keys = Vec::new();
        for pair in view.scan(Tree::Meta, borrowed(&span), Direction::Forward).take(limit) {
            let (record, _) = pair.map_err(|e| damaged(&self.scope.engine(e)))?;
            keys.extend(parse_attached_key(&record));
        }
        Ok(keys)
    }

    /// A lock, semaphore or election; `None` where nobody holds, waits or set a limit.
    #[must_use]
    pub fn lock(&self, name: &[u8]) -> Option<LockInfo> {
        self.locks.info(name)
    }

    /// Where a request to have a lock stands.
    #[must_use]
    pub fn claim_place(&self, claim: &Claim) -> Place {
        self.locks.place(claim)
    }

    /// What a leader that starts must count, from the start: every lease, every wait that ends and
    /// every lock that stays closed for a while.
    #[must_use]
    pub fn timed(&self) -> Vec<Effect> {
        let lease = |(id, lease): (LeaseId, &Lease)| Effect::LeaseGranted {
            id,
            birth: lease.birth,
            ttl_ms: lease.ttl_ms,
        };
        let mut all: Vec<Effect> = self.leases.iter().map(lease).collect();
        all.extend(self.locks.timed());
        all
    }
}
