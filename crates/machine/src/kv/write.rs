//! Puts and deletes.

use atoll_base::{Code, Failure, LeaseId, Revision};
use atoll_storage::{Direction, Engine, Tree};
use bytes::Bytes;

use super::read::{Found, Visit, visit};
use super::{ChangeKind, ChangeRecord, Stop, check_covers, check_holds, decode_current, refuse};
use crate::command::{Command, DeleteOp, Op, PutOp};
use crate::counters::Counters;
use crate::error::MachineError;
use crate::event::{Event, EventKind};
use crate::keys::{Scope, borrowed, history_key, parse_attached_key, write_history_key};
use crate::lease::{LeaseTable, attached_cost};
use crate::limits::MachineLimits;
use crate::lock::Marks;
use crate::overlay::{Overlay, Reads};
use crate::query::KeyEnd;
use crate::record::{KeyValue, Record, TOMBSTONE_BYTES};
use crate::refusal;
use crate::reply::Reply;
use crate::state::State;

/// The key-value side of a batch: state, pending writes, events.
pub(crate) struct KvBatch<'a> {
    pub(crate) scope: Scope,
    pub(crate) limits: MachineLimits,
    pub(crate) state: State,
    pub(crate) counters: Counters,
    pub(crate) leases: LeaseTable,
    pub(crate) overlay: Overlay<'a>,
    pub(crate) events: Vec<Event>,
}

/// The changes of one command: all get its revision, each its own `sub`.
pub(super) struct Changes {
    pub(super) revision: Revision,
    pub(super) count: u32,
}

impl<'a> KvBatch<'a> {
    pub(crate) fn new(
        scope: Scope,
        limits: MachineLimits,
        (state, counters): (State, Counters),
        leases: LeaseTable,
        engine: &'a dyn Engine,
    ) -> Self {
        let overlay = Overlay::new(engine);
        Self { scope, limits, state, counters, leases, overlay, events: Vec::new() }
    }

    pub(crate) fn put(&mut self, put: PutOp) -> Result<Reply, Stop> {
        self.check_put(&put)?;
        self.check_lease(&put)?;
        let old = self.current(&put.key)?;
        check_ignores(&put, old.as_ref().map(|found| &found.record))?;
        let mut changes = self.changes();
        let previous = self.do_put(put, old, &mut changes);
        Ok(Reply::Put { revision: self.commit(&changes), previous })
    }

    pub(crate) fn delete(&mut self, delete: &DeleteOp) -> Result<Reply, Stop> {
        check_covers(&self.scope, &delete.key, &delete.end)?;
        let doomed = self.doomed(delete)?;
        let mut changes = self.changes();
        let (deleted, previous) = self.do_delete(delete, doomed, &mut changes)?;
        Ok(Reply::Delete { revision: self.commit(&changes), deleted, previous })
    }

    /// The changes of the next command.
    pub(super) fn changes(&self) -> Changes {
        Changes { revision: self.state.revision.next(), count: 0 }
    }

    /// Takes the command's revision into the state if anything changed (M2); returns the revision
    /// to answer with.
    pub(super) fn commit(&mut self, changes: &Changes) -> Revision {
        if changes.count > 0 {
            self.state.revision = changes.revision;
        }
        self.state.revision
    }

    /// What can be said against a put without looking at keys and leases.
    pub(super) fn check_put(&self, put: &PutOp) -> Result<(), Stop> {
        check_holds(&self.scope, &put.key)?;
        let (key, value) = (put.key.len() as u64, put.value.len() as u64);
        if key == 0 {
            return refuse(Code::InvalidArgument, "key is empty");
        }
        if key > self.limits.key_bytes_max {
            let limit = self.limits.key_bytes_max;
            return refuse(Code::TooLarge, format!("key has {key} bytes, limit is {limit}"));
        }
        if value > self.limits.value_bytes_max {
            let limit = self.limits.value_bytes_max;
            return refuse(Code::TooLarge, format!("value has {value} bytes, limit is {limit}"));
        }
        if put.ignore_value && value > 0 {
            return refuse(Code::InvalidArgument, "value is provided with ignore_value");
        }
        if put.ignore_lease && put.lease.is_some() {
            return refuse(Code::InvalidArgument, "lease is provided with ignore_lease");
        }
        Ok(())
    }

    /// What can be said against the lease of a put.
    pub(super) fn check_lease(&self, put: &PutOp) -> Result<(), Stop> {
        match put.lease {
            Some(lease) => self.check_attach(lease, put),
            None => Ok(()),
        }
    }

