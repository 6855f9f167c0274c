//! Mistakes that real implementations have made, to be planted into a core at run time: each proves
//! that the random walk would have seen it. Built with the feature `planted-bugs` only.

/// One classic mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Bug {
    /// A second candidate gets the same term's vote.
    VoteTwice,
    /// A vote is answered before it is durable.
    VoteBeforeDurable,
    /// A vote for a log that is behind.
    VoteForStaleLog,
    /// Campaigns without asking first (disturbs, but breaks nothing).
    NoPreVote,
    /// A leader stays one though nobody hears it.
    NoCheckQuorum,
    /// A leader counts entries that its disk doesn't hold yet (trap R3).
    CountUnwritten,
    /// A joint configuration commits with its new half alone (trap R4).
    HalfQuorum,
    /// Entries of earlier terms commit by counting (paper, figure 8).
    CommitEarlierTerm,
    /// A heartbeat tells a commit index beyond what the follower holds.
    HeartbeatCommitsUnmatched,
    /// A follower appends without comparing the entry before.
    NoPrevCheck,
    /// A short or delayed append cuts off what follows it.
    TruncateOnShortAppend,
    /// A follower acknowledges before its write is durable (I8).
    AckUnwritten,
    /// Reads are served before the first commit of the term (trap R2).
    ReadBeforeCommit,
    /// Reads are served without a heartbeat round.
    ReadWithoutRound,
    /// Rounds share a number, so that late answers confirm them (trap R1).
    ReuseRound,
    /// Members change before the leader has committed in its term (trap R10).
    ChangeBeforeCommit,
    /// Voters change in one step, however many.
    NoJoint,
    /// A replica that lost entries votes as if it had them (trap T14).
    VoteInAmnesia,
    /// A rebuilt replica counts as whole before it has all that it acknowledged (trap T20).
    WholeTooEarly,
    /// Acknowledgements out of an earlier life of a log count in the later one.
    OldLifeCounts,
    /// A configuration stays in force when its entry is cut off (trap R8).
    KeepCutMembers,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::VoteTwice,
        Self::VoteBeforeDurable,
        Self::VoteForStaleLog,
        Self::NoPreVote,
        Self::NoCheckQuorum,
        Self::CountUnwritten,
        Self::HalfQuorum,
        Self::CommitEarlierTerm,
        Self::HeartbeatCommitsUnmatched,
        Self::NoPrevCheck,
        Self::TruncateOnShortAppend,
        Self::AckUnwritten,
        Self::ReadBeforeCommit,
        Self::ReadWithoutRound,
        Self::ReuseRound,
        Self::ChangeBeforeCommit,
        Self::NoJoint,
        Self::VoteInAmnesia,
        Self::WholeTooEarly,
        Self::OldLifeCounts,
        Self::KeepCutMembers,
    ];
}
