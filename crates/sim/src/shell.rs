//! What all simulated shells of a run share: settings, the founding catalog, and the bug planted.
//!
//! Planted bugs live here, around the lanes, never inside them.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{
    Code, Epoch, Failure, Incarnation, KeyspaceId, LaneId, LogIndex, NodeId, Rng, ShardId, Ticket,
};
use atoll_coord::{
    AnswerBody, Consistency, Descriptor, Protocol, ReplicaMember, Request, RequestBody,
    ShardOptions,
};
use atoll_node::{Limits, LogWrite, Output, RaftSettings, Upkeep};
use atoll_raft::{Body, Role};
use atoll_replica::{PeerBody, PeerMessage};
use atoll_storage::{LogHardState, LogRecord};
use bytes::Bytes;

use crate::plant::Plant;
use crate::shape::Shape;
use crate::value::shard_start;

/// Settings and the planted bug.
pub(crate) struct Shell {
    pub(crate) shape: Shape,
    pub(crate) settings: (RaftSettings, Limits, Upkeep),
    pub(crate) founding: Vec<Descriptor>,
    /// The newest description of each shard that any node has heard.
    described: BTreeMap<ShardId, Descriptor>,
    plant: Option<Plant>,
    rng: Rng,
    /// Writes that a lane was told of before they were durable.
    told: BTreeSet<(NodeId, LaneId, Ticket)>,
    healed: bool,
    /// The lane that takes no more turns.
    stuck: Option<(NodeId, LaneId)>,
    turns: u64,
}

impl Shell {
    pub(crate) fn new(
        shape: Shape,
        settings: (RaftSettings, Limits, Upkeep),
        plant: Option<Plant>,
        rng: Rng,
    ) -> Self {
        let founding = founding(&shape);
        Self {
            shape,
            settings,
            described: founding.iter().map(|d| (d.shard, d.clone())).collect(),
            founding,
            plant,
            rng,
            told: BTreeSet::new(),
            healed: false,
            stuck: None,
            turns: 0,
        }
    }

    /// A node has heard these descriptions.
    pub(crate) fn heard(&mut self, descriptors: &[Descriptor]) {
        for descriptor in descriptors {
            let known = self.described.get(&descriptor.shard);
            if known.is_none_or(|known| known.epoch < descriptor.epoch) {
                self.described.insert(descriptor.shard, descriptor.clone());
            }
        }
    }

    /// The newest description of a shard.
    pub(crate) fn descriptor(&self, shard: ShardId) -> Option<&Descriptor> {
        self.described.get(&shard)
    }

    /// The keyspace of a shard of the workload.
    pub(crate) fn keyspace(&self, shard: ShardId) -> KeyspaceId {
        self.described.get(&shard).map_or(KeyspaceId::SYSTEM, |d| d.keyspace)
    }

    /// The shards whose members change.
    pub(crate) fn workload_and_system(&self) -> Vec<ShardId> {
        self.founding.iter().map(|d| d.shard).collect()
    }

    /// The founding descriptors of a node's own replicas.
    pub(crate) fn founding_of(&self, node: NodeId) -> Vec<Descriptor> {
        let mine = |d: &&Descriptor| d.members.iter().any(|member| member.node == node);
        self.founding.iter().filter(mine).cloned().collect()
    }

    /// The shards that hold the workload.
    pub(crate) fn user_shards(&self) -> Vec<ShardId> {
        self.founding.iter().map(|d| d.shard).filter(|shard| *shard != ShardId::SYSTEM).collect()
    }

    /// Where a shard's replicas are.
    pub(crate) fn members(&self, shard: ShardId) -> Vec<NodeId> {
        let found = self.described.get(&shard);
        found.map(|d| d.members.iter().map(|m| m.node).collect()).unwrap_or_default()
    }

    pub(crate) fn heal(&mut self) {
        self.healed = true;
    }

    pub(crate) fn disk_full(&self, node: NodeId) -> Failure {
        Failure::new(Code::DiskFull, format!("node {node} has no room for its log"))
    }

    pub(crate) fn plants(&self, plant: Plant) -> bool {
        self.plant == Some(plant)
    }

    pub(crate) fn lies_about_persisting(&self) -> bool {
        self.plants(Plant::PersistLie)
    }

    /// Whether a lane never takes a turn again.
    pub(crate) fn is_stuck(&mut self, node: NodeId, lane: LaneId) -> bool {
        if !self.plants(Plant::LaneStuck) {
            return false;
        }
        self.turns += 1;
        if self.turns == 3_000 {
            self.stuck = Some((node, lane));
        }
        self.stuck == Some((node, lane))
    }

    /// True when a lane should be told now that a write is durable which only was issued.
    pub(crate) fn tells_early(&mut self, node: NodeId, lane: LaneId, write: &LogWrite) -> bool {
        let early = self.plants(Plant::AckBeforeSync);
        if early {
            self.told.insert((node, lane, write.ticket));
        }
        early
    }

    /// True when the lane was told of this write already.
    pub(crate) fn was_told(&mut self, node: NodeId, lane: LaneId, ticket: Ticket) -> bool {
        self.told.remove(&(node, lane, ticket))
    }

