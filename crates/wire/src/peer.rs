//! Peer messages to and from their wire form.
//!
//! Encoding moves (a payload is shared, never copied); decoding checks everything that the receiver
//! relies on, since the bytes come from outside: an unknown kind, a missing body or a broken
//! membership is a [`WireError`], never a panic.

use atoll_base::{Entry, EntryKind, Epoch, LogIndex, NodeId, ShardId, Term};
use atoll_raft::{Ballot, Body, Membership, Message};
use atoll_replica::{ChunkEnd, PeerBody, PeerMessage};
use bytes::Bytes;

use crate::peer_v1 as pb;

/// The version of the messages that this build speaks; said in `Hello`.
pub const FORMAT: u32 = 1;

/// Why a frame from a peer can't be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// A message has nothing in it that this build knows.
    #[error("peer message for shard {shard} has no known body")]
    NoBody {
        /// The shard that it is for.
        shard: ShardId,
    },
    /// A number that names no kind.
    #[error("peer message for shard {shard} has unknown {what} {number}")]
    UnknownKind {
        /// The shard that it is for.
        shard: ShardId,
        /// What the number should have named.
        what: &'static str,
        /// The number.
        number: u32,
    },
    /// A snapshot's membership can't be read.
    #[error("snapshot message for shard {shard} has an unreadable membership: {reason}")]
    Membership {
        /// The shard that it is for.
        shard: ShardId,
        /// What the decoder said.
        reason: String,
    },
}

/// The kinds of Raft messages on the wire. Never reuse a number.
mod kind {
    pub(super) const PRE_VOTE: u32 = 1;
    pub(super) const PRE_VOTE_REPLY: u32 = 2;
    pub(super) const VOTE: u32 = 3;
    pub(super) const VOTE_REPLY: u32 = 4;
    pub(super) const APPEND: u32 = 5;
    pub(super) const APPEND_REPLY: u32 = 6;
    pub(super) const APPEND_REJECT: u32 = 7;
    pub(super) const HEARTBEAT: u32 = 8;
    pub(super) const HEARTBEAT_REPLY: u32 = 9;
    pub(super) const READ_INDEX: u32 = 10;
    pub(super) const READ_INDEX_REPLY: u32 = 11;
    pub(super) const TIMEOUT_NOW: u32 = 12;
    pub(super) const SNAPSHOT: u32 = 13;
    pub(super) const SNAPSHOT_REPLY: u32 = 14;
    pub(super) const WAKE: u32 = 15;
    pub(super) const QUIET: u32 = 16;
    pub(super) const AMNESIA: u32 = 17;
    pub(super) const OWED: u32 = 18;
}

/// The wire form of a peer message.
#[must_use]
pub fn encode(message: PeerMessage) -> pb::PeerMessage {
    use pb::peer_message::Body as Wire;
    let body = match message.body {
        PeerBody::Raft(raft) => Wire::Raft(encode_raft(raft)),
        PeerBody::SnapshotPull { index, term, chunk } => {
            Wire::SnapshotPull(pb::SnapshotPull { index: index.0, term: term.0, chunk })
        }
        PeerBody::SnapshotChunk { index, term, chunk, data, crc32c, end } => {
            Wire::SnapshotChunk(pb::SnapshotChunk {
                index: index.0,
                term: term.0,
                chunk,
                data,
                crc32c,
                last: end == ChunkEnd::Last,
                gone: end == ChunkEnd::Gone,
            })
        }
    };
    pb::PeerMessage { shard: message.shard.0, epoch: message.epoch.0, body: Some(body) }
}

/// The peer message in its wire form.
///
/// # Errors
/// [`WireError`] when the message holds something that this build can't read.
pub fn decode(message: pb::PeerMessage) -> Result<PeerMessage, WireError> {
    use pb::peer_message::Body as Wire;
    let shard = ShardId(message.shard);
    let body = match message.body.ok_or(WireError::NoBody { shard })? {
        Wire::Raft(raft) => PeerBody::Raft(decode_raft(shard, raft)?),
        Wire::SnapshotPull(pull) => PeerBody::SnapshotPull {
            index: LogIndex(pull.index),
            term: Term(pull.term),
            chunk: pull.chunk,
        },
        Wire::SnapshotChunk(piece) => PeerBody::SnapshotChunk {
            index: LogIndex(piece.index),
            term: Term(piece.term),
            chunk: piece.chunk,
            data: piece.data,
            crc32c: piece.crc32c,
            end: match (piece.gone, piece.last) {
                (true, _) => ChunkEnd::Gone,
                (false, true) => ChunkEnd::Last,
                (false, false) => ChunkEnd::More,
            },
        },
    };
    Ok(PeerMessage { shard, epoch: Epoch(message.epoch), body })
}

