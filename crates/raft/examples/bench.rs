//! Proposals per second through three cores in memory, by how many are outstanding:
//! `cargo run --release -p atoll-raft --example bench`.
//!
//! A closed loop: whenever proposals commit, as many new ones are proposed in one batch. Disks are
//! done at once; every message and every completion is a step. Checkers are off.
#![allow(missing_docs, reason = "an example")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a bench needs a clock")]

#[path = "../tests/world/mod.rs"]
mod world;

use std::time::{Duration, Instant};

use atoll_base::NodeId;
use atoll_raft::{Config, Input, Membership};
use bytes::Bytes;
use world::{Disks, World, n};

fn main() {
    println!("{:>12} {:>14} {:>12} {:>14}", "outstanding", "proposals/s", "steps/s", "ns a step");
    for outstanding in [1_usize, 64, 1024, 4096] {
        let (proposals, steps, took) = run(outstanding, Duration::from_millis(700));
        let seconds = took.as_secs_f64();
        println!(
            "{outstanding:>12} {:>14.0} {:>12.0} {:>14.0}",
            proposals as f64 / seconds,
            steps as f64 / seconds,
            took.as_nanos() as f64 / steps as f64,
        );
    }
}

fn run(outstanding: usize, long: Duration) -> (u64, u64, Duration) {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let mut w = World::new(&founding, Disks::Manual, |id| Config::new(id, 3));
    w.checking = false;
    let leader = w.elect();
    let payload = Bytes::from_static(&[7; 64]);
    let (mut proposed, mut steps) = (w.core(leader).commit().0, 0);
    let (start, first) = (Instant::now(), proposed);
    let mut compacted = first;
    while start.elapsed() < long {
        let commit = w.core(leader).commit().0;
        let free = outstanding - (proposed - commit) as usize;
        if free > 0 {
            w.step(leader, Input::Propose(vec![payload.clone(); free]));
            w.outcomes.clear();
            proposed += free as u64;
            steps += 1;
        }
        steps += turn(&mut w);
        if commit > compacted + 100_000 {
            compacted = commit;
            for id in 1..=3 {
                w.compact(n(id), 10_000);
            }
        }
    }
    (w.core(leader).commit().0 - first, steps, start.elapsed())
}

/// One turn of the network and of every disk.
fn turn(w: &mut World) -> u64 {
    let mut steps = w.net.len() as u64;
    for _ in 0..w.net.len() {
        w.deliver(0);
    }
    for node in [1, 2, 3].map(NodeId) {
        steps += u64::from(!w.replica(node).pending.is_empty());
        w.write_done(node, usize::MAX);
        w.tell_written(node);
    }
    steps
}
