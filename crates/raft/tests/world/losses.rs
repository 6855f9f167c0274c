//! What a group survives of lost logs: the bound that walks keep to, and what is left beyond it.
//!
//! In each half of the configurations that may be in force, or come into force by an append that is
//! under way, the voters with a whole memory must be
//! more than `voters - replication quorum`: then one of them is in every replication quorum. Fewer,
//! and all copies of a committed entry may be gone. Where witnesses vote, one copy of the data is
//! all that a commit needs, so no holder of data may be lost there.

use atoll_base::{EntryKind, LogIndex, NodeId};
use atoll_raft::quorum::{Ballot, Tally, tally};
use atoll_raft::{Amnesia, Body, LogReader, Membership, Role};

use super::{Health, Replica, World};

impl Replica {
    /// True unless entries are gone that it may have acknowledged.
    pub fn remembers(&self) -> bool {
        let forgot =
            self.core.as_ref().map_or(self.disk_hard.amnesia != Amnesia::None, |c| c.is_amnesic());
        self.health != Health::LogLost && !forgot
    }

    /// True unless it may have forgotten whom it voted for.
    fn knows_votes(&self) -> bool {
        let hard = self.disk_hard.amnesia != Amnesia::Votes;
        hard && self.core.as_ref().is_none_or(|c| c.amnesia() != Amnesia::Votes)
    }

    /// The configurations that its log may put in force: the last one and the one before.
    fn memberships(&self) -> Vec<Membership> {
        let log = if self.core.is_some() { &self.log } else { &self.disk };
        let mut found = vec![self.base.clone()];
        let mut at = log.first_index();
        while at <= log.last_index() {
            let entry = log.get(at).expect("between first and last");
            if entry.kind == EntryKind::Membership {
                found.push(Membership::decode(&entry.payload).expect("it was encoded"));
            }
            at = at.next();
        }
        found.retain(|m| !m.members.is_empty());
        let old = found.len().saturating_sub(2);
        found.split_off(old)
    }
}

impl World {
    /// True when the group can go on though `lost` forgets what it acknowledged, or though `target`
    /// becomes its configuration.
    pub fn survives(&self, lost: Option<NodeId>, target: Option<&Membership>) -> bool {
        let known = self.replicas.values().flat_map(Replica::memberships);
        let known = known.chain(self.memberships_under_way());
        known.chain(target.cloned()).all(|m| {
            let outgoing = m.outgoing.as_ref().map(|half| (half, m.outgoing_quorum));
            std::iter::once((&m.members, m.quorum)).chain(outgoing).all(|(half, rule)| {
                let voters: Vec<_> = half.iter().filter(|(_, role)| role.votes()).collect();
                let whole = |n: &NodeId| Some(*n) != lost && self.replicas[n].remembers();
                let votes = |n: &NodeId| Some(*n) != lost && self.replicas[n].knows_votes();
                let count = voters.iter().filter(|(n, _)| whole(n)).count();
                let voting = voters.iter().filter(|(n, _)| votes(n)).count();
                let has_witness = voters.iter().any(|(_, role)| **role == Role::Witness);
                let data_is_whole = voters.iter().all(|(n, r)| **r == Role::Witness || whole(n));
                count > voters.len() - rule.replication(voters.len())
                    && voting >= rule.election(voters.len())
                    && (!has_witness || data_is_whole)
            })
        })
    }

    /// The configurations in appends that may still arrive, though their sender forgets them.
    fn memberships_under_way(&self) -> impl Iterator<Item = Membership> + '_ {
        let entries = self.net.iter().filter_map(|message| match &message.body {
            Body::Append { entries, .. } => Some(entries),
            _ => None,
        });
        let changes = entries.flatten().filter(|entry| entry.kind == EntryKind::Membership);
        changes.map(|entry| Membership::decode(&entry.payload).expect("it was encoded"))
    }

    /// True when some replica that runs would win an election among those that run.
    pub fn somebody_can_win(&self) -> bool {
        let up = self.up();
        up.iter().any(|candidate| {
            let c = self.core(*candidate);
            let end = |n: NodeId| {
                let core = self.core(n);
                (core.term_at(core.last_index()), core.last_index())
            };
            let ballot = |voter: NodeId| {
                if !self.is_up(voter) {
                    return None;
                }
                Some(match (self.core(voter).is_amnesic(), end(*candidate) >= end(voter)) {
                    _ if self.core(voter).amnesia() == Amnesia::Votes => Ballot::Refused,
                    (true, _) => Ballot::Amnesic,
                    (false, true) => Ballot::Granted,
                    (false, false) => Ballot::Refused,
                })
            };
            c.can_lead() && tally(c.membership(), ballot) == Tally::Won
        })
    }

    /// The disk of a replica that is down loses the last `count` entries of its log.
    pub fn lose_log(&mut self, node: NodeId, count: u64) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        assert!(replica.core.is_none(), "it is down");
        let last = replica.disk.last_index();
        let kept = LogIndex(last.0.saturating_sub(count)).max(replica.disk.first_index().prev());
        replica.disk.truncate(kept.next());
        if replica.persisted.0 > kept {
            replica.persisted = (replica.disk.first_index().prev(), 0);
        }
        replica.health = Health::LogLost;
        // So much is gone that the votes may be among it. They aren't: then two could lead a term.
        // The count of the log's lives is.
        if count > 100 {
            replica.disk_hard.amnesia = Amnesia::Votes;
            replica.disk_hard.life = 0;
        }
        self.reach("log lost");
    }
}
