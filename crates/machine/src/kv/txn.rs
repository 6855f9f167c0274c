//! Transactions: first everything is decided and checked against the state before, nested compares
//! included, then the chosen steps are done and nothing can refuse any more (M2).

use std::cmp::Ordering;
use std::collections::BTreeSet;

use atoll_base::Code;
use bytes::Bytes;

use super::read::{Found, Visit, read_range, visit};
use super::write::{Changes, KvBatch, check_ignores};
use super::{Stop, check_covers, check_readable, refuse};
use crate::command::{Compare, CompareTarget, TxnOp, TxnStep};
use crate::error::MachineError;
use crate::query::KeyEnd;
use crate::record::Record;
use crate::refusal::DUPLICATE_KEY;
use crate::reply::{Reply, TxnResult};

/// What compares looked up, the first few of them: mostly what a step is about to replace.
#[derive(Default)]
struct LookedUp<'t> {
    keys: [Option<(&'t Bytes, Option<Found>)>; 4],
}

impl<'t> LookedUp<'t> {
    fn keep(&mut self, key: &'t Bytes, found: Option<Found>) {
        if let Some(free) = self.keys.iter_mut().find(|place| place.is_none()) {
            *free = Some((key, found));
        }
    }

    /// What `key` had before the transaction, if that was looked up.
    fn take(&mut self, key: &Bytes) -> Option<Option<Found>> {
        let mut places = self.keys.iter_mut();
        let place = places.find(|place| place.as_ref().is_some_and(|(other, _)| *other == key))?;
        place.take().map(|(_, found)| found)
    }
}

/// The side of a transaction that is done.
struct Chosen<'t> {
    succeeded: bool,
    steps: Vec<ChosenStep<'t>>,
}

enum ChosenStep<'t> {
    Plain(&'t TxnStep),
    Txn(Chosen<'t>),
}

impl KvBatch<'_> {
    pub(crate) fn txn(&mut self, txn: TxnOp) -> Result<Reply, Stop> {
        let parts = count_parts(&txn);
        let limit = self.limits.txn_parts_max;
        if parts > limit {
            return refuse(Code::TooLarge, format!("txn has {parts} parts, limit is {limit}"));
        }
        for steps in [&txn.then, &txn.otherwise] {
            // One step alone touches nothing twice, unless it is a transaction itself.
            if !matches!(&steps[..], [] | [TxnStep::Put(_) | TxnStep::Delete(_)]) {
                touched(steps)?;
            }
        }
        let mut looked_up = LookedUp::default();
        let chosen = self.choose(&txn, &mut looked_up)?;
        self.check_chosen(&chosen)?;
        let mut changes = self.changes();
        let results = self.do_steps(&chosen, &mut looked_up, &mut changes)?;
        let revision = self.commit(&changes);
        Ok(Reply::Txn { revision, succeeded: chosen.succeeded, results })
    }

    /// Evaluates the compares of `txn` and of what it leads to.
    fn choose<'t>(&self, txn: &'t TxnOp, looked_up: &mut LookedUp<'t>) -> Result<Chosen<'t>, Stop> {
        let mut succeeded = true;
        for compare in &txn.compares {
            // No short cut: a compare that must be refused is refused whatever stands before it.
            succeeded &= self.holds(compare, looked_up)?;
        }
        let steps = if succeeded { &txn.then } else { &txn.otherwise };
        let mut chosen = Vec::with_capacity(steps.len());
        for step in steps {
            chosen.push(match step {
                TxnStep::Txn(txn) => ChosenStep::Txn(self.choose(txn, looked_up)?),
                plain => ChosenStep::Plain(plain),
            });
        }
        Ok(Chosen { succeeded, steps: chosen })
    }

    fn holds<'t>(&self, compare: &'t Compare, looked_up: &mut LookedUp<'t>) -> Result<bool, Stop> {
        check_covers(&self.scope, &compare.key, &compare.end)?;
        if compare.end == KeyEnd::Single {
            let found = self.current(&compare.key)?;
            let holds = satisfied(compare, found.as_ref().map(|found| &found.record));
            looked_up.keep(&compare.key, found);
            return Ok(holds);
        }
        let limit = self.limits.scan_keys_max;
        let (mut seen, mut holds) = (0_u64, true);
        visit(&self.overlay, &self.scope, Visit::now(&compare.key, &compare.end), |_, found| {
            seen += 1;
            if seen > limit {
                return refuse(Code::TooLarge, format!("compare covers over {limit} keys"));
            }
            holds = satisfied(compare, found.as_ref().map(|found| &found.record));
            Ok(holds)
        })?;
        Ok(if seen == 0 { satisfied(compare, None) } else { holds })
    }

    /// Refuses what a chosen step could be refused for: all puts are looked at before anything
    /// else, nested ones included, as etcd does, so that of two faults the same one is named.
    fn check_chosen(&self, chosen: &Chosen<'_>) -> Result<(), Stop> {
        self.check_puts(chosen)?;
        self.check_others(chosen)
    }

    fn check_puts(&self, chosen: &Chosen<'_>) -> Result<(), Stop> {
        for step in &chosen.steps {
            match step {
                ChosenStep::Txn(inner) => self.check_puts(inner)?,
                ChosenStep::Plain(TxnStep::Put(put)) => {
                    self.check_put(put)?;
                    if put.ignore_value || put.ignore_lease {
                        let old = self.current(&put.key)?;
                        check_ignores(put, old.as_ref().map(|found| &found.record))?;
                    }
                    // A put by itself looks at its lease first, as etcd does.
                    self.check_lease(put)?;
                }
                ChosenStep::Plain(_) => {}
            }
        }
        Ok(())
    }

    fn check_others(&self, chosen: &Chosen<'_>) -> Result<(), Stop> {
        for step in &chosen.steps {
            match step {
                ChosenStep::Txn(inner) => self.check_others(inner)?,
                ChosenStep::Plain(TxnStep::Delete(delete)) => {
                    check_covers(&self.scope, &delete.key, &delete.end)?;
                    if delete.end != KeyEnd::Single {
                        self.doomed(delete)?;
                    }
                }
                ChosenStep::Plain(TxnStep::Range(query)) => {
                    check_covers(&self.scope, &query.start, &query.end)?;
                    check_readable(&self.state, query.at)?;
                }
                ChosenStep::Plain(TxnStep::Put(_) | TxnStep::Txn(_)) => {}
            }
        }
        Ok(())
    }

    fn do_steps(
        &mut self,
        chosen: &Chosen<'_>,
        looked_up: &mut LookedUp<'_>,
        changes: &mut Changes,
    ) -> Result<Vec<TxnResult>, MachineError> {
        let mut results = Vec::with_capacity(chosen.steps.len());
        for step in &chosen.steps {
            results.push(match step {
                ChosenStep::Txn(inner) => TxnResult::Txn {
                    succeeded: inner.succeeded,
                    results: self.do_steps(inner, looked_up, changes)?,
                },
                ChosenStep::Plain(step) => self.do_step(step, looked_up, changes)?,
            });
        }
        Ok(results)
    }

    fn do_step(
        &mut self,
        step: &TxnStep,
        looked_up: &mut LookedUp<'_>,
        changes: &mut Changes,
    ) -> Result<TxnResult, MachineError> {
        // A put never meets what the same transaction wrote (`touched`), and deletes only shrink
        // what later deletes find, so the checks against the state before still hold.
        let late = |stop: Stop, kv: &Self| match stop {
            Stop::Broken(error) => error,
            Stop::Refused(failure) => kv.scope.inconsistent(format!("late refusal: {failure}")),
        };
        Ok(match step {
            TxnStep::Put(put) => {
                let old = match looked_up.take(&put.key) {
                    Some(found) => found,
                    None => self.current(&put.key)?,
                };
                TxnResult::Put { previous: self.do_put(put.clone(), old, changes) }
            }
            TxnStep::Delete(delete) => {
                let doomed = self.doomed(delete).map_err(|stop| late(stop, self))?;
                let (deleted, previous) = self.do_delete(delete, doomed, changes)?;
                TxnResult::Delete { deleted, previous }
            }
            TxnStep::Range(query) => {
                let newest = if changes.count > 0 { changes.revision } else { self.state.revision };
                let page = read_range(&self.overlay, &self.scope, &self.limits, newest, query);
                TxnResult::Range(page.map_err(|stop| late(stop, self))?)
            }
            TxnStep::Txn(_) => {
                return Err(self.scope.inconsistent("nested txn was not chosen"));
            }
        })
    }
}