    /// Refuses a lease that does not live (E4), or that has enough keys. A transaction's puts are
    /// checked one by one, so that it may pass the limit by what it puts.
    fn check_attach(&self, id: LeaseId, put: &PutOp) -> Result<(), Stop> {
        let lease = self.leases.check_lives(id)?;
        let cost = attached_cost(&put.key, &put.value);
        let (keys_max, bytes_max) = (self.limits.lease_keys_max, self.limits.lease_bytes_max);
        if lease.keys < keys_max && lease.bytes + cost <= bytes_max {
            return Ok(());
        }
        let old = self.current(&put.key)?.map(|found| found.record);
        let old = old.filter(|record| record.lease == Some(id));
        let (keys, freed) = match &old {
            Some(record) => (lease.keys, attached_cost(&put.key, &record.value)),
            None => (lease.keys + 1, 0),
        };
        let bytes = lease.bytes.saturating_sub(freed) + cost;
        if keys <= keys_max && bytes <= bytes_max {
            return Ok(());
        }
        let text = format!(
            "lease {id} would have {keys} keys of {bytes} bytes, limits are {keys_max} and \
             {bytes_max}"
        );
        refuse(Code::TooLarge, text)
    }

    /// Moves the key from the lease that its version before had to the one that the new one has.
    fn attach(&mut self, key: &[u8], before: Option<&Record>, after: Option<&Record>) {
        let lease_of = |record: Option<&Record>| {
            record.and_then(|r| Some((r.lease?, attached_cost(key, &r.value))))
        };
        let (before, after) = (lease_of(before), lease_of(after));
        if before == after {
            return;
        }
        if let Some((lease, cost)) = before {
            self.leases.detach(lease, key, cost, &self.scope, &mut self.overlay);
        }
        if let Some((lease, cost)) = after {
            self.leases.attach(lease, key, cost, &self.scope, &mut self.overlay);
        }
    }

    /// Deletes all keys of a lease in one revision; returns it and how many went.
    pub(crate) fn delete_attached(
        &mut self,
        lease: LeaseId,
    ) -> Result<(Revision, u64), MachineError> {
        let span = self.scope.attached_span(lease, None);
        let scan = self.overlay.scan(Tree::Meta, borrowed(&span), Direction::Forward);
        let attached: Result<Vec<_>, _> = scan.map(|pair| pair.map(|(key, _)| key)).collect();
        let mut doomed = Vec::new();
        for record in attached.map_err(|e| self.scope.engine(e))? {
            let key = parse_attached_key(&record).ok_or_else(|| {
                self.scope.inconsistent("attached key has a record key of another form")
            })?;
            let found = self.current(&key)?.filter(|found| found.record.lease == Some(lease));
            let found = found.ok_or_else(|| {
                self.scope.inconsistent(format!("key {key:?} is not attached to lease {lease}"))
            })?;
            doomed.push((key, found));
        }
        let (key, end) = (Bytes::new(), KeyEnd::ToEnd);
        let mut changes = self.changes();
        let delete = DeleteOp { key, end, prev_kv: false };
        let (deleted, _) = self.do_delete(&delete, doomed, &mut changes)?;
        Ok((self.commit(&changes), deleted))
    }

    /// Brings near what these commands are going to look up.
    pub(crate) fn prefetch(&self, commands: &[Command]) {
        if commands.len() < 2 {
            return;
        }
        let mut keys = Vec::with_capacity(commands.len());
        for command in commands {
            looked_up(&command.op, &mut keys);
        }
        self.overlay.prefetch(self.scope.current(), &keys);
    }

