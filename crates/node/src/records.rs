//! What a lane itself keeps in the engine about its replicas, in `Tree::Meta`.
//!
//! Keys start with `fe`, which no shard's own records do (those start with a shard id, big endian),
//! then the shard and one letter: `d` its descriptor, `m` the configuration that its applied
//! entries made, `f` the configuration that it was founded with, `g` the epoch at which this node
//! left the group, `w` how far a witness has applied, `s` where the last installed snapshot ends.
//! Formats: `docs/formats/replica.md`.

use std::ops::Bound;

use atoll_base::codec::{Reader, Writer};
use atoll_base::ordkey::{KeyReader, KeyWriter, prefix_end};
use atoll_base::{Epoch, LogIndex, ShardId, Term};
use atoll_coord::Descriptor;
use atoll_coord::catalog::{Record, RecordKey, ShardRecord};
use atoll_raft::Membership;
use atoll_storage::{Direction, Engine, EngineError, Tree, WriteBatch};
use bytes::Bytes;

const PREFIX: u8 = 0xfe;
const DESCRIPTOR: u8 = b'd';
const MEMBERSHIP: u8 = b'm';
const FOUNDING: u8 = b'f';
const GRAVESTONE: u8 = b'g';
const GRAVESTONE_VERSION: u8 = 1;
const WITNESS: u8 = b'w';
const INSTALLED: u8 = b's';
const PLACE_VERSION: u8 = 1;

/// Why a replica's records can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The engine failed.
    #[error("replica records can't be read")]
    Engine(#[from] EngineError),
    /// A record means nothing to this build.
    #[error("replica record of shard {shard} can't be read: {reason}")]
    Damaged {
        /// Whose record.
        shard: ShardId,
        /// What is wrong with it.
        reason: String,
    },
}

fn key(shard: ShardId, letter: u8) -> Vec<u8> {
    KeyWriter::with_capacity(10).u8(PREFIX).u64(shard.0).u8(letter).finish()
}

pub(crate) fn put_descriptor(batch: &mut WriteBatch, descriptor: &Descriptor) {
    let record = ShardRecord { descriptor: descriptor.clone(), unknown: Bytes::new() };
    let value = Record::Shard(record).encode();
    batch.put(Tree::Meta, key(descriptor.shard, DESCRIPTOR), value);
}

pub(crate) fn put_membership(batch: &mut WriteBatch, shard: ShardId, encoded: &Bytes) {
    batch.put(Tree::Meta, key(shard, MEMBERSHIP), encoded.clone());
}

pub(crate) fn remove(batch: &mut WriteBatch, shard: ShardId) {
    batch.delete(Tree::Meta, key(shard, DESCRIPTOR));
    batch.delete(Tree::Meta, key(shard, MEMBERSHIP));
    remove_witness(batch, shard);
    batch.delete(Tree::Meta, key(shard, INSTALLED));
    batch.delete(Tree::Meta, key(shard, FOUNDING));
}

/// What the group was founded with stays beside later descriptions: no entry need hold it.
pub(crate) fn put_founding(batch: &mut WriteBatch, shard: ShardId, founding: &Membership) {
    batch.put(Tree::Meta, key(shard, FOUNDING), founding.encode());
}

/// Whether anything describes a replica of `shard` here.
pub(crate) fn is_described(engine: &dyn Engine, shard: ShardId) -> Result<bool, EngineError> {
    Ok(engine.get(Tree::Meta, &key(shard, DESCRIPTOR))?.is_some())
}

/// The replica is a witness that has applied everything up to this entry.
pub(crate) fn put_witness(batch: &mut WriteBatch, shard: ShardId, index: LogIndex, term: Term) {
    put_place(batch, key(shard, WITNESS), index, term);
}

/// The replica holds data now, or is gone.
pub(crate) fn remove_witness(batch: &mut WriteBatch, shard: ShardId) {
    batch.delete(Tree::Meta, key(shard, WITNESS));
}

/// How far the witness of `shard` has applied; `None` where there is none.
pub(crate) fn witness(
    engine: &dyn Engine,
    shard: ShardId,
) -> Result<Option<(LogIndex, Term)>, RecordsError> {
    place(engine, shard, WITNESS)
}

/// A snapshot that ends with this entry was installed, and its log is to begin after it.
pub(crate) fn put_installed(batch: &mut WriteBatch, shard: ShardId, index: LogIndex, term: Term) {
    put_place(batch, key(shard, INSTALLED), index, term);
}

/// Where the last snapshot that was installed ends; `None` where none was.
pub(crate) fn installed(
    engine: &dyn Engine,
    shard: ShardId,
) -> Result<Option<(LogIndex, Term)>, RecordsError> {
    place(engine, shard, INSTALLED)
}

fn put_place(batch: &mut WriteBatch, key: Vec<u8>, index: LogIndex, term: Term) {
    let mut w = Writer::with_capacity(20);
    w.u8(PLACE_VERSION).varint(index.0).varint(term.0);
    batch.put(Tree::Meta, key, Bytes::from(w.finish()));
}

