//! Who belongs to a group: the configuration that the last configuration entry of the log names.
//!
//! A configuration is in force as soon as it stands in the log, committed or not (thesis 4.1). A
//! change of voters passes through a *joint* configuration that holds both the members that it
//! leads to and the `outgoing` ones (thesis 4.3): every decision then needs a quorum of each half.
//!
//! Quorums are majorities unless the configuration names sizes (flexible quorums, Howard 2016).
//! Raft shares a term between candidates, so two election quorums must intersect as well: an
//! election needs more than half of the voters and, with what replication needs, more than all of
//! them. So only replication can be made cheaper, at the price of elections that need more.
//!
//! # Encoding, version 1
//! `version: u8`, then the members, then `joint: u8` and, if it is 1, the outgoing members, then
//! the priorities: count, and per node its id (varint) and priority (u8), ascending. Members are:
//! count (varint); per node, ascending, id (varint) and role (0 voter, 1 learner, 2 witness); then
//! the quorum rule: 0, or 1 and the two sizes (u8 each).

use std::collections::BTreeMap;

use atoll_base::NodeId;
use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

/// Voters in one half of a configuration (thesis 4.3), at most.
pub const VOTERS_MAX: usize = 31;

const VERSION: u8 = 1;

/// What a member does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Votes and holds data.
    Voter,
    /// Receives the log, doesn't vote (thesis 4.2.1).
    Learner,
    /// Votes and holds the log's metadata, no data.
    Witness,
}

impl Role {
    /// True for roles whose votes and acknowledgements count.
    #[must_use]
    pub fn votes(self) -> bool {
        !matches!(self, Self::Learner)
    }
}

/// One member of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Member {
    /// The member's node.
    pub node: NodeId,
    /// What it does.
    pub role: Role,
}

/// How many of the voters decide (Howard, Malkhi and Spiegelman 2016 for other sizes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum QuorumRule {
    /// More than half, for everything.
    #[default]
    Majority,
    /// Chosen sizes; see the module for which are sound.
    Sizes {
        /// Votes that elect a leader.
        election: u8,
        /// Durable copies that commit an entry, answers that confirm a read.
        replication: u8,
    },
}

impl QuorumRule {
    /// Votes out of `voters` that elect (thesis 3.4).
    #[must_use]
    pub fn election(self, voters: usize) -> usize {
        match self {
            Self::Majority => voters / 2 + 1,
            Self::Sizes { election, .. } => usize::from(election),
        }
    }

    /// Copies out of `voters` that commit (thesis 3.6.2).
    #[must_use]
    pub fn replication(self, voters: usize) -> usize {
        match self {
            Self::Majority => voters / 2 + 1,
            Self::Sizes { replication, .. } => usize::from(replication),
        }
    }

    /// True when any two elections, and any election and any commit, share a voter.
    #[must_use]
    pub fn is_sound(self, voters: usize) -> bool {
        let (e, r) = (self.election(voters), self.replication(voters));
        e <= voters && r <= voters && r > 0 && 2 * e > voters && e + r > voters
    }
}

/// A configuration: the members in force and, while a joint change is under way, those it leaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// The (new) members.
    pub members: BTreeMap<NodeId, Role>,
    /// How many of their voters decide.
    pub quorum: QuorumRule,
    /// The old members during a joint change (thesis 4.3): decisions need both quorums.
    pub outgoing: Option<BTreeMap<NodeId, Role>>,
    /// How many of the outgoing voters decide.
    pub outgoing_quorum: QuorumRule,
    /// Who should rather lead; 0 where none is named. A higher one is handed leadership when it has
    /// caught up, and campaigns earlier.
    pub priorities: BTreeMap<NodeId, u8>,
}

/// Why a configuration can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Nobody could lead it.
    #[error("membership rejected: it has no voter that holds data")]
    NoVoter,
    /// Too many voters.
    #[error("membership rejected: it has {voters} voters, limit {VOTERS_MAX}")]
    TooManyVoters {
        /// How many.
        voters: usize,
    },
    /// The quorum sizes don't intersect.
    #[error("membership rejected: quorums of {election} and {replication} of {voters} voters")]
    Quorum {
        /// How many voters there are.
        voters: usize,
        /// Votes that would elect.
        election: usize,
        /// Copies that would commit.
        replication: usize,
    },
    /// A node was named 0.
    #[error("membership rejected: node 0 is not a node")]
    NodeZero,
    /// A joint configuration was asked for: the core makes those itself.
    #[error("membership rejected: a joint configuration can't be asked for")]
    Joint,
    /// A witness has no data to serve; it must leave and come back empty.
    #[error("membership rejected: node {node} can't turn from {from:?} into {to:?}")]
    RoleChange {
        /// The node.
        node: NodeId,
        /// What it is.
        from: Role,
        /// What it would be.
        to: Role,
    },
}

impl Membership {
    /// A configuration of voters only.
    #[must_use]
    pub fn of_voters(nodes: impl IntoIterator<Item = NodeId>) -> Self {
        let members = nodes.into_iter().map(|n| (n, Role::Voter)).collect();
        Self { members, ..Self::default() }
    }

