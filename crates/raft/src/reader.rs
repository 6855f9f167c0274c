//! How a core reads the log that its owner keeps.

use atoll_base::{Entry, LogIndex, Term};

/// Why an entry could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The entry was cut away; a snapshot holds what it did.
    #[error("log read failed: entry {wanted} was compacted, the first kept is {first}")]
    Compacted {
        /// The entry asked for.
        wanted: LogIndex,
        /// The first one kept.
        first: LogIndex,
    },
    /// The entry is damaged or the disk failed.
    #[error("log read failed at entry {index}: {reason}")]
    Damaged {
        /// The entry asked for.
        index: LogIndex,
        /// What the storage said.
        reason: String,
    },
}

/// The owner's log: everything that outputs handed over, durable or not (thesis 3.5; its start is
/// the last snapshot's end, thesis 5).
pub trait LogReader {
    /// The first entry kept; one past the last when none is.
    fn first_index(&self) -> LogIndex;
    /// The last entry handed over; `first_index - 1` when none is.
    fn last_index(&self) -> LogIndex;
    /// The term of the entry at `index`; also known for `first_index - 1`.
    ///
    /// # Errors
    /// [`ReadError::Compacted`] below that; [`ReadError::Damaged`] when it can't be read.
    fn term(&self, index: LogIndex) -> Result<Term, ReadError>;
    /// Appends the entries from `from` up to `to` (exclusive) to `out`, stopping after the first
    /// one that brings their cost to `bytes_max` (so at least one is given).
    ///
    /// # Errors
    /// As [`LogReader::term`].
    fn entries(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Result<(), ReadError>;
}
