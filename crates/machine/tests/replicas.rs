//! Replicas stay equal byte by byte (M1), through batches, restarts, crashes and snapshots.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use atoll_base::{Entry, EntryKind, KeyspaceId, LogIndex, Rng, Term};
use atoll_machine::{
    Chunk, Command, KeyRange, MachineError, MachineLimits, Reply, ShardMachine, SnapshotWriter,
};
use atoll_storage::{Engine, MemEngine};
use bytes::Bytes;
use support::{Replica, SHARD, identified, open, random};

fn limits() -> MachineLimits {
    MachineLimits {
        collect_per_entry: 2,
        clients_max: 4,
        forgotten_clients_max: 5,
        replies_per_client_max: 3,
        reply_bytes_max: 60,
        ..MachineLimits::default()
    }
}

/// A log of random commands; compactions in it fit the revisions that it leads to.
fn random_log(rng: &mut Rng, entries: u64) -> Vec<Entry> {
    let mut replica = Replica::new(limits());
    let mut log = Vec::new();
    let mut sequences = [1_u64; 8];
    for stamp in 0..entries {
        let mut entry = if rng.chance(1, 10) {
            let (index, kind) = (replica.machine.applied().next(), EntryKind::Empty);
            Entry { term: Term(1), index, kind, payload: Bytes::new() }
        } else {
            let mut command = |rng: &mut Rng| {
                let machine = &replica.machine;
                let op = random::op_on(rng, machine.revision(), machine);
                if rng.chance(1, 3) {
                    return Command::anonymous(op);
                }
                let client = rng.below(8);
                let sequence = &mut sequences[client as usize];
                *sequence += rng.below(2);
                identified(client + 1, *sequence, sequence.saturating_sub(rng.below(5)).max(1), op)
            };
            let commands: Vec<Command> = (0..rng.below(5)).map(|_| command(rng)).collect();
            replica.entry(stamp, &commands)
        };
        entry.term = Term(1 + stamp / 20);
        replica.apply(std::slice::from_ref(&entry));
        log.push(entry);
    }
    log
}

/// Applies `log` in random batches.
fn follow(rng: &mut Rng, replica: &mut Replica, mut log: &[Entry]) -> Vec<Reply> {
    let mut replies = Vec::new();
    while !log.is_empty() {
        let (now, later) = log.split_at(rng.range(1, log.len().min(12) as u64 + 1) as usize);
        replies.extend(replica.apply(now).0);
        log = later;
    }
    replies
}

#[test]
fn batch_boundaries_restarts_and_crashes_leave_no_trace() {
    for seed in 0..25 {
        let mut rng = Rng::new(seed);
        let log = random_log(&mut rng, 80);
        let mut one = Replica::new(limits());
        let replies: Vec<Reply> =
            log.iter().flat_map(|entry| one.apply(std::slice::from_ref(entry)).0).collect();
        let mut all = Replica::new(limits());
        assert_eq!(all.apply(&log).0, replies, "seed {seed}");
        assert_eq!(all.hash(), one.hash(), "seed {seed}");
        let mut some = Replica::new(limits());
        assert_eq!(follow(&mut rng, &mut some, &log), replies, "seed {seed}");
        assert_eq!(some.hash(), one.hash(), "seed {seed}");

        let mut crashing = Replica::new(limits());
        while crashing.machine.applied() < LogIndex(log.len() as u64) {
            let at = crashing.machine.applied().0 as usize;
            let to = (at + 1 + rng.below(20) as usize).min(log.len());
            follow(&mut rng, &mut crashing, &log[at..to]);
            if rng.chance(1, 2) {
                crashing.engine.persist().unwrap();
            }
            if rng.chance(1, 2) {
                crashing.engine.crash(&mut rng);
            }
            crashing.reopen();
        }
        assert_eq!(crashing.hash(), one.hash(), "seed {seed}");
    }
}

fn install(
    engine: &MemEngine,
    chunks: impl Iterator<Item = Chunk>,
) -> Result<ShardMachine, MachineError> {
    let mut writer = SnapshotWriter::new(SHARD, KeyspaceId::DEFAULT, KeyRange::ALL);
    engine.write(writer.begin()).unwrap();
    while let Some(batch) = writer.clear(engine)? {
        engine.write(batch).unwrap();
    }
    for chunk in chunks {
        let chunk = Chunk::decode(&chunk.encode()).unwrap();
        engine.write(writer.install(&chunk)?).unwrap();
    }
    engine.write(writer.finish()?).unwrap();
    Ok(open(engine, &MachineLimits::default()))
}

