//! What leases and locks count, one record of its own: a shard that has none of them has none of
//! it.

use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

const VERSION: u8 = 1;

/// Numbers that only grow, and one that says how much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counters {
    /// The last number given to a lease, to a place in a queue or to a lock delay.
    pub(crate) serial: u64,
    /// The last fencing token; every later one is larger, whatever lock it is for.
    pub(crate) fence: u64,
    /// Tokens remembered for guards of other shards' locks.
    pub(crate) marks: u64,
}

impl Counters {
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(VERSION).varint(self.serial).varint(self.fence).varint(self.marks);
        w.finish()
    }

    pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8("counters version")?;
        if version != VERSION {
            let value = u64::from(version);
            return Err(DecodeError::Unknown { what: "counters version", offset: 0, value });
        }
        let counters = Self {
            serial: r.varint("serial")?,
            fence: r.varint("fence")?,
            marks: r.varint("marks")?,
        };
        r.finish("counters")?;
        Ok(counters)
    }
}
