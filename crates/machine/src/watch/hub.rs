//! The watchers of one shard.

use std::collections::{BTreeMap, VecDeque};

use atoll_base::{Code, Failure, Revision, planted};
use atoll_storage::{Direction, Engine, Tree};
use bytes::Bytes;

use super::index::WatchIndex;
use super::ring::{EventRing, Previous};
use crate::error::MachineError;
use crate::event::{Event, EventKind};
use crate::keys::{borrowed, parse_change_key};
use crate::kv::{ChangeKind, ChangeRecord, check_covers, read_version};
use crate::machine::ShardMachine;
use crate::query::KeyEnd;

/// Names a watcher within a hub; chosen by its owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WatchId(pub u64);

/// What a watcher wants.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WatchRequest {
    /// The key, or the first of the range.
    pub start: Bytes,
    /// Where the range ends.
    pub end: KeyEnd,
    /// The first revision wanted; may lie in the future. `None`: what comes from now on.
    pub from: Option<Revision>,
    /// Leave puts out.
    pub no_put: bool,
    /// Leave deletes out.
    pub no_delete: bool,
    /// Give what was there before.
    pub prev_kv: bool,
    /// Revisions over the limits of a poll may come in pieces.
    pub fragment: bool,
}

/// The bounds of a hub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchLimits {
    /// Bytes of recent events kept in memory; an eighth of it while nobody watches.
    pub ring_bytes_max: u64,
    /// Watchers.
    pub watchers_max: usize,
    /// Changes that one poll looks at, whether they concern the watcher or not.
    pub visits_max: usize,
}

impl Default for WatchLimits {
    fn default() -> Self {
        Self { ring_bytes_max: 8 << 20, watchers_max: 100_000, visits_max: 10_000 }
    }
}

/// The bounds of one poll. A revision that crosses them is still delivered whole, unless the
/// watcher takes fragments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PollLimits {
    /// Events.
    pub events_max: usize,
    /// Bytes of keys and values.
    pub bytes_max: u64,
}

impl Default for PollLimits {
    fn default() -> Self {
        Self { events_max: 1000, bytes_max: 1 << 20 }
    }
}

/// What a poll gives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Poll {
    /// Events, or progress alone when there are none.
    Batch(WatchBatch),
    /// The watcher is gone.
    Ended(WatchEnd),
}

/// Events of a watcher, in order.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct WatchBatch {
    /// In order; those of one revision are neighbours.
    pub events: Vec<Event>,
    /// Every event of the watcher up to here was delivered, this batch included. A watcher that is
    /// lost resumes behind it.
    pub through: Revision,
    /// The last revision goes on in the next batch.
    pub is_fragment: bool,
    /// More is there already: the watcher is queued again.
    pub more: bool,
}

/// Why a watcher is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchEnd {
    /// What it needs next is no longer kept.
    Compacted {
        /// The oldest revision to start from.
        compact_revision: Revision,
    },
    /// It was cancelled or never registered.
    Unknown,
}

/// A place among the changes.
type Cursor = (Revision, u32);

#[derive(Debug)]
struct Watcher {
    request: WatchRequest,
    /// Events below are not for it.
    from: Revision,
    /// It was told everything up to here before the machine went back.
    told: Revision,
    /// Where to look next; `None` when everything up to the hub's `through` was looked at.
    next: Option<Cursor>,
    is_queued: bool,
    /// It began below the compact revision.
    is_late: bool,
}

/// The watchers of one shard, the ring they share and the queue of those with something to get.
#[derive(Debug)]
pub struct WatchHub {
    limits: WatchLimits,
    /// Events up to here were fed.
    through: Revision,
    ring: EventRing,
    watchers: BTreeMap<WatchId, Watcher>,
    index: WatchIndex,
    queue: VecDeque<WatchId>,
    /// Watchers that want to know what was there before.
    want_previous: usize,
}

impl WatchHub {
    /// A hub without watchers for a machine that is at `through`.
    #[must_use]
    pub fn new(through: Revision, limits: WatchLimits) -> Self {
        let ring = EventRing::new(through.next());
        Self {
            limits,
            through,
            ring,
            watchers: BTreeMap::new(),
            index: WatchIndex::default(),
            queue: VecDeque::new(),
            want_previous: 0,
        }
    }

    /// Watchers registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// True without watchers.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    /// Events up to here were fed.
    #[must_use]
    pub fn through(&self) -> Revision {
        self.through
    }

