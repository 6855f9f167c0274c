//! Installs a snapshot in place of what a replica has.

use std::ops::Bound;

use atoll_base::{KeyspaceId, LogIndex, ShardId, Term};
use atoll_storage::{Direction, Engine, Tree, WriteBatch};
use bytes::Bytes;

use super::chunk::{Body, Chunk, Part, SnapshotHead};
use super::reader::checksum_pair;
use crate::error::MachineError;
use crate::keys::{self, Scope, Span, borrowed};
use crate::query::KeyRange;
use crate::state::State;

/// Keys that one step of clearing deletes.
const CLEAR_STEP: usize = 1000;

/// Installs the chunks of one snapshot, in order. Every batch that it gives must be written before
/// the next one is asked for. An install that is given up is started again with a new writer.
pub struct SnapshotWriter {
    scope: Scope,
    has_begun: bool,
    /// What is not cleared yet, the current part last.
    to_clear: Vec<(Tree, Span)>,
    head: Option<(SnapshotHead, State)>,
    next_chunk: u64,
    pairs: u64,
    checksum: u32,
    is_complete: bool,
}

impl SnapshotWriter {
    /// Prepares to replace the state of `shard`, which holds the keys `range` of `keyspace`.
    #[must_use]
    pub fn new(shard: ShardId, keyspace: KeyspaceId, range: KeyRange) -> Self {
        let scope = Scope { shard, keyspace, range };
        let mut to_clear: Vec<_> =
            scope.parts().into_iter().map(|(_, tree, span)| (tree, span)).collect();
        to_clear.push((Tree::Meta, scope.meta_span(keys::STATE..keys::LIMITS)));
        Self {
            scope,
            has_begun: false,
            to_clear,
            head: None,
            next_chunk: 0,
            pairs: 0,
            checksum: 0,
            is_complete: false,
        }
    }

    /// The marker: from here to [`SnapshotWriter::finish`] the machine does not open (N1).
    #[must_use]
    pub fn begin(&mut self) -> WriteBatch {
        self.has_begun = true;
        let mut batch = WriteBatch::new();
        batch.put(Tree::Meta, self.scope.meta_key(keys::INSTALLING), Bytes::from_static(&[1]));
        batch
    }

