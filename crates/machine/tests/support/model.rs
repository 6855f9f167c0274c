//! The machine as one would write it without a disk: the whole state of every revision, kept.

use std::collections::BTreeMap;

use atoll_base::{Code, Failure, Revision, Term};
use atoll_machine::{
    Compare, CompareTarget, DeleteOp, Event, EventKind, Guard, KeyEnd, KeyValue, LeaseOp,
    LeaseReply, Op, PutOp, RangePage, RangeQuery, Record, Reply, TxnOp, TxnResult, TxnStep,
};
use atoll_storage::Direction;
use bytes::Bytes;

use super::lock_model::LockModel;

type Pairs = BTreeMap<Bytes, KeyValue>;

/// The state of revision `i + 1` is `states[i]`.
pub(crate) struct Model {
    pub(crate) states: Vec<Pairs>,
    pub(crate) compacted: Revision,
    pub(crate) events: Vec<Event>,
    pub(crate) locks: LockModel,
}

fn fail<T>(code: Code) -> Result<T, Code> {
    Err(code)
}

impl Model {
    pub(crate) fn new() -> Self {
        let states = vec![Pairs::new()];
        Self { states, compacted: Revision(1), events: Vec::new(), locks: LockModel::default() }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision(self.states.len() as u64)
    }

    fn newest(&self) -> &Pairs {
        self.states.last().unwrap()
    }

    /// The reply; of a failure only the code counts.
    pub(crate) fn apply(&mut self, op: &Op) -> Reply {
        let done = match op {
            Op::Put(put) => {
                let txn = vec![TxnStep::Put(put.clone())];
                self.run(&txn).map(|(revision, mut results)| match results.remove(0) {
                    TxnResult::Put { previous } => Reply::Put { revision, previous },
                    other => panic!("{other:?}"),
                })
            }
            Op::Delete(delete) => {
                let txn = vec![TxnStep::Delete(delete.clone())];
                self.run(&txn).map(|(revision, mut results)| match results.remove(0) {
                    TxnResult::Delete { deleted, previous } => {
                        Reply::Delete { revision, deleted, previous }
                    }
                    other => panic!("{other:?}"),
                })
            }
            Op::Txn(txn) => self.txn(txn),
            Op::Compact { revision } => {
                if *revision > self.revision() {
                    fail(Code::FutureRevision)
                } else if *revision <= self.compacted {
                    fail(Code::Compacted)
                } else {
                    self.compacted = *revision;
                    Ok(Reply::Compact { revision: self.revision(), compacted: *revision })
                }
            }
            Op::ExpireSessions { .. } => Ok(Reply::SessionsExpired { count: 0 }),
            Op::Lease(op) => self.lease(op),
            Op::Lock(op) => self.locks.lock(op).map(Reply::Lock),
            Op::Guarded(guarded) => {
                let holds = |guard: &Guard| self.locks.holds(&guard.lock, guard.token);
                match guarded.guards.iter().all(holds) {
                    true => return self.apply(&guarded.op),
                    false => fail(Code::PreconditionFailed),
                }
            }
        };
        done.unwrap_or_else(|code| Reply::Failed(Failure::new(code, "")))
    }

    fn lease(&mut self, op: &LeaseOp) -> Result<Reply, Code> {
        let (id, delay_ms) = match op {
            LeaseOp::Grant { id, ttl_ms, lock_delay_ms } => {
                let id = id.unwrap();
                self.locks.grant_lease(id, *lock_delay_ms)?;
                let ttl_ms = (*ttl_ms).max(2000);
                return Ok(Reply::Lease(LeaseReply::Granted { id, ttl_ms }));
            }
            LeaseOp::Revoke { id } => (*id, self.locks.lease(*id).map(|_| 0)?),
            LeaseOp::Expire { term, .. } if *term != Term(1) => {
                return fail(Code::PreconditionFailed);
            }
            LeaseOp::Expire { id, birth, .. } => match self.locks.lease(*id)? {
                (is, delay_ms) if is == *birth => (*id, delay_ms),
                _ => return fail(Code::PreconditionFailed),
            },
        };
        let attached = self.newest().iter().filter(|(_, pair)| pair.lease == Some(id));
        let delete = |key: &Bytes| {
            let (key, end) = (key.clone(), KeyEnd::Single);
            TxnStep::Delete(DeleteOp { key, end, prev_kv: false })
        };
        let steps: Vec<TxnStep> = attached.map(|(key, _)| delete(key)).collect();
        let (revision, results) = self.run(&steps)?;
        self.locks.end_lease(id, delay_ms);
        let deleted = results.len() as u64;
        Ok(Reply::Lease(LeaseReply::Ended { revision, deleted }))
    }