/// N2: an installed replica equals its source, and goes on equal, whatever it held before.
#[test]
fn a_snapshot_makes_an_equal_replica() {
    for seed in 0..25 {
        let mut rng = Rng::new(seed);
        let log = random_log(&mut rng, 100);
        let (early, late) = log.split_at(60);
        let mut source = Replica::new(limits());
        follow(&mut rng, &mut source, early);
        let mut target = Replica::new(limits());
        let before = rng.below(30) as usize;
        follow(&mut rng, &mut target, &early[..before]);

        let size = rng.range(1, 400) as usize;
        let chunks = source.machine.snapshot_chunks(source.engine.view(), size).unwrap();
        assert_eq!(chunks.applied(), LogIndex(60));
        // The view does not see what comes later.
        follow(&mut rng, &mut source, late);
        target.machine = install(&target.engine, chunks.map(Result::unwrap)).unwrap();
        assert_eq!(target.machine.applied(), LogIndex(60));
        follow(&mut rng, &mut target, late);
        assert_eq!(target.hash(), source.hash(), "seed {seed}, chunks of {size}");
    }
}

/// N1: cut off anywhere, an install leaves a machine that does not open, until one is finished.
#[test]
fn a_half_installed_snapshot_is_recognised() {
    let mut rng = Rng::new(3);
    let log = random_log(&mut rng, 60);
    let mut source = Replica::new(limits());
    follow(&mut rng, &mut source, &log);
    let read = || source.machine.snapshot_chunks(source.engine.view(), 200).unwrap();
    let chunks: Vec<Chunk> = read().map(Result::unwrap).collect();
    assert!(chunks.len() > 5 && chunks.last().unwrap().is_last());
    let mut target = Replica::new(limits());
    follow(&mut rng, &mut target, &log[..40]);
    target.engine.persist().unwrap();
    for kept in 0..chunks.len() {
        let cut = install(&target.engine, chunks[..kept].iter().cloned());
        assert!(matches!(cut, Err(MachineError::SnapshotUnfinished { .. })));
        let limits = MachineLimits::default();
        let opened =
            ShardMachine::open(SHARD, KeyspaceId::DEFAULT, KeyRange::ALL, limits, &target.engine);
        assert!(matches!(opened, Err(MachineError::SnapshotUnfinished { .. })));
    }
    target.machine = install(&target.engine, chunks.into_iter()).unwrap();
    assert_eq!(target.hash(), source.hash());
}

#[test]
fn a_removed_shard_leaves_nothing() {
    let mut rng = Rng::new(5);
    let log = random_log(&mut rng, 60);
    let mut replica = Replica::new(limits());
    follow(&mut rng, &mut replica, &log);
    let mut writer = SnapshotWriter::new(SHARD, KeyspaceId::DEFAULT, KeyRange::ALL);
    replica.engine.write(writer.begin()).unwrap();
    while let Some(batch) = writer.clear(&replica.engine).unwrap() {
        replica.engine.write(batch).unwrap();
    }
    replica.engine.write(writer.finish_empty()).unwrap();
    replica.reopen();
    assert_eq!(replica.hash(), Replica::new(limits()).hash());
    assert_eq!(replica.machine.applied(), LogIndex::ZERO);
}

#[test]
fn chunks_that_do_not_belong_are_refused() {
    let mut rng = Rng::new(4);
    let log = random_log(&mut rng, 60);
    let mut source = Replica::new(limits());
    follow(&mut rng, &mut source, &log);
    let read = || source.machine.snapshot_chunks(source.engine.view(), 200).unwrap();
    let chunks: Vec<Chunk> = read().map(Result::unwrap).collect();
    let engine = MemEngine::new();
    let refused = |chunks: Vec<Chunk>| {
        let done = install(&engine, chunks.into_iter());
        matches!(done, Err(MachineError::Chunk { .. }))
    };
    // Out of order, a gap, a piece of another shard's, another keyspace's.
    assert!(refused(chunks[1..].to_vec()));
    assert!(refused([&chunks[..2], &chunks[3..]].concat()));
    let mut foreign = chunks.clone();
    foreign[2].shard = atoll_base::ShardId(8);
    assert!(refused(foreign));
    // Twice the same is not refused.
    let twice = [&chunks[..3], &chunks[1..]].concat();
    assert_eq!(install(&engine, twice.into_iter()).unwrap().applied(), LogIndex(60));
    // A flipped bit anywhere is found.
    let bytes = chunks[1].encode();
    for at in 0..bytes.len() {
        let mut broken = bytes.to_vec();
        broken[at] ^= 1 << rng.below(8);
        assert!(Chunk::decode(&Bytes::from(broken)).is_err(), "byte {at}");
    }
}

#[test]
fn entries_out_of_order_are_refused() {
    let mut replica = Replica::new(limits());
    let entry = support::entry(LogIndex(2), 0, &[]);
    let mut batch = replica.machine.begin(&replica.engine);
    let error = batch.apply(&entry, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "shard 7: entry 2 does not follow applied index 0");
}