    /// Bytes of recent events in memory.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Adds a watcher.
    ///
    /// # Errors
    /// `StaleEpoch` for a range that is not wholly the shard's, `AlreadyExists` for an id in use,
    /// `Overloaded` at the limit. A start that is compacted away is told by the first poll, also
    /// where memory still has what it wants: what a watch gets must not depend on that.
    pub fn register(
        &mut self,
        id: WatchId,
        request: WatchRequest,
        machine: &ShardMachine,
    ) -> Result<(), Failure> {
        check_covers(&machine.scope, &request.start, &request.end)?;
        if self.watchers.contains_key(&id) {
            let message = format!("watch {} is there already", id.0);
            return Err(Failure::new(Code::AlreadyExists, message));
        }
        let limit = self.limits.watchers_max;
        if self.watchers.len() >= limit {
            let message = format!("shard {} has {limit} watchers, the limit", machine.shard());
            return Err(Failure::new(Code::Overloaded, message));
        }
        self.index.insert(id, &request.start, &request.end);
        let from = request.from.unwrap_or(self.through.next());
        let late = planted!(WatchResumesLate) && from <= self.through;
        let from = if late { from.next() } else { from };
        let next = (from <= self.through).then_some((from, 0));
        let is_queued = next.is_some();
        let is_late = is_queued && from < machine.compact_revision();
        let told = Revision::ZERO;
        self.want_previous += usize::from(request.prev_kv);
        self.watchers.insert(id, Watcher { request, from, told, next, is_queued, is_late });
        if is_queued {
            self.queue.push_back(id);
        }
        Ok(())
    }

    /// Removes a watcher, if it is there.
    pub fn cancel(&mut self, id: WatchId) {
        if let Some(watcher) = self.watchers.remove(&id) {
            self.index.remove(id, &watcher.request.start, &watcher.request.end);
            self.want_previous -= usize::from(watcher.request.prev_kv);
        }
    }

    /// Takes in what a batch of the machine changed. `through` is the machine's revision after it;
    /// the engine has it written.
    pub fn feed(&mut self, events: Vec<Event>, through: Revision) {
        let previous = match self.want_previous {
            0 => Previous::Unwanted,
            _ => Previous::Wanted,
        };
        for event in events {
            let (revision, before) = (event.revision, self.through);
            assert!(revision > before, "event at revision {revision} fed after {before}");
            let (watchers, queue) = (&mut self.watchers, &mut self.queue);
            self.index.matching(&event.key, |id| {
                let watcher = watchers.get_mut(&id).expect("the index names live watchers only");
                if watcher.next.is_none() && watcher.wants(revision, &event.kind) {
                    watcher.next = Some((revision, 0));
                    watcher.is_queued = true;
                    queue.push_back(id);
                }
            });
            self.ring.push(event, previous);
        }
        self.through = self.through.max(through);
        let bytes_max = self.limits.ring_bytes_max;
        // Who comes back finds older events in the engine.
        self.ring.shrink(if self.watchers.is_empty() { bytes_max / 8 } else { bytes_max });
    }

    /// Goes on after the machine was replaced by a snapshot's: what the watchers missed is read
    /// from the engine, if it is kept there. The snapshot may be older than what was fed, where a
    /// replica is rebuilt: what a watcher was told already comes again, and is not for it.
    pub fn reset(&mut self, through: Revision) {
        let missed = self.through.next();
        for watcher in self.watchers.values_mut() {
            let looked_at = watcher.next.map_or(missed, |(revision, _)| revision);
            watcher.told = watcher.told.max(looked_at.prev());
            watcher.from = watcher.from.max(watcher.told.next());
        }
        self.through = through;
        self.ring = EventRing::new(through.next());
        for (id, watcher) in &mut self.watchers {
            if watcher.next.is_none() && watcher.from <= through {
                atoll_base::reached!("a watch went on behind an installed snapshot");
                watcher.next = Some((watcher.from, 0));
                watcher.is_queued = true;
                self.queue.push_back(*id);
            }
        }
    }

