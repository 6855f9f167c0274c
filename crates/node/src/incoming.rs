//! Snapshots on their way in: pulled chunk by chunk, written to the engine as they come, and made
//! durable before consensus hears of them.
//!
//! From the first chunk on the old state is gone and the replica serves nothing; a marker in the
//! engine makes a half-installed state recognisable after a crash, and the replica is then rebuilt.

use std::time::Duration;

use atoll_base::{LogIndex, NodeId, Term, Time, checksum};
use atoll_machine::{Chunk, ShardMachine, SnapshotWriter};
use atoll_raft::{Membership, Role};
use atoll_replica::{ChunkEnd, PeerBody, PeerMessage};
use bytes::Bytes;

use crate::records;
use crate::replica::{Condition, Replica};
use crate::turn::Turn;

/// A pull that is not answered for so long is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// After so many repetitions the snapshot is given up; the leader offers another one.
const RETRIES_MAX: u32 = 20;

/// Steps of clearing old state, of about a thousand keys each, in one turn.
const CLEAR_STEPS_PER_TURN: usize = 4;

/// A chunk as it came in.
pub(crate) struct Piece {
    pub(crate) chunk: u64,
    pub(crate) data: Bytes,
    pub(crate) crc32c: u32,
    pub(crate) end: ChunkEnd,
}

/// What takes the place of the old state.
enum Successor {
    /// The snapshot, of which this is the first chunk.
    State(Chunk),
    /// Nothing: the replica is a witness.
    Nothing,
}

/// One snapshot being installed.
pub(crate) struct Incoming {
    from: NodeId,
    index: LogIndex,
    term: Term,
    membership: Membership,
    /// It makes this replica a witness.
    is_for_witness: bool,
    /// `None` before the first chunk: nothing was touched yet.
    writer: Option<SnapshotWriter>,
    next: u64,
    /// What comes when the old state is cleared, while it is.
    clearing: Option<Successor>,
    asked_at: Time,
    retries: u32,
    /// All chunks are in the engine; they become durable with its next persist.
    pub(crate) complete: bool,
}

impl Incoming {
    pub(crate) fn retry_at(&self) -> Time {
        match (self.complete, &self.clearing) {
            (true, _) => Time::MAX,
            (_, Some(_)) => Time::ZERO,
            _ => self.asked_at.after(RETRY_AFTER),
        }
    }
}

impl Replica {
    /// A leader offers a snapshot: starts to fetch it unless it is of no use.
    pub(crate) fn start_incoming(
        &mut self,
        offer: (NodeId, LogIndex, Term, Membership),
        turn: &mut Turn,
    ) {
        let (from, index, term, membership) = offer;
        if let Some(now) = &self.incoming
            && (now.complete || (now.index, now.term) == (index, term))
        {
            return;
        }
        if !self.group.core().accepts_snapshot(index, term) {
            return;
        }
        tracing::info!(shard = self.shard().0, from = from.0, index = index.0, "snapshot fetched");
        let is_for_witness = self.role_by(&membership, turn.config.node) == Role::Witness;
        self.incoming = Some(Incoming {
            from,
            index,
            term,
            membership,
            is_for_witness,
            writer: None,
            next: 0,
            clearing: None,
            asked_at: turn.now,
            retries: 0,
            complete: false,
        });
        if !is_for_witness {
            self.pull(turn);
        } else if let Err(reason) = self.begin_install(Successor::Nothing, turn) {
            self.abandon_incoming(&reason, turn);
        }
    }

