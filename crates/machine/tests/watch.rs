//! Watches against the model (W1 to W6), and named corners.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeMap;

use atoll_base::{Code, KeyspaceId, Revision, Rng};
use atoll_machine::{
    Command, Event, EventKind, KeyEnd, KeyRange, MachineLimits, Op, Poll, PollLimits, PutOp,
    ShardMachine, TxnOp, TxnStep, WatchBatch, WatchEnd, WatchHub, WatchId, WatchLimits,
    WatchRequest,
};
use atoll_storage::MemEngine;
use bytes::Bytes;
use support::model::Model;
use support::{Replica, SHARD, random};

/// A watcher as its reader sees it.
struct Reader {
    request: WatchRequest,
    /// The first revision not yet delivered whole.
    next: Revision,
    /// What came of revision `next`, when in fragments.
    part: Vec<Event>,
    got: Vec<Event>,
    from: Revision,
}

impl Reader {
    fn take(&mut self, batch: WatchBatch, limits: PollLimits) {
        if !self.request.fragment {
            assert!(!batch.is_fragment);
            let last = batch.events.last().map(|event| event.revision);
            let before = batch.events.iter().filter(|e| Some(e.revision) != last).count();
            assert!(before < limits.events_max, "only the last revision crosses the limit");
        } else {
            assert!(batch.events.len() <= limits.events_max);
        }
        self.part.extend(batch.events);
        let whole = self.part.iter().position(|e| e.revision > batch.through);
        let rest = self.part.split_off(whole.unwrap_or(self.part.len()));
        self.got.append(&mut self.part);
        self.part = rest;
        self.next = self.next.max(batch.through.next());
    }
}

fn wanted(model: &Model, request: &WatchRequest, from: Revision) -> Vec<Event> {
    let events = model.events.iter().filter(|event| {
        event.revision >= from
            && request.end.contains(&request.start, &event.key)
            && match event.kind {
                EventKind::Put(_) => !request.no_put,
                EventKind::Delete => !request.no_delete,
            }
    });
    events
        .map(|event| {
            let previous = event.previous.clone().filter(|_| request.prev_kv);
            Event { previous, ..event.clone() }
        })
        .collect()
}

fn random_request(rng: &mut Rng, model: &Model) -> WatchRequest {
    let start = if rng.chance(1, 4) { Bytes::new() } else { random::key(rng) };
    WatchRequest {
        end: random::end(rng, &start),
        start,
        from: rng.chance(3, 4).then(|| Revision(rng.range(1, model.revision().0 + 8))),
        no_put: rng.chance(1, 6),
        no_delete: rng.chance(1, 6),
        prev_kv: rng.chance(1, 2),
        fragment: rng.chance(1, 3),
    }
}

/// Watchers start, stop and resume at random revisions while commands, compactions and hub resets
/// go on. Each gets exactly the model's events of its range; it ends only when what it needs is
/// compacted.
#[test]
fn every_watcher_gets_what_the_model_says() {
    let mut ends = 0;
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut replica =
            Replica::new(MachineLimits { collect_per_entry: 3, ..MachineLimits::default() });
        let mut model = Model::new();
        let ring_bytes_max = *rng.pick(&[0, 500, 2000, 1 << 20]).unwrap();
        let visits_max = rng.range(1, 20) as usize;
        let limits = WatchLimits { ring_bytes_max, visits_max, watchers_max: 50 };
        let mut hub = WatchHub::new(replica.machine.revision(), limits.clone());
        let mut readers: BTreeMap<WatchId, Reader> = BTreeMap::new();
        let mut ids = 0;
        for turn in 0..120 {
            let commands: Vec<Command> = (0..rng.range(1, 4))
                .map(|_| Command::anonymous(random::op(&mut rng, model.revision())))
                .collect();
            commands.iter().for_each(|command| drop(model.apply(&command.op)));
            let entry = replica.entry(turn, &commands);
            let (_, events) = replica.apply(&[entry]);
            if rng.chance(1, 40) {
                hub.reset(replica.machine.revision());
            } else {
                hub.feed(events, replica.machine.revision());
            }
            if rng.chance(1, 3) {
                ids += 1;
                let request = random_request(&mut rng, &model);
                let from = request.from.unwrap_or(model.revision().next());
                hub.register(WatchId(ids), request.clone(), &replica.machine).unwrap();
                let (part, got) = (Vec::new(), Vec::new());
                readers.insert(WatchId(ids), Reader { request, next: from, part, got, from });
            }
            ends += poll_some(&mut rng, &mut hub, &replica, &mut readers);
            if rng.chance(1, 10) {
                resume_one(&mut rng, &mut hub, &replica, &mut readers);
            }
        }
        // In the end everybody reaches the end.
        while let Some(id) = hub.next_ready() {
            ends += poll_one(&mut rng, id, &mut hub, &replica, &mut readers);
        }
        // A watcher with nothing to get learns how far it is.
        for id in readers.keys().copied().collect::<Vec<_>>() {
            poll_one(&mut rng, id, &mut hub, &replica, &mut readers);
        }
        for reader in readers.values() {
            assert!(reader.next > model.revision(), "seed {seed}: {:?}", reader.request);
            let want = wanted(&model, &reader.request, reader.from);
            assert_eq!(reader.got, want, "seed {seed}: {:?}", reader.request);
        }
    }
    assert!(ends > 10, "only {ends} watchers ended by compaction");
}

