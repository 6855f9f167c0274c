//! The one place where quorums are counted, over the configuration in force (trap R4): both halves
//! of a joint one must agree (thesis 4.3).
//!
//! Elections need the election quorum; everything that a later leader must not contradict (commits,
//! confirmed reads, leases, check-quorum) needs the replication quorum, which meets every election.

use std::collections::BTreeMap;

use atoll_base::{LogIndex, NodeId};

use crate::membership::{Membership, QuorumRule, Role, VOTERS_MAX};

/// A voter's answer to a candidate (thesis 3.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Ballot {
    /// No.
    Refused,
    /// Yes, and the candidate's log is at least as current as all that this voter acknowledged.
    Granted,
    /// Yes, from a voter that has forgotten a part of what it acknowledged (`amnesia`): it keeps
    /// others from winning the term, and says nothing about the candidate's log.
    Amnesic,
}

impl Ballot {
    /// True for both kinds of yes.
    #[must_use]
    pub fn is_yes(self) -> bool {
        self != Self::Refused
    }
}

/// What a replica may have forgotten of its promises.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub enum Amnesia {
    /// Nothing.
    #[default]
    None,
    /// Entries that it acknowledged. Its term and vote are what they were.
    Entries,
    /// Entries, and whom it voted for.
    Votes,
}

/// How an election stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tally {
    /// Enough votes (thesis 3.4).
    Won,
    /// Enough can't come any more.
    Lost,
    /// Open.
    Pending,
}

fn halves(m: &Membership) -> impl Iterator<Item = (&BTreeMap<NodeId, Role>, QuorumRule)> {
    let outgoing = m.outgoing.as_ref().map(|o| (o, m.outgoing_quorum));
    std::iter::once((&m.members, m.quorum)).chain(outgoing)
}

fn voters(half: &BTreeMap<NodeId, Role>) -> impl Iterator<Item = NodeId> {
    half.iter().filter(|(_, role)| role.votes()).map(|(node, _)| *node)
}

/// The largest index that a replication quorum of each half has reached, one voter with data among
/// it; `of` says who reached what (thesis 3.6.2, 4.3).
#[must_use]
pub fn reached(m: &Membership, of: impl Fn(NodeId) -> LogIndex) -> LogIndex {
    // Witnesses can be a quorum by themselves where the leader is no longer a member.
    let mut result = reached_with_data(m, &of);
    for (half, rule) in halves(m) {
        let mut sorted = [LogIndex::ZERO; VOTERS_MAX];
        let mut count = 0;
        for node in voters(half).take(VOTERS_MAX) {
            sorted[count] = of(node);
            count += 1;
        }
        sorted[..count].sort_unstable_by(|a, b| b.cmp(a));
        let needed = rule.replication(count);
        // A half that can't decide decides nothing.
        let half_result =
            if needed == 0 || needed > count { LogIndex::ZERO } else { sorted[needed - 1] };
        result = result.min(half_result);
    }
    result
}

/// The largest index that a voter with data has reached, in each half.
#[must_use]
pub fn reached_with_data(m: &Membership, of: impl Fn(NodeId) -> LogIndex) -> LogIndex {
    let furthest = |half: &BTreeMap<NodeId, Role>| {
        let data = half.iter().filter(|(_, role)| **role == Role::Voter);
        data.map(|(node, _)| of(*node)).max().unwrap_or_default()
    };
    halves(m).map(|(half, _)| furthest(half)).min().unwrap_or_default()
}

/// True when a replication quorum of each half does what `of` says (thesis 4.3).
#[must_use]
pub fn replicates(m: &Membership, of: impl Fn(NodeId) -> bool) -> bool {
    halves(m).all(|(half, rule)| {
        let (mut count, mut yes) = (0, 0);
        for node in voters(half) {
            count += 1;
            yes += usize::from(of(node));
        }
        count > 0 && yes >= rule.replication(count)
    })
}

/// How an election stands, given each voter's ballot (`None` while it said nothing).
///
/// In each half an election quorum must say yes, and so many of them with their memory whole that
/// one of those is in every replication quorum: more than `voters - replication`. With no amnesia
/// the first implies the second, since the two quorums intersect.
#[must_use]
pub fn tally(m: &Membership, of: impl Fn(NodeId) -> Option<Ballot>) -> Tally {
    let mut result = Tally::Won;
    for (half, rule) in halves(m) {
        let (mut count, mut yes, mut amnesic, mut no) = (0, 0, 0, 0);
        for node in voters(half) {
            count += 1;
            match of(node) {
                Some(Ballot::Granted) => yes += 1,
                Some(Ballot::Amnesic) => amnesic += 1,
                Some(Ballot::Refused) => no += 1,
                None => {}
            }
        }
        let (needed, copies) = (rule.election(count), rule.replication(count));
        if count == 0 || count - no < needed || count - no - amnesic + copies <= count {
            return Tally::Lost;
        }
        if yes + amnesic < needed || yes + copies <= count {
            result = Tally::Pending;
        }
    }
    result
}
