//! The chunks of a snapshot as they came, kept in the engine until the last one is here.
//!
//! A replica gives up the state that it has only for one that it can complete by itself: whatever
//! becomes of the sender after the last chunk, and however often power is lost, what is spooled is
//! installed. The price is room on the disk for the snapshot twice while it is installed.
//!
//! Keys in `Tree::Meta` start with `fd`, then the shard; the number of the chunk follows, or
//! nothing for the record that says the spool is whole. Engine batches survive a crash as a prefix,
//! so that record is there only when every chunk is. Formats: `docs/formats/replica.md`.

use atoll_base::codec::{Reader, Writer};
use atoll_base::ordkey::KeyWriter;
use atoll_base::{LogIndex, ShardId, Term};
use atoll_raft::Membership;
use atoll_storage::{Engine, EngineError, Tree, WriteBatch};
use bytes::Bytes;

use crate::records::RecordsError;

const PREFIX: u8 = 0xfd;
const VERSION: u8 = 1;

/// A snapshot of which every chunk is here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Spool {
    /// The entry that the snapshot ends with.
    pub(crate) index: LogIndex,
    pub(crate) term: Term,
    /// The configuration there.
    pub(crate) membership: Membership,
    /// How many chunks it has; a witness needs none.
    pub(crate) chunks: u64,
}

fn whole_key(shard: ShardId) -> Vec<u8> {
    KeyWriter::with_capacity(9).u8(PREFIX).u64(shard.0).finish()
}

fn chunk_key(shard: ShardId, chunk: u64) -> Vec<u8> {
    KeyWriter::with_capacity(17).u8(PREFIX).u64(shard.0).u64(chunk).finish()
}

/// Keeps a chunk.
pub(crate) fn put_chunk(batch: &mut WriteBatch, shard: ShardId, chunk: u64, data: Bytes) {
    batch.put(Tree::Meta, chunk_key(shard, chunk), data);
}

/// A chunk as it came; `None` where it did not.
pub(crate) fn chunk(
    engine: &dyn Engine,
    shard: ShardId,
    chunk: u64,
) -> Result<Option<Bytes>, EngineError> {
    engine.get(Tree::Meta, &chunk_key(shard, chunk))
}

/// Says that all chunks are here.
pub(crate) fn put_whole(batch: &mut WriteBatch, shard: ShardId, spool: &Spool) {
    let membership = spool.membership.encode();
    let mut w = Writer::with_capacity(32 + membership.len());
    w.u8(VERSION).varint(spool.index.0).varint(spool.term.0).varint(spool.chunks);
    w.bytes(&membership);
    batch.put(Tree::Meta, whole_key(shard), Bytes::from(w.finish()));
}

/// What is spooled of `shard`, where all of it is.
pub(crate) fn whole(engine: &dyn Engine, shard: ShardId) -> Result<Option<Spool>, RecordsError> {
    let Some(bytes) = engine.get(Tree::Meta, &whole_key(shard))? else { return Ok(None) };
    let damaged = |reason: String| RecordsError::Damaged { shard, reason };
    let mut r = Reader::new(bytes);
    let mut read = || -> Result<(u8, u64, u64, u64, Bytes), atoll_base::codec::DecodeError> {
        let version = r.u8("version of a spool")?;
        let (index, term) = (r.varint("index of a spool")?, r.varint("term of a spool")?);
        Ok((version, index, term, r.varint("chunks of a spool")?, r.bytes("configuration")?))
    };
    let (version, index, term, chunks, membership) = read().map_err(|e| damaged(e.to_string()))?;
    if version != VERSION {
        return Err(damaged(format!("its spool has version {version}")));
    }
    let membership = Membership::decode(&membership).map_err(|e| damaged(e.to_string()))?;
    Ok(Some(Spool { index: LogIndex(index), term: Term(term), membership, chunks }))
}

/// Forgets all that there is of a spool, if there is any.
pub(crate) fn forget(engine: &dyn Engine, batch: &mut WriteBatch, shard: ShardId) {
    // What can't be read takes room until the keyspace goes; nobody takes it for whole.
    let chunks = count(engine, shard).unwrap_or(0);
    if chunks > 0 || !matches!(engine.get(Tree::Meta, &whole_key(shard)), Ok(None)) {
        remove(batch, shard, chunks);
    }
}

/// Forgets the first `chunks` chunks, and that they were all.
pub(crate) fn remove(batch: &mut WriteBatch, shard: ShardId, chunks: u64) {
    batch.delete(Tree::Meta, whole_key(shard));
    for chunk in 0..chunks {
        batch.delete(Tree::Meta, chunk_key(shard, chunk));
    }
}

/// How many chunks there are, of a spool that may not be whole. They came one after the other, so
/// a few looks find the end.
pub(crate) fn count(engine: &dyn Engine, shard: ShardId) -> Result<u64, EngineError> {
    let is_there = |n: u64| chunk(engine, shard, n).map(|found| found.is_some());
    let (mut there, mut gone) = (0, 1);
    while is_there(gone - 1)? {
        (there, gone) = (gone, gone * 2);
    }
    while gone - there > 1 {
        let middle = there + (gone - there) / 2;
        match is_there(middle - 1)? {
            true => there = middle,
            false => gone = middle,
        }
    }
    Ok(there)
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_base::NodeId;
    use atoll_storage::MemEngine;

    const S: ShardId = ShardId(7);

    fn write(engine: &MemEngine, fill: impl FnOnce(&mut WriteBatch)) {
        let mut batch = WriteBatch::new();
        fill(&mut batch);
        engine.write(batch).expect("memory takes it");
    }

    #[test]
    fn chunks_are_counted_and_removed() {
        let engine = MemEngine::default();
        for n in 0..21 {
            assert_eq!(count(&engine, S).expect("memory"), n);
            write(&engine, |b| put_chunk(b, S, n, Bytes::from_static(b"data")));
        }
        assert_eq!(count(&engine, ShardId(8)).expect("memory"), 0);
        write(&engine, |b| remove(b, S, 21));
        assert_eq!(count(&engine, S).expect("memory"), 0);
    }

    #[test]
    fn the_record_of_a_whole_spool_has_the_documented_bytes() {
        let engine = MemEngine::default();
        let membership = Membership::of_voters([NodeId(1)]);
        let spool = Spool { index: LogIndex(300), term: Term(5), membership, chunks: 2 };
        assert_eq!(whole(&engine, S).expect("memory"), None);
        write(&engine, |b| put_whole(b, S, &spool));
        assert_eq!(whole(&engine, S).expect("memory"), Some(spool.clone()));
        let name = [0xfd, 0, 0, 0, 0, 0, 0, 0, 7];
        let bytes = engine.get(Tree::Meta, &name).expect("memory").expect("it is there");
        assert_eq!(bytes[..5], [1, 0xac, 0x02, 5, 2]);
        let encoded = spool.membership.encode();
        assert_eq!(usize::from(bytes[5]), encoded.len());
        assert_eq!(bytes[6..], encoded[..]);
        write(&engine, |b| remove(b, S, 2));
        assert_eq!(whole(&engine, S).expect("memory"), None);
    }
}
