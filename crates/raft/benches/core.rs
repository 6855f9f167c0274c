//! What the core costs: `cargo bench -p atoll-raft`.
//!
//! - `proposals/N`: 64-byte proposals through three cores in memory, N outstanding. A closed loop:
//!   as many are proposed, in one batch, as were committed since. A disk is done at once, and its
//!   completion is a step; so is every message. Owners give memory back, and move what they are to
//!   write into a log in memory; a message's entries move into memory of the receiver's.
//! - `step/N`: the same, by steps; how many allocations a step makes is printed before.
//! - `quiet`: 10 thousand groups of three that went quiet. None of the 30 thousand cores asks for a
//!   step ever again, which is asserted; what is measured is to look at all their deadlines.
//!
//! Time is that of this thread on a processor. Nothing here waits, so on an idle machine it is the
//! wall's; on a busy one the turns of others don't count, though what they do to caches does.
#![allow(missing_docs, reason = "a benchmark")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "it needs a clock")]
#![allow(unsafe_code, reason = "an allocator that counts must be one")]

#[path = "../tests/counting/mod.rs"]
mod counting;
#[path = "../tests/world/mod.rs"]
mod world;

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use atoll_base::{Entry, Time};
use atoll_raft::{Body, Config, HardState, Input, Membership, Message, Output, RaftCore};
use bytes::Bytes;
use counting::counted;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::time::{ClockId, clock_gettime};
use world::mem_log::MemLog;
use world::{Disks, World, n};

/// A replica and its owner.
struct Owner {
    core: RaftCore,
    log: MemLog,
    out: Output,
}

/// Three of them under load; the first one leads.
struct Load {
    now: Time,
    owners: Vec<Owner>,
    net: VecDeque<Message>,
    inputs: VecDeque<Input>,
    /// Memory for what is received.
    received: Vec<Vec<Entry>>,
    outstanding: u64,
    proposed: u64,
    compacted: u64,
    steps: u64,
    /// Made inside of steps.
    allocations: u64,
}

impl Load {
    fn new(outstanding: u64) -> Self {
        let founding = Membership::of_voters([n(1), n(2), n(3)]);
        let owners = (1..=3).map(|id| {
            let (config, log) = (Config::new(n(id), 5), MemLog::default());
            let (hard, base) = (HardState::default(), founding.clone());
            let core = RaftCore::new(config, Time::ZERO, hard, base, Default::default(), &log);
            Owner { core: core.expect("an empty log"), log, out: Output::default() }
        });
        let mut load = Self {
            now: Time::ZERO,
            owners: owners.collect(),
            net: VecDeque::new(),
            inputs: VecDeque::new(),
            received: Vec::new(),
            outstanding,
            proposed: 0,
            compacted: 0,
            steps: 0,
            allocations: 0,
        };
        load.now = load.owners[0].core.next_deadline().expect("a timer");
        load.step(0, Input::Tick);
        load.deliver();
        assert!(load.owners[0].core.is_leader());
        load.proposed = load.commit();
        load
    }

    fn commit(&self) -> u64 {
        self.owners[0].core.commit().0
    }

    /// One input, and the write and the applying that follow from it.
    fn step(&mut self, at: usize, input: Input) {
        let mut inputs = std::mem::take(&mut self.inputs);
        inputs.push_back(input);
        while let Some(input) = inputs.pop_front() {
            let owner = &mut self.owners[at];
            self.allocations +=
                counted(|| owner.core.step(self.now, input, &owner.log, &mut owner.out));
            self.steps += 1;
            self.net.extend(owner.out.messages.drain(..));
            if let Some(mut write) = owner.out.write.take() {
                owner.log.take_from(&mut write.entries);
                self.net.extend(write.after.drain(..));
                let (id, term, index) = (write.id, write.term, write.index);
                inputs.push_back(Input::Written { write: id, term, index });
                if at > 0 && write.entries.capacity() > 0 {
                    self.received.push(std::mem::take(&mut write.entries));
                }
                owner.out.reuse(write);
            }
            let commit = owner.out.commit;
            owner.out.clear();
            if let Some(commit) = commit {
                inputs.push_back(Input::Applied(commit));
            }
        }
        self.inputs = inputs;
    }

    fn deliver(&mut self) {
        while let Some(mut message) = self.net.pop_front() {
            let (from, to) = (message.from.0 as usize - 1, message.to.0 as usize - 1);
            if let Body::Append { entries, .. } = &mut message.body {
                let mut received = self.received.pop().unwrap_or_default();
                received.append(entries);
                self.owners[from].out.reuse_entries(std::mem::replace(entries, received));
            }
            self.step(to, Input::Message(message));
        }
    }

    /// Proposes what is free and carries out all that follows.
    fn turn(&mut self) {
        let free = (self.outstanding - (self.proposed - self.commit())) as usize;
        self.proposed += free as u64;
        self.step(0, Input::Propose(vec![Bytes::from_static(&[7; 64]); free]));
        self.deliver();
        if self.commit() > self.compacted + 5_000 {
            self.compacted = self.commit();
            for at in 0..3 {
                let owner = &mut self.owners[at];
                let prev = owner.core.applied();
                let prev_term = owner.core.term_at(prev).expect("applied");
                owner.log.compact(prev.next());
                self.step(at, Input::Compacted { first: prev.next(), prev_term });
            }
        }
    }
}

/// For how long this thread had a processor.
fn worked() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Runs turns until `done` says that enough was done; the time that `count` of it take.
fn timed(load: &mut Load, count: u64, done: impl Fn(&Load) -> u64) -> Duration {
    let (start, first) = (worked(), done(load));
    while done(load) < first + count {
        load.turn();
    }
    // The last turn may have done more than was asked for.
    (worked() - start).div_f64((done(load) - first) as f64 / count as f64)
}

fn under_load(c: &mut Criterion) {
    for (name, outstanding) in [("proposals", vec![1, 64, 1024, 4096]), ("step", vec![1, 64])] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1)).sample_size(20);
        group.measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        for outstanding in outstanding {
            let mut load = Load::new(outstanding);
            for _ in 0..1_000 {
                load.turn();
            }
            (load.steps, load.allocations) = (0, 0);
            let done: fn(&Load) -> u64 =
                if name == "step" { |load| load.steps } else { Load::commit };
            group.bench_function(BenchmarkId::from_parameter(outstanding), |b| {
                b.iter_custom(|count| timed(&mut load, count, done));
            });
            println!("{} allocations in {} steps", load.allocations, load.steps);
        }
        group.finish();
    }
}

fn quiet(c: &mut Criterion) {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let mut worlds: Vec<World> = (0..10_000)
        .map(|seed| {
            World::new(&founding, Disks::Manual, |id| Config {
                quiesce: true,
                ..Config::new(id, seed)
            })
        })
        .collect();
    for w in &mut worlds {
        w.checking = false;
        w.elect();
        assert!(w.until(|w| w.up().iter().all(|id| w.core(*id).is_quiet())), "it goes quiet");
    }
    let awake = |worlds: &[World]| {
        let cores = worlds.iter().flat_map(|w| (1..=3).map(|id| w.core(n(id)).next_deadline()));
        cores.flatten().count()
    };
    assert_eq!(awake(&worlds), 0, "none of 30 thousand cores asks to be stepped");
    c.bench_function("quiet/10000 groups", |b| b.iter(|| black_box(awake(&worlds))));
}

criterion_group!(benches, under_load, quiet);
criterion_main!(benches);