    fn txn(&mut self, txn: &TxnOp) -> Result<Reply, Code> {
        conflicts(&txn.then)?;
        conflicts(&txn.otherwise)?;
        let succeeded = self.holds(txn);
        let steps = if succeeded { &txn.then } else { &txn.otherwise };
        let (revision, results) = self.run(steps)?;
        Ok(Reply::Txn { revision, succeeded, results })
    }

    fn holds(&self, txn: &TxnOp) -> bool {
        txn.compares.iter().all(|compare| {
            let pairs = self.newest().iter();
            let pairs = pairs.filter(|(key, _)| compare.end.contains(&compare.key, key));
            let pairs: Vec<&KeyValue> = pairs.map(|(_, pair)| pair).collect();
            if pairs.is_empty() {
                return !matches!(compare.target, CompareTarget::Value(_))
                    && satisfied(compare, &KeyValue::default());
            }
            pairs.into_iter().all(|pair| satisfied(compare, pair))
        })
    }

    fn run(&mut self, steps: &[TxnStep]) -> Result<(Revision, Vec<TxnResult>), Code> {
        let mut pairs = self.newest().clone();
        let mut events = Vec::new();
        self.refuse_puts(steps)?;
        let results = self.steps(steps, &mut pairs, &mut events)?;
        if !events.is_empty() {
            self.states.push(pairs);
            self.events.extend(events);
        }
        Ok((self.revision(), results))
    }

    /// Puts are refused before anything else is.
    fn refuse_puts(&self, steps: &[TxnStep]) -> Result<(), Code> {
        for step in steps {
            match step {
                TxnStep::Put(put) => {
                    self.put(put, &mut self.newest().clone(), &mut Vec::new())?;
                }
                TxnStep::Txn(txn) => self.refuse_puts(match self.holds(txn) {
                    true => &txn.then,
                    false => &txn.otherwise,
                })?,
                TxnStep::Delete(_) | TxnStep::Range(_) => {}
            }
        }
        Ok(())
    }

    fn steps(
        &self,
        steps: &[TxnStep],
        pairs: &mut Pairs,
        events: &mut Vec<Event>,
    ) -> Result<Vec<TxnResult>, Code> {
        let mut results = Vec::new();
        for step in steps {
            results.push(match step {
                TxnStep::Put(put) => self.put(put, pairs, events)?,
                TxnStep::Delete(delete) => self.delete(delete, pairs, events),
                TxnStep::Range(query) => {
                    self.readable(query.at)?;
                    let wrote = !events.is_empty();
                    let newest = self.revision().plus(u64::from(wrote));
                    TxnResult::Range(match query.at {
                        Some(at) => page(&self.states[at.0 as usize - 1], query, at),
                        None => page(pairs, query, newest),
                    })
                }
                TxnStep::Txn(txn) => {
                    let succeeded = self.holds(txn);
                    let steps = if succeeded { &txn.then } else { &txn.otherwise };
                    TxnResult::Txn { succeeded, results: self.steps(steps, pairs, events)? }
                }
            });
        }
        Ok(results)
    }

    fn put(
        &self,
        put: &PutOp,
        pairs: &mut Pairs,
        events: &mut Vec<Event>,
    ) -> Result<TxnResult, Code> {
        let revision = self.revision().next();
        let old = pairs.get(&put.key).cloned();
        if put.key.is_empty()
            || (put.ignore_value && !put.value.is_empty())
            || (put.ignore_lease && put.lease.is_some())
        {
            return fail(Code::InvalidArgument);
        }
        let is_dead = put.lease.is_some_and(|lease| self.locks.lease(lease).is_err());
        if is_dead || ((put.ignore_value || put.ignore_lease) && old.is_none()) {
            return fail(Code::NotFound);
        }
        let mut new = KeyValue {
            key: put.key.clone(),
            value: put.value.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: put.lease,
        };
        if let Some(old) = &old {
            new.create_revision = old.create_revision;
            new.version = old.version + 1;
            if put.ignore_value {
                new.value = old.value.clone();
            }
            if put.ignore_lease {
                new.lease = old.lease;
            }
        }
        pairs.insert(put.key.clone(), new.clone());
        let (key, kind) = (put.key.clone(), EventKind::Put(record(&new)));
        events.push(Event { revision, key, kind, previous: old.as_ref().map(record) });
        Ok(TxnResult::Put { previous: old.filter(|_| put.prev_kv) })
    }

    fn delete(&self, delete: &DeleteOp, pairs: &mut Pairs, events: &mut Vec<Event>) -> TxnResult {
        let revision = self.revision().next();
        let doomed = pairs.keys().filter(|key| delete.end.contains(&delete.key, key));
        let doomed: Vec<Bytes> = doomed.cloned().collect();
        let mut previous = Vec::new();
        for key in &doomed {
            let old = pairs.remove(key).unwrap();
            let (key, kind) = (key.clone(), EventKind::Delete);
            events.push(Event { revision, key, kind, previous: Some(record(&old)) });
            previous.push(old);
        }
        let deleted = doomed.len() as u64;
        TxnResult::Delete { deleted, previous: if delete.prev_kv { previous } else { Vec::new() } }
    }