/// About how many bytes the message takes on the wire; cheap, never less than its payloads.
#[must_use]
pub fn size_hint(message: &PeerMessage) -> usize {
    let payload = match &message.body {
        PeerBody::Raft(Message { body: Body::Append { entries, .. }, .. }) => {
            entries.iter().map(Entry::cost).sum()
        }
        PeerBody::SnapshotChunk { data, .. } => data.len(),
        PeerBody::Raft(_) | PeerBody::SnapshotPull { .. } => 0,
    };
    payload + 64
}

fn encode_raft(message: Message) -> pb::RaftMessage {
    let mut wire = pb::RaftMessage {
        from: message.from.0,
        to: message.to.0,
        term: message.term.0,
        ..Default::default()
    };
    match message.body {
        Body::PreVote { last_index, last_term } => {
            wire.kind = kind::PRE_VOTE;
            (wire.index, wire.log_term) = (last_index.0, last_term.0);
        }
        Body::PreVoteReply { ballot } => {
            wire.kind = kind::PRE_VOTE_REPLY;
            (wire.flag, wire.context) = encode_ballot(ballot);
        }
        Body::Vote { last_index, last_term, transfer } => {
            (wire.kind, wire.flag) = (kind::VOTE, transfer);
            (wire.index, wire.log_term) = (last_index.0, last_term.0);
        }
        Body::VoteReply { ballot } => {
            wire.kind = kind::VOTE_REPLY;
            (wire.flag, wire.context) = encode_ballot(ballot);
        }
        Body::Append { prev_index, prev_term, commit, entries } => {
            wire.kind = kind::APPEND;
            (wire.index, wire.log_term, wire.commit) = (prev_index.0, prev_term.0, commit.0);
            wire.entries = entries.into_iter().map(encode_entry).collect();
        }
        Body::AppendReply { matched, life } => {
            (wire.kind, wire.index, wire.life) = (kind::APPEND_REPLY, matched.0, life);
        }
        Body::AppendReject { prev_index, conflict_index, conflict_term } => {
            (wire.kind, wire.index) = (kind::APPEND_REJECT, prev_index.0);
            (wire.hint_index, wire.hint_term) = (conflict_index.0, conflict_term.0);
        }
        Body::Heartbeat { commit, round } => {
            (wire.kind, wire.commit, wire.context) = (kind::HEARTBEAT, commit.0, round);
        }
        Body::HeartbeatReply { round } => {
            (wire.kind, wire.context) = (kind::HEARTBEAT_REPLY, round);
        }
        Body::ReadIndex { context } => (wire.kind, wire.context) = (kind::READ_INDEX, context),
        Body::ReadIndexReply { context, index } => {
            (wire.kind, wire.context) = (kind::READ_INDEX_REPLY, context);
            (wire.flag, wire.index) = (index.is_some(), index.unwrap_or_default().0);
        }
        Body::TimeoutNow => wire.kind = kind::TIMEOUT_NOW,
        Body::Snapshot { index, term, membership } => {
            (wire.kind, wire.index, wire.log_term) = (kind::SNAPSHOT, index.0, term.0);
            wire.membership = membership.encode();
        }
        Body::SnapshotReply { index, installed, life } => {
            (wire.kind, wire.index, wire.flag) = (kind::SNAPSHOT_REPLY, index.0, installed);
            wire.life = life;
        }
        Body::Amnesia { life, log_is_lost } => {
            (wire.kind, wire.life, wire.flag) = (kind::AMNESIA, life, log_is_lost);
        }
        Body::Owed { life, to } => (wire.kind, wire.life, wire.index) = (kind::OWED, life, to.0),
        Body::Wake => wire.kind = kind::WAKE,
        Body::Quiet { commit } => (wire.kind, wire.commit) = (kind::QUIET, commit.0),
    }
    wire
}

