//! The catalog's records: what stands under which key of the keyspace `system`, and how it is
//! written down. The format is described in `docs/formats/catalog.md` and held by golden bytes.
//!
//! A key is text, so that an operator can read `atoll scan --keyspace system`; numbers in keys are
//! 16 hexadecimal digits, so that they sort. A value begins with a format version. Later versions
//! only add fields at the end: what follows the fields known here is kept and written back as it
//! was, so that an older program does not destroy what a newer one has written.

use std::str;

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{Epoch, Incarnation, KeyspaceId, NodeId, ShardId};
use atoll_raft::Role;
use bytes::Bytes;

use crate::descriptor::{Descriptor, Protocol, ReplicaMember, ShardOptions};

/// The version that this program writes.
pub const RECORD_VERSION: u8 = 1;

const LEASE_READS: u8 = 1;
const DROPPED: u8 = 2;

/// Why a record cannot be understood.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// The value's bytes are damaged, or of a kind that this program doesn't know.
    #[error("read catalog record {key} failed: {source}")]
    Value {
        /// The record's key.
        key: String,
        /// What is wrong with its value.
        #[source]
        source: DecodeError,
    },
    /// The value is older than every version or its key is malformed.
    #[error("read catalog record {key} failed: {reason}")]
    Key {
        /// The record's key.
        key: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Who this cluster is: `meta/cluster`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterRecord {
    /// Drawn at random when the cluster is made; nodes of different clusters refuse each other.
    pub cluster_id: u64,
    /// The format version that every node speaks.
    pub format: u64,
    /// Fields of later versions.
    pub unknown: Bytes,
}

/// The next free ids: `meta/next`. Ids are never used twice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NextRecord {
    /// For the next keyspace.
    pub keyspace: KeyspaceId,
    /// For the next shard.
    pub shard: ShardId,
    /// Fields of later versions.
    pub unknown: Bytes,
}

/// Where a node is reached: `node/<id>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// The node.
    pub id: NodeId,
    /// Which life of its disks.
    pub incarnation: Incarnation,
    /// Where clients reach it, `host:port`.
    pub client_address: String,
    /// Where other nodes reach it.
    pub peer_address: String,
    /// Where its console and metrics are; may be empty.
    pub http_address: String,
    /// Fields of later versions.
    pub unknown: Bytes,
}

/// What a keyspace is: `keyspace/<name>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyspaceRecord {
    /// Its name, from the key.
    pub name: String,
    /// Its id, part of every key that the engine stores.
    pub id: KeyspaceId,
    /// How its copies agree.
    pub protocol: Protocol,
    /// How many copies each shard has.
    pub replicas: u32,
    /// What holds for each of its shards.
    pub options: ShardOptions,
    /// Fields of later versions.
    pub unknown: Bytes,
}

/// A shard's descriptor: `shard/<id>`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShardRecord {
    /// What it says.
    pub descriptor: Descriptor,
    /// Fields of later versions.
    pub unknown: Bytes,
}

/// One record of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// `meta/cluster`.
    Cluster(ClusterRecord),
    /// `meta/next`.
    Next(NextRecord),
    /// `node/<id>`.
    Node(NodeRecord),
    /// `keyspace/<name>`.
    Keyspace(KeyspaceRecord),
    /// `shard/<id>`.
    Shard(ShardRecord),
}

/// What a key of the catalog names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RecordKey {
    /// `meta/cluster`.
    Cluster,
    /// `meta/next`.
    Next,
    /// `node/<id>`.
    Node(NodeId),
    /// `keyspace/<name>`.
    Keyspace(String),
    /// `shard/<id>`.
    Shard(ShardId),
}

