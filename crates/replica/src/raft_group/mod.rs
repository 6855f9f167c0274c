//! One replica of a shard whose copies agree by Raft: the core, its log, and their bookkeeping.
//!
//! # Who does what
//!
//! The core decides. This module carries out the part of its [`Output`] that concerns the log and
//! the wire: entries go to the in-memory [`ShardLog`] at once (so that the core reads what it
//! wrote) and as records into the lane's [`Sink`]; messages go to the sink's "now" list, or to its
//! "after the write" list when they promise durability. What concerns the state machine (commit
//! index, confirmed reads, snapshots) stays in the output for the lane.
//!
//! # Invariants
//!
//! * **G1** A record is in the sink before any message that depends on it, and such a message is
//!   only
//!   ever in the sink's `after` list (Raft paper, figure 2: respond after updating stable storage).
//! * **G2** Writes complete in the order in which they were issued (trap R5); the core learns of
//!   each by
//!   its number, term and index (trap R6).
//! * **G3** The log is cut only below what the lane says is durable in the engine.

mod log;

use std::collections::VecDeque;

use atoll_base::{Entry, Epoch, LogIndex, NodeId, ShardId, Term, Time};
use atoll_raft::{
    Amnesia, Config, HardState, Input, LogReader as _, Membership, Message, Output, RaftCore,
    ReadError,
};
use atoll_storage::{
    LogAmnesia, LogHardState, LogRecord, RecoveredShard, ShardLog, StartReason, WrittenEntry,
};

use crate::peer::{PeerBody, PeerMessage};
use crate::sink::{CoreWrite, Sink};
use log::LogView;

/// A buffer for more entries than that is not kept.
const REUSED_ENTRIES_MAX: usize = 64;

/// What a group starts from: a shard's part of the recovered log, or nothing.
pub struct GroupStart {
    /// The shard.
    pub shard: ShardId,
    /// Its epoch.
    pub epoch: Epoch,
    /// What the log held, with its hard state.
    pub recovered: RecoveredShard,
    /// The configuration before the first entry kept.
    pub membership: Membership,
    /// The last entry whose effects are in the engine.
    pub applied: LogIndex,
}

/// One replica under Raft.
pub struct RaftGroup {
    shard: ShardId,
    epoch: Epoch,
    core: RaftCore,
    log: ShardLog,
    output: Output,
    writes_outstanding: VecDeque<CoreWrite>,
}

impl RaftGroup {
    /// Starts the core on the recovered log.
    ///
    /// # Errors
    /// [`ReadError`] when the log can't be read.
    pub fn new(config: Config, now: Time, start: GroupStart) -> Result<Self, ReadError> {
        let hard_state = start.recovered.hard_state.map_or_else(HardState::default, from_log);
        let log = start.recovered.log;
        let core = RaftCore::new(
            config,
            now,
            hard_state,
            start.membership,
            start.applied,
            &LogView(&log),
        )?;
        Ok(Self {
            shard: start.shard,
            epoch: start.epoch,
            core,
            log,
            output: Output::default(),
            writes_outstanding: VecDeque::new(),
        })
    }

    /// Gives the core one input. Messages and records go to `sink`; what concerns the state machine
    /// is left in [`RaftGroup::output`] until the lane takes it.
    pub fn step(&mut self, now: Time, input: Input, sink: &mut Sink) {
        self.core.step(now, input, &LogView(&self.log), &mut self.output);
        self.log.settle(self.core.applied());
        for message in self.output.messages.drain(..) {
            let to = message.to;
            sink.send(to, wrap(self.shard, self.epoch, message));
        }
        let Some(mut write) = self.output.write.take() else { return };
        if let Some(hard_state) = write.hard_state {
            let state = to_log(hard_state);
            sink.batch.records.push(LogRecord::HardState { shard: self.shard, state });
        }
        if !write.entries.is_empty() {
            self.log.append(&write.entries);
            self.record(&mut write.entries, sink);
        }
        let done =
            CoreWrite { shard: self.shard, write: write.id, term: write.term, index: write.index };
        sink.writes.push(done);
        self.writes_outstanding.push_back(done);
        for message in write.after.drain(..) {
            let to = message.to;
            sink.send_after_write(to, wrap(self.shard, self.epoch, message));
        }
        // Only leaders fill entry buffers, and thousands of groups must not each hoard large ones.
        if !self.core.is_leader() || write.entries.capacity() > REUSED_ENTRIES_MAX {
            write.entries = Vec::new();
        }
        self.output.reuse(write);
    }

