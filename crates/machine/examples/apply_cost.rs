//! What applying costs: `cargo run --release -p atoll-machine --example apply_cost`.
//!
//! Puts of 256 B from 64 clients, 64 commands an entry, 4 entries an engine batch, first over fresh
//! keys, then over the same keys again; then point reads and ranges of 100.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    reason = "a measurement needs a clock, and may panic"
)]

use std::time::Instant;

use atoll_base::{ClientId, Entry, EntryKind, KeyspaceId, Rng, Sequence, ShardId, Term, Timestamp};
use atoll_machine::{
    Applied, BatchWriter, Command, CommandId, KeyEnd, KeyRange, MachineLimits, Op, PutOp,
    RangeQuery, ShardMachine, WatchHub, WatchLimits,
};
use atoll_storage::{Engine, MemEngine};
use bytes::Bytes;

const COMMANDS: u64 = 64;
const ENTRIES: u64 = 4;

fn key(n: u64) -> Bytes {
    Bytes::from(format!("key-{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

fn entry(machine: &ShardMachine, offset: u64, first: u64, round: u64) -> Entry {
    let mut payload = BatchWriter::new(Timestamp(first));
    for n in first..first + COMMANDS {
        let sequence = round + n / 64 + 1;
        let id = CommandId {
            client: ClientId(n % 64 + 1),
            sequence: Sequence(sequence),
            first_unacknowledged: Sequence(sequence.saturating_sub(4).max(1)),
        };
        let value = Bytes::from(vec![7; 256]);
        let op = Op::Put(PutOp { key: key(n), value, ..PutOp::default() });
        payload.push(&Command { id: Some(id), op });
    }
    let (index, kind) = (machine.applied().plus(offset), EntryKind::Commands);
    Entry { term: Term(1), index, kind, payload: payload.finish() }
}

fn main() {
    let total: u64 = 200_000;
    let engine = MemEngine::new();
    let limits = MachineLimits::default();
    let mut machine =
        ShardMachine::open(ShardId(7), KeyspaceId::DEFAULT, KeyRange::ALL, limits, &engine)
            .unwrap();
    let mut hub = WatchHub::new(machine.revision(), WatchLimits::default());
    for (round, name) in ["fresh keys", "overwrites"].into_iter().enumerate() {
        let (mut apply, mut write) = (0, 0);
        let mut replies = Vec::new();
        for turn in 0..total / (COMMANDS * ENTRIES) {
            let first = turn * COMMANDS * ENTRIES;
            let entries: Vec<Entry> = (0..ENTRIES)
                .map(|n| entry(&machine, n + 1, first + n * COMMANDS, round as u64 * total))
                .collect();
            let start = Instant::now();
            let mut batch = machine.begin(&engine);
            for entry in &entries {
                batch.apply(entry, &mut replies).unwrap();
            }
            let Applied { writes, events, .. } = batch.finish().unwrap();
            apply += start.elapsed().as_nanos();
            let start = Instant::now();
            engine.write(writes).unwrap();
            write += start.elapsed().as_nanos();
            hub.feed(events, machine.revision());
            replies.clear();
        }
        let each = |total_ns: u128| total_ns / u128::from(total);
        println!("{name}: apply {} ns, write to memory {} ns a put", each(apply), each(write));
    }
    let mut rng = Rng::new(1);
    let start = Instant::now();
    for _ in 0..total {
        assert!(machine.get(&engine, &key(rng.below(total - 1000)), None).unwrap().is_some());
    }
    println!("get: {} ns", start.elapsed().as_nanos() / u128::from(total));
    let start = Instant::now();
    for _ in 0..2000 {
        let mut query = RangeQuery::new(key(rng.below(total)), KeyEnd::ToEnd);
        query.limit = Some(100);
        machine.range(&*engine.view(), &query).unwrap();
    }
    println!("range of 100: {} ns", start.elapsed().as_nanos() / 2000);
}