    /// A node restarted: its tickets start anew.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.told.retain(|(n, _, _)| *n != node);
    }

    /// Spoils what a lane put out.
    pub(crate) fn spoil(&mut self, output: &mut Output) {
        match self.plant {
            Some(Plant::PromiseEarly) => {
                let Some(write) = &mut output.write else { return };
                for (to, messages) in std::mem::take(&mut write.after) {
                    output.messages.entry(to).or_default().extend(messages);
                }
            }
            Some(Plant::VotesForgotten) => {
                let Some(write) = &mut output.write else { return };
                for record in &mut write.batch.records {
                    if let LogRecord::HardState { state, .. } = record {
                        let LogHardState { life, amnesia, .. } = *state;
                        *state = LogHardState { life, amnesia, ..LogHardState::default() };
                    }
                }
            }
            Some(Plant::EntryDropped) if self.rng.chance(1, 50) => {
                let Some(write) = &mut output.write else { return };
                write.batch.records.retain(|r| !matches!(r, LogRecord::Entry { .. }));
            }
            Some(Plant::CommitAhead) => {
                for message in output.messages.values_mut().flatten() {
                    let PeerBody::Raft(message) = &mut message.body else { continue };
                    if let Body::Append { commit, prev_index, entries, .. } = &mut message.body {
                        *commit = LogIndex(prev_index.0 + entries.len() as u64);
                    }
                }
            }
            Some(Plant::WatchSkips | Plant::WatchRepeats) => self.spoil_watches(output),
            Some(Plant::RefusalLies) => {
                for answer in &mut output.answers {
                    let was_done = matches!(answer.body, Ok(AnswerBody::Command(_)));
                    if was_done && self.rng.chance(1, 30) {
                        let text = "the guard does not hold";
                        answer.body = Err(Failure::new(Code::PreconditionFailed, text));
                    }
                }
            }
            _ => {}
        }
    }

    fn spoil_watches(&mut self, output: &mut Output) {
        let mut again = Vec::new();
        for answer in &mut output.answers {
            if !self.rng.chance(1, 20) {
                continue;
            }
            if self.plants(Plant::WatchRepeats)
                && matches!(&answer.body, Ok(AnswerBody::Watch(batch)) if !batch.events.is_empty())
            {
                again.push(answer.clone());
            } else if let Ok(AnswerBody::Watch(batch)) = &mut answer.body {
                batch.events.pop();
            }
        }
        output.answers.extend(again);
    }

    /// Spoils a call on its way into a node.
    pub(crate) fn spoil_request(&mut self, request: &mut Request) {
        match (&mut request.body, self.plant) {
            (RequestBody::Command(command), Some(Plant::IdsStripped)) => command.id = None,
            (RequestBody::Get { consistency, .. }, Some(Plant::StaleReads)) => {
                *consistency = Consistency::Stale { max: None };
            }
            (RequestBody::Range { query, .. }, Some(Plant::TornScans)) => query.at = None,
            _ => {}
        }
    }

    /// Tampers with what a node receives from a peer.
    pub(crate) fn tamper(&mut self, messages: &mut Vec<PeerMessage>) {
        match self.plant {
            Some(Plant::PayloadFlips) if self.rng.chance(1, 50) => {
                for message in messages {
                    let PeerBody::Raft(message) = &mut message.body else { continue };
                    let Body::Append { entries, .. } = &mut message.body else { continue };
                    if let Some(entry) = entries.last_mut().filter(|e| e.payload.len() > 12) {
                        let mut payload = entry.payload.to_vec();
                        *payload.last_mut().expect("it is not empty") ^= 1;
                        entry.payload = Bytes::from(payload);
                    }
                }
            }
            Some(Plant::NoElections) if self.healed => messages.retain(|message| {
                let PeerBody::Raft(message) = &message.body else { return true };
                !matches!(message.body, Body::PreVote { .. } | Body::Vote { .. })
            }),
            _ => {}
        }
    }
}

/// The catalog that every node starts with: shard 1 and the workload's shards.
fn founding(shape: &Shape) -> Vec<Descriptor> {
    (0..=shape.shards as u64)
        .map(|n| {
            let shard = ShardId(n + 1);
            let keyspace = match n {
                0 => KeyspaceId::SYSTEM,
                // Shards share keyspaces in pairs.
                n => KeyspaceId(1 + n.div_ceil(2) as u32),
            };
            let (start, end) = match n {
                0 => (Bytes::new(), None),
                _ => (shard_start(shard), Some(shard_start(ShardId(shard.0 + 1)))),
            };
            let members = (0..shape.replicas)
                .map(|r| ReplicaMember {
                    node: NodeId(1 + ((n as usize + r) % shape.nodes) as u64),
                    incarnation: Incarnation(1),
                    role: Role::Voter,
                })
                .collect();
            Descriptor {
                shard,
                keyspace,
                start,
                end,
                epoch: Epoch(1),
                members,
                protocol: Protocol::Raft,
                options: ShardOptions::default(),
                dropped: false,
            }
        })
        .collect()
}