    /// The newest version of `key`, with the batch's own writes.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Option<Found>, MachineError> {
        let found = self.overlay.get(self.scope.current(), key);
        let Some(bytes) = found.map_err(|e| self.scope.engine(e))? else { return Ok(None) };
        let record = decode_current(&self.scope, bytes.clone())?;
        Ok(Some(Found { bytes, record }))
    }

    /// Sets a key; everything was checked. Returns what was there if the put asks for it.
    pub(super) fn do_put(
        &mut self,
        put: PutOp,
        old: Option<Found>,
        changes: &mut Changes,
    ) -> Option<KeyValue> {
        let revision = changes.revision;
        let PutOp { key, value, lease, prev_kv, ignore_value, ignore_lease } = put;
        let before = old.as_ref().map(|found| &found.record);
        let old_lease: Option<LeaseId> = before.and_then(|record| record.lease);
        let record = Record {
            mod_revision: revision,
            create_revision: before.map_or(revision, |record| record.create_revision),
            version: before.map_or(1, |record| record.version + 1),
            lease: if ignore_lease { old_lease } else { lease },
            value: match before {
                Some(before) if ignore_value => before.value.clone(),
                _ => value,
            },
        };
        let bytes = self.overlay.made(record.value.len() + 24, |out| record.encode(out));
        self.overlay.put(self.scope.current(), key.clone(), bytes);
        self.attach(&key, before, Some(&record));
        let old = self.supersede(&key, old);
        self.note(ChangeKind::Put, &key, old.as_ref(), changes);
        let previous =
            old.as_ref().filter(|_| prev_kv).map(|old| old.clone().with_key(key.clone()));
        self.events.push(Event { revision, key, kind: EventKind::Put(record), previous: old });
        previous
    }

    /// Deletes `doomed`; returns how many and, if the delete asks for it, what was there.
    pub(super) fn do_delete(
        &mut self,
        delete: &DeleteOp,
        doomed: Vec<(Bytes, Found)>,
        changes: &mut Changes,
    ) -> Result<(u64, Vec<KeyValue>), MachineError> {
        let revision = changes.revision;
        let count = doomed.len() as u64;
        let mut previous = Vec::new();
        for (key, found) in doomed {
            self.overlay.delete(self.scope.current(), key.clone());
            self.attach(&key, Some(&found.record), None);
            self.marks().forget(&key)?;
            let old = self.supersede(&key, Some(found));
            let tombstone = Bytes::from_static(TOMBSTONE_BYTES);
            self.overlay.put(self.scope.history(), history_key(&key, revision), tombstone);
            self.note(ChangeKind::Delete, &key, old.as_ref(), changes);
            if let Some(old) = old.as_ref().filter(|_| delete.prev_kv) {
                previous.push(old.clone().with_key(key.clone()));
            }
            self.events.push(Event { revision, key, kind: EventKind::Delete, previous: old });
        }
        Ok((count, previous))
    }

    /// What guards of other shards' locks left.
    pub(crate) fn marks(&mut self) -> Marks<'_, 'a> {
        let Self { scope, limits, counters, overlay, .. } = self;
        Marks { scope, limits, counters, overlay }
    }

    /// Moves a version to history.
    fn supersede(&mut self, key: &[u8], old: Option<Found>) -> Option<Record> {
        let Found { bytes, record } = old?;
        let version = record.mod_revision;
        let place = self.overlay.made(key.len() + 12, |out| write_history_key(key, version, out));
        self.overlay.put(self.scope.history(), place, bytes);
        Some(record)
    }

    /// Writes the change record.
    fn note(&mut self, kind: ChangeKind, key: &Bytes, old: Option<&Record>, changes: &mut Changes) {
        let previous = old.map(|old| old.mod_revision);
        let change = ChangeRecord { kind, previous, key: key.clone() };
        let (revision, sub) = (changes.revision, changes.count);
        let place = self.overlay.made(24, |out| self.scope.write_change_key(revision, sub, out));
        let change = self.overlay.made(key.len() + 12, |out| change.encode(out));
        self.overlay.put(Tree::Meta, place, change);
        changes.count += 1;
    }

    /// What a delete would delete, within the limits of one command.
    pub(super) fn doomed(&self, delete: &DeleteOp) -> Result<Vec<(Bytes, Found)>, Stop> {
        if delete.end == KeyEnd::Single {
            let found = self.current(&delete.key)?;
            return Ok(found.map(|found| (delete.key.clone(), found)).into_iter().collect());
        }
        let mut doomed = Vec::new();
        let mut bytes = 0;
        let limit = self.limits.scan_keys_max;
        let bytes_limit = match delete.prev_kv {
            true => self.limits.page_bytes_max.min(self.limits.delete_bytes_max),
            false => self.limits.delete_bytes_max,
        };
        visit(&self.overlay, &self.scope, Visit::now(&delete.key, &delete.end), |key, found| {
            let Some(found) = found else { return Ok(true) };
            bytes += (key.len() + found.bytes.len()) as u64;
            doomed.push((key, found));
            if doomed.len() as u64 > limit {
                return refuse(Code::TooLarge, format!("delete covers over {limit} keys"));
            }
            if bytes > bytes_limit {
                let message = format!("pairs to delete have over {bytes_limit} bytes");
                return refuse(Code::TooLarge, message);
            }
            Ok(true)
        })?;
        Ok(doomed)
    }
}

/// Adds the single keys that an operation is sure to look up.
fn looked_up<'o>(op: &'o Op, keys: &mut Vec<&'o [u8]>) {
    match op {
        Op::Put(put) => keys.push(&put.key),
        Op::Delete(delete) if delete.end == KeyEnd::Single => keys.push(&delete.key),
        Op::Txn(txn) => {
            let compares = txn.compares.iter().filter(|compare| compare.end == KeyEnd::Single);
            keys.extend(compares.map(|compare| &compare.key[..]));
        }
        Op::Guarded(guarded) => looked_up(&guarded.op, keys),
        _ => {}
    }
}

/// A put that keeps what is there needs something there.
pub(super) fn check_ignores(put: &PutOp, old: Option<&Record>) -> Result<(), Failure> {
    if (put.ignore_value || put.ignore_lease) && old.is_none() {
        return Err(Failure::new(Code::NotFound, refusal::KEY_NOT_FOUND));
    }
    Ok(())
}
