//! The bytes of one version of a key, the same in `Current` and in `History`: a version that is
//! superseded moves as it is.

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{LeaseId, Revision};
use bytes::Bytes;

/// A key and its value as readers see them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; empty where only keys were asked for.
    pub value: Bytes,
    /// The revision of the key's creation.
    pub create_revision: Revision,
    /// The revision of this version.
    pub mod_revision: Revision,
    /// Changes since creation, 1 at creation.
    pub version: u64,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// Bytes that this pair counts against limits.
    #[must_use]
    pub fn cost(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64 + 32
    }
}

/// One version of a key without its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The revision of this version.
    pub mod_revision: Revision,
    /// The revision of the key's creation.
    pub create_revision: Revision,
    /// Changes since creation, 1 at creation.
    pub version: u64,
    /// The lease that it is attached to.
    pub lease: Option<LeaseId>,
    /// The value.
    pub value: Bytes,
}

/// High nibble: the format's version. Low nibble: flags.
const VERSION: u8 = 0x10;
const WITH_LEASE: u8 = 1;
const TOMBSTONE: u8 = 2;

/// What `History` holds where a key was deleted.
pub(crate) const TOMBSTONE_BYTES: &[u8] = &[VERSION | TOMBSTONE];

impl Record {
    /// Appends the record's bytes.
    pub(crate) fn encode(&self, out: Vec<u8>) -> Vec<u8> {
        let mut w = Writer::onto(out);
        w.u8(VERSION | if self.lease.is_some() { WITH_LEASE } else { 0 });
        w.varint(self.mod_revision.0);
        w.varint(self.mod_revision.0 - self.create_revision.0);
        w.varint(self.version);
        if let Some(lease) = self.lease {
            w.varint(lease.0);
        }
        w.raw(&self.value);
        w.finish()
    }

    /// `None` for a tombstone. The value shares `bytes`.
    pub(crate) fn decode(bytes: Bytes) -> Result<Option<Self>, DecodeError> {
        let mut r = Reader::new(bytes);
        let head = r.u8("record head")?;
        if head == VERSION | TOMBSTONE {
            r.finish("tombstone")?;
            return Ok(None);
        }
        if head & !WITH_LEASE != VERSION {
            let value = u64::from(head);
            return Err(DecodeError::Unknown { what: "record head", offset: 0, value });
        }
        let mod_revision = r.varint("mod revision")?;
        let age = r.varint("create revision")?;
        let create = mod_revision.checked_sub(age).ok_or(DecodeError::Unknown {
            what: "create revision",
            offset: 1,
            value: age,
        })?;
        let version = r.varint("version")?;
        let lease = match head & WITH_LEASE {
            0 => None,
            _ => Some(LeaseId(r.varint("lease")?)),
        };
        Ok(Some(Self {
            mod_revision: Revision(mod_revision),
            create_revision: Revision(create),
            version,
            lease,
            value: r.rest(),
        }))
    }

    /// The pair that this version makes with its key.
    #[must_use]
    pub fn with_key(self, key: Bytes) -> KeyValue {
        KeyValue {
            key,
            value: self.value,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            lease: self.lease,
        }
    }
}
