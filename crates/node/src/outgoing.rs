//! Snapshots on their way out: a leader serves chunks to a follower that pulls them.
//!
//! Pulling bounds memory on both sides to a chunk or two, resumes after lost messages, and gives
//! the follower the pace. The view that is read stays the same for the whole snapshot.

use atoll_base::{LogIndex, NodeId, Term, Time, checksum};
use atoll_machine::SnapshotReader;
use atoll_raft::Input;
use atoll_replica::{ChunkEnd, PeerBody, PeerMessage};
use bytes::Bytes;
use std::time::Duration;

use crate::replica::Replica;
use crate::turn::Turn;

/// A snapshot that nobody pulled from for so long is given up: its view holds old data alive.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A snapshot that was not pulled from for so long is announced once more.
const ANNOUNCE_AGAIN: Duration = Duration::from_secs(1);

/// One snapshot being sent.
pub(crate) struct Outgoing {
    index: LogIndex,
    term: Term,
    reader: SnapshotReader,
    /// The announcement, for when it gets lost. Leadership ends before its term does.
    offer: PeerMessage,
    /// The chunk that was made last, so that a lost one can be sent again.
    last: Option<(u64, Bytes, ChunkEnd)>,
    used_at: Time,
    announced_at: Time,
}

impl Outgoing {
    /// The bytes of chunk `number`, if it is the last one made or the one after.
    fn chunk(&mut self, number: u64) -> Result<Option<(Bytes, ChunkEnd)>, String> {
        if let Some((made, data, end)) = &self.last
            && *made == number
        {
            atoll_base::reached!("a snapshot chunk was sent again");
            return Ok(Some((data.clone(), *end)));
        }
        let next = self.last.as_ref().map_or(0, |(made, ..)| made + 1);
        if next != number {
            return Ok(None);
        }
        let Some(chunk) = self.reader.next() else { return Ok(None) };
        let chunk = chunk.map_err(|e| e.to_string())?;
        let end = if chunk.is_last() { ChunkEnd::Last } else { ChunkEnd::More };
        let data = chunk.encode();
        self.last = Some((number, data.clone(), end));
        Ok(Some((data, end)))
    }
}

impl Replica {
    /// Announces a snapshot of the applied state to a follower that the log can't help any more.
    /// Called after the turn's engine write, so that the view holds what was applied.
    pub(crate) fn start_outgoing(&mut self, to: NodeId, turn: &mut Turn) {
        let index = self.applied;
        if self.is_sent_nothing(to) {
            return self.announce_to_witness(to, index, turn);
        }
        let Some(reader) = self.snapshot_reader(index, turn) else {
            atoll_base::reached!("a snapshot could not be made");
            // The follower would wait for ever: let the core try it again.
            self.step(Input::SnapshotSent { to, index, ok: false }, turn);
            self.absorb(turn);
            return;
        };
        let Some(offer) = self.group.core().snapshot_message(to, index) else { return };
        let term = reader.applied_term();
        tracing::info!(shard = self.shard().0, to = to.0, index = index.0, "snapshot offered");
        let (used_at, announced_at) = (turn.now, turn.now);
        let (to, envelope) = self.group.envelope(offer);
        let offer = envelope.clone();
        let outgoing = Outgoing { index, term, reader, offer, last: None, used_at, announced_at };
        self.outgoing.insert(to, outgoing);
        turn.sink.send(to, envelope);
    }

    fn is_sent_nothing(&self, to: NodeId) -> bool {
        self.group.core().progress().iter().any(|(node, p)| *node == to && p.is_witness)
    }

    /// To a witness the announcement is the whole snapshot. Should it get lost, the witness asks
    /// again, or turns out to be behind with the next heartbeats.
    fn announce_to_witness(&mut self, to: NodeId, index: LogIndex, turn: &mut Turn) {
        let known = self.group.core().membership_at(index).is_some_and(|m| !m.members.is_empty());
        let offer = self.group.core().snapshot_message(to, index).filter(|_| known);
        let ok = offer.is_some();
        if let Some(offer) = offer {
            let (to, envelope) = self.group.envelope(offer);
            turn.sink.send(to, envelope);
        }
        self.step(Input::SnapshotSent { to, index, ok }, turn);
        self.absorb(turn);
    }

