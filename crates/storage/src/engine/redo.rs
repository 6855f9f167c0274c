//! The redo file: a layer on its way into tables, whole and durable before the first table changes.
//!
//! Tables of several trees can't be changed at once. So a flush writes all of its layer here first,
//! and a start that finds this file puts it into the tables again, from the beginning: the changes
//! are values, so twice is as good as once. It is written under another name and renamed when it is
//! synced: a file with the final name is whole, or damaged.
//!
//! The format is in `docs/formats/engine.md`.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use atoll_base::KeyspaceId;
use atoll_base::checksum::crc32c;
use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

use super::layer::{Layer, Run};
use super::{Tree, WriteBatch};

const FILE_NAME: &str = "redo";
const UNFINISHED_NAME: &str = "redo.unfinished";
const MAGIC: &[u8; 8] = b"ATOLLRED";
const VERSION: u8 = 1;
/// A block is closed once it has this many bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// More than any block has: a key and a value, and what came before them.
const BLOCK_BYTES_MAX: usize = 1 << 30;

/// Why a redo file could not be read.
pub(super) enum RedoError {
    Io(io::Error),
    Damaged(String),
}

impl From<io::Error> for RedoError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<DecodeError> for RedoError {
    fn from(error: DecodeError) -> Self {
        Self::Damaged(format!("redo file: {error}"))
    }
}

/// The redo file of an engine's folder.
pub(super) struct RedoFile {
    dir: PathBuf,
}

impl RedoFile {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// Writes the runs of a layer as flush `number`; on return it survives a power loss. On failure
    /// the file before stays, and nothing else takes room.
    pub(super) fn write(&self, number: u64, runs: &[(Tree, Run)]) -> io::Result<()> {
        let written = self.write_or_leave(number, runs);
        if written.is_err() {
            // It is full, most likely: make room, as far as that goes.
            let _ = fs::remove_file(self.dir.join(UNFINISHED_NAME));
        }
        written
    }

    /// True when a flush was begun and not ended.
    pub(super) fn exists(&self) -> io::Result<bool> {
        self.dir.join(FILE_NAME).try_exists()
    }

    fn write_or_leave(&self, number: u64, runs: &[(Tree, Run)]) -> io::Result<()> {
        let unfinished = self.dir.join(UNFINISHED_NAME);
        let file = File::create(&unfinished)?;
        let mut blocks =
            BlockWriter { out: BufWriter::with_capacity(BLOCK_BYTES / 4, file), count: 0 };
        let mut head = Writer::with_capacity(32);
        head.raw(MAGIC).u8(VERSION).u64_fixed(number);
        blocks.write(&head.finish())?;
        for (tree, run) in runs {
            let tree = *tree;
            let mut w = start_of_block(tree);
            for (key, value) in run {
                w.bytes(key);
                match value {
                    None => w.u8(0),
                    Some(value) => w.u8(1).bytes(value),
                };
                if w.len() >= BLOCK_BYTES {
                    blocks.write(&std::mem::replace(&mut w, start_of_block(tree)).finish())?;
                }
            }
            blocks.write(&w.finish())?;
        }
        let mut end = Writer::with_capacity(16);
        end.u8(END).u64_fixed(blocks.count);
        blocks.write(&end.finish())?;
        blocks.out.into_inner()?.sync_data()?;
        fs::rename(&unfinished, self.dir.join(FILE_NAME))?;
        File::open(&self.dir)?.sync_all()
    }

    /// The flush that was under way, and its layer. Forgets one that never was whole.
    pub(super) fn read(&self) -> Result<Option<(u64, Layer)>, RedoError> {
        remove_if_there(&self.dir.join(UNFINISHED_NAME))?;
        let bytes = match fs::read(self.dir.join(FILE_NAME)) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut blocks = BlockReader { rest: bytes, count: 0 };
        let mut head = Reader::new(blocks.next()?);
        if head.raw(MAGIC.len(), "magic")?[..] != MAGIC[..] {
            return Err(RedoError::Damaged("redo file: it begins with other bytes".to_owned()));
        }
        let version = head.u8("version")?;
        if version != VERSION {
            let text = format!("redo file: version {version}, this build reads {VERSION}");
            return Err(RedoError::Damaged(text));
        }
        let number = head.u64_fixed("number")?;
        let layer = Layer::default();
        loop {
            let count = blocks.count;
            let mut r = Reader::new(blocks.next()?);
            let kind = r.u8("block kind")?;
            if kind == END {
                if r.u64_fixed("block count")? != count || !blocks.rest.is_empty() {
                    return Err(RedoError::Damaged("redo file: blocks are missing".to_owned()));
                }
                return Ok(Some((number, layer)));
            }
            layer.write(batch(kind, r)?);
        }
    }

    /// Forgets the file, once its layer is in the tables.
    pub(super) fn remove(&self) -> io::Result<()> {
        remove_if_there(&self.dir.join(FILE_NAME))
    }
}

const META: u8 = 1;
const CURRENT: u8 = 2;
const HISTORY: u8 = 3;
const END: u8 = 0xff;

fn start_of_block(tree: Tree) -> Writer {
    let mut w = Writer::with_capacity(BLOCK_BYTES + (16 << 10));
    match tree {
        Tree::Meta => w.u8(META).u32_fixed(0),
        Tree::Current(keyspace) => w.u8(CURRENT).u32_fixed(keyspace.0),
        Tree::History(keyspace) => w.u8(HISTORY).u32_fixed(keyspace.0),
    };
    w
}

/// The changes of a block.
fn batch(kind: u8, mut r: Reader) -> Result<WriteBatch, RedoError> {
    let keyspace = KeyspaceId(r.u32_fixed("keyspace")?);
    let tree = match kind {
        META => Tree::Meta,
        CURRENT => Tree::Current(keyspace),
        HISTORY => Tree::History(keyspace),
        _ => return Err(RedoError::Damaged(format!("redo file: block of kind {kind}"))),
    };
    let mut batch = WriteBatch::new();
    while r.remaining() > 0 {
        let key = r.bytes("key")?;
        match r.u8("change")? {
            0 => batch.delete(tree, key),
            1 => batch.put(tree, key, r.bytes("value")?),
            other => return Err(RedoError::Damaged(format!("redo file: change {other}"))),
        };
    }
    Ok(batch)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Blocks: length, CRC32C, payload.
struct BlockWriter {
    out: BufWriter<File>,
    count: u64,
}

impl BlockWriter {
    fn write(&mut self, payload: &[u8]) -> io::Result<()> {
        let len = u32::try_from(payload.len()).map_err(io::Error::other)?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&crc32c(payload).to_le_bytes())?;
        self.out.write_all(payload)?;
        self.count += 1;
        Ok(())
    }
}

struct BlockReader {
    rest: Bytes,
    count: u64,
}

impl BlockReader {
    fn next(&mut self) -> Result<Bytes, RedoError> {
        let broken = |what: &str, block: u64| {
            Err(RedoError::Damaged(format!("redo file: block {block} {what}")))
        };
        let block = self.count;
        if self.rest.len() < 8 {
            return broken("is cut off", block);
        }
        let head = self.rest.split_to(8);
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if len > BLOCK_BYTES_MAX || len > self.rest.len() {
            return broken("is cut off", block);
        }
        let payload = self.rest.split_to(len);
        if crc32c(&payload) != crc {
            return broken("fails its checksum", block);
        }
        self.count += 1;
        Ok(payload)
    }
}