    pub(crate) fn readable(&self, at: Option<Revision>) -> Result<(), Code> {
        match at {
            Some(at) if at > self.revision() => fail(Code::FutureRevision),
            Some(at) if at < self.compacted => fail(Code::Compacted),
            _ => Ok(()),
        }
    }

    pub(crate) fn get(&self, key: &[u8], at: Option<Revision>) -> Result<Option<KeyValue>, Code> {
        self.readable(at)?;
        let at = at.unwrap_or(self.revision());
        Ok(self.states[at.0 as usize - 1].get(key).cloned())
    }

    pub(crate) fn range(&self, query: &RangeQuery) -> Result<RangePage, Code> {
        self.readable(query.at)?;
        let at = query.at.unwrap_or(self.revision());
        Ok(page(&self.states[at.0 as usize - 1], query, at))
    }
}

fn record(pair: &KeyValue) -> Record {
    Record {
        mod_revision: pair.mod_revision,
        create_revision: pair.create_revision,
        version: pair.version,
        lease: pair.lease,
        value: pair.value.clone(),
    }
}

fn satisfied(compare: &Compare, pair: &KeyValue) -> bool {
    compare.relation.holds(match &compare.target {
        CompareTarget::Version(n) => pair.version.cmp(n),
        CompareTarget::Create(n) => pair.create_revision.cmp(n),
        CompareTarget::Mod(n) => pair.mod_revision.cmp(n),
        CompareTarget::Value(v) => pair.value.cmp(v),
        CompareTarget::Lease(n) => pair.lease.map_or(0, |lease| lease.0).cmp(n),
    })
}

fn page(pairs: &Pairs, query: &RangeQuery, revision: Revision) -> RangePage {
    let mut all: Vec<KeyValue> = pairs
        .values()
        .filter(|pair| query.end.contains(&query.start, &pair.key))
        .cloned()
        .collect();
    if query.direction == Direction::Backward {
        all.reverse();
    }
    let total = all.len() as u64;
    if query.count_only {
        return RangePage { count: total, revision, ..RangePage::default() };
    }
    let limit = query.limit.unwrap_or(u64::MAX).min(total) as usize;
    let more = all.get(limit).map(|pair| pair.key.clone());
    all.truncate(limit);
    if query.keys_only {
        all.iter_mut().for_each(|pair| pair.value = Bytes::new());
    }
    let count = if query.count_total { total } else { limit as u64 };
    let uncounted = if query.count_total { None } else { more.clone() };
    RangePage { kvs: all, more, count, uncounted, revision }
}

enum Touch<'a> {
    Put(&'a Bytes),
    Delete(&'a Bytes, &'a KeyEnd),
}

fn touches<'a>(step: &'a TxnStep, out: &mut Vec<Touch<'a>>) {
    match step {
        TxnStep::Put(put) => out.push(Touch::Put(&put.key)),
        TxnStep::Delete(delete) => out.push(Touch::Delete(&delete.key, &delete.end)),
        TxnStep::Range(_) => {}
        TxnStep::Txn(txn) => {
            txn.then.iter().chain(&txn.otherwise).for_each(|step| touches(step, out));
        }
    }
}

/// Any two steps of one list may not touch a key when one of them sets it.
fn conflicts(steps: &[TxnStep]) -> Result<(), Code> {
    for (i, step) in steps.iter().enumerate() {
        if let TxnStep::Txn(txn) = step {
            conflicts(&txn.then)?;
            conflicts(&txn.otherwise)?;
        }
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        touches(step, &mut mine);
        steps[..i].iter().for_each(|other| touches(other, &mut theirs));
        for a in &mine {
            for b in &theirs {
                let meet = match (a, b) {
                    (Touch::Put(a), Touch::Put(b)) => a == b,
                    (Touch::Put(key), Touch::Delete(start, end))
                    | (Touch::Delete(start, end), Touch::Put(key)) => end.contains(start, key),
                    (Touch::Delete(..), Touch::Delete(..)) => false,
                };
                if meet {
                    return fail(Code::InvalidArgument);
                }
            }
        }
    }
    Ok(())
}

/// Replies are equal when all but the words of a failure are.
pub(crate) fn assert_same(got: &Reply, want: &Reply, context: &str) {
    match (got, want) {
        (Reply::Failed(got), Reply::Failed(want)) => {
            assert_eq!(got.code, want.code, "{context}: {got}");
        }
        _ => assert_eq!(got, want, "{context}"),
    }
}