    /// This configuration with `node` in `role`.
    #[must_use]
    pub fn with(mut self, node: NodeId, role: Role) -> Self {
        self.members.insert(node, role);
        self
    }

    /// This configuration without `node`.
    #[must_use]
    pub fn without(mut self, node: NodeId) -> Self {
        self.members.remove(&node);
        self.priorities.remove(&node);
        self
    }

    /// True while a change of voters is under way (thesis 4.3).
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.outgoing.is_some()
    }

    /// What `node` does, in the new half if it is in both.
    #[must_use]
    pub fn role(&self, node: NodeId) -> Option<Role> {
        let old = || self.outgoing.as_ref().and_then(|o| o.get(&node));
        self.members.get(&node).or_else(old).copied()
    }

    /// True when `node` belongs to either half.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.role(node).is_some()
    }

    /// True when `node` votes in either half.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        let votes = |m: &BTreeMap<NodeId, Role>| m.get(&node).is_some_and(|r| r.votes());
        votes(&self.members) || self.outgoing.as_ref().is_some_and(votes)
    }

    /// True when `node` may lead: it votes and holds data, in either half.
    #[must_use]
    pub fn can_lead(&self, node: NodeId) -> bool {
        let leads = |m: &BTreeMap<NodeId, Role>| m.get(&node) == Some(&Role::Voter);
        leads(&self.members) || self.outgoing.as_ref().is_some_and(leads)
    }

    /// The nodes of both halves, ascending, once each.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        let mut all: Vec<NodeId> = self.members.keys().copied().collect();
        if let Some(outgoing) = &self.outgoing {
            all.extend(outgoing.keys().filter(|n| !self.members.contains_key(n)));
            all.sort_unstable();
        }
        all
    }

    /// `node`'s priority.
    #[must_use]
    pub fn priority(&self, node: NodeId) -> u8 {
        self.priorities.get(&node).copied().unwrap_or(0)
    }

    /// Checks that this configuration can work.
    ///
    /// # Errors
    /// [`MembershipError`] says what is wrong with it.
    pub fn check(&self) -> Result<(), MembershipError> {
        check_half(&self.members, self.quorum)?;
        match &self.outgoing {
            Some(outgoing) => check_half(outgoing, self.outgoing_quorum),
            None => Ok(()),
        }
    }

    /// Checks that this configuration can be asked for while `current` is in force.
    ///
    /// # Errors
    /// [`MembershipError`] says why not.
    pub fn check_target(&self, current: &Self) -> Result<(), MembershipError> {
        if self.is_joint() {
            return Err(MembershipError::Joint);
        }
        self.check()?;
        for (node, to) in &self.members {
            let Some(from) = current.role(*node) else { continue };
            if from != *to && (from == Role::Witness || *to == Role::Witness) {
                return Err(MembershipError::RoleChange { node: *node, from, to: *to });
            }
        }
        Ok(())
    }

    /// True when both agree on who votes and how many decide, so that no joint step is needed.
    #[must_use]
    pub fn decides_like(&self, other: &Self) -> bool {
        let voters = |m: &Self| -> Vec<(NodeId, Role)> {
            m.members.iter().filter(|(_, r)| r.votes()).map(|(n, r)| (*n, *r)).collect()
        };
        self.quorum == other.quorum && voters(self) == voters(other)
    }

    /// The bytes that a configuration entry carries.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(8 + 3 * self.members.len());
        w.u8(VERSION);
        write_half(&mut w, &self.members, self.quorum);
        match &self.outgoing {
            None => {
                w.u8(0);
            }
            Some(outgoing) => {
                w.u8(1);
                write_half(&mut w, outgoing, self.outgoing_quorum);
            }
        }
        w.varint(self.priorities.len() as u64);
        for (node, priority) in &self.priorities {
            w.varint(node.0).u8(*priority);
        }
        Bytes::from(w.finish())
    }

    /// Reads what [`Membership::encode`] wrote. What it means is not checked.
    ///
    /// # Errors
    /// [`DecodeError`] for bytes that no version known here wrote.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes.clone());
        let version = r.u8("membership version")?;
        if version != VERSION {
            let (what, value) = ("membership version", u64::from(version));
            return Err(DecodeError::Unknown { what, offset: 0, value });
        }
        let (members, quorum) = read_half(&mut r)?;
        let (outgoing, outgoing_quorum) = match r.u8("membership joint")? {
            0 => (None, QuorumRule::Majority),
            1 => {
                let (outgoing, rule) = read_half(&mut r)?;
                (Some(outgoing), rule)
            }
            v => return Err(unknown("membership joint", bytes, &r, v)),
        };
        let mut priorities = BTreeMap::new();
        for _ in 0..r.varint("membership priorities")? {
            let node = NodeId(r.varint("membership node")?);
            priorities.insert(node, r.u8("membership priority")?);
        }
        r.finish("membership")?;
        Ok(Self { members, quorum, outgoing, outgoing_quorum, priorities })
    }
}

