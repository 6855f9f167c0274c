//! A plain binary codec for what Atoll persists and replicates: varints, fixed words,
//! length-prefixed bytes. It has no schema; every format that uses it starts with a version byte
//! and has a document and a golden test.
//!
//! Varints are LEB128: seven bits a byte, low first, at most ten bytes, shortest form only, so that
//! a value has one encoding.

use bytes::{Buf, Bytes};

/// Why bytes could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("decode {what} failed: {needed} more bytes needed at offset {offset}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where, from the start of the input.
        offset: usize,
        /// How many bytes are missing.
        needed: usize,
    },
    /// The bytes are there but mean nothing.
    #[error("decode {what} failed: value {value} at offset {offset} is not known")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// Where, from the start of the input.
        offset: usize,
        /// What stood there.
        value: u64,
    },
    /// The value ended before the bytes did.
    #[error("decode {what} failed: {extra} bytes left over")]
    TrailingBytes {
        /// What was being read.
        what: &'static str,
        /// How many bytes are left.
        extra: usize,
    },
}

/// Appends values to a byte vector.
#[derive(Default, Debug)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty writer with room for `capacity` bytes.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { out: Vec::with_capacity(capacity) }
    }

    /// Writes behind what `out` holds.
    #[must_use]
    pub fn onto(out: Vec<u8>) -> Self {
        Self { out }
    }

    /// One byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.out.push(v);
        self
    }

    /// Four bytes, little endian.
    pub fn u32_fixed(&mut self, v: u32) -> &mut Self {
        self.out.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Eight bytes, little endian.
    pub fn u64_fixed(&mut self, v: u64) -> &mut Self {
        self.out.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// One to ten bytes, LEB128.
    pub fn varint(&mut self, mut v: u64) -> &mut Self {
        while v >= 0x80 {
            self.out.push((v as u8) | 0x80);
            v >>= 7;
        }
        self.out.push(v as u8);
        self
    }

    /// A length and that many bytes.
    pub fn bytes(&mut self, v: &[u8]) -> &mut Self {
        self.varint(v.len() as u64);
        self.out.extend_from_slice(v);
        self
    }

    /// Bytes without a length.
    pub fn raw(&mut self, v: &[u8]) -> &mut Self {
        self.out.extend_from_slice(v);
        self
    }

    /// Bytes written so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// True before anything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }

    /// What was written.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Takes values off the front of shared bytes; byte strings come out without a copy.
#[derive(Clone, Debug)]
pub struct Reader {
    input: Bytes,
    at: usize,
}

impl Reader {
    /// Reads from the start of `input`.
    #[must_use]
    pub fn new(input: Bytes) -> Self {
        Self { input, at: 0 }
    }

    /// Bytes not yet read.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.input.len() - self.at
    }

    fn take(&mut self, n: usize, what: &'static str) -> Result<usize, DecodeError> {
        if self.remaining() < n {
            let needed = n - self.remaining();
            return Err(DecodeError::Truncated { what, offset: self.at, needed });
        }
        self.at += n;
        Ok(self.at - n)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] at the end of the input.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let at = self.take(1, what)?;
        Ok(self.input[at])
    }

    /// Four bytes, little endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] near the end of the input.
    pub fn u32_fixed(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        let at = self.take(4, what)?;
        let mut word = [0; 4];
        word.copy_from_slice(&self.input[at..at + 4]);
        Ok(u32::from_le_bytes(word))
    }

    /// Eight bytes, little endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] near the end of the input.
    pub fn u64_fixed(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let at = self.take(8, what)?;
        let mut word = [0; 8];
        word.copy_from_slice(&self.input[at..at + 8]);
        Ok(u64::from_le_bytes(word))
    }

    /// One to ten bytes, LEB128, shortest form.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or [`DecodeError::Unknown`] for a longer form than needed or a
    /// value over 64 bits.
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let offset = self.at;
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && byte > 1 {
                return Err(DecodeError::Unknown { what, offset, value: u64::from(byte) });
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(DecodeError::Unknown { what, offset, value });
                }
                return Ok(value);
            }
        }
        Err(DecodeError::Unknown { what, offset, value })
    }

    /// All that is left, which shares the input and ends the reading.
    #[must_use]
    pub fn rest(self) -> Bytes {
        let Self { mut input, at } = self;
        input.advance(at);
        input
    }

    /// A length and that many bytes, shared with the input.
    ///
    /// # Errors
    /// As [`Reader::varint`], and [`DecodeError::Truncated`] when the length says more than is
    /// there.
    pub fn bytes(&mut self, what: &'static str) -> Result<Bytes, DecodeError> {
        let len = self.varint(what)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::Unknown {
            what,
            offset: self.at,
            value: len,
        })?;
        let at = self.take(len, what)?;
        Ok(self.input.slice(at..at + len))
    }

    /// `n` bytes without a length, shared with the input.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] when fewer are left.
    pub fn raw(&mut self, n: usize, what: &'static str) -> Result<Bytes, DecodeError> {
        let at = self.take(n, what)?;
        Ok(self.input.slice(at..at + n))
    }

    /// Fails unless everything was read.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`].
    pub fn finish(&self, what: &'static str) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            extra => Err(DecodeError::TrailingBytes { what, extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_round_trip() {
        let mut w = Writer::default();
        for v in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            w.varint(v);
        }
        w.u8(9).u32_fixed(7).u64_fixed(8).bytes(b"abc").raw(b"z");
        let mut r = Reader::new(Bytes::from(w.finish()));
        for v in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(r.varint("v"), Ok(v));
        }
        assert_eq!(r.u8("b"), Ok(9));
        assert_eq!(r.u32_fixed("w"), Ok(7));
        assert_eq!(r.u64_fixed("d"), Ok(8));
        assert_eq!(r.bytes("s").unwrap(), "abc");
        assert_eq!(r.clone().rest(), "z");
        assert_eq!(r.raw(1, "z").unwrap(), "z");
        assert_eq!(r.clone().rest(), "");
        assert_eq!(r.finish("all"), Ok(()));
    }

    #[test]
    fn broken_bytes_are_refused_with_their_place() {
        let mut r = Reader::new(Bytes::from_static(&[5, 1, 2]));
        assert_eq!(
            r.bytes("name"),
            Err(DecodeError::Truncated { what: "name", offset: 1, needed: 3 })
        );
        let long = Bytes::from_static(&[0x80, 0x00]);
        assert!(matches!(Reader::new(long).varint("n"), Err(DecodeError::Unknown { .. })));
        let big = Bytes::from_static(&[0xff; 11]);
        assert!(matches!(Reader::new(big).varint("n"), Err(DecodeError::Unknown { .. })));
    }
}
