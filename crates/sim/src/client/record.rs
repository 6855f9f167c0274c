//! What all clients of a run saw, for the judges.

use std::collections::BTreeMap;

use atoll_base::{Revision, ShardId};
use atoll_machine::KeyValue;

use crate::check::Violation;
use crate::check::bank::Bank;
use crate::check::holding::Holding;
use crate::check::order::Sighting;
use crate::check::reads::Row;
use crate::history::{History, KeyNumber, Stamp, Value};
use crate::value::{ACCOUNTS_FROM, GUARDED_FROM, decode_key, decode_value};

/// Everything seen by clients, and the first violation that showed at once.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) history: History,
    pub(crate) sightings: Vec<Sighting>,
    pub(crate) rows: Vec<Row>,
    pub(crate) scans: u64,
    /// Calls that the history does not keep, and how many of them were answered.
    pub(crate) others: (u64, u64),
    pub(crate) violation: Option<Violation>,
    /// The last look at each shard: its revision and all its pairs.
    pub(crate) closed: BTreeMap<ShardId, (Revision, Vec<Pair>)>,
    /// What the holders of locks believed, and what they wrote.
    pub(crate) holding: Holding,
    last_value: Value,
}

/// A key-value pair of the workload as it was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) key: KeyNumber,
    pub(crate) value: Value,
    pub(crate) amount: u64,
    pub(crate) revision: Revision,
    pub(crate) version: u64,
}

impl Pair {
    /// True for an account of the shard's bank.
    pub(crate) fn is_account(&self) -> bool {
        (ACCOUNTS_FROM..GUARDED_FROM).contains(&self.key.0)
    }
}

impl Record {
    /// A number for a write that leaves one value, and room for a second one.
    pub(crate) fn next_value(&mut self) -> Value {
        self.last_value += 2;
        self.last_value
    }

    pub(crate) fn report(&mut self, checker: &'static str, what: String) {
        self.violation.get_or_insert(Violation::new(checker, what));
    }

    pub(crate) fn note(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.get_or_insert(violation);
        }
    }

    /// Takes a pair apart; reports one that is not whole.
    pub(crate) fn pair(&mut self, shard: ShardId, kv: &KeyValue) -> Option<Pair> {
        let key = decode_key(shard, &kv.key);
        let value = decode_value(&kv.value);
        let (Some(key), Some((value, amount))) = (key, value) else {
            self.report("integrity", format!("shard {shard} gave a pair nobody wrote: {kv:?}"));
            return None;
        };
        Some(Pair { key, value, amount, revision: kv.mod_revision, version: kv.version })
    }

    /// A whole scan of a shard, read at `revision` by calls between two stamps.
    pub(crate) fn scan(
        &mut self,
        shard: ShardId,
        (called, revision): (Stamp, Revision),
        pairs: &[Pair],
        bank: Bank,
    ) {
        let answered = self.history.stamp();
        self.scans += 1;
        self.sightings.push(Sighting { shard, called, answered, revision });
        for pair in pairs {
            let (key, value) = (pair.key, Some(pair.value));
            self.rows.push(Row { shard, key, revision, value });
        }
        let accounts: Vec<(KeyNumber, u64)> = pairs
            .iter()
            .filter(|pair| pair.is_account())
            .map(|pair| (pair.key, pair.amount))
            .collect();
        // All accounts are made by one transaction: before it there is none.
        if !accounts.is_empty() {
            self.note(bank.check(&accounts));
        }
    }

    /// The last look at a shard is done.
    pub(crate) fn close(&mut self, shard: ShardId, revision: Revision, pairs: Vec<Pair>) {
        self.closed.insert(shard, (revision, pairs));
    }
}
