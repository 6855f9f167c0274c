//! Files that are written from front to back, past the page cache.
//!
//! The log writes a frame and waits until it is durable, again and again. Through the page cache
//! that is a copy, a write-back and a flush, in two system calls; with `O_DIRECT | O_DSYNC` one
//! call hands the blocks to the device and returns when they are safe (ADR 0003 has figures).
//!
//! The device takes whole blocks at aligned addresses, so the bytes of the last, half-filled block
//! are kept here and written again with what follows them. Power may fail during that: a device
//! replaces a sector whole or not at all, and the earlier bytes of a sector are the same in its old
//! and its new form.
//!
//! Readers open the same file in the ordinary way. The kernel drops cached pages under a direct
//! write before and after it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use super::DiskFile;

/// Addresses, offsets and lengths of direct writes are multiples of this.
const BLOCK_BYTES: usize = 4096;

/// A buffer that grew beyond this is given back after its write.
const BUFFER_BYTES_KEPT: usize = 1 << 20;

/// A file of whole blocks, open for appending.
pub(super) struct AppendFile {
    file: File,
    len: u64,
    staged: Mutex<Staged>,
}

/// What is to be written, from the start of the block that it begins in.
#[derive(Default)]
struct Staged {
    buffer: BlockBuffer,
    /// The file's offset of the buffer's first byte, a multiple of a block.
    base: u64,
    /// Bytes of the buffer that count; 0 when nothing is known yet.
    len: usize,
    is_dirty: bool,
}

impl AppendFile {
    /// Opens a file, or says with `None` that the file system or the file is not made for this.
    pub(super) fn open(path: &Path) -> io::Result<Option<Self>> {
        let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::DSYNC;
        let flags = i32::try_from(flags.bits()).expect("open flags are an int");
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(error) if is_refusal(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len();
        if len == 0 || !len.is_multiple_of(BLOCK_BYTES as u64) {
            return Ok(None);
        }
        // Some file systems refuse only when it is tried.
        let mut probe = BlockBuffer::default();
        match file.read_exact_at(probe.first(BLOCK_BYTES), 0) {
            Ok(()) => Ok(Some(Self { file, len, staged: Mutex::default() })),
            Err(error) if is_refusal(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().expect("no code panics while it holds this lock")
    }
}

/// True when the system says that it has no direct access here.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

impl Staged {
    /// Goes to `offset`: the bytes before it in its block are read.
    fn seek(&mut self, file: &File, offset: u64) -> io::Result<()> {
        if self.len > 0 && offset == self.base + self.len as u64 {
            return Ok(());
        }
        self.write_out(file)?;
        let before = (offset % BLOCK_BYTES as u64) as usize;
        // Nothing is known until the read is through.
        (self.base, self.len) = (offset - before as u64, 0);
        if before > 0 {
            file.read_exact_at(self.buffer.first(BLOCK_BYTES), self.base)?;
        }
        self.len = before;
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.buffer.first(end)[self.len..].copy_from_slice(bytes);
        self.len = end;
        self.is_dirty = true;
    }

    /// Makes what is staged durable, and keeps the last block if it has room.
    fn write_out(&mut self, file: &File) -> io::Result<()> {
        if !self.is_dirty {
            return Ok(());
        }
        let padded = self.len.next_multiple_of(BLOCK_BYTES);
        let blocks = self.buffer.first(padded);
        blocks[self.len..].fill(0);
        file.write_all_at(blocks, self.base)?;
        let full = self.len / BLOCK_BYTES * BLOCK_BYTES;
        blocks.copy_within(full.., 0);
        self.base += full as u64;
        self.len -= full;
        self.is_dirty = false;
        self.buffer.shrink();
        Ok(())
    }
}

impl DiskFile for AppendFile {
    fn read_at(&self, _offset: u64, _buf: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the file is open for appending only"))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            let (count, len) = (bytes.len(), self.len);
            let text = format!("{count} bytes at {offset} don't fit into a file of {len} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut staged = self.staged();
        staged.seek(&self.file, offset)?;
        staged.append(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.staged().write_out(&self.file)
    }

    fn allocate_zeroed(&self, _len: u64) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the file is open for appending only"))
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "the file is open for appending only"))
    }
}

/// Bytes that begin at an address which is a multiple of a block.
#[derive(Default)]
struct BlockBuffer {
    memory: Vec<u8>,
    /// Bytes of the memory before that address.
    skip: usize,
}

impl BlockBuffer {
    /// The first `len` bytes; what they held before is kept.
    fn first(&mut self, len: usize) -> &mut [u8] {
        if self.memory.len() < self.skip + len {
            self.move_to(len.next_power_of_two().max(16 * BLOCK_BYTES));
        }
        &mut self.memory[self.skip..self.skip + len]
    }

    /// Gives memory back after an unusually long write; the first block is kept.
    fn shrink(&mut self) {
        if self.memory.len() > BUFFER_BYTES_KEPT + BLOCK_BYTES {
            self.move_to(16 * BLOCK_BYTES);
        }
    }

    fn move_to(&mut self, capacity: usize) {
        let memory = vec![0; capacity + BLOCK_BYTES];
        let skip = memory.as_ptr().align_offset(BLOCK_BYTES);
        let old = std::mem::replace(&mut self.memory, memory);
        let held = &old[self.skip.min(old.len())..];
        let kept = held.len().min(capacity);
        self.memory[skip..skip + kept].copy_from_slice(&held[..kept]);
        self.skip = skip;
    }
}
