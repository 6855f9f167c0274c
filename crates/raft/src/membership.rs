//! Who belongs to a group: the configuration that the last configuration entry of the log names.

use std::collections::BTreeMap;

use atoll_base::NodeId;

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

/// One member of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Member {
    /// The member's node.
    pub node: NodeId,
    /// What it does.
    pub role: Role,
}

/// A configuration: the members in force and, while a joint change is under way, those it leaves.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Membership {
    /// The (new) members.
    pub members: BTreeMap<NodeId, Role>,
    /// The old members during a joint change (thesis 4.3): decisions need both majorities.
    pub outgoing: Option<BTreeMap<NodeId, Role>>,
}
