//! A list of changes that happen together.

use bytes::Bytes;

use super::Tree;

/// One change of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EngineOp {
    /// Sets a key.
    Put {
        /// In this tree.
        tree: Tree,
        /// The key; 1 to [`KEY_BYTES_MAX`](super::KEY_BYTES_MAX) bytes.
        key: Bytes,
        /// Its new value.
        value: Bytes,
    },
    /// Removes a key, if it is there.
    Delete {
        /// In this tree.
        tree: Tree,
        /// The key.
        key: Bytes,
    },
    /// Removes every key from `from` up to `to`, exclusive. Costs a read of the range and a
    /// tombstone per key on disk engines: for small ranges only.
    DeleteRange {
        /// In this tree.
        tree: Tree,
        /// The first key of the range.
        from: Bytes,
        /// The first key after the range; `None` means to the end of the tree.
        to: Option<Bytes>,
    },
}

/// Changes that happen together or not at all, in order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct WriteBatch {
    ops: Vec<EngineOp>,
    bytes: usize,
    ranges: usize,
}

impl WriteBatch {
    /// A batch that changes nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A batch that changes nothing, with room for so many changes.
    #[must_use]
    pub fn with_capacity(changes: usize) -> Self {
        Self { ops: Vec::with_capacity(changes), ..Self::default() }
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, tree: Tree, key: impl Into<Bytes>, value: impl Into<Bytes>) -> &mut Self {
        let (key, value) = (key.into(), value.into());
        self.bytes += key.len() + value.len();
        self.ops.push(EngineOp::Put { tree, key, value });
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, tree: Tree, key: impl Into<Bytes>) -> &mut Self {
        let key = key.into();
        self.bytes += key.len();
        self.ops.push(EngineOp::Delete { tree, key });
        self
    }

    /// Removes the keys from `from` up to `to` (exclusive; `None` means to the end). See
    /// [`EngineOp::DeleteRange`] for what it costs.
    pub fn delete_range(
        &mut self,
        tree: Tree,
        from: impl Into<Bytes>,
        to: Option<Bytes>,
    ) -> &mut Self {
        let from = from.into();
        self.bytes += from.len() + to.as_ref().map_or(0, Bytes::len);
        self.ranges += 1;
        self.ops.push(EngineOp::DeleteRange { tree, from, to });
        self
    }

    /// Adds the changes of `other` after this batch's own.
    pub fn append(&mut self, other: Self) -> &mut Self {
        self.bytes += other.bytes;
        self.ranges += other.ranges;
        if self.ops.is_empty() {
            self.ops = other.ops;
        } else {
            self.ops.extend(other.ops);
        }
        self
    }

    /// The changes, in order.
    #[must_use]
    pub fn ops(&self) -> &[EngineOp] {
        &self.ops
    }

    /// The changes, in order, taken out.
    #[must_use]
    pub fn into_ops(self) -> Vec<EngineOp> {
        self.ops
    }

    /// Bytes of all keys and values.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        self.bytes
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// True when nothing would change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// True when some change is a range delete.
    #[must_use]
    pub fn has_ranges(&self) -> bool {
        self.ranges > 0
    }

    /// Takes every change out and keeps the room for the next ones.
    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes = 0;
        self.ranges = 0;
    }
}