fn poll_some(
    rng: &mut Rng,
    hub: &mut WatchHub,
    replica: &Replica,
    readers: &mut BTreeMap<WatchId, Reader>,
) -> u64 {
    let mut ends = 0;
    for _ in 0..rng.below(6) {
        let Some(id) = hub.next_ready() else { break };
        ends += poll_one(rng, id, hub, replica, readers);
    }
    ends
}

/// Returns how many watchers ended.
fn poll_one(
    rng: &mut Rng,
    id: WatchId,
    hub: &mut WatchHub,
    replica: &Replica,
    readers: &mut BTreeMap<WatchId, Reader>,
) -> u64 {
    let limits = PollLimits { events_max: rng.range(1, 5) as usize, bytes_max: rng.range(1, 500) };
    let polled = hub.poll(id, &replica.machine, &replica.engine, limits).unwrap();
    let Some(reader) = readers.get_mut(&id) else { return 0 };
    match polled {
        Poll::Batch(batch) => {
            reader.take(batch, limits);
            0
        }
        Poll::Ended(WatchEnd::Compacted { compact_revision }) => {
            assert_eq!(compact_revision, replica.machine.compact_revision());
            assert!(reader.next < compact_revision, "W5");
            readers.remove(&id);
            1
        }
        Poll::Ended(WatchEnd::Unknown) => panic!("{id:?} is unknown"),
    }
}

/// A reader loses its connection and registers again behind what it got whole.
fn resume_one(
    rng: &mut Rng,
    hub: &mut WatchHub,
    replica: &Replica,
    readers: &mut BTreeMap<WatchId, Reader>,
) {
    let ids: Vec<WatchId> = readers.keys().copied().collect();
    let Some(id) = rng.pick(&ids) else { return };
    let reader = readers.get_mut(id).unwrap();
    hub.cancel(*id);
    reader.part.clear();
    let request = WatchRequest { from: Some(reader.next), ..reader.request.clone() };
    hub.register(*id, request, &replica.machine).unwrap();
}

fn put(key: &str, value: &str) -> PutOp {
    let (key, value) = (Bytes::from(key.to_owned()), Bytes::from(value.to_owned()));
    PutOp { key, value, ..PutOp::default() }
}

struct World {
    replica: Replica,
    hub: WatchHub,
}

impl World {
    fn new(limits: WatchLimits) -> Self {
        let replica = Replica::new(MachineLimits::default());
        let hub = WatchHub::new(replica.machine.revision(), limits);
        Self { replica, hub }
    }

    fn run(&mut self, op: Op) {
        let entry = self.replica.entry(0, &[Command::anonymous(op)]);
        let (_, events) = self.replica.apply(&[entry]);
        self.hub.feed(events, self.replica.machine.revision());
    }

    fn watch(&mut self, id: u64, key: &str, from: Option<u64>) {
        let (start, from) = (Bytes::from(key.to_owned()), from.map(Revision));
        let request = WatchRequest { start, from, ..WatchRequest::default() };
        self.hub.register(WatchId(id), request, &self.replica.machine).unwrap();
    }

    fn poll(&mut self, id: u64) -> WatchBatch {
        let (machine, engine) = (&self.replica.machine, &self.replica.engine);
        match self.hub.poll(WatchId(id), machine, engine, PollLimits::default()).unwrap() {
            Poll::Batch(batch) => batch,
            Poll::Ended(end) => panic!("{end:?}"),
        }
    }
}

/// Trap T42, W4.
#[test]
fn a_watch_from_the_future_gets_nothing_older() {
    let mut world = World::new(WatchLimits::default());
    world.watch(1, "a", Some(5));
    for _ in 0..3 {
        world.run(Op::Put(put("a", "early")));
        assert_eq!(world.hub.next_ready(), None);
    }
    world.run(Op::Put(put("a", "wanted")));
    assert_eq!(world.hub.next_ready(), Some(WatchId(1)));
    let batch = world.poll(1);
    let revisions: Vec<u64> = batch.events.iter().map(|event| event.revision.0).collect();
    assert_eq!(revisions, [5]);
}

