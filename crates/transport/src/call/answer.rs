//! Answers.

use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, LeaseId, LogIndex, NodeId, Revision, ShardId, Term};
use atoll_coord::{Answer, AnswerBody, FollowerStatus, ReplicaStatus};
use atoll_machine::{LockReply, Reply};
use atoll_wire::v1 as pb;

use super::lease::{
    decode_ended, decode_granted, decode_kept_alive, decode_lease_status, encode_kept_alive,
    encode_lease_status,
};
use super::lock::{
    decode_acquired, decode_lock_info, decode_observed, encode_lock_info, encode_observed,
};
use super::op::{decode_delete_reply, decode_put_reply, decode_txn_reply, encode_reply};
use super::page::{decode_page_bytes, encode_page_bytes};
use super::read::{decode_key_value, key_value, millis};
use super::request::{decode_member, encode_member};
use super::watch::{decode_watch_answer, encode_watch_events};
use crate::status::{decode_failure, encode_failure};

/// The wire form of an answer.
#[must_use]
pub fn encode_answer(answer: Answer) -> pb::Answer {
    let body = answer
        .body
        .and_then(encode_body)
        .unwrap_or_else(|failure| pb::answer::Body::Failure(encode_failure(&failure)));
    pb::Answer { id: answer.id, body: Some(body) }
}

fn encode_body(body: AnswerBody) -> Result<pb::answer::Body, Failure> {
    use pb::answer::Body;
    Ok(match body {
        AnswerBody::Command(reply) => encode_reply(reply)?,
        AnswerBody::Get { kv, revision, staleness } => Body::Get(pb::GetResponse {
            kv: kv.map(key_value),
            revision: revision.0,
            staleness_ms: millis(staleness),
        }),
        AnswerBody::Range { page, newest, staleness } => {
            Body::Range(encode_page_bytes(&page, newest, staleness))
        }
        AnswerBody::WatchStarted { from } => Body::Watch(pb::WatchResponse {
            started: true,
            through_revision: from.prev().0,
            ..Default::default()
        }),
        AnswerBody::Watch(batch) => Body::Watch(encode_watch_events(batch)),
        AnswerBody::WatchCompacted { compacted } => {
            Body::Watch(pb::WatchResponse { compacted: compacted.0, ..Default::default() })
        }
        AnswerBody::WatchCancelled => Body::Cancel(pb::CancelResponse {}),
        AnswerBody::KeptAlive(kept) => Body::KeepAlive(encode_kept_alive(kept)),
        AnswerBody::Lease(status) => Body::LeaseShow(encode_lease_status(status)),
        AnswerBody::Leases(leases) => Body::LeaseList(pb::LeaseListResponse {
            leases: leases.into_iter().map(|id| id.0).collect(),
        }),
        AnswerBody::Lock(info) => Body::Lock(encode_lock_info(info)),
        AnswerBody::Observed(leadership) => Body::Observe(encode_observed(leadership)),
        AnswerBody::Transferred => Body::Transfer(pb::TransferResponse {}),
        AnswerBody::Members { epoch, index } => {
            Body::Members(pb::MembersResponse { epoch: epoch.0, index: index.0 })
        }
        AnswerBody::Retired => Body::Retire(pb::RetireResponse {}),
        AnswerBody::Status(status) => Body::Status(encode_status(status)),
    })
}

/// The call's id and what came of it.
pub fn decode_answer(wire: pb::Answer) -> (u64, Result<AnswerBody, Failure>) {
    (wire.id, decode_body(wire.id, wire.body))
}

