//! Mistakes that real implementations have made, to be planted into a core at run time: each proves
//! that the random walk would have seen it. Built with the feature `planted-bugs` only.

/// One classic mistake.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Bug {
    /// A second candidate gets the same term's vote.
    VoteTwice,
}