/// A place in the log, recorded under `letter`.
fn place(
    engine: &dyn Engine,
    shard: ShardId,
    letter: u8,
) -> Result<Option<(LogIndex, Term)>, RecordsError> {
    let Some(bytes) = engine.get(Tree::Meta, &key(shard, letter))? else { return Ok(None) };
    let letter = char::from(letter);
    let damaged = |reason: String| RecordsError::Damaged { shard, reason };
    let mut r = Reader::new(bytes);
    let version = r.u8("version of a place").map_err(|e| damaged(e.to_string()))?;
    if version != PLACE_VERSION {
        return Err(damaged(format!("its record {letter} has version {version}")));
    }
    let index = r.varint("index of a place").map_err(|e| damaged(e.to_string()))?;
    let term = r.varint("term of a place").map_err(|e| damaged(e.to_string()))?;
    Ok(Some((LogIndex(index), Term(term))))
}

/// The descriptors of all replicas that this node has.
pub(crate) fn descriptors(engine: &dyn Engine) -> Result<Vec<Descriptor>, RecordsError> {
    let view = engine.view();
    let end = prefix_end(&[PREFIX]).expect("fe is not the last byte");
    let range = (Bound::Included(&[PREFIX][..]), Bound::Excluded(end.as_slice()));
    let mut found = Vec::new();
    for pair in view.scan(Tree::Meta, range, Direction::Forward) {
        let (name, value) = pair?;
        let mut reader = KeyReader::new(&name);
        let (_, shard, letter) = (reader.u8(), reader.u64(), reader.u8());
        if letter == Some(DESCRIPTOR) {
            let shard = ShardId(shard.unwrap_or(0));
            let damaged = |reason: String| RecordsError::Damaged { shard, reason };
            let record = Record::decode(&RecordKey::Shard(shard).to_bytes(), &value)
                .map_err(|e| damaged(e.to_string()))?;
            let Some(Record::Shard(record)) = record else {
                return Err(damaged("it is of another kind".to_owned()));
            };
            found.push(record.descriptor);
        }
    }
    Ok(found)
}

/// The configuration that the applied entries of `shard` made; `None` where none of them was one.
pub(crate) fn membership(
    engine: &dyn Engine,
    shard: ShardId,
) -> Result<Option<Membership>, RecordsError> {
    read_membership(engine, shard, MEMBERSHIP)
}

/// The configuration that the group of `shard` was founded with, where this node founded it.
pub(crate) fn founding(
    engine: &dyn Engine,
    shard: ShardId,
) -> Result<Option<Membership>, RecordsError> {
    read_membership(engine, shard, FOUNDING)
}

fn read_membership(
    engine: &dyn Engine,
    shard: ShardId,
    letter: u8,
) -> Result<Option<Membership>, RecordsError> {
    let Some(bytes) = engine.get(Tree::Meta, &key(shard, letter))? else { return Ok(None) };
    Membership::decode(&bytes)
        .map(Some)
        .map_err(|e| RecordsError::Damaged { shard, reason: e.to_string() })
}

/// The replica is gone: no description up to `epoch` brings it back.
pub(crate) fn put_gravestone(batch: &mut WriteBatch, shard: ShardId, epoch: Epoch) {
    let mut w = Writer::with_capacity(8);
    w.u8(GRAVESTONE_VERSION).varint(epoch.0);
    batch.put(Tree::Meta, key(shard, GRAVESTONE), Bytes::from(w.finish()));
}

/// The replica is back.
pub(crate) fn remove_gravestone(batch: &mut WriteBatch, shard: ShardId) {
    batch.delete(Tree::Meta, key(shard, GRAVESTONE));
}

/// The epoch at which this node left the group of `shard`.
pub(crate) fn gravestone(
    engine: &dyn Engine,
    shard: ShardId,
) -> Result<Option<Epoch>, RecordsError> {
    let Some(bytes) = engine.get(Tree::Meta, &key(shard, GRAVESTONE))? else { return Ok(None) };
    let mut r = Reader::new(bytes);
    let damaged = |reason: String| RecordsError::Damaged { shard, reason };
    let version = r.u8("gravestone version").map_err(|e| damaged(e.to_string()))?;
    if version != GRAVESTONE_VERSION {
        return Err(damaged(format!("its gravestone has version {version}")));
    }
    r.varint("gravestone epoch").map(|e| Some(Epoch(e))).map_err(|e| damaged(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_storage::MemEngine;

    #[test]
    fn a_witness_record_has_the_documented_bytes() {
        let engine = MemEngine::default();
        let shard = ShardId(7);
        let mut batch = WriteBatch::new();
        put_witness(&mut batch, shard, LogIndex(300), Term(5));
        engine.write(batch).expect("memory takes it");
        let name = [0xfe, 0, 0, 0, 0, 0, 0, 0, 7, b'w'];
        let bytes = engine.get(Tree::Meta, &name).expect("memory gives it").expect("it is there");
        assert_eq!(bytes[..], [1, 0xac, 0x02, 5]);
        let read = witness(&engine, shard).expect("it can be read");
        assert_eq!(read, Some((LogIndex(300), Term(5))));
        let mut batch = WriteBatch::new();
        remove(&mut batch, shard);
        engine.write(batch).expect("memory takes it");
        assert_eq!(witness(&engine, shard).expect("it can be read"), None);
    }
}