impl RecordKey {
    /// The key's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Cluster => Bytes::from_static(b"meta/cluster"),
            Self::Next => Bytes::from_static(b"meta/next"),
            Self::Node(id) => Bytes::from(format!("node/{:016x}", id.0)),
            Self::Keyspace(name) => Bytes::from(format!("keyspace/{name}")),
            Self::Shard(id) => Bytes::from(format!("shard/{:016x}", id.0)),
        }
    }

    /// Reads a key; `None` for keys of kinds that this version doesn't know, which are to be
    /// ignored.
    ///
    /// # Errors
    /// [`RecordError::Key`] for a key of a known kind that is malformed.
    pub fn parse(key: &[u8]) -> Result<Option<Self>, RecordError> {
        let bad = |reason| RecordError::Key { key: show(key), reason };
        let Ok(text) = str::from_utf8(key) else { return Ok(None) };
        if text == "meta/cluster" {
            return Ok(Some(Self::Cluster));
        }
        if text == "meta/next" {
            return Ok(Some(Self::Next));
        }
        if let Some(name) = text.strip_prefix("keyspace/") {
            return Ok(Some(Self::Keyspace(name.to_owned())));
        }
        if let Some(id) = text.strip_prefix("node/") {
            let id = hex(id).ok_or_else(|| bad("a node's key ends with 16 hexadecimal digits"))?;
            return Ok(Some(Self::Node(NodeId(id))));
        }
        if let Some(id) = text.strip_prefix("shard/") {
            let id = hex(id).ok_or_else(|| bad("a shard's key ends with 16 hexadecimal digits"))?;
            return Ok(Some(Self::Shard(ShardId(id))));
        }
        Ok(None)
    }
}

impl Record {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> RecordKey {
        match self {
            Self::Cluster(_) => RecordKey::Cluster,
            Self::Next(_) => RecordKey::Next,
            Self::Node(r) => RecordKey::Node(r.id),
            Self::Keyspace(r) => RecordKey::Keyspace(r.name.clone()),
            Self::Shard(r) => RecordKey::Shard(r.descriptor.shard),
        }
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut w = Writer::with_capacity(64);
        w.u8(RECORD_VERSION);
        let unknown = match self {
            Self::Cluster(r) => {
                w.u64_fixed(r.cluster_id).varint(r.format);
                &r.unknown
            }
            Self::Next(r) => {
                w.varint(u64::from(r.keyspace.0)).varint(r.shard.0);
                &r.unknown
            }
            Self::Node(r) => {
                w.varint(r.incarnation.0);
                w.bytes(r.client_address.as_bytes());
                w.bytes(r.peer_address.as_bytes());
                w.bytes(r.http_address.as_bytes());
                &r.unknown
            }
            Self::Keyspace(r) => {
                w.varint(u64::from(r.id.0)).u8(r.protocol as u8).varint(u64::from(r.replicas));
                w.u8(flags(r.options, 0)).varint(r.options.history_revisions);
                &r.unknown
            }
            Self::Shard(r) => {
                write_descriptor(&mut w, &r.descriptor);
                &r.unknown
            }
        };
        w.raw(unknown);
        Bytes::from(w.finish())
    }

    /// Reads the record under `key`; `None` when the key is of a kind that this version doesn't
    /// know.
    ///
    /// # Errors
    /// [`RecordError`] naming the key and what is wrong.
    pub fn decode(key: &[u8], value: &Bytes) -> Result<Option<Self>, RecordError> {
        let Some(name) = RecordKey::parse(key)? else { return Ok(None) };
        read_record(name, value)
            .map(Some)
            .map_err(|source| RecordError::Value { key: show(key), source })
    }
}

fn read_record(key: RecordKey, value: &Bytes) -> Result<Record, DecodeError> {
    let mut r = Reader::new(value.clone());
    let version = r.u8("record version")?;
    if version == 0 {
        return Err(DecodeError::Unknown { what: "record version", offset: 0, value: 0 });
    }
    let r = &mut r;
    Ok(match key {
        RecordKey::Cluster => {
            let cluster_id = r.u64_fixed("cluster id")?;
            let format = r.varint("cluster format")?;
            Record::Cluster(ClusterRecord { cluster_id, format, unknown: rest(r)? })
        }
        RecordKey::Next => {
            let keyspace = keyspace_id(r)?;
            let shard = ShardId(r.varint("next shard")?);
            Record::Next(NextRecord { keyspace, shard, unknown: rest(r)? })
        }
        RecordKey::Node(id) => Record::Node(NodeRecord {
            id,
            incarnation: Incarnation(r.varint("node incarnation")?),
            client_address: string(r, "client address")?,
            peer_address: string(r, "peer address")?,
            http_address: string(r, "http address")?,
            unknown: rest(r)?,
        }),
        RecordKey::Keyspace(name) => {
            let id = keyspace_id(r)?;
            let protocol = protocol(r)?;
            let replicas = narrow(r, "replicas")?;
            let (options, _) = read_options(r, LEASE_READS)?;
            Record::Keyspace(KeyspaceRecord {
                name,
                id,
                protocol,
                replicas,
                options,
                unknown: rest(r)?,
            })
        }
        RecordKey::Shard(id) => {
            let descriptor = read_descriptor(r, id)?;
            Record::Shard(ShardRecord { descriptor, unknown: rest(r)? })
        }
    })
}

