//! Which keys a scan, a watch or a delete is about.

use atoll_base::ordkey::{prefix_end, successor};
use atoll_machine::KeyEnd;
use bytes::Bytes;

/// A range of keys.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Keys {
    start: Bytes,
    end: Option<Bytes>,
}

impl Keys {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// This key alone.
    #[must_use]
    pub fn one(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        let end = Some(successor(&start));
        Self { start, end }
    }

    /// Every key that begins with `prefix`.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start).map(Bytes::from);
        Self { start, end }
    }

    /// From `start` up to, and without, `end`.
    #[must_use]
    pub fn between(start: impl Into<Bytes>, end: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: Some(end.into()) }
    }

    /// From `start` to the last key.
    #[must_use]
    pub fn from(start: impl Into<Bytes>) -> Self {
        Self { start: start.into(), end: None }
    }

    /// The first key.
    #[must_use]
    pub fn start(&self) -> &Bytes {
        &self.start
    }

    /// The first key behind the range; `None`: it reaches to the last key.
    #[must_use]
    pub fn end(&self) -> Option<&Bytes> {
        self.end.as_ref()
    }

    /// Whether no key can lie in the range.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    /// The part that lies in `start..end`.
    #[must_use]
    pub(crate) fn clip(&self, start: &Bytes, end: Option<&Bytes>) -> Self {
        let start = Bytes::clone((&self.start).max(start));
        let end = match (&self.end, end) {
            (Some(a), Some(b)) => Some(Bytes::clone(a.min(b))),
            (a, b) => a.as_ref().or(b).cloned(),
        };
        Self { start, end }
    }

    pub(crate) fn key_end(&self) -> KeyEnd {
        self.end.clone().map_or(KeyEnd::ToEnd, KeyEnd::Until)
    }
}
