//! The one shape of a refusal: did it happen, may I retry, where next.
//!
//! Every error that reaches a client is a [`Failure`]. gRPC statuses, etcd's error strings and
//! Redis' error prefixes are translations of it, made at the gateways.

use std::fmt;
use std::time::Duration;

use crate::id::NodeId;

/// Whether the refused operation took effect.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Happened {
    /// It had no effect and never will.
    No,
    /// It may have had its effect, or may still have it. The same idempotency key will tell.
    Maybe,
    /// It had its effect; only the answer could not be given.
    Yes,
}

/// Whether asking again makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Retry {
    /// At once, perhaps at another node.
    Now,
    /// Not before this long from now.
    After(Duration),
    /// The same request will be refused again.
    Never,
}

macro_rules! codes {
    ($(
        $(#[$doc:meta])*
        $name:ident = $n:literal, $text:literal, $happened:ident, $retry:expr;
    )*) => {
        /// A stable code. Numbers and names are part of the API: never reuse one.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Code { $($(#[$doc])* $name = $n,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code's name as clients see it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// The code with this number, if there is one.
            #[must_use]
            pub fn from_u16(n: u16) -> Option<Self> {
                match n { $($n => Some(Self::$name),)* _ => None }
            }

            fn answers(self) -> (Happened, Retry) {
                match self { $(Self::$name => (Happened::$happened, $retry),)* }
            }
        }
    };
}

const SOON: Retry = Retry::After(Duration::from_millis(20));
const LATER: Retry = Retry::After(Duration::from_millis(500));

codes! {
    /// The request is malformed.
    InvalidArgument = 1, "invalid_argument", No, Retry::Never;
    /// A key, value, batch or frame is over its limit.
    TooLarge = 2, "too_large", No, Retry::Never;
    /// The keyspace, lease or other named thing does not exist.
    NotFound = 3, "not_found", No, Retry::Never;
    /// The named thing exists already.
    AlreadyExists = 4, "already_exists", No, Retry::Never;
    /// A guard or precondition does not hold.
    PreconditionFailed = 5, "precondition_failed", No, Retry::Never;
    /// The revision asked for is no longer kept.
    Compacted = 6, "compacted", No, Retry::Never;
    /// The revision asked for lies in the future.
    FutureRevision = 7, "future_revision", No, Retry::Never;
    /// This idempotency key is older than what the shard still remembers.
    SessionExpired = 8, "session_expired", Maybe, Retry::Never;
    /// The operation is not offered by this keyspace's protocol.
    Unsupported = 9, "unsupported", No, Retry::Never;
    /// This replica does not lead the shard; a hint may name who does.
    NotLeader = 20, "not_leader", No, Retry::Now;
    /// The request's epoch is not the shard's, or the key is not in its range: fetch the shard map.
    StaleEpoch = 21, "stale_epoch", No, Retry::Now;
    /// The shard has no leader that this node knows of.
    NoLeader = 22, "no_leader", No, SOON;
    /// A queue, window or rate limit is full.
    Overloaded = 23, "overloaded", No, SOON;
    /// The disk is full: writes are refused, reads are served.
    DiskFull = 24, "disk_full", No, LATER;
    /// The replica is quarantined: its data failed a check.
    Damaged = 25, "damaged", No, LATER;
    /// The node is starting or stopping.
    ShuttingDown = 26, "shutting_down", No, SOON;
    /// There is no connection to the node; the request was not sent.
    Unreachable = 27, "unreachable", No, SOON;
    /// Accepted, but leadership or the connection was lost before the outcome was known.
    Indeterminate = 40, "indeterminate", Maybe, Retry::Now;
    /// The deadline passed before the outcome was known.
    DeadlineExceeded = 41, "deadline_exceeded", Maybe, Retry::Now;
    /// Applied, but the reply is no longer kept.
    ReplyForgotten = 42, "reply_forgotten", Yes, Retry::Never;
    /// A defect in Atoll. The message says where.
    Internal = 60, "internal", Maybe, Retry::Never;
}

/// A refusal with its three answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What kind of refusal, stable across versions.
    pub code: Code,
    /// Did it happen?
    pub happened: Happened,
    /// May I ask again?
    pub retry: Retry,
    /// Who is likely to know better.
    pub leader: Option<NodeId>,
    /// For people: lower case, with ids, both values and the limit, no final dot.
    pub message: String,
}

impl Failure {
    /// A failure with the answers that its code usually has.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let (happened, retry) = code.answers();
        Self { code, happened, retry, leader: None, message: message.into() }
    }

    /// The same failure, naming the node to ask instead.
    #[must_use]
    pub fn with_leader(mut self, leader: Option<NodeId>) -> Self {
        self.leader = leader;
        self
    }

    /// The same failure with another answer to "did it happen".
    #[must_use]
    pub fn with_happened(mut self, happened: Happened) -> Self {
        self.happened = happened;
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let happened = match self.happened {
            Happened::No => "no",
            Happened::Maybe => "maybe",
            Happened::Yes => "yes",
        };
        write!(f, "{} (code {}; happened: {happened}; retry: ", self.message, self.code.name())?;
        match self.retry {
            Retry::Now => write!(f, "now")?,
            Retry::After(d) => write!(f, "after {} ms", d.as_millis())?,
            Retry::Never => write!(f, "never")?,
        }
        match self.leader {
            Some(node) => write!(f, "; ask node {node})"),
            None => write!(f, ")"),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_keeps_its_number_and_has_its_own_name() {
        let mut names: Vec<&str> = Code::ALL.iter().map(|c| c.name()).collect();
        for code in Code::ALL {
            assert_eq!(Code::from_u16(*code as u16), Some(*code));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }

    #[test]
    fn a_failure_gives_its_three_answers() {
        let f =
            Failure::new(Code::NotLeader, "shard 7 is led elsewhere").with_leader(Some(NodeId(2)));
        assert_eq!(
            f.to_string(),
            "shard 7 is led elsewhere (code not_leader; happened: no; retry: now; ask node 2)"
        );
    }
}