fn decode_body(id: u64, body: Option<pb::answer::Body>) -> Result<AnswerBody, Failure> {
    use pb::answer::Body;
    let body = body.ok_or_else(|| {
        Failure::new(
            Code::Internal,
            format!("the answer to call {id} has nothing in it that this build knows"),
        )
    })?;
    Ok(match body {
        Body::Failure(failure) => return Err(decode_failure(failure)),
        Body::Put(put) => AnswerBody::Command(decode_put_reply(put)),
        Body::Delete(delete) => AnswerBody::Command(decode_delete_reply(delete)),
        Body::Txn(txn) => AnswerBody::Command(decode_txn_reply(txn)?),
        Body::Compact(compact) => AnswerBody::Command(Reply::Compact {
            revision: Revision(compact.revision),
            compacted: Revision(compact.compacted),
        }),
        Body::Get(get) => AnswerBody::Get {
            kv: get.kv.map(decode_key_value),
            revision: Revision(get.revision),
            staleness: Duration::from_millis(get.staleness_ms),
        },
        Body::Range(range) => {
            let (page, newest, staleness) = decode_page_bytes(range)?;
            AnswerBody::Range { page, newest, staleness }
        }
        Body::Watch(watch) if watch.started => {
            AnswerBody::WatchStarted { from: Revision(watch.through_revision).next() }
        }
        Body::Watch(watch) if watch.compacted != 0 => {
            AnswerBody::WatchCompacted { compacted: Revision(watch.compacted) }
        }
        Body::Watch(watch) => AnswerBody::Watch(decode_watch_answer(watch)?),
        Body::Cancel(pb::CancelResponse {}) => AnswerBody::WatchCancelled,
        Body::Transfer(pb::TransferResponse {}) => AnswerBody::Transferred,
        Body::Members(members) => {
            AnswerBody::Members { epoch: Epoch(members.epoch), index: LogIndex(members.index) }
        }
        Body::Retire(pb::RetireResponse {}) => AnswerBody::Retired,
        Body::LeaseGrant(granted) => AnswerBody::Command(decode_granted(&granted)),
        Body::LeaseRevoke(ended) => AnswerBody::Command(decode_ended(&ended)),
        Body::KeepAlive(kept) => decode_kept_alive(kept),
        Body::LeaseShow(status) => decode_lease_status(status),
        Body::LeaseList(list) => AnswerBody::Leases(list.leases.into_iter().map(LeaseId).collect()),
        Body::Acquire(acquired) => AnswerBody::Command(decode_acquired(acquired)?),
        Body::LockDone(pb::LockDone {}) => AnswerBody::Command(Reply::Lock(LockReply::Done)),
        Body::Lock(info) => decode_lock_info(info)?,
        Body::Observe(news) => decode_observed(news)?,
        Body::Status(status) => AnswerBody::Status(decode_status(status)?),
    })
}

/// The wire form of a replica's state.
#[must_use]
pub fn encode_status(status: ReplicaStatus) -> pb::StatusResponse {
    pb::StatusResponse {
        node: status.node.0,
        shard: status.shard.0,
        epoch: status.epoch.0,
        term: status.term.0,
        leader: status.leader.unwrap_or_default().0,
        last_index: status.last_index.0,
        commit_index: status.commit_index.0,
        applied_index: status.applied_index.0,
        first_index: status.first_index.0,
        revision: status.revision.0,
        members: status.members.into_iter().map(encode_member).collect(),
        progress: status
            .progress
            .into_iter()
            .map(|p| pb::Progress {
                node: p.node.0,
                matched_index: p.matched.0,
                state: p.state.to_owned(),
            })
            .collect(),
        state: status.state.to_owned(),
        waits_for: status.waits_for,
        compact_revision: status.compacted.0,
    }
}

fn decode_status(wire: pb::StatusResponse) -> Result<ReplicaStatus, Failure> {
    Ok(ReplicaStatus {
        node: NodeId(wire.node),
        shard: ShardId(wire.shard),
        epoch: Epoch(wire.epoch),
        term: Term(wire.term),
        leader: (wire.leader != 0).then_some(NodeId(wire.leader)),
        state: known_state(&wire.state),
        waits_for: wire.waits_for,
        first_index: LogIndex(wire.first_index),
        last_index: LogIndex(wire.last_index),
        commit_index: LogIndex(wire.commit_index),
        applied_index: LogIndex(wire.applied_index),
        revision: Revision(wire.revision),
        compacted: Revision(wire.compact_revision),
        members: wire.members.into_iter().map(decode_member).collect::<Result<_, _>>()?,
        progress: wire
            .progress
            .into_iter()
            .map(|p| FollowerStatus {
                node: NodeId(p.node),
                matched: LogIndex(p.matched_index),
                state: known_state(&p.state),
            })
            .collect(),
    })
}

/// States are words for people; one of a newer server has none here.
fn known_state(name: &str) -> &'static str {
    const STATES: [&str; 13] = [
        "leader",
        "follower",
        "candidate",
        "learner",
        "witness",
        "joining",
        "rebuilding",
        "installing",
        "left",
        "quarantined",
        "probe",
        "replicate",
        "snapshot",
    ];
    STATES.into_iter().find(|s| *s == name).unwrap_or("other")
}
