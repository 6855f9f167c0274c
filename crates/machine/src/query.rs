//! Ranges of keys, and what a reader asks for and gets.

use atoll_base::Revision;
use atoll_storage::Direction;
use bytes::Bytes;

use crate::record::KeyValue;

/// Where a range that starts at a key ends.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub enum KeyEnd {
    /// The key alone.
    #[default]
    Single,
    /// All keys from the start up to, and without, this one.
    Until(Bytes),
    /// All keys from the start.
    ToEnd,
}

impl KeyEnd {
    /// The end of the range of all keys that start with `prefix`, when it starts at `prefix`.
    #[must_use]
    pub fn of_prefix(prefix: &[u8]) -> Self {
        match atoll_base::ordkey::prefix_end(prefix) {
            Some(end) => Self::Until(Bytes::from(end)),
            None => Self::ToEnd,
        }
    }

    /// Whether `key` is in the range `start..self`.
    #[must_use]
    pub fn contains(&self, start: &[u8], key: &[u8]) -> bool {
        match self {
            Self::Single => key == start,
            Self::Until(end) => start <= key && key < end.as_ref(),
            Self::ToEnd => start <= key,
        }
    }
}

/// The keys of a shard: `start..end`, to the end of all keys without an `end`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KeyRange {
    /// The first key.
    pub start: Bytes,
    /// The first key behind.
    pub end: Option<Bytes>,
}

impl KeyRange {
    /// All keys.
    pub const ALL: Self = Self { start: Bytes::new(), end: None };

    /// Whether `key` is in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.start.as_ref() <= key && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether all of `start..end` is in the range.
    #[must_use]
    pub fn covers(&self, start: &[u8], end: &KeyEnd) -> bool {
        match end {
            KeyEnd::Single => self.contains(start),
            KeyEnd::Until(until) => {
                self.start.as_ref() <= start && self.end.as_ref().is_none_or(|e| until <= e)
            }
            KeyEnd::ToEnd => self.start.as_ref() <= start && self.end.is_none(),
        }
    }
}

/// What a range read asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RangeQuery {
    /// The first key.
    pub start: Bytes,
    /// Where the range ends.
    pub end: KeyEnd,
    /// From which side.
    pub direction: Direction,
    /// At most so many keys in the page.
    pub limit: Option<u64>,
    /// The page ends once it holds so many bytes; the shard's own limit if that is smaller.
    pub bytes_max: Option<u64>,
    /// The revision to read at; the current one if `None`.
    pub at: Option<Revision>,
    /// Leave the values out.
    pub keys_only: bool,
    /// Count only, return no keys.
    pub count_only: bool,
    /// Go on counting when the page is full.
    pub count_total: bool,
}

impl RangeQuery {
    /// Everything about `start..end`, forward, now.
    #[must_use]
    pub fn new(start: Bytes, end: KeyEnd) -> Self {
        Self {
            start,
            end,
            direction: Direction::Forward,
            limit: None,
            bytes_max: None,
            at: None,
            keys_only: false,
            count_only: false,
            count_total: false,
        }
    }
}

/// What a range read gets: one page.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RangePage {
    /// The pairs, in the order of the direction; values are empty with `keys_only`.
    pub kvs: Vec<KeyValue>,
    /// Where the page ended before the range did. Forward: the next page starts at this key;
    /// backward: it ends before and with it (`Until` the key's successor).
    pub more: Option<Bytes>,
    /// Keys counted.
    pub count: u64,
    /// The first key that was not counted; `None` when `count` covers the whole range.
    pub uncounted: Option<Bytes>,
    /// The revision that was read; give it as `at` to go on in the same view.
    pub revision: Revision,
}
