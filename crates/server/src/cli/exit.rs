//! How a command ends. The numbers are part of the interface; `docs/cli.md` lists them.

use std::fmt;
use std::process::ExitCode;

use atoll_client::{Code, Failure, Happened};

/// A command's end without an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// 0: it did what was asked.
    Well,
    /// 1: the key is not there.
    NotFound,
    /// 3: the transaction's conditions did not hold.
    ConditionsFailed,
    /// 7: a simulation found a defect.
    Defect,
    /// 8: a lock, permits or a lead were lost before the command under them was done.
    Lost,
    /// What the command ended with that was run under a lock.
    Command(u8),
}

impl Ended {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Well => 0,
            Self::NotFound => 1,
            Self::ConditionsFailed => 3,
            Self::Defect => 7,
            Self::Lost => 8,
            Self::Command(code) => code,
        })
    }
}

/// A command's end with an error.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The cluster refused, or cannot be reached.
    Failure(Failure),
    /// What was typed or given as input makes no sense.
    Usage(String),
    /// A file or a stream of this machine failed.
    Local(String),
}

impl Problem {
    pub(crate) fn local(what: impl fmt::Display, error: &dyn std::error::Error) -> Self {
        Self::Local(format!("{what} failed: {error}"))
    }

    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::Usage(what.into())
    }

    /// 1 not found, 2 usage, 3 refused, 4 unavailable, 5 outcome unknown, 6 this machine, 7 a
    /// defect.
    fn number(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Local(_) => 6,
            Self::Failure(f) if f.code == Code::Internal => 7,
            Self::Failure(f) if f.happened == Happened::Maybe => 5,
            Self::Failure(f) => match f.code {
                Code::NotFound => 1,
                Code::InvalidArgument => 2,
                Code::TooLarge
                | Code::AlreadyExists
                | Code::PreconditionFailed
                | Code::Compacted
                | Code::FutureRevision
                | Code::SessionExpired
                | Code::Unsupported => 3,
                Code::ReplyForgotten => 5,
                _ => 4,
            },
        }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(self.number())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(failure) => write!(f, "{failure}"),
            Self::Usage(text) | Self::Local(text) => f.write_str(text),
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_ends_with_the_number_that_the_manual_gives() {
        let number = |code| Problem::Failure(Failure::new(code, "x")).number();
        assert_eq!(number(Code::NotFound), 1);
        assert_eq!(number(Code::InvalidArgument), 2);
        assert_eq!(number(Code::PreconditionFailed), 3);
        assert_eq!(number(Code::NoLeader), 4);
        assert_eq!(number(Code::Unreachable), 4);
        assert_eq!(number(Code::DeadlineExceeded), 5);
        assert_eq!(number(Code::Internal), 7);
        let late = Failure::new(Code::DeadlineExceeded, "x").with_happened(Happened::No);
        assert_eq!(Problem::Failure(late).number(), 4);
    }
}
