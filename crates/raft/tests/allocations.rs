//! The steady path allocates nothing: proposals, appends, acknowledgements, commits, heartbeats and
//! reads through three cores, with an allocator that counts what happens inside `step`.
//!
//! The owner does its part: it gives the memory of carried-out writes and sent entries back
//! (`Output::reuse`), and its payloads are shared (`Bytes` over memory that is counted already).
#![allow(missing_docs, reason = "a test")]
#![allow(unsafe_code, reason = "an allocator that counts must be one")]

mod counting;
mod world;

use std::collections::VecDeque;
use std::time::Duration;

use atoll_base::Time;
use atoll_raft::{
    Body, Config, HardState, Input, Membership, Message, Output, RaftCore, ReadContext,
};
use bytes::Bytes;
use counting::counted;
use world::mem_log::MemLog;
use world::n;

/// A replica whose owner reuses everything. Its disk is done at once.
struct Owner {
    core: RaftCore,
    log: MemLog,
    out: Output,
}

struct Group {
    now: Time,
    owners: Vec<Owner>,
    net: VecDeque<Message>,
    steps: u64,
    allocations: u64,
    served: u64,
}

impl Group {
    fn new(change: impl Fn(&mut Config)) -> Self {
        let founding = Membership::of_voters([n(1), n(2), n(3)]);
        let owners = (1..=3).map(|id| {
            let mut config = Config::new(n(id), 5);
            config.tail_bytes_max = 64 << 10;
            change(&mut config);
            let (hard, log) = (HardState::default(), MemLog::default());
            let base = founding.clone();
            let core = RaftCore::new(config, Time::ZERO, hard, base, Default::default(), &log);
            Owner { core: core.expect("an empty log"), log, out: Output::default() }
        });
        let owners = owners.collect();
        Self { now: Time::ZERO, owners, net: VecDeque::new(), steps: 0, allocations: 0, served: 0 }
    }

    /// One input and all that follows at once: the write, what waited for it, what is applied.
    fn step(&mut self, at: usize, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next.take() {
            let owner = &mut self.owners[at];
            self.allocations +=
                counted(|| owner.core.step(self.now, input, &owner.log, &mut owner.out));
            self.steps += 1;
            let out = &mut owner.out;
            self.net.extend(out.messages.drain(..));
            if let Some(mut write) = out.write.take() {
                owner.log.replace_from(&write.entries);
                self.net.extend(write.after.drain(..));
                let (write_id, term, index) = (write.id, write.term, write.index);
                out.reuse(write);
                next = Some(Input::Written { write: write_id, term, index });
            }
            let commit = out.commit;
            self.served += out.reads.len() as u64;
            out.clear();
            if let Some(commit) = commit {
                assert!(next.is_none(), "a write is told before its entries are applied");
                next = Some(Input::Applied(commit));
            }
        }
    }

    /// Delivers everything; the sender gets the entries' memory back, as an owner that encodes
    /// messages would give it.
    fn settle(&mut self) {
        while let Some(message) = self.net.pop_front() {
            let (from, to) = (message.from.0 as usize - 1, message.to.0 as usize - 1);
            let mut message = message;
            if let Body::Append { entries, .. } = &mut message.body {
                let sent = entries.clone();
                self.owners[from].out.reuse_entries(std::mem::replace(entries, sent));
            }
            self.step(to, Input::Message(message));
        }
    }

    fn elect(&mut self) -> usize {
        let due = self.owners[0].core.next_deadline().expect("a timer");
        self.now = due;
        self.step(0, Input::Tick);
        self.settle();
        assert!(self.owners[0].core.is_leader());
        0
    }

    fn beat(&mut self) {
        self.now = self.now.after(Duration::from_millis(200));
        self.step(0, Input::Tick);
        self.settle();
    }

    fn compact(&mut self) {
        for at in 0..3 {
            let owner = &mut self.owners[at];
            let prev = owner.core.applied();
            let prev_term = owner.core.term_at(prev).expect("applied");
            owner.log.compact(prev.next());
            self.step(at, Input::Compacted { first: prev.next(), prev_term });
        }
    }

    fn forget(&mut self) {
        (self.steps, self.allocations) = (0, 0);
    }
}

fn payloads(count: usize) -> Vec<Bytes> {
    vec![Bytes::from_static(&[7; 64]); count]
}

#[test]
fn replication_allocates_nothing_per_step() {
    for batch in [1, 16, 256] {
        let mut g = Group::new(|_| {});
        let leader = g.elect();
        for round in 0..2_200 {
            // The first rounds grow every buffer to what the load needs.
            if round == 200 {
                g.forget();
            }
            for _ in 0..3 {
                g.step(leader, Input::Propose(payloads(batch)));
            }
            g.settle();
            if round % 10 == 0 {
                g.beat();
            }
            if round % 100 == 99 {
                g.compact();
            }
        }
        let commit = g.owners[0].core.commit().0;
        assert!(commit >= 2_200 * 3 * batch as u64, "everything was committed: {commit}");
        println!("{batch} a proposal: {} allocations in {} steps", g.allocations, g.steps);
        assert_eq!(g.allocations, 0, "in {} steps, {batch} entries a proposal", g.steps);
    }
}

#[test]
fn reads_allocate_nothing_per_step() {
    for lease in [false, true] {
        let mut g = Group::new(|c| c.lease_reads = lease);
        let leader = g.elect();
        g.step(leader, Input::Propose(payloads(1)));
        g.settle();
        let mut context = 0;
        for round in 0..1_200 {
            if round == 200 {
                g.forget();
            }
            for at in 0..3 {
                for _ in 0..8 {
                    context += 1;
                    g.step(at, Input::Read(ReadContext(context)));
                }
            }
            g.settle();
            if round % 10 == 0 {
                g.beat();
            }
        }
        assert_eq!(g.served, context, "every read was served");
        println!("lease {lease}: {} allocations in {} steps", g.allocations, g.steps);
        assert_eq!(g.allocations, 0, "in {} steps, lease {lease}", g.steps);
    }
}

/// The count counts: an owner that gives nothing back makes every step with entries allocate.
#[test]
fn an_owner_that_gives_nothing_back_pays_for_it() {
    let mut g = Group::new(|_| {});
    let leader = g.elect();
    for _ in 0..100 {
        g.owners[leader].out = Output::default();
        g.step(leader, Input::Propose(payloads(1)));
        g.settle();
    }
    assert!(g.allocations >= 100, "{} allocations in {} steps", g.allocations, g.steps);
}
