//! Reads a shard out of a view.

use std::ops::Bound;

use atoll_base::checksum::crc32c_append;
use atoll_base::{LogIndex, Revision, Term, planted};
use atoll_storage::{Direction, ReadView, Tree};
use bytes::Bytes;

use super::chunk::{Body, Chunk, Part, SnapshotHead};
use crate::error::MachineError;
use crate::keys::{self, Scope, Span, borrowed};
use crate::machine::ShardMachine;
use crate::state::State;

/// Gives a shard's state chunk by chunk; holds one view until dropped.
pub struct SnapshotReader {
    scope: Scope,
    view: Box<dyn ReadView>,
    state: State,
    state_bytes: Bytes,
    chunk_bytes_max: usize,
    number: u64,
    /// What is left of which parts, the current one last.
    left: Vec<(Part, Tree, Span)>,
    pairs: u64,
    checksum: u32,
    is_done: bool,
}

impl ShardMachine {
    /// Reads the whole state as `view` has it, in chunks of about `chunk_bytes_max`; one pair may
    /// be larger.
    ///
    /// # Errors
    /// When the view holds nothing of the shard, or can't be read.
    pub fn snapshot_chunks(
        &self,
        view: Box<dyn ReadView>,
        chunk_bytes_max: usize,
    ) -> Result<SnapshotReader, MachineError> {
        let scope = self.scope.clone();
        let state = view.get(Tree::Meta, &scope.meta_key(keys::STATE));
        let state_bytes = state
            .map_err(|e| scope.engine(e))?
            .ok_or_else(|| scope.inconsistent("nothing is applied yet, there is no snapshot"))?;
        let state = State::decode(state_bytes.clone()).map_err(|e| scope.record("state", e))?;
        let left = scope.parts().into_iter().rev().collect();
        Ok(SnapshotReader {
            scope,
            view,
            state,
            state_bytes,
            chunk_bytes_max,
            number: 0,
            left,
            pairs: 0,
            checksum: 0,
            is_done: false,
        })
    }
}

impl Scope {
    /// Everything of the shard that a snapshot carries but the counters, in the order in which it
    /// goes.
    pub(super) fn parts(&self) -> [(Part, Tree, Span); 4] {
        let (start, end) = (&self.range.start, self.range_end());
        [
            (Part::Meta, Tree::Meta, self.meta_span(keys::LIMITS..keys::INSTALLING)),
            (Part::Current, self.current(), Self::current_span(start, &end)),
            (Part::History, self.history(), Self::history_span(start, &end)),
            (Part::Coordination, Tree::Meta, self.meta_span(keys::COUNTERS..keys::FOREIGN)),
        ]
    }
}

/// Continues the checksum over all pairs of a snapshot.
pub(super) fn checksum_pair(checksum: u32, part: Part, key: &[u8], value: &[u8]) -> u32 {
    let head = [&[part as u8][..], &(key.len() as u64).to_le_bytes()].concat();
    crc32c_append(crc32c_append(crc32c_append(checksum, &head), key), value)
}

impl SnapshotReader {
    /// The last entry that the snapshot holds.
    #[must_use]
    pub fn applied(&self) -> LogIndex {
        self.state.applied
    }

    /// The term of that entry.
    #[must_use]
    pub fn applied_term(&self) -> Term {
        self.state.term
    }

    /// The shard's revision in the snapshot.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    fn next_body(&mut self) -> Result<Body, MachineError> {
        if self.number == 0 {
            return Ok(Body::Head(SnapshotHead {
                keyspace: self.scope.keyspace,
                range: self.scope.range.clone(),
                state: self.state_bytes.clone(),
            }));
        }
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        while let Some((part, tree, span)) = self.left.last_mut() {
            let mut is_full = false;
            for pair in self.view.scan(*tree, borrowed(span), Direction::Forward) {
                let (key, value) = pair.map_err(|e| self.scope.engine(e))?;
                if planted!(SessionsNotInSnapshot)
                    && *part == Part::Meta
                    && key.get(8) == Some(&keys::SESSION)
                {
                    continue;
                }
                if bytes > 0 && bytes + key.len() + value.len() > self.chunk_bytes_max {
                    is_full = true;
                    break;
                }
                bytes += key.len() + value.len();
                self.checksum = checksum_pair(self.checksum, *part, &key, &value);
                self.pairs += 1;
                pairs.push((*part, key, value));
            }
            if is_full {
                // The next chunk goes on behind the last pair of this one, if that was of this
                // part.
                if let Some((_, key, _)) = pairs.last().filter(|(last, _, _)| last == part) {
                    span.0 = Bound::Excluded(key.clone());
                }
                break;
            }
            self.left.pop();
        }
        if pairs.is_empty() {
            self.is_done = true;
            return Ok(Body::End { pairs: self.pairs, checksum: self.checksum });
        }
        Ok(Body::Pairs(pairs))
    }
}

impl Iterator for SnapshotReader {
    type Item = Result<Chunk, MachineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_done {
            return None;
        }
        let body = match self.next_body() {
            Ok(body) => body,
            Err(error) => {
                self.is_done = true;
                return Some(Err(error));
            }
        };
        let number = self.number;
        self.number += 1;
        Some(Ok(Chunk { shard: self.scope.shard, number, body }))
    }
}