/// Trap T41, W3: while events wait, progress stays below them.
#[test]
fn progress_never_overtakes_events() {
    let mut world = World::new(WatchLimits::default());
    world.watch(1, "a", None);
    world.run(Op::Put(put("b", "1")));
    assert_eq!(world.poll(1), WatchBatch { through: Revision(2), ..WatchBatch::default() });
    world.run(Op::Put(put("a", "1")));
    world.run(Op::Put(put("a", "2")));
    let limits = PollLimits { events_max: 1, ..PollLimits::default() };
    let (machine, engine) = (&world.replica.machine, &world.replica.engine);
    let Poll::Batch(batch) = world.hub.poll(WatchId(1), machine, engine, limits).unwrap() else {
        panic!("the watch has ended")
    };
    assert_eq!((batch.events.len(), batch.through, batch.more), (1, Revision(3), true));
    let batch = world.poll(1);
    assert_eq!((batch.events.len(), batch.through, batch.more), (1, Revision(4), false));
}

/// W1, W3: a replica that is rebuilt may begin again with a snapshot older than what its watchers
/// know: they hear nothing twice, and progress does not go back.
#[test]
fn a_machine_that_goes_back_tells_nothing_twice() {
    let values = ["1", "2", "3", "4", "5"];
    for behind in [false, true] {
        let mut world = World::new(WatchLimits::default());
        world.watch(1, "a", None);
        let mut told = Vec::new();
        for value in &values[..3] {
            world.run(Op::Put(put("a", value)));
        }
        let limits =
            PollLimits { events_max: if behind { 2 } else { 100 }, ..PollLimits::default() };
        let (machine, engine) = (&world.replica.machine, &world.replica.engine);
        match world.hub.poll(WatchId(1), machine, engine, limits).unwrap() {
            Poll::Batch(batch) => told.extend(batch.events),
            Poll::Ended(end) => panic!("{end:?}"),
        }
        let progress = Revision(1 + told.len() as u64);
        // Twice, as a rebuild may be cut off and begin again.
        for kept in [1, 0] {
            world.replica = Replica::new(MachineLimits::default());
            world.hub.reset(world.replica.machine.revision());
            for value in &values[..kept] {
                world.run(Op::Put(put("a", value)));
            }
            world.watch(2 + kept as u64, "a", None);
            let batch = world.poll(1);
            assert_eq!((batch.events.len(), batch.through), (0, progress), "behind: {behind}");
        }
        for value in values {
            world.run(Op::Put(put("a", value)));
            let batch = world.poll(1);
            assert!(batch.through >= progress);
            told.extend(batch.events);
        }
        let revisions: Vec<u64> = told.iter().map(|event| event.revision.0).collect();
        assert_eq!(revisions, [2, 3, 4, 5, 6], "behind: {behind}");
        assert_eq!(world.poll(3).events.len() + world.poll(2).events.len(), 5 + 4);
    }
}

/// M4, W5: a watch may start at the compact revision itself and gets it whole, the value before
/// included; one revision earlier it is told where to start.
#[test]
fn a_watch_starts_at_the_compact_revision_or_ends() {
    // Whether memory still has what was forgotten makes no difference.
    for ring_bytes_max in [0, 1 << 20] {
        starts_at_the_compact_revision_or_ends(ring_bytes_max);
    }
}

fn starts_at_the_compact_revision_or_ends(ring_bytes_max: u64) {
    let mut world = World::new(WatchLimits { ring_bytes_max, ..WatchLimits::default() });
    for value in ["1", "2", "3", "4"] {
        world.run(Op::Put(put("a", value)));
    }
    world.run(Op::Compact { revision: Revision(4) });
    world.run(Op::Put(put("a", "5")));
    assert!(!world.replica.machine.must_collect());
    let request = WatchRequest {
        start: Bytes::from("a"),
        from: Some(Revision(4)),
        prev_kv: true,
        ..WatchRequest::default()
    };
    world.hub.register(WatchId(1), request, &world.replica.machine).unwrap();
    let events = world.poll(1).events;
    let told: Vec<(u64, Bytes)> = events
        .into_iter()
        .map(|event| (event.revision.0, event.previous.expect("there was a value before").value))
        .collect();
    let value = Bytes::from_static;
    assert_eq!(told, [(4, value(b"2")), (5, value(b"3")), (6, value(b"4"))]);
    world.watch(2, "a", Some(3));
    let (machine, engine) = (&world.replica.machine, &world.replica.engine);
    let end = world.hub.poll(WatchId(2), machine, engine, PollLimits::default()).unwrap();
    let compact_revision = Revision(4);
    assert_eq!(end, Poll::Ended(WatchEnd::Compacted { compact_revision }));
}