    fn snapshot_reader(&self, index: LogIndex, turn: &Turn) -> Option<SnapshotReader> {
        if index == LogIndex::ZERO {
            // Nothing is applied yet; when something is, there is a state to send.
            return None;
        }
        // Who replayed its log from the start may not know the configuration that far back.
        self.group.core().membership_at(index).filter(|m| !m.members.is_empty())?;
        let chunk_bytes = turn.config.limits.snapshot_chunk_bytes;
        match self.machine()?.snapshot_chunks(turn.engine.view(), chunk_bytes) {
            Ok(reader) => (reader.applied() == index).then_some(reader),
            Err(e) => {
                tracing::error!(shard = self.shard().0, error = %e, "snapshot can't be read");
                None
            }
        }
    }

    /// A follower asks for a chunk.
    pub(crate) fn on_snapshot_pull(
        &mut self,
        from: NodeId,
        index: LogIndex,
        term: Term,
        chunk: u64,
        turn: &mut Turn,
    ) {
        let mut starts_over = false;
        let found = match self.outgoing.get_mut(&from) {
            Some(out) if out.index == index && out.term == term => {
                let found = out.chunk(chunk);
                if let Ok(Some(_)) = found {
                    out.used_at = turn.now;
                } else {
                    // Not a late copy of a pull: the follower lost what it had and begins anew.
                    starts_over = turn.now.since(out.used_at) >= ANNOUNCE_AGAIN;
                }
                found
            }
            _ => Ok(None),
        };
        if starts_over {
            atoll_base::reached!("a follower lost the snapshot it was pulling");
            self.outgoing.remove(&from);
            self.step(Input::SnapshotSent { to: from, index, ok: false }, turn);
            self.absorb(turn);
        }
        let (data, end) = match found {
            Ok(Some(found)) => found,
            Ok(None) => (Bytes::new(), ChunkEnd::Gone),
            Err(reason) => {
                self.outgoing.remove(&from);
                self.step(Input::SnapshotSent { to: from, index, ok: false }, turn);
                self.absorb(turn);
                tracing::error!(shard = self.shard().0, reason, "snapshot can't be read");
                (Bytes::new(), ChunkEnd::Gone)
            }
        };
        let crc32c = checksum::crc32c(&data);
        let body = PeerBody::SnapshotChunk { index, term, chunk, data, crc32c, end };
        let message = PeerMessage { shard: self.shard(), epoch: self.group.epoch(), body };
        turn.sink.send(from, message);
    }

    /// Gives up snapshots that nobody pulls, and those that arrived.
    pub(crate) fn sweep_outgoing(&mut self, turn: &mut Turn) {
        if self.outgoing.is_empty() {
            return;
        }
        let (mut over, mut unheard) = (Vec::new(), Vec::new());
        let core = self.group.core();
        self.outgoing.retain(|to, out| {
            let arrived = core
                .progress()
                .iter()
                .any(|(node, p)| node == to && p.matched >= out.index && !p.is_stateless);
            if arrived || turn.now.since(out.used_at) > IDLE_MAX {
                over.push((*to, out.index, arrived));
                return false;
            }
            if turn.now.since(out.used_at.max(out.announced_at)) > ANNOUNCE_AGAIN {
                // The offer may have been lost, and the follower can't know that it should pull.
                out.announced_at = turn.now;
                unheard.push((*to, out.offer.clone()));
            }
            true
        });
        for (to, offer) in unheard {
            atoll_base::reached!("a snapshot was announced again");
            turn.sink.send(to, offer);
        }
        // Told also of those that arrived: the log may have been cut beyond them meanwhile, and the
        // core must notice that the follower needs another one.
        for (to, index, ok) in over {
            self.step(Input::SnapshotSent { to, index, ok }, turn);
            self.absorb(turn);
        }
    }
}
