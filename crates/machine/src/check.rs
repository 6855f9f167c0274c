//! What must hold of a machine and its engine, for tests, the simulator and repair.

use std::collections::BTreeMap;

use atoll_base::codec::Writer;
use atoll_base::{LeaseId, Revision};
use atoll_storage::{Digest, Direction, Engine, ReadView, Tree};
use bytes::Bytes;

use crate::counters::Counters;
use crate::error::MachineError;
use crate::keys::{self, Scope, borrowed, parse_change_key, parse_history_key};
use crate::kv::{ChangeKind, ChangeRecord, decode_current};
use crate::lease::attached_cost;
use crate::machine::ShardMachine;
use crate::record::Record;
use crate::state::State;

/// What `Current` holds, by key.
struct Current(Vec<(Bytes, Record)>);

impl Current {
    fn get(&self, key: &[u8]) -> Option<&Record> {
        let place = self.0.binary_search_by(|(k, _)| k[..].cmp(key)).ok()?;
        Some(&self.0[place].1)
    }
}

/// What `History` holds: versions, `None` for a tombstone. By revision first, since revisions
/// compare faster than keys and few keys share one.
struct Versions(Vec<(Revision, Bytes, Option<Record>)>);

impl Versions {
    fn get(&self, revision: Revision, key: &[u8]) -> Option<Option<&Record>> {
        let place = self.0.binary_search_by(|(r, k, _)| (*r, &k[..]).cmp(&(revision, key))).ok()?;
        Some(self.0[place].2.as_ref())
    }
}

impl ShardMachine {
    /// Reads the shard's whole state and checks that its records fit each other and the memory.
    ///
    /// # Errors
    /// The first thing that does not hold.
    pub fn check(&self, engine: &dyn Engine) -> Result<(), MachineError> {
        let scope = &self.scope;
        let view = engine.view();
        let view = &*view;
        let stored = view.get(Tree::Meta, &scope.meta_key(keys::STATE));
        if let Some(bytes) = stored.map_err(|e| scope.engine(e))? {
            let stored = State::decode(bytes).map_err(|e| scope.record("state", e))?;
            if stored != self.state {
                let what = format!("state is {:?} in memory, {stored:?} stored", self.state);
                return Err(scope.inconsistent(what));
            }
        }
        let current = self.check_current(view)?;
        let history = self.read_history(view)?;
        self.check_changes(view, &current, &history)?;
        self.check_sessions(view)?;
        self.check_coordination(view, &current)
    }

    fn scan(
        &self,
        view: &dyn ReadView,
        tree: Tree,
        span: &keys::Span,
    ) -> Result<Vec<(Bytes, Bytes)>, MachineError> {
        let pairs = view.scan(tree, borrowed(span), Direction::Forward);
        pairs.collect::<Result<_, _>>().map_err(|e| self.scope.engine(e))
    }

    fn check_current(&self, view: &dyn ReadView) -> Result<Current, MachineError> {
        let scope = &self.scope;
        let span = Scope::current_span(&scope.range.start, &scope.range_end());
        let mut current = Vec::new();
        for (key, value) in self.scan(view, scope.current(), &span)? {
            let record = decode_current(scope, value)?;
            self.check_record(&key, &record)?;
            current.push((key, record));
        }
        Ok(Current(current))
    }

    fn check_record(&self, key: &Bytes, record: &Record) -> Result<(), MachineError> {
        let is_first = record.version == 1;
        let is_sound = record.mod_revision <= self.state.revision
            && record.create_revision > Revision(1)
            && record.version >= 1
            && is_first == (record.create_revision == record.mod_revision);
        if is_sound {
            return Ok(());
        }
        let revision = self.state.revision;
        let what = format!("key {key:?} has {record:?} in a shard at revision {revision}");
        Err(self.scope.inconsistent(what))
    }

    fn read_history(&self, view: &dyn ReadView) -> Result<Versions, MachineError> {
        let scope = &self.scope;
        let span = Scope::history_span(&scope.range.start, &scope.range_end());
        let mut history = Vec::new();
        for (place, value) in self.scan(view, scope.history(), &span)? {
            let (key, revision) = parse_history_key(&place)
                .ok_or_else(|| scope.inconsistent("history record has a key of another form"))?;
            let record = Record::decode(value).map_err(|e| scope.record("history", e))?;
            if let Some(record) = &record {
                self.check_record(&key, record)?;
                if record.mod_revision != revision {
                    let what = format!("history of {key:?} at {revision} holds {record:?}");
                    return Err(scope.inconsistent(what));
                }
            }
            history.push((revision, key, record));
        }
        history
            .sort_unstable_by(|(r, k, _), (other_r, other_k, _)| (r, k).cmp(&(other_r, other_k)));
        Ok(Versions(history))
    }