    fn record(&self, entries: &mut Vec<Entry>, sink: &mut Sink) {
        let shard = self.shard;
        for entry in entries.drain(..) {
            sink.batch.records.push(LogRecord::Entry { shard, entry });
        }
    }

    /// Tells the core that one of its writes is durable (G2).
    pub fn written(&mut self, now: Time, done: CoreWrite, sink: &mut Sink) {
        let expected = self.writes_outstanding.pop_front();
        assert_eq!(expected, Some(done), "shard {} writes complete in order", self.shard);
        let CoreWrite { write, term, index, .. } = done;
        self.step(now, Input::Written { write, term, index }, sink);
    }

    /// Notes where an entry stands on disk, so that its payload may leave memory.
    pub fn located(&mut self, entry: &WrittenEntry) {
        self.log.located(entry.index, entry.term, entry.location);
    }

    /// Appends committed entries from `from` up to `to` (inclusive) to `out`, about `bytes_max` of
    /// them.
    ///
    /// # Errors
    /// [`ReadError`] when the log is damaged there.
    pub fn committed(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Result<(), ReadError> {
        LogView(&self.log).entries(from, to.next(), bytes_max, out)
    }

    /// Forgets entries below `first`; what they did is durable in the engine (G3).
    pub fn compact(&mut self, now: Time, first: LogIndex, sink: &mut Sink) {
        if first <= self.log.first_index() || first > self.core.applied().next() {
            return;
        }
        let Some(prev_term) = self.log.term(first.prev()) else { return };
        self.log.compact(first);
        let (shard, reason) = (self.shard, StartReason::Cut);
        sink.batch.records.push(LogRecord::LogStart { shard, first, prev_term, reason });
        self.step(now, Input::Compacted { first, prev_term }, sink);
    }

    /// Replaces the log by a snapshot that the engine holds durably.
    pub fn snapshot_installed(
        &mut self,
        now: Time,
        index: LogIndex,
        term: Term,
        membership: Membership,
        sink: &mut Sink,
    ) {
        // Appends may have overtaken the snapshot while it was fetched. What they acknowledged must
        // stay: the core then keeps its log and only counts the snapshot as applied.
        if self.core.snapshot_replaces_log(index, term) {
            self.log.reset(index, term);
            let (shard, first, reason) = (self.shard, index.next(), StartReason::Snapshot);
            sink.batch.records.push(LogRecord::LogStart { shard, first, prev_term: term, reason });
        }
        self.step(now, Input::SnapshotInstalled { index, term, membership }, sink);
    }

    /// What the last steps left for the state machine. The lane takes fields out of it.
    pub fn output(&mut self) -> &mut Output {
        &mut self.output
    }

    /// The core, for its getters.
    #[must_use]
    pub fn core(&self) -> &RaftCore {
        &self.core
    }

    /// The log's first entry kept.
    #[must_use]
    pub fn first_index(&self) -> LogIndex {
        self.log.first_index()
    }

    /// The log's last entry.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// The term of an entry that is in the log or right before it.
    #[must_use]
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        self.log.term(index)
    }

    /// Bytes of entries held in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.log.memory_bytes()
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The epoch that this replica puts on its messages.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The catalog has a newer description of the shard.
    pub fn advance_epoch(&mut self, epoch: Epoch) {
        assert!(epoch >= self.epoch, "epoch of shard {} goes back", self.shard);
        self.epoch = epoch;
    }

    /// Wraps a core's message for the wire.
    #[must_use]
    pub fn envelope(&self, message: Message) -> (NodeId, PeerMessage) {
        (message.to, wrap(self.shard, self.epoch, message))
    }
}

fn wrap(shard: ShardId, epoch: Epoch, message: Message) -> PeerMessage {
    PeerMessage { shard, epoch, body: PeerBody::Raft(message) }
}

fn from_log(state: LogHardState) -> HardState {
    let LogHardState { term, vote, commit, life, amnesia } = state;
    let amnesia = match amnesia {
        LogAmnesia::None => Amnesia::None,
        LogAmnesia::Entries => Amnesia::Entries,
        LogAmnesia::Votes => Amnesia::Votes,
    };
    HardState { term, vote, commit, life, amnesia }
}

fn to_log(state: HardState) -> LogHardState {
    let HardState { term, vote, commit, life, amnesia } = state;
    let amnesia = match amnesia {
        Amnesia::None => LogAmnesia::None,
        Amnesia::Entries => LogAmnesia::Entries,
        Amnesia::Votes => LogAmnesia::Votes,
    };
    LogHardState { term, vote, commit, life, amnesia }
}
