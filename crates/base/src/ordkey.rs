//! Keys whose byte order is the order of what they say.
//!
//! A key is a sequence of parts. Integers are big endian. A byte string that something follows is
//! escaped: `00` becomes `00 ff`, and `00 01` ends it, so that `a` sorts before `a\0` and before
//! `ab` whatever comes next. The last part of a key may be a plain tail.

use std::borrow::Cow;

use bytes::Bytes;

/// Builds an ordered key.
#[derive(Default, Debug, Clone)]
pub struct KeyWriter {
    out: Vec<u8>,
}

impl KeyWriter {
    /// An empty key with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// Writes behind what `out` holds.
    #[must_use]
    pub fn onto(out: Vec<u8>) -> Self {
        Self { out }
    }

    /// One byte, usually a tag that parts key spaces from each other.
    #[must_use]
    pub fn u8(mut self, v: u8) -> Self {
        self.out.push(v);
        self
    }

    /// Four bytes, ascending.
    #[must_use]
    pub fn u32(mut self, v: u32) -> Self {
        self.out.extend_from_slice(&v.to_be_bytes());
        self
    }

    /// Eight bytes, ascending.
    #[must_use]
    pub fn u64(mut self, v: u64) -> Self {
        self.out.extend_from_slice(&v.to_be_bytes());
        self
    }

    /// Eight bytes, descending: larger numbers sort first.
    #[must_use]
    pub fn u64_desc(self, v: u64) -> Self {
        self.u64(!v)
    }

    /// A byte string that other parts may follow.
    #[must_use]
    pub fn string(mut self, v: &[u8]) -> Self {
        let mut parts = v.split(|byte| *byte == 0);
        self.out.extend_from_slice(parts.next().unwrap_or_default());
        for part in parts {
            self.out.extend_from_slice(&[0, 0xff]);
            self.out.extend_from_slice(part);
        }
        self.out.extend_from_slice(&[0, 1]);
        self
    }

    /// The last part, as it is.
    #[must_use]
    pub fn tail(mut self, v: &[u8]) -> Vec<u8> {
        self.out.extend_from_slice(v);
        self.out
    }

    /// The finished key.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Takes an ordered key apart, front first. Every method returns `None` when the bytes do not hold
/// such a part.
#[derive(Clone, Copy, Debug)]
pub struct KeyReader<'a> {
    rest: &'a [u8],
}

impl<'a> KeyReader<'a> {
    /// Reads `key` from its start.
    #[must_use]
    pub fn new(key: &'a [u8]) -> Self {
        Self { rest: key }
    }

    /// One byte.
    pub fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Four bytes, ascending.
    pub fn u32(&mut self) -> Option<u32> {
        let (word, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(u32::from_be_bytes(*word))
    }

    /// Eight bytes, ascending.
    pub fn u64(&mut self) -> Option<u64> {
        let (word, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_be_bytes(*word))
    }

    /// Eight bytes, descending.
    pub fn u64_desc(&mut self) -> Option<u64> {
        self.u64().map(|v| !v)
    }

    /// An escaped byte string; copied only where it holds zeros.
    pub fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        let plain = self.until_zero()?;
        let mut mark = self.u8()?;
        if mark == 1 {
            return Some(Cow::Borrowed(plain));
        }
        let mut out = plain.to_vec();
        while mark == 0xff {
            out.push(0);
            out.extend_from_slice(self.until_zero()?);
            mark = self.u8()?;
        }
        (mark == 1).then_some(Cow::Owned(out))
    }

    /// What stands before the next zero, which is taken too.
    fn until_zero(&mut self) -> Option<&'a [u8]> {
        let zero = self.rest.iter().position(|byte| *byte == 0)?;
        let plain = &self.rest[..zero];
        self.rest = &self.rest[zero + 1..];
        Some(plain)
    }

    /// Everything that is left.
    #[must_use]
    pub fn tail(self) -> &'a [u8] {
        self.rest
    }
}

/// The smallest key after `key`.
#[must_use]
pub fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The smallest key greater than every key that starts with `prefix`, or `None` when there is none
/// (the prefix is empty or all `ff`).
#[must_use]
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|b| *b != 0xff)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn nothing_lies_between_a_key_and_its_successor() {
        assert_eq!(successor(b""), [0][..]);
        assert_eq!(successor(b"a"), b"a\0"[..]);
        assert!(b"a"[..] < successor(b"a")[..] && successor(b"a") < b"a\x01"[..]);
    }

    fn encode(s: &[u8], n: u64) -> Vec<u8> {
        KeyWriter::default().string(s).u64_desc(n).finish()
    }

    #[test]
    fn bytes_sort_as_the_values_do() {
        let mut rng = Rng::new(1);
        let mut random = || {
            let len = rng.below(4) as usize;
            let s: Vec<u8> = (0..len).map(|_| *rng.pick(&[0, 1, 2, 0xfe, 0xff]).unwrap()).collect();
            (s, rng.below(3))
        };
        for _ in 0..20_000 {
            let (a, b) = (random(), random());
            let values = (&a.0, std::cmp::Reverse(a.1)).cmp(&(&b.0, std::cmp::Reverse(b.1)));
            assert_eq!(encode(&a.0, a.1).cmp(&encode(&b.0, b.1)), values, "{a:?} {b:?}");
            let bytes = encode(&a.0, a.1);
            let mut r = KeyReader::new(&bytes);
            assert_eq!((r.string(), r.u64_desc()), (Some(a.0.into()), Some(a.1)));
            assert!(r.tail().is_empty());
        }
    }

    #[test]
    fn prefix_end_is_the_next_prefix() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xff]), None);
        assert_eq!(prefix_end(b""), None);
    }
}