    /// The next watcher that has something to get. It leaves the queue: poll it now, or, if its
    /// reader has no room, when it has; nothing is lost meanwhile.
    pub fn next_ready(&mut self) -> Option<WatchId> {
        while let Some(id) = self.queue.pop_front() {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.is_queued = false;
                return Some(id);
            }
        }
        None
    }

    /// Delivers the next events of a watcher and moves its cursor behind them. A watcher with
    /// nothing to get is told how far it is.
    ///
    /// # Errors
    /// When the engine fails or contradicts itself: the replica is damaged.
    pub fn poll(
        &mut self,
        id: WatchId,
        machine: &ShardMachine,
        engine: &dyn Engine,
        limits: PollLimits,
    ) -> Result<Poll, MachineError> {
        let Some(watcher) = self.watchers.get(&id) else {
            return Ok(Poll::Ended(WatchEnd::Unknown));
        };
        let Some(next) = watcher.next else {
            let through = self.through.max(watcher.told);
            return Ok(Poll::Batch(WatchBatch { through, ..WatchBatch::default() }));
        };
        let first = match watcher.request.prev_kv {
            true => self.ring.first_with_previous(),
            false => self.ring.first(),
        };
        let is_in_ring = next.0 >= first;
        let compact_revision = machine.compact_revision();
        if watcher.is_late || (!is_in_ring && next.0 < compact_revision) {
            self.cancel(id);
            return Ok(Poll::Ended(WatchEnd::Compacted { compact_revision }));
        }
        let mut delivery = Delivery::new(&watcher.request, limits, self.limits.visits_max, next);
        if is_in_ring {
            self.read_ring(next, &mut delivery);
        } else {
            atoll_base::reached!("a watch was served from history");
            self.read_history(next, machine, engine, &mut delivery)?;
        }
        let (mut batch, next) = delivery.finish(self.through);
        let watcher = self.watchers.get_mut(&id).expect("it was there above");
        watcher.next = next;
        batch.through = batch.through.max(watcher.told);
        if next.is_some() && !watcher.is_queued {
            watcher.is_queued = true;
            self.queue.push_back(id);
        }
        Ok(Poll::Batch(batch))
    }

    fn read_ring(&self, next: Cursor, delivery: &mut Delivery<'_>) {
        let mut place = (next.0, 0);
        for event in self.ring.from(next.0) {
            if event.revision != place.0 {
                place = (event.revision, 0);
            }
            if place >= next {
                if !delivery.has_room(place) {
                    return;
                }
                if delivery.concerns(&event.key, &event.kind) {
                    let mut event = event.clone();
                    event.previous = event.previous.filter(|_| delivery.request.prev_kv);
                    delivery.push(event);
                }
            }
            place.1 += 1;
        }
    }

    fn read_history(
        &self,
        next: Cursor,
        machine: &ShardMachine,
        engine: &dyn Engine,
        delivery: &mut Delivery<'_>,
    ) -> Result<(), MachineError> {
        let scope = &machine.scope;
        let view = engine.view();
        let view = &*view;
        let span = scope.change_span(next, Some(self.through.next()));
        for pair in view.scan(Tree::Meta, borrowed(&span), Direction::Forward) {
            let (place, value) = pair.map_err(|e| scope.engine(e))?;
            let place = parse_change_key(&place)
                .ok_or_else(|| scope.inconsistent("change record has a key of another form"))?;
            if !delivery.has_room(place) {
                return Ok(());
            }
            let change = ChangeRecord::decode(value).map_err(|e| scope.record("change", e))?;
            if !delivery.request.end.contains(&delivery.request.start, &change.key) {
                continue;
            }
            let version = |revision| {
                read_version(&view, scope, &change.key, revision)?.ok_or_else(|| {
                    scope.inconsistent(format!("version {revision} of a changed key is missing"))
                })
            };
            let kind = match change.kind {
                ChangeKind::Put if delivery.request.no_put => continue,
                ChangeKind::Put => EventKind::Put(version(place.0)?),
                ChangeKind::Delete if delivery.request.no_delete => continue,
                ChangeKind::Delete => EventKind::Delete,
            };
            let previous = change.previous.filter(|_| delivery.request.prev_kv);
            let previous = previous.map(version).transpose()?;
            delivery.push(Event { revision: place.0, key: change.key, kind, previous });
        }
        Ok(())
    }
}

impl Watcher {
    fn wants(&self, revision: Revision, kind: &EventKind) -> bool {
        revision >= self.from && is_wanted(&self.request, kind)
    }
}

fn is_wanted(request: &WatchRequest, kind: &EventKind) -> bool {
    match kind {
        EventKind::Put(_) => !request.no_put,
        EventKind::Delete => !request.no_delete,
    }
}

/// A batch in the making.
struct Delivery<'w> {
    request: &'w WatchRequest,
    limits: PollLimits,
    visits_left: usize,
    events: Vec<Event>,
    bytes: u64,
    /// The revision being looked at.
    revision: Revision,
    /// Where it stopped, if it did.
    stopped: Option<Cursor>,
}

impl<'w> Delivery<'w> {
    fn new(request: &'w WatchRequest, limits: PollLimits, visits_max: usize, next: Cursor) -> Self {
        Self {
            request,
            limits,
            visits_left: visits_max.max(1),
            events: Vec::new(),
            bytes: 0,
            revision: next.0,
            stopped: None,
        }
    }

    /// Whether the change at `place` may be looked at in this batch. Stops between revisions, or
    /// anywhere if the watcher takes fragments (W2).
    fn has_room(&mut self, place: Cursor) -> bool {
        let is_full = self.events.len() >= self.limits.events_max.max(1)
            || self.bytes >= self.limits.bytes_max.max(1)
            || self.visits_left == 0;
        if is_full && (place.0 != self.revision || self.request.fragment) {
            self.stopped = Some(place);
            return false;
        }
        self.revision = place.0;
        self.visits_left = self.visits_left.saturating_sub(1);
        true
    }

    fn concerns(&self, key: &[u8], kind: &EventKind) -> bool {
        self.request.end.contains(&self.request.start, key) && is_wanted(self.request, kind)
    }

    fn push(&mut self, event: Event) {
        self.bytes += event.cost();
        self.events.push(event);
    }

    fn finish(self, through: Revision) -> (WatchBatch, Option<Cursor>) {
        let is_fragment = self.stopped.is_some_and(|(revision, _)| {
            self.events.last().is_some_and(|e| e.revision == revision)
        });
        let batch = WatchBatch {
            events: self.events,
            through: self.stopped.map_or(through, |(revision, _)| revision.prev()),
            is_fragment,
            more: self.stopped.is_some(),
        };
        (batch, self.stopped)
    }
}
