//! A shard's log as the core reads it.

use atoll_base::{Entry, LogIndex, Term};
use atoll_raft::{LogReader, ReadError};
use atoll_storage::{LogError, ShardLog};

/// Lets a Raft core read a [`ShardLog`] without either crate knowing the other.
pub(crate) struct LogView<'a>(pub(crate) &'a ShardLog);

fn translate(error: &LogError, wanted: LogIndex, first: LogIndex) -> ReadError {
    if wanted < first {
        ReadError::Compacted { wanted, first }
    } else {
        ReadError::Damaged { index: wanted, reason: error.to_string() }
    }
}

impl LogReader for LogView<'_> {
    fn first_index(&self) -> LogIndex {
        self.0.first_index()
    }

    fn last_index(&self) -> LogIndex {
        self.0.last_index()
    }

    fn term(&self, index: LogIndex) -> Result<Term, ReadError> {
        let first = self.0.first_index();
        self.0.term(index).ok_or_else(|| match index < first {
            true => ReadError::Compacted { wanted: index, first },
            false => ReadError::Damaged {
                index,
                reason: format!("the log ends at {}", self.0.last_index()),
            },
        })
    }

    fn entries(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Result<(), ReadError> {
        self.0
            .entries(from, to, bytes_max, out)
            .map_err(|e| translate(&e, from, self.0.first_index()))
    }
}
