//! One lane turn of one shard: entries in, one engine batch out.

use atoll_base::{Entry, EntryKind, LogIndex, Term, planted};
use atoll_storage::{Engine, Tree, WriteBatch};

use crate::batch::BatchReader;
use crate::command::{Command, Op};
use crate::effect::Effect;
use crate::error::MachineError;
use crate::event::Event;
use crate::keys;
use crate::kv::{KvBatch, Stop};
use crate::lock::LockTable;
use crate::machine::ShardMachine;
use crate::reply::Reply;
use crate::session::{Admission, SessionTable};

/// Applies entries and gathers what they write. Reads inside see the batch's own writes.
pub struct ApplyBatch<'a> {
    machine: &'a mut ShardMachine,
    pub(crate) kv: KvBatch<'a>,
    sessions: SessionTable,
    pub(crate) locks: LockTable,
    pub(crate) effects: Vec<Effect>,
    /// The term of the entry that is being applied.
    pub(crate) term: Term,
}

/// What a batch leaves.
pub struct Applied {
    /// To be written to the engine in one piece.
    pub writes: WriteBatch,
    /// What watchers may be told once it is written.
    pub events: Vec<Event>,
    /// What the leader must hear of once it is written.
    pub effects: Vec<Effect>,
}

/// Commands whose keys are brought near together.
const COMMANDS_AT_ONCE: usize = 64;

impl ShardMachine {
    /// Starts a batch on `engine`.
    ///
    /// # Panics
    /// When an earlier batch was dropped unfinished: the machine must be opened again.
    pub fn begin<'a>(&'a mut self, engine: &'a dyn Engine) -> ApplyBatch<'a> {
        assert!(!self.in_batch, "shard {}: the batch before was not finished", self.scope.shard);
        self.in_batch = true;
        ApplyBatch::new(self, engine)
    }
}

impl<'a> ApplyBatch<'a> {
    fn new(machine: &'a mut ShardMachine, engine: &'a dyn Engine) -> Self {
        let scope = machine.scope.clone();
        let leases = std::mem::take(&mut machine.leases);
        let counts = (machine.state, machine.counters);
        let kv = KvBatch::new(scope, machine.limits.clone(), counts, leases, engine);
        let sessions = std::mem::take(&mut machine.sessions);
        let locks = std::mem::take(&mut machine.locks);
        Self { machine, kv, sessions, locks, effects: Vec::new(), term: Term::ZERO }
    }

    /// The last entry applied, in this batch or before it.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.kv.state.applied
    }

    /// Applies one entry. Pushes one reply per command, in order; none for entries that hold no
    /// commands.
    ///
    /// # Errors
    /// Any error means that the replica can't go on: drop the batch and the machine.
    pub fn apply(&mut self, entry: &Entry, replies: &mut Vec<Reply>) -> Result<(), MachineError> {
        let shard = self.kv.scope.shard;
        let applied = self.kv.state.applied;
        if entry.index != applied.next() {
            return Err(MachineError::OutOfOrder { shard, applied, index: entry.index });
        }
        self.term = entry.term;
        match entry.kind {
            EntryKind::Commands => {
                let unreadable = |source| MachineError::Entry { shard, index: entry.index, source };
                let mut batch = BatchReader::new(entry.payload.clone()).map_err(unreadable)?;
                self.kv.state.clock = self.kv.state.clock.max(batch.stamp());
                let mut commands = Vec::new();
                loop {
                    for command in batch.by_ref().take(COMMANDS_AT_ONCE) {
                        commands.push(command.map_err(unreadable)?);
                    }
                    if commands.is_empty() {
                        break;
                    }
                    self.kv.prefetch(&commands);
                    for command in commands.drain(..) {
                        replies.push(self.command(command)?);
                    }
                }
            }
            EntryKind::Empty | EntryKind::Membership => {}
        }
        self.kv.collect()?;
        self.kv.state.applied = entry.index;
        self.kv.state.term = entry.term;
        Ok(())
    }

    /// What to write to the engine, and what may be told once it is written.
    ///
    /// # Errors
    /// None yet; a lane treats one as it does those of [`ApplyBatch::apply`].
    pub fn finish(self) -> Result<Applied, MachineError> {
        let Self { machine, mut kv, mut sessions, locks, effects, term: _ } = self;
        sessions.flush(&kv.scope, &mut kv.overlay);
        kv.leases.flush(&kv.scope, &mut kv.overlay);
        if kv.counters != machine.counters {
            let key = kv.scope.meta_key(keys::COUNTERS);
            kv.overlay.put(Tree::Meta, key, kv.counters.encode());
        }
        let is_noted = !planted!(EngineAhead) || kv.state.applied.0.is_multiple_of(4);
        if kv.state != machine.state && is_noted {
            let key = kv.scope.meta_key(keys::STATE);
            kv.overlay.put(Tree::Meta, key, kv.state.encode());
            if !machine.limits_kept {
                let key = kv.scope.meta_key(keys::LIMITS);
                kv.overlay.put(Tree::Meta, key, kv.limits.encode());
                machine.limits_kept = true;
            }
        }
        machine.state = kv.state;
        machine.counters = kv.counters;
        machine.sessions = sessions;
        machine.leases = kv.leases;
        machine.locks = locks;
        machine.in_batch = false;
        let writes = kv.overlay.into_batch(kv.scope.current(), kv.scope.history());
        Ok(Applied { writes, events: kv.events, effects })
    }

    /// One command, at most once (M3).
    fn command(&mut self, command: Command) -> Result<Reply, MachineError> {
        let Some(id) = command.id else { return self.perform(command.op) };
        let (clock, limits) = (self.kv.state.clock, &self.kv.limits);
        match self.sessions.admit(&id, clock, limits, &mut self.kv.state.forgotten_next) {
            Admission::Known(reply) => Ok(reply),
            Admission::New => {
                let reply = self.perform(command.op)?;
                let limits = &self.kv.limits;
                self.sessions.keep(&id, &reply, limits, &mut self.kv.state.forgotten_next);
                Ok(reply)
            }
        }
    }

    pub(crate) fn perform(&mut self, op: Op) -> Result<Reply, MachineError> {
        let done = match op {
            Op::Put(put) => self.kv.put(put),
            Op::Delete(delete) => self.kv.delete(&delete),
            Op::Txn(txn) => self.kv.txn(txn),
            Op::Compact { revision } => self.kv.compact(revision),
            Op::ExpireSessions { unused_since } => {
                let next = &mut self.kv.state.forgotten_next;
                let count = self.sessions.expire(unused_since, &self.kv.limits, next);
                Ok(Reply::SessionsExpired { count })
            }
            Op::Lease(op) => self.lease(op),
            Op::Lock(op) => self.lock(op),
            Op::Guarded(guarded) => return self.guarded(guarded),
        };
        match done {
            Ok(reply) => Ok(reply),
            Err(Stop::Refused(failure)) => Ok(Reply::Failed(failure)),
            Err(Stop::Broken(error)) => Err(error),
        }
    }
}
