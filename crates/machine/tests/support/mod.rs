//! What the tests share: a replica to drive, random operations, and the model.
#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod lock_model;
pub(crate) mod model;
pub(crate) mod random;

use atoll_base::{
    ClientId, Entry, EntryKind, KeyspaceId, LogIndex, Sequence, ShardId, Term, Timestamp,
};
use atoll_machine::{
    Applied, BatchWriter, Command, CommandId, Effect, Event, KeyRange, MachineLimits, Op, Reply,
    ShardMachine,
};
use atoll_storage::{Engine, MemEngine};

pub(crate) const SHARD: ShardId = ShardId(7);

/// A machine on its engine, and the number of the next entry.
pub(crate) struct Replica {
    pub(crate) engine: MemEngine,
    pub(crate) machine: ShardMachine,
    limits: MachineLimits,
    /// What the leader would have heard of.
    pub(crate) effects: Vec<Effect>,
}

pub(crate) fn open(engine: &MemEngine, limits: &MachineLimits) -> ShardMachine {
    ShardMachine::open(SHARD, KeyspaceId::DEFAULT, KeyRange::ALL, limits.clone(), engine).unwrap()
}

impl Replica {
    pub(crate) fn new(limits: MachineLimits) -> Self {
        let engine = MemEngine::new();
        let machine = open(&engine, &limits);
        Self { engine, machine, limits, effects: Vec::new() }
    }

    /// The next entry of a log that this replica is at the end of.
    pub(crate) fn entry(&self, stamp: u64, commands: &[Command]) -> Entry {
        entry(self.machine.applied().next(), stamp, commands)
    }

    /// Applies entries in one engine batch.
    pub(crate) fn apply(&mut self, entries: &[Entry]) -> (Vec<Reply>, Vec<Event>) {
        let mut replies = Vec::new();
        let mut batch = self.machine.begin(&self.engine);
        for entry in entries {
            batch.apply(entry, &mut replies).unwrap();
        }
        let Applied { writes, events, effects } = batch.finish().unwrap();
        self.engine.write(writes).unwrap();
        self.effects.extend(effects);
        (replies, events)
    }

    /// Applies one command as an entry of its own.
    pub(crate) fn run(&mut self, stamp: u64, command: Command) -> Reply {
        let entry = self.entry(stamp, &[command]);
        self.apply(&[entry]).0.pop().unwrap()
    }

    pub(crate) fn reopen(&mut self) {
        self.machine = open(&self.engine, &self.limits);
    }

    pub(crate) fn hash(&self) -> u64 {
        self.machine.check(&self.engine).unwrap();
        self.machine.state_hash(&self.engine).unwrap()
    }
}

pub(crate) fn entry(index: LogIndex, stamp: u64, commands: &[Command]) -> Entry {
    let mut payload = BatchWriter::new(Timestamp(stamp));
    for command in commands {
        payload.push(command);
    }
    Entry { term: Term(1), index, kind: EntryKind::Commands, payload: payload.finish() }
}

pub(crate) fn identified(client: u64, sequence: u64, first_unacknowledged: u64, op: Op) -> Command {
    let id = CommandId {
        client: ClientId(client),
        sequence: Sequence(sequence),
        first_unacknowledged: Sequence(first_unacknowledged),
    };
    Command { id: Some(id), op }
}