    fn pull(&mut self, turn: &mut Turn) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.asked_at = turn.now;
        let (index, term, chunk) = (incoming.index, incoming.term, incoming.next);
        let to = incoming.from;
        let body = PeerBody::SnapshotPull { index, term, chunk };
        let message = PeerMessage { shard: self.shard(), epoch: self.group.epoch(), body };
        turn.sink.send(to, message);
    }

    /// Repeats an unanswered pull, or gives up.
    pub(crate) fn retry_incoming(&mut self, turn: &mut Turn) {
        let Some(incoming) = &mut self.incoming else { return };
        if incoming.clearing.is_some() {
            if let Err(reason) = self.clear_some(turn) {
                self.abandon_incoming(&reason, turn);
            }
            return;
        }
        if incoming.retry_at() > turn.now {
            return;
        }
        atoll_base::reached!("a snapshot chunk was asked for again");
        incoming.retries += 1;
        if incoming.retries > RETRIES_MAX {
            atoll_base::reached!("a snapshot was given up because its sender is silent");
            self.abandon_incoming("its sender does not answer", turn);
        } else {
            self.pull(turn);
        }
    }

    fn abandon_incoming(&mut self, reason: &str, turn: &mut Turn) {
        let Some(incoming) = self.incoming.take() else { return };
        let shard = self.shard();
        tracing::warn!(shard = shard.0, index = incoming.index.0, reason, "snapshot given up");
        if incoming.writer.is_some() {
            self.state_lost(format!("snapshot install ended early: {reason}"), turn);
        }
    }

    /// A chunk came.
    pub(crate) fn on_snapshot_chunk(
        &mut self,
        from: NodeId,
        at: (LogIndex, Term),
        piece: Piece,
        turn: &mut Turn,
    ) {
        let Some(incoming) = &mut self.incoming else { return };
        let wanted = (incoming.from, incoming.index, incoming.term, incoming.next);
        let busy = incoming.complete || incoming.clearing.is_some();
        if wanted != (from, at.0, at.1, piece.chunk) || busy {
            return;
        }
        if piece.end == ChunkEnd::Gone {
            atoll_base::reached!("a snapshot's sender no longer had it");
            self.abandon_incoming("its sender no longer has it", turn);
            return;
        }
        if checksum::crc32c(&piece.data) != piece.crc32c {
            tracing::warn!(shard = self.shard().0, chunk = piece.chunk, "chunk damaged on its way");
            return;
        }
        incoming.retries = 0;
        if let Err(reason) = self.install(piece, turn) {
            self.abandon_incoming(&reason, turn);
            return;
        }
        if self.incoming.as_ref().is_some_and(|i| !i.complete && i.clearing.is_none()) {
            self.pull(turn);
        }
    }

    fn install(&mut self, piece: Piece, turn: &mut Turn) -> Result<(), String> {
        let chunk = Chunk::decode(&piece.data).map_err(|e| e.to_string())?;
        if self.incoming.as_ref().is_some_and(|i| i.writer.is_none()) {
            return self.begin_install(Successor::State(chunk), turn);
        }
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let Some(writer) = &mut incoming.writer else { return Ok(()) };
        let batch = writer.install(&chunk).map_err(|e| e.to_string())?;
        turn.engine.write(batch).map_err(|e| e.to_string())?;
        incoming.next += 1;
        if writer.is_complete()
            && let Some(writer) = incoming.writer.take()
        {
            let mut last = writer.finish().map_err(|e| e.to_string())?;
            // In the batch that completes the state, so that the two become durable together.
            let (shard, membership) = (self.descriptor.shard, incoming.membership.encode());
            records::put_membership(&mut last, shard, &membership);
            records::remove_witness(&mut last, shard);
            records::put_installed(&mut last, shard, incoming.index, incoming.term);
            turn.engine.write(last).map_err(|e| e.to_string())?;
            incoming.complete = true;
        }
        Ok(())
    }

    /// The first chunk is there, or none will come: the old state goes, some of it each turn,
    /// before the new one is installed.
    fn begin_install(&mut self, then: Successor, turn: &mut Turn) -> Result<(), String> {
        let index = self.incoming.as_ref().map_or(LogIndex::ZERO, |i| i.index);
        if !self.group.core().accepts_snapshot(index, self.incoming_term()) {
            atoll_base::reached!("the log overtook a snapshot before its first chunk");
            return Err("the log has overtaken it".to_owned());
        }
        let reason = format!("snapshot up to entry {index} is being installed");
        self.condition = Condition::Rebuilding { reason };
        let (shard, keyspace) = (self.descriptor.shard, self.descriptor.keyspace);
        let mut writer = SnapshotWriter::new(shard, keyspace, self.key_range());
        turn.engine.write(writer.begin()).map_err(|e| e.to_string())?;
        if let Some(incoming) = &mut self.incoming {
            incoming.writer = Some(writer);
            incoming.clearing = Some(then);
        }
        self.step(atoll_raft::Input::InstallBegun, turn);
        self.absorb(turn);
        Ok(())
    }

    /// Clears some more of the old state; when nothing is left, installs the first chunk and pulls
    /// on.
    fn clear_some(&mut self, turn: &mut Turn) -> Result<(), String> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let Some(writer) = &mut incoming.writer else { return Ok(()) };
        for _ in 0..CLEAR_STEPS_PER_TURN {
            match writer.clear(turn.engine.as_ref()).map_err(|e| e.to_string())? {
                Some(batch) => turn.engine.write(batch).map_err(|e| e.to_string())?,
                None => return self.succeed(turn),
            }
        }
        Ok(())
    }

    /// The old state is cleared.
    fn succeed(&mut self, turn: &mut Turn) -> Result<(), String> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        match incoming.clearing.take() {
            Some(Successor::State(first)) => {
                let Some(writer) = &mut incoming.writer else { return Ok(()) };
                let batch = writer.install(&first).map_err(|e| e.to_string())?;
                turn.engine.write(batch).map_err(|e| e.to_string())?;
                incoming.next += 1;
                self.pull(turn);
            }
            Some(Successor::Nothing) => {
                let Some(writer) = incoming.writer.take() else { return Ok(()) };
                let (index, term) = (incoming.index, incoming.term);
                let mut batch = writer.finish_empty();
                let (shard, membership) = (self.descriptor.shard, incoming.membership.encode());
                records::put_membership(&mut batch, shard, &membership);
                records::put_witness(&mut batch, shard, index, term);
                records::put_installed(&mut batch, shard, index, term);
                turn.engine.write(batch).map_err(|e| e.to_string())?;
                incoming.complete = true;
            }
            None => {}
        }
        Ok(())
    }

    fn incoming_term(&self) -> Term {
        self.incoming.as_ref().map_or(Term::ZERO, |i| i.term)
    }

    /// The engine keeps all chunks now: opens the new state and tells consensus.
    pub(crate) fn finish_incoming(&mut self, turn: &mut Turn) {
        if !self.incoming.as_ref().is_some_and(|i| i.complete) {
            return;
        }
        let Some(incoming) = self.incoming.take() else { return };
        let shard = self.descriptor.shard;
        if incoming.is_for_witness {
            atoll_base::reached!("a witness began");
            self.condition = Condition::Witness;
        } else {
            match self.open_installed(incoming.index, turn) {
                Ok(machine) => {
                    self.watches.reset(machine.revision());
                    self.condition = Condition::Serving(Box::new(machine));
                }
                Err(reason) => return self.damaged(reason, turn),
            }
        }
        tracing::info!(shard = shard.0, index = incoming.index.0, "snapshot installed");
        atoll_base::reached!("a snapshot was installed");
        self.is_newcomer = false;
        self.jump_to(incoming.index);
        let (index, term) = (incoming.index, incoming.term);
        let membership = incoming.membership;
        self.group.snapshot_installed(turn.now, index, term, membership, &mut turn.sink);
        self.absorb(turn);
        self.catalog_changed = shard == atoll_base::ShardId::SYSTEM;
    }

    /// The machine on the state that a snapshot up to `index` left in the engine.
    fn open_installed(&self, index: LogIndex, turn: &Turn) -> Result<ShardMachine, String> {
        let (shard, keyspace) = (self.descriptor.shard, self.descriptor.keyspace);
        let limits = turn.config.limits.machine.clone();
        let machine =
            ShardMachine::open(shard, keyspace, self.key_range(), limits, turn.engine.as_ref())
                .map_err(|e| format!("installed snapshot can't be opened: {e}"))?;
        match machine.applied() {
            applied if applied == index => Ok(machine),
            applied => Err(format!("snapshot ends at {applied}, not {index}")),
        }
    }
}