    /// The next step of clearing the old data; `None` when it is cleared.
    ///
    /// # Errors
    /// When the engine fails.
    ///
    /// # Panics
    /// Before [`SnapshotWriter::begin`].
    pub fn clear(&mut self, engine: &dyn Engine) -> Result<Option<WriteBatch>, MachineError> {
        assert!(self.has_begun, "shard {}: cleared before the marker", self.scope.shard);
        let view = engine.view();
        let mut batch = WriteBatch::new();
        while let Some((tree, span)) = self.to_clear.last_mut() {
            let mut last = None;
            let room = CLEAR_STEP - batch.len();
            for pair in view.scan(*tree, borrowed(span), Direction::Forward).take(room) {
                let (key, _) = pair.map_err(|e| self.scope.engine(e))?;
                batch.delete(*tree, key.clone());
                last = Some(key);
            }
            if batch.len() >= CLEAR_STEP {
                // The next step starts behind, so that it need not go over what was just deleted.
                if let Some(last) = last {
                    span.0 = Bound::Excluded(last);
                }
                return Ok(Some(batch));
            }
            self.to_clear.pop();
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// The number of the chunk that comes next.
    #[must_use]
    pub fn next_chunk(&self) -> u64 {
        self.next_chunk
    }

    /// Whether all chunks are there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The entry that the snapshot ends with, once chunk 0 is there.
    #[must_use]
    pub fn applied(&self) -> Option<(LogIndex, Term)> {
        self.head.as_ref().map(|(_, state)| (state.applied, state.term))
    }

    /// Takes the next chunk. One that was taken already changes nothing.
    ///
    /// # Errors
    /// [`MachineError::Chunk`] for a chunk that does not belong here: fetch the snapshot again.
    ///
    /// # Panics
    /// Before everything is cleared.
    pub fn install(&mut self, chunk: &Chunk) -> Result<WriteBatch, MachineError> {
        assert!(
            self.has_begun && self.to_clear.is_empty(),
            "shard {}: installed before it was cleared",
            self.scope.shard
        );
        let (shard, number) = (self.scope.shard, chunk.number);
        let refused = |what: String| Err(MachineError::Chunk { shard, number, what });
        if chunk.shard != shard {
            return refused(format!("it is of shard {}", chunk.shard));
        }
        if number < self.next_chunk {
            return Ok(WriteBatch::new());
        }
        if number > self.next_chunk || self.is_complete {
            return refused(format!("chunk {} is next", self.next_chunk));
        }
        let mut batch = WriteBatch::new();
        match (&chunk.body, self.next_chunk) {
            (Body::Head(head), 0) => self.take_head(head)?,
            (Body::Pairs(pairs), 1..) => self.take_pairs(number, pairs, &mut batch)?,
            (Body::End { pairs, checksum }, 1..) => {
                if (*pairs, *checksum) != (self.pairs, self.checksum) {
                    let (got, sum) = (self.pairs, self.checksum);
                    return refused(format!(
                        "it says {pairs} pairs with checksum {checksum}, {got} came with {sum}"
                    ));
                }
                self.is_complete = true;
            }
            _ => return refused("head and pairs are out of order".into()),
        }
        self.next_chunk += 1;
        Ok(batch)
    }

    fn take_head(&mut self, head: &SnapshotHead) -> Result<(), MachineError> {
        let (shard, number) = (self.scope.shard, 0);
        let (keyspace, range) = (self.scope.keyspace, &self.scope.range);
        if head.keyspace != keyspace || head.range != *range {
            let what = format!(
                "it is of {:?} of keyspace {}, this is {range:?} of keyspace {keyspace}",
                head.range, head.keyspace
            );
            return Err(MachineError::Chunk { shard, number, what });
        }
        let state = State::decode(head.state.clone()).map_err(|e| self.scope.record("state", e))?;
        self.head = Some((head.clone(), state));
        Ok(())
    }

    fn take_pairs(
        &mut self,
        number: u64,
        pairs: &[(Part, Bytes, Bytes)],
        batch: &mut WriteBatch,
    ) -> Result<(), MachineError> {
        let parts = self.scope.parts();
        for (part, key, value) in pairs {
            let (_, tree, span) = &parts[*part as usize];
            let span = borrowed(span);
            if !std::ops::RangeBounds::<[u8]>::contains(&span, &key[..]) {
                let what = format!("a key of {part:?} is not the shard's");
                return Err(MachineError::Chunk { shard: self.scope.shard, number, what });
            }
            self.checksum = checksum_pair(self.checksum, *part, key, value);
            batch.put(*tree, key.clone(), value.clone());
        }
        self.pairs += pairs.len() as u64;
        Ok(())
    }

    /// The counters, and the end of the marker, in one batch. Then open the machine.
    ///
    /// # Errors
    /// [`MachineError::SnapshotUnfinished`] when chunks are missing.
    pub fn finish(self) -> Result<WriteBatch, MachineError> {
        let shard = self.scope.shard;
        let head = self.head.filter(|_| self.is_complete);
        let (head, _) = head.ok_or(MachineError::SnapshotUnfinished { shard })?;
        let mut batch = WriteBatch::new();
        batch.put(Tree::Meta, self.scope.meta_key(keys::STATE), head.state);
        batch.delete(Tree::Meta, self.scope.meta_key(keys::INSTALLING));
        Ok(batch)
    }

    /// Ends with an empty shard in place of what was cleared: how a replica that the catalog
    /// ordered away is removed.
    ///
    /// # Panics
    /// Before everything is cleared.
    #[must_use]
    pub fn finish_empty(self) -> WriteBatch {
        assert!(
            self.has_begun && self.to_clear.is_empty() && self.next_chunk == 0,
            "shard {}: removed before it was cleared",
            self.scope.shard
        );
        let mut batch = WriteBatch::new();
        batch.delete(Tree::Meta, self.scope.meta_key(keys::INSTALLING));
        batch
    }
}