/// W1: what was there before is told of all events, also of those that nobody wanted it of when
/// they happened, and that memory has without.
#[test]
fn what_was_before_is_told_of_what_happened_before_anybody_asked() {
    let mut world = World::new(WatchLimits::default());
    let told = |world: &mut World, id, from| {
        let request = WatchRequest {
            start: Bytes::from("a"),
            from: Some(Revision(from)),
            prev_kv: true,
            ..WatchRequest::default()
        };
        world.hub.register(WatchId(id), request, &world.replica.machine).unwrap();
        let events = world.poll(id).events;
        let previous = events.into_iter().map(|event| (event.revision.0, event.previous));
        previous.map(|(revision, record)| (revision, record.map(|r| r.value))).collect::<Vec<_>>()
    };
    let value = |value| Some(Bytes::from_static(value));
    world.run(Op::Put(put("a", "1")));
    world.run(Op::Put(put("a", "2")));
    let first = [(2, None), (3, value(b"1"))];
    assert_eq!(told(&mut world, 1, 2), first);
    world.run(Op::Put(put("a", "3")));
    let second = [(3, value(b"1")), (4, value(b"2"))];
    assert_eq!(told(&mut world, 2, 3), second);
    world.hub.cancel(WatchId(1));
    world.hub.cancel(WatchId(2));
    world.run(Op::Put(put("a", "4")));
    world.watch(3, "a", Some(2));
    assert_eq!(world.poll(3).events.len(), 4);
    assert_eq!(told(&mut world, 4, 4), [(4, value(b"2")), (5, value(b"3"))]);
}

/// W2: a transaction comes whole, or in marked pieces to who takes them.
#[test]
fn a_revision_is_split_only_on_demand() {
    for (ring_bytes_max, fragment) in [(0, false), (0, true), (1 << 20, false), (1 << 20, true)] {
        let mut world = World::new(WatchLimits { ring_bytes_max, ..WatchLimits::default() });
        let end = KeyEnd::ToEnd;
        let request = WatchRequest { end, fragment, ..WatchRequest::default() };
        world.hub.register(WatchId(1), request, &world.replica.machine).unwrap();
        let then = (0..5).map(|i| TxnStep::Put(put(&format!("k{i}"), "v"))).collect();
        world.run(Op::Txn(TxnOp { then, ..TxnOp::default() }));
        let mut sizes = Vec::new();
        while world.hub.next_ready().is_some() {
            let limits = PollLimits { events_max: 2, ..PollLimits::default() };
            let (machine, engine) = (&world.replica.machine, &world.replica.engine);
            match world.hub.poll(WatchId(1), machine, engine, limits).unwrap() {
                Poll::Batch(batch) => sizes.push((batch.events.len(), batch.is_fragment)),
                Poll::Ended(end) => panic!("{end:?}"),
            }
        }
        match fragment {
            true => assert_eq!(sizes, [(2, true), (2, true), (1, false)]),
            false => assert_eq!(sizes, [(5, false)]),
        }
    }
}

/// W6, trap T43: watchers that never read hold a cursor each, and the ring stays at its bound.
#[test]
fn many_slow_watchers_cost_no_memory() {
    let ring_bytes_max = 2000;
    let mut world = World::new(WatchLimits { ring_bytes_max, ..WatchLimits::default() });
    for id in 0..10_000 {
        world.watch(id, &format!("k{}", id % 500), None);
    }
    for i in 0..100 {
        world.run(Op::Put(put(&format!("k{i}"), &"x".repeat(100))));
        assert!(world.hub.ring_bytes() <= ring_bytes_max);
    }
    let mut events = 0;
    while let Some(id) = world.hub.next_ready() {
        events += world.poll(id.0).events.len();
    }
    assert_eq!(events, 2000);
}

#[test]
fn a_hub_refuses_more_than_its_limit() {
    let engine = MemEngine::new();
    let range = KeyRange { start: Bytes::new(), end: Some(Bytes::from("m")) };
    let limits = MachineLimits::default();
    let machine = ShardMachine::open(SHARD, KeyspaceId::DEFAULT, range, limits, &engine).unwrap();
    let limits = WatchLimits { watchers_max: 1, ..WatchLimits::default() };
    let mut hub = WatchHub::new(machine.revision(), limits);
    let mut register = |id, start: &'static str| {
        let request = WatchRequest { start: Bytes::from(start), ..WatchRequest::default() };
        hub.register(WatchId(id), request, &machine).err().map(|failure| failure.code)
    };
    assert_eq!(register(1, "z"), Some(Code::StaleEpoch));
    assert_eq!(register(1, "a"), None);
    assert_eq!(register(1, "a"), Some(Code::AlreadyExists));
    assert_eq!(register(2, "b"), Some(Code::Overloaded));
    hub.cancel(WatchId(1));
    assert!(hub.is_empty());
}
