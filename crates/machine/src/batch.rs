//! The payload of a log entry of kind `Commands`: a batch with the leader's time stamp. The format
//! is in `docs/formats/commands.md`.
//!
//! The stamp must not go back; a machine takes the latest it saw if it does.

use atoll_base::Timestamp;
use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

use crate::command::Command;

/// The format written by this build, and the only one it reads.
const VERSION: u8 = 1;

/// A payload is copied when more than this share of its length was kept free behind it.
const SPARE_SHARE: usize = 8;

/// Collects commands into a payload. A batch without commands is valid: it moves the log's clock
/// and collects garbage.
#[derive(Debug)]
pub struct BatchWriter {
    w: Writer,
    count: usize,
}

impl BatchWriter {
    /// An empty batch, stamped by the leader.
    #[must_use]
    pub fn new(stamp: Timestamp) -> Self {
        let mut w = Writer::with_capacity(256);
        w.u8(VERSION).varint(stamp.0);
        Self { w, count: 0 }
    }

    /// Adds a command.
    pub fn push(&mut self, command: &Command) {
        command.encode(&mut self.w);
        self.count += 1;
    }

    /// Adds the bytes of one command, as [`Command::encode`] made them. They must have been through
    /// [`Command::decode`]: a payload that can't be read stops every replica.
    pub fn push_encoded(&mut self, command: &[u8]) {
        self.w.raw(command);
        self.count += 1;
    }

    /// Commands so far.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.w.len()
    }

    /// True before the first command.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The payload, in no more memory than it needs: the log's tail keeps it for long.
    #[must_use]
    pub fn finish(self) -> Bytes {
        let payload = self.w.finish();
        if payload.capacity() - payload.len() > payload.len() / SPARE_SHARE {
            // Allocators leave a block in place that is made smaller by less than half.
            return Bytes::copy_from_slice(&payload);
        }
        Bytes::from(payload)
    }
}

/// Takes a payload apart; the commands' byte strings share it.
#[derive(Debug)]
pub struct BatchReader {
    r: Reader,
    stamp: Timestamp,
}

impl BatchReader {
    /// Reads the head of `payload`.
    ///
    /// # Errors
    /// When it is no batch of a format that this build knows.
    pub fn new(payload: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(payload);
        let version = r.u8("batch version")?;
        if version != VERSION {
            let value = u64::from(version);
            return Err(DecodeError::Unknown { what: "batch version", offset: 0, value });
        }
        let stamp = Timestamp(r.varint("batch stamp")?);
        Ok(Self { r, stamp })
    }

    /// The leader's stamp.
    #[must_use]
    pub fn stamp(&self) -> Timestamp {
        self.stamp
    }
}

impl Iterator for BatchReader {
    type Item = Result<Command, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        (self.r.remaining() > 0).then(|| Command::decode(&mut self.r))
    }
}