fn write_descriptor(w: &mut Writer, d: &Descriptor) {
    w.varint(u64::from(d.keyspace.0)).bytes(&d.start);
    match &d.end {
        None => w.u8(0),
        Some(end) => w.u8(1).bytes(end),
    };
    w.varint(d.epoch.0).u8(d.protocol as u8);
    w.u8(flags(d.options, if d.dropped { DROPPED } else { 0 })).varint(d.options.history_revisions);
    w.varint(d.members.len() as u64);
    for m in &d.members {
        w.varint(m.node.0).varint(m.incarnation.0).u8(role_number(m.role));
    }
}

fn read_descriptor(r: &mut Reader, shard: ShardId) -> Result<Descriptor, DecodeError> {
    let keyspace = keyspace_id(r)?;
    let start = r.bytes("shard start")?;
    let end = match r.u8("shard end")? {
        0 => None,
        1 => Some(r.bytes("shard end")?),
        other => return Err(unknown("shard end", u64::from(other))),
    };
    let epoch = Epoch(r.varint("shard epoch")?);
    let protocol = protocol(r)?;
    let (options, bits) = read_options(r, LEASE_READS | DROPPED)?;
    let count = r.varint("members")?;
    let mut members = Vec::new();
    for _ in 0..count {
        let node = NodeId(r.varint("member node")?);
        let incarnation = Incarnation(r.varint("member incarnation")?);
        let role = role(r.u8("member role")?)?;
        members.push(ReplicaMember { node, incarnation, role });
    }
    let dropped = bits & DROPPED != 0;
    Ok(Descriptor { shard, keyspace, start, end, epoch, members, protocol, options, dropped })
}

fn flags(options: ShardOptions, more: u8) -> u8 {
    more | if options.lease_reads { LEASE_READS } else { 0 }
}

fn read_options(r: &mut Reader, known: u8) -> Result<(ShardOptions, u8), DecodeError> {
    let bits = r.u8("flags")?;
    if bits & !known != 0 {
        return Err(unknown("flags", u64::from(bits)));
    }
    let history_revisions = r.varint("history revisions")?;
    Ok((ShardOptions { lease_reads: bits & LEASE_READS != 0, history_revisions }, bits))
}

fn role_number(role: Role) -> u8 {
    match role {
        Role::Voter => 0,
        Role::Learner => 1,
        Role::Witness => 2,
    }
}

fn role(n: u8) -> Result<Role, DecodeError> {
    match n {
        0 => Ok(Role::Voter),
        1 => Ok(Role::Learner),
        2 => Ok(Role::Witness),
        other => Err(unknown("member role", u64::from(other))),
    }
}

fn protocol(r: &mut Reader) -> Result<Protocol, DecodeError> {
    match r.u8("protocol")? {
        1 => Ok(Protocol::Raft),
        other => Err(unknown("protocol", u64::from(other))),
    }
}

fn keyspace_id(r: &mut Reader) -> Result<KeyspaceId, DecodeError> {
    narrow(r, "keyspace id").map(KeyspaceId)
}

fn narrow(r: &mut Reader, what: &'static str) -> Result<u32, DecodeError> {
    let value = r.varint(what)?;
    u32::try_from(value).map_err(|_| unknown(what, value))
}

fn string(r: &mut Reader, what: &'static str) -> Result<String, DecodeError> {
    let bytes = r.bytes(what)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| unknown(what, bytes.len() as u64))
}

fn rest(r: &mut Reader) -> Result<Bytes, DecodeError> {
    r.raw(r.remaining(), "later fields")
}

/// The reader's offset is not known to its user, so the place of a strange value is given as 0.
fn unknown(what: &'static str, value: u64) -> DecodeError {
    DecodeError::Unknown { what, offset: 0, value }
}

fn hex(text: &str) -> Option<u64> {
    let valid = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if valid { u64::from_str_radix(text, 16).ok() } else { None }
}

fn show(key: &[u8]) -> String {
    key.escape_ascii().to_string()
}