    /// M4: every change that is kept leads to its version and to the one before, and history holds
    /// nothing else.
    fn check_changes(
        &self,
        view: &dyn ReadView,
        current: &Current,
        history: &Versions,
    ) -> Result<(), MachineError> {
        let scope = &self.scope;
        let span = scope.meta_span(keys::CHANGE..keys::CHANGE + 1);
        let mut accounted = 0;
        for (place, value) in self.scan(view, Tree::Meta, &span)? {
            let place = parse_change_key(&place)
                .ok_or_else(|| scope.inconsistent("change record has a key of another form"))?;
            let change = ChangeRecord::decode(value).map_err(|e| scope.record("change", e))?;
            let is_kept = |revision| match current.get(&change.key) {
                Some(record) if record.mod_revision == revision => true,
                _ => matches!(history.get(revision, &change.key), Some(Some(_))),
            };
            let previous = change.previous;
            let is_there = match change.kind {
                ChangeKind::Put => is_kept(place.0),
                ChangeKind::Delete => {
                    accounted += 1;
                    matches!(history.get(place.0, &change.key), Some(None))
                }
            };
            let is_before = previous.is_none_or(|r| history.get(r, &change.key).is_some());
            accounted += usize::from(previous.is_some());
            let is_live = place >= self.state.collected && place.0 <= self.state.revision;
            if !(is_there && is_before && is_live) {
                let what = format!("change {change:?} at {place:?} does not fit the versions kept");
                return Err(scope.inconsistent(what));
            }
        }
        let kept = history.0.len();
        if accounted != kept {
            let what = format!("history holds {kept} versions, changes account for {accounted}");
            return Err(scope.inconsistent(what));
        }
        Ok(())
    }

    fn check_sessions(&self, view: &dyn ReadView) -> Result<(), MachineError> {
        let scope = &self.scope;
        let span = scope.meta_span(keys::SESSION..keys::SESSION + 1);
        let stored = self.scan(view, Tree::Meta, &span)?;
        let in_memory = self.sessions.records();
        let in_memory: Vec<(Bytes, Bytes)> = in_memory
            .map(|(client, record)| (scope.session_key(client).into(), record.into()))
            .collect();
        if stored == in_memory {
            return Ok(());
        }
        let (stored, in_memory) = (stored.len(), in_memory.len());
        let what = format!("{in_memory} sessions in memory differ from {stored} stored");
        Err(scope.inconsistent(what))
    }

    /// Leases, locks and token marks: what is stored is what memory and keys say (E4, F1 to F4).
    fn check_coordination(
        &self,
        view: &dyn ReadView,
        current: &Current,
    ) -> Result<(), MachineError> {
        let scope = &self.scope;
        let fence = self.counters.fence;
        let mut wanted = self
            .locks
            .inspect(scope, &self.leases, fence)
            .map_err(|what| scope.inconsistent(what))?;
        if self.counters != Counters::default() {
            wanted.insert(scope.meta_key(keys::COUNTERS).into(), self.counters.encode().into());
        }
        for (id, record) in self.leases.records() {
            wanted.insert(scope.lease_key(id).into(), record.into());
        }
        let mut attached: BTreeMap<LeaseId, (u64, u64)> = BTreeMap::new();
        for (key, record) in &current.0 {
            let Some(id) = record.lease else { continue };
            let cost = attached_cost(key, &record.value);
            let mut w = Writer::default();
            w.varint(cost);
            wanted.insert(scope.attached_key(id, key).into(), w.finish().into());
            let (keys, bytes) = attached.entry(id).or_default();
            *keys += 1;
            *bytes += cost;
        }
        for (id, lease) in self.leases.iter() {
            let said = attached.remove(&id).unwrap_or_default();
            if said != (lease.keys, lease.bytes) {
                let what = format!("lease {id} says {lease:?}, its keys say {said:?} (E4)");
                return Err(scope.inconsistent(what));
            }
        }
        if let Some(id) = attached.keys().next() {
            return Err(scope.inconsistent(format!("keys of lease {id}, which is gone (E4)")));
        }
        let stored = self.scan(view, Tree::Meta, &scope.meta_span(keys::COUNTERS..keys::MARK))?;
        if !stored.iter().map(|(k, v)| (k, v)).eq(wanted.iter()) {
            let (stored, wanted) = (stored.len(), wanted.len());
            let what = format!("{wanted} lease and lock records wanted, {stored} others stored");
            return Err(scope.inconsistent(what));
        }
        let marks = self.scan(view, Tree::Meta, &scope.meta_span(keys::MARK..keys::FOREIGN))?;
        if marks.len() as u64 != self.counters.marks {
            let (stored, counted) = (marks.len(), self.counters.marks);
            return Err(scope.inconsistent(format!("{stored} token marks, {counted} counted")));
        }
        Ok(())
    }

    /// A hash over every byte that the shard has stored. Replicas that applied the same entries
    /// have the same (M1).
    ///
    /// # Errors
    /// When the engine fails.
    pub fn state_hash(&self, engine: &dyn Engine) -> Result<u64, MachineError> {
        let scope = &self.scope;
        let view = engine.view();
        let (start, end) = (&scope.range.start, scope.range_end());
        let parts = [
            (Tree::Meta, scope.meta_span(keys::STATE..keys::INSTALLING)),
            (scope.current(), Scope::current_span(start, &end)),
            (scope.history(), Scope::history_span(start, &end)),
            (Tree::Meta, scope.meta_span(keys::COUNTERS..keys::FOREIGN)),
        ];
        let mut digest = Digest::default();
        for (tree, span) in &parts {
            digest.add(view.digest(*tree, borrowed(span)).map_err(|e| scope.engine(e))?);
        }
        Ok(digest.finish())
    }
}
