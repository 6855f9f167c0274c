//! Replicas that vote and hold no data.
//!
//! A witness keeps what elections and commits need: terms, votes, and its log, in which commands
//! have no payload. So two copies of the data and a witness survive the loss of any one node, as
//! three copies do. It has no machine, no trees and no snapshots, never leads and answers no
//! question but that for its status. What it applies are the configurations; how far it came is one
//! record in the engine (`records`), below which its log is cut.
//!
//! It begins as every newcomer does, silent until the leader sends it a snapshot, which here is the
//! announcement alone: there is nothing to fetch. From then on what it acknowledges is durable, and
//! a voter that lacks it does not get its vote.
//!
//! * **W1** Data and a witness's log never meet: a witness's entries lack their payloads, so a
//!   replica whose role goes from the one kind to the other counts as one that lost its log, and is
//!   rebuilt. A group lets it go before it takes it in again (`members`).
//! * **W2** What a replica is follows from the configuration in its own log; from the description
//!   only while it has none.

use atoll_base::{Code, Entry, EntryKind, Failure, LogIndex, NodeId, ShardId, planted};
use atoll_raft::{Membership, Role};

use crate::records;
use crate::replica::{Condition, Replica, not_leader};
use crate::turn::Turn;

/// Commands without a payload: what a witness's log holds, and no leader proposes.
pub(crate) fn is_blank(entry: &Entry) -> bool {
    entry.kind == EntryKind::Commands && entry.payload.is_empty()
}

impl Replica {
    /// What `node` is in `membership`, or, where that does not name it, in the description (W2).
    pub(crate) fn role_by(&self, membership: &Membership, node: NodeId) -> Role {
        let described = || self.descriptor.members.iter().find(|m| m.node == node).map(|m| m.role);
        membership.role(node).or_else(described).unwrap_or(Role::Learner)
    }

    /// Who leads, for those who rely on what this replica tells: one of the catalog's shard that
    /// serves nothing, be it a witness or one that is rebuilt, hears a leader and tells nothing.
    /// Taken out of the group meanwhile, it would not even learn that.
    pub(crate) fn leader_told(&self) -> Option<NodeId> {
        let mut serves = matches!(self.condition, Condition::Serving(_));
        if planted!(CatalogHeardRebuilding) {
            serves |= matches!(self.condition, Condition::Rebuilding { .. });
        }
        self.group.core().leader().filter(|_| serves || self.shard() != ShardId::SYSTEM)
    }

    /// Gives up what does not fit the role that this replica has in its group now (W1).
    pub(crate) fn follow_role(&mut self, turn: &mut Turn) {
        if let Some(reason) = self.misfit(turn.config.node) {
            atoll_base::reached!("a replica turned between a witness and a holder of data");
            tracing::info!(shard = self.shard().0, reason, "replica begins anew");
            self.watches.end_all(turn);
            self.begin_anew(reason, turn);
        }
    }

    /// A replica that holds data has to apply the entry at `index`, which has no command: it left
    /// its group, is to be a witness of it now, and has not heard of either. It begins anew (W1).
    pub(crate) fn give_up_data(&mut self, index: LogIndex, turn: &mut Turn) {
        atoll_base::reached!("a holder of data was sent what witnesses are sent");
        let reason = format!("entry {index} came without its commands, as witnesses have them");
        tracing::warn!(shard = self.shard().0, reason, "replica begins anew");
        self.watches.end_all(turn);
        self.begin_anew(reason, turn);
    }

    /// Why what this replica holds does not fit its role, if so.
    pub(crate) fn misfit(&self, node: NodeId) -> Option<String> {
        let role = self.group.core().membership().role(node)?;
        match (&self.condition, role) {
            (Condition::Serving(_), Role::Witness) => {
                Some("it held data and is to be a witness".to_owned())
            }
            (Condition::Witness, Role::Voter | Role::Learner) => {
                Some("it was a witness and is to hold data".to_owned())
            }
            _ => None,
        }
    }

    /// Applies entries without a machine: what is to be remembered are the configurations and the
    /// place.
    pub(crate) fn witness_entries(&mut self, entries: &[Entry], turn: &mut Turn) {
        let shard = self.shard();
        for entry in entries.iter().filter(|e| e.kind == EntryKind::Membership) {
            records::put_membership(&mut turn.applied, shard, &entry.payload);
        }
        if let Some(last) = entries.last() {
            records::put_witness(&mut turn.applied, shard, last.index, last.term);
            self.applied = last.index;
        }
    }

    /// What a witness answers to whatever needs data.
    pub(crate) fn refuse_as_witness(&self, node: NodeId) -> Failure {
        let (shard, leader) = (self.shard(), self.group.core().leader());
        let Some(leader) = leader else { return not_leader(shard, None) };
        let text = format!(
            "node {node} is a witness of shard {shard} and holds no data, ask node {leader}, \
             which leads"
        );
        Failure::new(Code::NotLeader, text).with_leader(Some(leader))
    }
}
