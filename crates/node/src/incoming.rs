//! Snapshots on their way in: pulled chunk by chunk and spooled, then installed, and made durable
//! before consensus hears of them.
//!
//! ```text
//! fetching     chunks come and are kept (`spool`); the old state serves on
//! installing   all are here: the old state goes, some of it each turn, then the chunks go in
//! complete     the new state is in the engine, and durable with its next persist
//! ```
//!
//! What needs others is done before anything is given up: a sender that dies costs a new fetch and
//! nothing else. A marker in the engine makes a half-installed state recognisable after a crash;
//! the spool is whole then, and the install begins again by itself.

use std::time::Duration;

use atoll_base::{LogIndex, NodeId, Term, Time, checksum};
use atoll_machine::{Chunk, ShardMachine, SnapshotWriter};
use atoll_raft::{Membership, Role};
use atoll_replica::{ChunkEnd, PeerBody, PeerMessage};
use atoll_storage::WriteBatch;
use bytes::Bytes;

use crate::records;
use crate::replica::{Condition, Replica};
use crate::spool::{self, Spool};
use crate::turn::Turn;

/// A pull that is not answered for so long is repeated.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// After so many repetitions the snapshot is given up; the leader offers another one.
const RETRIES_MAX: u32 = 20;

/// Steps of clearing old state, of about a thousand keys each, in one turn.
const CLEAR_STEPS_PER_TURN: usize = 4;
/// Chunks are installed up to about so many bytes in one turn.
const INSTALL_BYTES_PER_TURN: usize = 1 << 20;

/// A chunk as it came in.
pub(crate) struct Piece {
    pub(crate) chunk: u64,
    pub(crate) data: Bytes,
    pub(crate) crc32c: u32,
    pub(crate) end: ChunkEnd,
}

/// How far an incoming snapshot is.
enum Stage {
    /// Chunks come from this node.
    Fetching(NodeId),
    /// All are here.
    Installing(Box<SnapshotWriter>),
    /// The new state is in the engine; it becomes durable with its next persist.
    Complete,
}

/// One snapshot on its way in.
pub(crate) struct Incoming {
    /// What is spooled of it so far.
    spool: Spool,
    /// It makes this replica a witness.
    is_for_witness: bool,
    stage: Stage,
    asked_at: Time,
    retries: u32,
}

impl Incoming {
    pub(crate) fn retry_at(&self) -> Time {
        match self.stage {
            Stage::Fetching(_) => self.asked_at.after(RETRY_AFTER),
            Stage::Installing(_) => Time::ZERO,
            Stage::Complete => Time::MAX,
        }
    }