fn check_half(members: &BTreeMap<NodeId, Role>, quorum: QuorumRule) -> Result<(), MembershipError> {
    if members.contains_key(&NodeId(0)) {
        return Err(MembershipError::NodeZero);
    }
    if !members.values().any(|r| *r == Role::Voter) {
        return Err(MembershipError::NoVoter);
    }
    let voters = members.values().filter(|r| r.votes()).count();
    if voters > VOTERS_MAX {
        return Err(MembershipError::TooManyVoters { voters });
    }
    if !quorum.is_sound(voters) {
        let (election, replication) = (quorum.election(voters), quorum.replication(voters));
        return Err(MembershipError::Quorum { voters, election, replication });
    }
    Ok(())
}

fn write_half(w: &mut Writer, members: &BTreeMap<NodeId, Role>, quorum: QuorumRule) {
    w.varint(members.len() as u64);
    for (node, role) in members {
        let role = match role {
            Role::Voter => 0,
            Role::Learner => 1,
            Role::Witness => 2,
        };
        w.varint(node.0).u8(role);
    }
    match quorum {
        QuorumRule::Majority => w.u8(0),
        QuorumRule::Sizes { election, replication } => w.u8(1).u8(election).u8(replication),
    };
}

fn read_half(r: &mut Reader) -> Result<(BTreeMap<NodeId, Role>, QuorumRule), DecodeError> {
    let mut members = BTreeMap::new();
    let offset = r.remaining();
    for _ in 0..r.varint("membership members")? {
        let node = NodeId(r.varint("membership node")?);
        let role = match r.u8("membership role")? {
            0 => Role::Voter,
            1 => Role::Learner,
            2 => Role::Witness,
            v => return Err(unknown_at("membership role", offset, v)),
        };
        members.insert(node, role);
    }
    let quorum = match r.u8("membership quorum")? {
        0 => QuorumRule::Majority,
        1 => {
            let election = r.u8("membership election quorum")?;
            QuorumRule::Sizes { election, replication: r.u8("membership replication quorum")? }
        }
        v => return Err(unknown_at("membership quorum", offset, v)),
    };
    Ok((members, quorum))
}

fn unknown(what: &'static str, input: &Bytes, r: &Reader, value: u8) -> DecodeError {
    unknown_at(what, input.len() - r.remaining(), value)
}

fn unknown_at(what: &'static str, offset: usize, value: u8) -> DecodeError {
    DecodeError::Unknown { what, offset, value: u64::from(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Membership {
        let mut m = Membership::of_voters([NodeId(1), NodeId(2), NodeId(300)])
            .with(NodeId(4), Role::Learner)
            .with(NodeId(5), Role::Witness);
        m.quorum = QuorumRule::Sizes { election: 3, replication: 2 };
        m.outgoing = Some(BTreeMap::from([(NodeId(1), Role::Voter)]));
        m.priorities.insert(NodeId(2), 9);
        m
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let simple = Membership::of_voters([NodeId(1), NodeId(2), NodeId(3)]);
        assert_eq!(simple.encode().as_ref(), [1, 3, 1, 0, 2, 0, 3, 0, 0, 0, 0]);
        let golden = [
            1, 5, 1, 0, 2, 0, 4, 1, 5, 2, 0xac, 2, 0, 1, 3, 2, // members, quorum 3 and 2
            1, 1, 1, 0, 0, // outgoing: node 1
            1, 2, 9, // priority 9 for node 2
        ];
        assert_eq!(sample().encode().as_ref(), golden);
        assert_eq!(Membership::decode(&Bytes::copy_from_slice(&golden)), Ok(sample()));
    }

    #[test]
    fn broken_bytes_are_refused() {
        let whole = sample().encode();
        for cut in 0..whole.len() {
            assert!(Membership::decode(&whole.slice(..cut)).is_err(), "cut at {cut}");
        }
        assert!(Membership::decode(&Bytes::from_static(&[2, 0, 0, 0])).is_err());
        assert!(Membership::decode(&Bytes::from_static(&[1, 1, 1, 7, 0, 0, 0])).is_err());
    }

    #[test]
    fn sound_quorums_intersect_and_nothing_else_passes() {
        for voters in 1..=9_usize {
            for election in 0..=10_u8 {
                for replication in 0..=10_u8 {
                    let rule = QuorumRule::Sizes { election, replication };
                    let (e, r) = (usize::from(election), usize::from(replication));
                    let fits = (1..=voters).contains(&e) && (1..=voters).contains(&r);
                    assert_eq!(rule.is_sound(voters), fits && 2 * e > voters && e + r > voters);
                }
            }
            assert!(QuorumRule::Majority.is_sound(voters));
        }
    }

    #[test]
    fn a_witness_never_turns_into_a_data_holder() {
        let current = sample();
        let target = Membership::of_voters([NodeId(1), NodeId(5)]);
        let err = target.check_target(&current).unwrap_err();
        assert_eq!(
            err.to_string(),
            "membership rejected: node 5 can't turn from Witness into Voter"
        );
        let none = Membership::default().with(NodeId(1), Role::Witness);
        assert_eq!(none.check(), Err(MembershipError::NoVoter));
    }
}
