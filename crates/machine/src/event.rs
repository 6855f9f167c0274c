//! What a watcher is told.

use atoll_base::Revision;
use bytes::Bytes;

use crate::record::Record;

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// The revision of the change; the changes of one transaction share it.
    pub revision: Revision,
    /// The key.
    pub key: Bytes,
    /// What happened to it.
    pub kind: EventKind,
    /// What was there before.
    pub previous: Option<Record>,
}

/// What happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// It was set to this.
    Put(Record),
    /// It was deleted.
    Delete,
}

impl Event {
    /// Bytes that the event counts against limits.
    #[must_use]
    pub fn cost(&self) -> u64 {
        let value = match &self.kind {
            EventKind::Put(record) => record.value.len(),
            EventKind::Delete => 0,
        };
        let previous = self.previous.as_ref().map_or(0, |record| record.value.len());
        (self.key.len() + value + previous) as u64 + 64
    }
}