    /// Whether the engine has all of it.
    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.stage, Stage::Complete)
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
        if let Some(now) = &self.incoming {
            let is_here = (now.spool.index, now.spool.term) == (index, term);
            match now.stage {
                // Another sender may cut the same state into other chunks.
                Stage::Fetching(sender) if sender != from || !is_here => {}
                _ => return,
            }
        }
        if !self.group.core().accepts_snapshot(index, term) {
            return;
        }
        tracing::info!(shard = self.shard().0, from = from.0, index = index.0, "snapshot fetched");
        let is_for_witness = self.role_by(&membership, turn.config.node) == Role::Witness;
        self.drop_incoming(turn);
        self.incoming = Some(Incoming {
            spool: Spool { index, term, membership, chunks: 0 },
            is_for_witness,
            stage: Stage::Fetching(from),
            asked_at: turn.now,
            retries: 0,
        });
        if !is_for_witness {
            self.pull(turn);
        } else if let Err(reason) = self.begin_install(turn) {
            self.abandon_incoming(&reason, turn);
        }
    }

    /// Power was lost after the last chunk of `spool` had come: goes on by itself.
    pub(crate) fn resume_incoming(&mut self, spool: Spool, turn: &Turn) {
        atoll_base::reached!("a snapshot that was spooled is installed after a restart");
        let is_for_witness = self.role_by(&spool.membership, turn.config.node) == Role::Witness;
        let mut writer = self.snapshot_writer();
        // The engine has the marker; what was cleared and installed is cleared and installed again.
        drop(writer.begin());
        let (stage, asked_at) = (Stage::Installing(Box::new(writer)), turn.now);
        self.incoming = Some(Incoming { spool, is_for_witness, stage, asked_at, retries: 0 });
    }

    /// Forgets what has come of a snapshot.
    pub(crate) fn drop_incoming(&mut self, turn: &Turn) {
        let Some(incoming) = self.incoming.take() else { return };
        let shard = self.descriptor.shard;
        let mut batch = WriteBatch::new();
        spool::remove(&mut batch, shard, incoming.spool.chunks);
        if let Err(error) = turn.engine.write(batch) {
            // It goes with the next start of this node, or is written over.
            tracing::warn!(shard = shard.0, %error, "what came of a snapshot is not deleted");
        }
    }

    fn snapshot_writer(&self) -> SnapshotWriter {
        let (shard, keyspace) = (self.descriptor.shard, self.descriptor.keyspace);
        SnapshotWriter::new(shard, keyspace, self.key_range())
    }

    fn pull(&mut self, turn: &mut Turn) {
        let Some(incoming) = &mut self.incoming else { return };
        let Stage::Fetching(to) = incoming.stage else { return };
        incoming.asked_at = turn.now;
        let Spool { index, term, chunks: chunk, .. } = incoming.spool;
        let body = PeerBody::SnapshotPull { index, term, chunk };
        let message = PeerMessage { shard: self.shard(), epoch: self.group.epoch(), body };
        turn.sink.send(to, message);
    }

    /// Installs some more, repeats an unanswered pull, or gives up.
    pub(crate) fn retry_incoming(&mut self, turn: &mut Turn) {
        let Some(incoming) = &mut self.incoming else { return };
        if let Stage::Installing(_) = incoming.stage {
            if let Err(reason) = self.install_some(turn) {
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
        let Some(incoming) = &self.incoming else { return };
        let (shard, index) = (self.descriptor.shard, incoming.spool.index);
        tracing::warn!(shard = shard.0, index = index.0, reason, "snapshot given up");
        let is_cleared = !matches!(incoming.stage, Stage::Fetching(_));
        self.drop_incoming(turn);
        if is_cleared {
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
        let Stage::Fetching(sender) = incoming.stage else { return };
        let Spool { index, term, chunks: next, .. } = incoming.spool;
        if (sender, index, term, next) != (from, at.0, at.1, piece.chunk) {
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
        if let Err(reason) = self.keep(piece, turn) {
            self.abandon_incoming(&reason, turn);
        }
    }

    /// Spools a chunk. After the last one the install begins.
    fn keep(&mut self, piece: Piece, turn: &mut Turn) -> Result<(), String> {
        // One that means nothing here is refused while nothing is lost yet.
        Chunk::decode(&piece.data).map_err(|e| e.to_string())?;
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let mut batch = WriteBatch::new();
        spool::put_chunk(&mut batch, self.descriptor.shard, piece.chunk, piece.data);
        turn.engine.write(batch).map_err(|e| e.to_string())?;
        incoming.spool.chunks += 1;
        if piece.end == ChunkEnd::Last {
            return self.begin_install(turn);
        }
        self.pull(turn);
        Ok(())
    }

    /// Every chunk is here, or none will come: the old state goes, some of it each turn, before the
    /// new one is installed.
    fn begin_install(&mut self, turn: &mut Turn) -> Result<(), String> {
        let Some(incoming) = &self.incoming else { return Ok(()) };
        let (shard, index) = (self.descriptor.shard, incoming.spool.index);
        if !self.group.core().accepts_snapshot(index, incoming.spool.term) {
            atoll_base::reached!("the log overtook a snapshot while it was fetched");
            return Err("the log has overtaken it".to_owned());
        }
        let mut writer = self.snapshot_writer();
        let mut batch = writer.begin();
        spool::put_whole(&mut batch, shard, &incoming.spool);
        turn.engine.write(batch).map_err(|e| e.to_string())?;
        let reason = format!("snapshot up to entry {index} is being installed");
        self.condition = Condition::Rebuilding { reason };
        if let Some(incoming) = &mut self.incoming {
            incoming.stage = Stage::Installing(Box::new(writer));
        }
        self.step(atoll_raft::Input::InstallBegun, turn);
        self.absorb(turn);
        Ok(())
    }

    /// Clears some more of the old state; when nothing is left of it, installs some chunks.
    fn install_some(&mut self, turn: &mut Turn) -> Result<(), String> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let Stage::Installing(writer) = &mut incoming.stage else { return Ok(()) };
        for _ in 0..CLEAR_STEPS_PER_TURN {
            match writer.clear(turn.engine.as_ref()).map_err(|e| e.to_string())? {
                Some(batch) => turn.engine.write(batch).map_err(|e| e.to_string())?,
                None => return self.install_chunks(turn),
            }
        }
        Ok(())
    }

    fn install_chunks(&mut self, turn: &mut Turn) -> Result<(), String> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let Stage::Installing(writer) = &mut incoming.stage else { return Ok(()) };
        let shard = self.descriptor.shard;
        let mut bytes = 0;
        while bytes < INSTALL_BYTES_PER_TURN && writer.next_chunk() < incoming.spool.chunks {
            let number = writer.next_chunk();
            let data = spool::chunk(turn.engine.as_ref(), shard, number);
            let data = data.map_err(|e| e.to_string())?;
            let data = data.ok_or_else(|| format!("chunk {number} is not in the spool"))?;
            bytes += data.len();
            let chunk = Chunk::decode(&data).map_err(|e| e.to_string())?;
            let batch = writer.install(&chunk).map_err(|e| e.to_string())?;
            turn.engine.write(batch).map_err(|e| e.to_string())?;
        }
        match writer.next_chunk() == incoming.spool.chunks {
            true => self.end_install(turn),
            false => Ok(()),
        }
    }

    /// All chunks are in: completes the state, and records in the same batch what must become
    /// durable with it.
    fn end_install(&mut self, turn: &mut Turn) -> Result<(), String> {
        let Some(incoming) = &mut self.incoming else { return Ok(()) };
        let stage = std::mem::replace(&mut incoming.stage, Stage::Complete);
        let Stage::Installing(writer) = stage else { return Ok(()) };
        let (shard, spool) = (self.descriptor.shard, &incoming.spool);
        let (index, term) = (spool.index, spool.term);
        let finished = match incoming.is_for_witness {
            true => Ok(writer.finish_empty()),
            false => writer.finish().map_err(|e| e.to_string()),
        };
        finished.and_then(|mut last| {
            records::put_membership(&mut last, shard, &spool.membership.encode());
            match incoming.is_for_witness {
                true => records::put_witness(&mut last, shard, index, term),
                false => records::remove_witness(&mut last, shard),
            }
            records::put_installed(&mut last, shard, index, term);
            spool::remove(&mut last, shard, spool.chunks);
            turn.engine.write(last).map_err(|e| e.to_string())
        })
    }

    /// The engine keeps all chunks now: opens the new state and tells consensus.
    pub(crate) fn finish_incoming(&mut self, turn: &mut Turn) {
        if !self.incoming.as_ref().is_some_and(Incoming::is_complete) {
            return;
        }
        let Some(incoming) = self.incoming.take() else { return };
        let shard = self.descriptor.shard;
        let Spool { index, term, membership, .. } = incoming.spool;
        if incoming.is_for_witness {
            atoll_base::reached!("a witness began");
            self.condition = Condition::Witness;
        } else {
            match self.open_installed(index, turn) {
                Ok(machine) => {
                    self.watches.reset(machine.revision());
                    self.condition = Condition::Serving(Box::new(machine));
                }
                Err(reason) => return self.damaged(reason, turn),
            }
        }
        tracing::info!(shard = shard.0, index = index.0, "snapshot installed");
        atoll_base::reached!("a snapshot was installed");
        self.is_newcomer = false;
        self.group.snapshot_installed(turn.now, index, term, membership, &mut turn.sink);
        self.jump_to(index);
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
