use std::collections::BTreeMap;

use atoll_base::Rng;
use atoll_raft::Role;
use bytes::Bytes;
use prost::Message as _;

use super::*;

fn raft(body: Body) -> PeerMessage {
    let message = Message { from: NodeId(1), to: NodeId(2), term: Term(3), body };
    PeerMessage { shard: ShardId(7), epoch: Epoch(4), body: PeerBody::Raft(message) }
}

fn entry(index: u64, kind: EntryKind, payload: &'static [u8]) -> Entry {
    Entry { term: Term(3), index: LogIndex(index), kind, payload: Bytes::from_static(payload) }
}

fn membership() -> Membership {
    Membership {
        members: BTreeMap::from([(NodeId(1), Role::Voter), (NodeId(2), Role::Learner)]),
        ..Default::default()
    }
}

/// One message of every kind, with the bytes that it has had since format 1.
fn every_kind() -> Vec<(PeerMessage, &'static str)> {
    let mut all = raft_kinds();
    all.extend(snapshot_kinds());
    all
}

fn raft_kinds() -> Vec<(PeerMessage, &'static str)> {
    let (index, term) = (LogIndex(9), Term(2));
    vec![
        (
            raft(Body::PreVote { last_index: index, last_term: term }),
            "080710041a0c080110021803200128093002",
        ),
        (raft(Body::PreVoteReply { ballot: Ballot::Granted }), "080710041a0a08011002180320024801"),
        (
            raft(Body::Vote { last_index: index, last_term: term, transfer: true }),
            "080710041a0e0801100218032003280930024801",
        ),
        (raft(Body::VoteReply { ballot: Ballot::Refused }), "080710041a080801100218032004"),
        (raft(Body::VoteReply { ballot: Ballot::Amnesic }), "080710041a0a08011002180320045001"),
        (
            raft(Body::Append {
                prev_index: index,
                prev_term: term,
                commit: LogIndex(8),
                entries: vec![
                    entry(10, EntryKind::Empty, b""),
                    entry(11, EntryKind::Commands, b"abc"),
                ],
            }),
            "080710041a21080110021803200528093002380842040803100a420b0803100b18012203616263",
        ),
        (raft(Body::AppendReply { matched: index, life: 0 }), "080710041a0a08011002180320062809"),
        (
            raft(Body::AppendReply { matched: index, life: 5 }),
            "080710041a0c080110021803200628097005",
        ),
        (
            raft(Body::AppendReject {
                prev_index: index,
                conflict_index: LogIndex(5),
                conflict_term: Term(1),
            }),
            "080710041a0e0801100218032007280958056001",
        ),
        (
            raft(Body::Heartbeat { commit: LogIndex(8), round: 6 }),
            "080710041a0c080110021803200838085006",
        ),
        (raft(Body::HeartbeatReply { round: 6 }), "080710041a0a08011002180320095006"),
        (raft(Body::ReadIndex { context: 77 }), "080710041a0a080110021803200a504d"),
        (
            raft(Body::ReadIndexReply { context: 77, index: Some(index) }),
            "080710041a0e080110021803200b28094801504d",
        ),
        (
            raft(Body::ReadIndexReply { context: 77, index: None }),
            "080710041a0a080110021803200b504d",
        ),
        (raft(Body::TimeoutNow), "080710041a08080110021803200c"),
        (raft(Body::Snapshot { index, term, membership: membership() }), ""),
        (
            raft(Body::SnapshotReply { index, installed: true, life: 0 }),
            "080710041a0c080110021803200e28094801",
        ),
        (raft(Body::Quiet { commit: LogIndex(8) }), "080710041a0a08011002180320103808"),
        (
            raft(Body::Amnesia { life: 5, log_is_lost: true }),
            "080710041a0c080110021803201148017005",
        ),
        (raft(Body::Owed { life: 5, to: index }), "080710041a0c080110021803201228097005"),
        (raft(Body::Wake), "080710041a08080110021803200f"),
    ]
}

fn snapshot_kinds() -> Vec<(PeerMessage, &'static str)> {
    let (index, term) = (LogIndex(9), Term(2));
    let data = Bytes::from_static(b"chunk");
    vec![
        (
            PeerMessage {
                shard: ShardId(7),
                epoch: Epoch(4),
                body: PeerBody::SnapshotPull { index, term, chunk: 3 },
            },
            "080710042206080910021803",
        ),
        (
            PeerMessage {
                shard: ShardId(7),
                epoch: Epoch(4),
                body: PeerBody::SnapshotChunk {
                    index,
                    term,
                    chunk: 3,
                    data,
                    crc32c: 1,
                    end: ChunkEnd::Last,
                },
            },
            "080710042a1108091002180322056368756e6b28013001",
        ),
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn every_kind_keeps_its_bytes_and_survives_a_round_trip() {
    for (message, golden) in every_kind() {
        let wire = encode(message.clone());
        let bytes = wire.encode_to_vec();
        // A membership's bytes are fixed by the test beside its own codec.
        if !golden.is_empty() {
            assert_eq!(hex(&bytes), golden, "{message:?}");
        }
        let back = pb::PeerMessage::decode(Bytes::from(bytes)).unwrap();
        assert_eq!(decode(back).unwrap(), message);
    }
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    let mut wire = encode(raft(Body::Wake));
    if let Some(pb::peer_message::Body::Raft(raft)) = &mut wire.body {
        raft.kind = 99;
    }
    let error = decode(wire).unwrap_err();
    assert_eq!(error.to_string(), "peer message for shard 7 has unknown raft message kind 99");
    let empty = pb::PeerMessage { shard: 7, ..Default::default() };
    assert_eq!(decode(empty), Err(WireError::NoBody { shard: ShardId(7) }));
}

#[test]
fn broken_bytes_never_panic() {
    let good: Vec<Vec<u8>> =
        every_kind().into_iter().map(|(m, _)| encode(m).encode_to_vec()).collect();
    let mut rng = Rng::new(1);
    let mut read = 0;
    for _ in 0..20_000 {
        let mut bytes = rng.pick(&good).unwrap().clone();
        for _ in 0..=rng.below(3) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(3) {
                0 => bytes[at] = rng.next_u64() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, rng.next_u64() as u8),
            }
        }
        if let Ok(wire) = pb::PeerMessage::decode(Bytes::from(bytes)) {
            read += u32::from(decode(wire).is_ok());
        }
    }
    assert!(read > 100, "only {read} mutated messages were readable");
}