fn decode_raft(shard: ShardId, wire: pb::RaftMessage) -> Result<Message, WireError> {
    let (index, log_term) = (LogIndex(wire.index), Term(wire.log_term));
    let body = match wire.kind {
        kind::PRE_VOTE => Body::PreVote { last_index: index, last_term: log_term },
        kind::PRE_VOTE_REPLY => Body::PreVoteReply { ballot: decode_ballot(&wire) },
        kind::VOTE => Body::Vote { last_index: index, last_term: log_term, transfer: wire.flag },
        kind::VOTE_REPLY => Body::VoteReply { ballot: decode_ballot(&wire) },
        kind::APPEND => Body::Append {
            prev_index: index,
            prev_term: log_term,
            commit: LogIndex(wire.commit),
            entries: decode_entries(shard, wire.entries)?,
        },
        kind::APPEND_REPLY => Body::AppendReply { matched: index, life: wire.life },
        kind::APPEND_REJECT => Body::AppendReject {
            prev_index: index,
            conflict_index: LogIndex(wire.hint_index),
            conflict_term: Term(wire.hint_term),
        },
        kind::HEARTBEAT => Body::Heartbeat { commit: LogIndex(wire.commit), round: wire.context },
        kind::HEARTBEAT_REPLY => Body::HeartbeatReply { round: wire.context },
        kind::READ_INDEX => Body::ReadIndex { context: wire.context },
        kind::READ_INDEX_REPLY => {
            Body::ReadIndexReply { context: wire.context, index: wire.flag.then_some(index) }
        }
        kind::TIMEOUT_NOW => Body::TimeoutNow,
        kind::SNAPSHOT => Body::Snapshot {
            index,
            term: log_term,
            membership: Membership::decode(&wire.membership)
                .map_err(|e| WireError::Membership { shard, reason: e.to_string() })?,
        },
        kind::SNAPSHOT_REPLY => {
            Body::SnapshotReply { index, installed: wire.flag, life: wire.life }
        }
        kind::AMNESIA => Body::Amnesia { life: wire.life, log_is_lost: wire.flag },
        kind::OWED => Body::Owed { life: wire.life, to: index },
        kind::WAKE => Body::Wake,
        kind::QUIET => Body::Quiet { commit: LogIndex(wire.commit) },
        number => return Err(WireError::UnknownKind { shard, what: "raft message kind", number }),
    };
    Ok(Message { from: NodeId(wire.from), to: NodeId(wire.to), term: Term(wire.term), body })
}

/// Flag and context. A build that knows nothing of amnesia takes such a ballot for a refusal.
fn encode_ballot(ballot: Ballot) -> (bool, u64) {
    (ballot == Ballot::Granted, u64::from(ballot == Ballot::Amnesic))
}

fn decode_ballot(wire: &pb::RaftMessage) -> Ballot {
    match (wire.flag, wire.context) {
        (true, _) => Ballot::Granted,
        (false, 0) => Ballot::Refused,
        (false, _) => Ballot::Amnesic,
    }
}

fn encode_entry(entry: Entry) -> pb::Entry {
    pb::Entry {
        term: entry.term.0,
        index: entry.index.0,
        kind: u32::from(entry.kind as u8),
        payload: entry.payload,
    }
}

fn decode_entries(shard: ShardId, entries: Vec<pb::Entry>) -> Result<Vec<Entry>, WireError> {
    let decode = |e: pb::Entry| {
        let kind = u8::try_from(e.kind)
            .ok()
            .and_then(EntryKind::from_u8)
            .ok_or(WireError::UnknownKind { shard, what: "entry kind", number: e.kind })?;
        // Entries stay in memory for a while; as they came they would keep the network's buffers,
        // which are half as large again.
        let payload = Bytes::copy_from_slice(&e.payload);
        Ok(Entry { term: Term(e.term), index: LogIndex(e.index), kind, payload })
    };
    entries.into_iter().map(decode).collect()
}

#[cfg(test)]
mod tests;