/// Whether `record`, or a key that does not exist, satisfies `compare`.
fn satisfied(compare: &Compare, record: Option<&Record>) -> bool {
    let number = |get: fn(&Record) -> u64, target: u64| record.map_or(0, get).cmp(&target);
    let ordering: Ordering = match &compare.target {
        CompareTarget::Version(target) => number(|r| r.version, *target),
        CompareTarget::Create(target) => number(|r| r.create_revision.0, target.0),
        CompareTarget::Mod(target) => number(|r| r.mod_revision.0, target.0),
        CompareTarget::Lease(target) => number(|r| r.lease.map_or(0, |lease| lease.0), *target),
        CompareTarget::Value(target) => match record {
            Some(record) => record.value.cmp(target),
            // There is no value that a missing key has.
            None => return false,
        },
    };
    compare.relation.holds(ordering)
}

fn count_parts(txn: &TxnOp) -> u64 {
    let steps = txn.then.iter().chain(&txn.otherwise).map(|step| match step {
        TxnStep::Txn(inner) => 1 + count_parts(inner),
        _ => 1,
    });
    txn.compares.len() as u64 + steps.sum::<u64>()
}

/// The keys that a list of steps may set, and the ranges that it may delete.
#[derive(Default)]
struct Touched<'t> {
    puts: BTreeSet<&'t Bytes>,
    deletes: Vec<(&'t Bytes, &'t KeyEnd)>,
}

/// Refuses steps that set a key twice, or set and delete it. The two sides of a nested transaction
/// may do as they like to each other: only one is done.
fn touched(steps: &[TxnStep]) -> Result<Touched<'_>, Stop> {
    let mut all = Touched::default();
    for step in steps {
        let mut one = Touched::default();
        match step {
            TxnStep::Put(put) => drop(one.puts.insert(&put.key)),
            TxnStep::Delete(delete) => one.deletes.push((&delete.key, &delete.end)),
            TxnStep::Txn(txn) => {
                one = touched(&txn.then)?;
                let other = touched(&txn.otherwise)?;
                one.puts.extend(other.puts);
                one.deletes.extend(other.deletes);
            }
            TxnStep::Range(_) => {}
        }
        let is_twice = one.puts.iter().any(|key| all.puts.contains(key))
            || meets(&one.puts, &all.deletes)
            || meets(&all.puts, &one.deletes);
        if is_twice {
            return refuse(Code::InvalidArgument, DUPLICATE_KEY);
        }
        all.puts.append(&mut one.puts);
        all.deletes.append(&mut one.deletes);
    }
    Ok(all)
}

fn meets(puts: &BTreeSet<&Bytes>, deletes: &[(&Bytes, &KeyEnd)]) -> bool {
    deletes.iter().any(|(start, end)| {
        puts.range::<Bytes, _>(*start..).next().is_some_and(|key| end.contains(start, key))
    })
}
