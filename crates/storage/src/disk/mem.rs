//! A disk in memory that fails the way disks do, by a seed.
//!
//! Each file has two contents: what readers see, and what is on the platter. A write changes the
//! first and is remembered; a sync brings the second up to it. [`MemDisk::crash`] lets the seed
//! decide for every remembered write whether it reached the platter, in full, sector by sector, or
//! not at all, and then forgets what readers saw. Names work the same way, except that changes of
//! names survive in order, as on a journaling file system.
//!
//! A clone is the same disk. Files opened before a crash are dead afterwards: every call on them
//! fails, so that what a killed node still held can't reach its successor's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use atoll_base::Rng;

use super::content::Content;
use super::{Disk, DiskFile, OpenMode};

/// What survives a power loss in one piece.
pub const SECTOR_BYTES: usize = 512;

type FileId = u64;

/// What was done to a disk so far.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DiskCounts {
    /// Calls of `write_at`.
    pub writes: u64,
    /// Bytes given to `write_at`.
    pub written_bytes: u64,
    /// Calls of `sync`.
    pub syncs: u64,
    /// Calls of `sync_dir`.
    pub dir_syncs: u64,
}

/// A disk in memory with seeded faults. Clones are the same disk.
#[derive(Clone)]
pub struct MemDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    files: BTreeMap<FileId, FileState>,
    names: BTreeMap<PathBuf, FileId>,
    durable_names: BTreeMap<PathBuf, FileId>,
    pending_names: Vec<NameChange>,
    dirs: BTreeSet<PathBuf>,
    next_file: FileId,
    /// Grows with every crash; files of an earlier life are dead.
    life: u64,
    capacity: u64,
    failing_syncs: u64,
    short_writes: u64,
    stall: Option<Duration>,
    counts: DiskCounts,
}

#[derive(Default)]
struct FileState {
    /// What readers see.
    seen: Content,
    /// What a power loss leaves at least.
    durable: Content,
    /// Changes since the last sync, in order.
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone)]
enum NameChange {
    Create(PathBuf, FileId),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            Self::Create(path, file) => {
                names.insert(path.clone(), *file);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
            Self::Remove(path) => {
                names.remove(path);
            }
        }
    }

    /// True when the change is one of names in `dir`.
    fn touches(&self, dir: &Path) -> bool {
        let inside = |path: &PathBuf| path.parent() == Some(dir);
        match self {
            Self::Create(path, _) | Self::Remove(path) => inside(path),
            Self::Rename(from, to) => inside(from) || inside(to),
        }
    }
}

impl MemDisk {
    /// An empty disk without a limit, whose crashes `seed` decides.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::new(seed),
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            dirs: BTreeSet::new(),
            next_file: 0,
            life: 0,
            capacity: u64::MAX,
            failing_syncs: 0,
            short_writes: 0,
            stall: None,
            counts: DiskCounts::default(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Loses power: every change that was not synced survives, is torn at sectors or vanishes, as
    /// the seed says. Open files are dead afterwards.
    pub fn crash(&self) {
        let state = &mut *self.lock();
        state.life += 1;
        let kept = state.rng.range(0, state.pending_names.len() as u64 + 1) as usize;
        for change in state.pending_names.drain(..).take(kept) {
            change.apply(&mut state.durable_names);
        }
        state.names = state.durable_names.clone();
        let named: BTreeSet<FileId> = state.names.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
        for file in state.files.values_mut() {
            file.crash(&mut state.rng);
        }
    }

    /// Loses power in the way that keeps nothing that was not synced.
    pub fn crash_to_synced(&self) {
        let state = &mut *self.lock();
        state.life += 1;
        state.pending_names.clear();
        state.names = state.durable_names.clone();
        let named: BTreeSet<FileId> = state.names.values().copied().collect();
        state.files.retain(|id, _| named.contains(id));
        for file in state.files.values_mut() {
            file.pending.clear();
            file.seen.clone_from(&file.durable);
        }
    }

    /// The process dies and the power stays: open files are dead, what was not synced is still
    /// there and still not synced.
    pub fn kill(&self) {
        self.lock().life += 1;
    }

    /// A disk with the same contents and its own future.
    #[must_use]
    pub fn fork(&self, seed: u64) -> Self {
        let copy = Self::new(seed);
        {
            let from = self.lock();
            let to = &mut *copy.lock();
            for (id, file) in &from.files {
                let (seen, durable) = (file.seen.clone(), file.seen.clone());
                to.files.insert(*id, FileState { seen, durable, pending: Vec::new() });
            }
            to.names.clone_from(&from.names);
            to.durable_names.clone_from(&from.names);
            to.dirs.clone_from(&from.dirs);
            to.next_file = from.next_file;
            to.capacity = from.capacity;
        }
        copy
    }

    /// Turns one bit of the byte at `offset` over, on the platter and for readers.
    ///
    /// # Errors
    /// `NotFound`, or `UnexpectedEof` when the file is shorter.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.damage(path, offset, 1, |bytes| bytes[0] ^= 1 << (bit % 8))
    }

    /// Replaces bytes on the platter and for readers, without any write.
    ///
    /// # Errors
    /// As [`MemDisk::flip_bit`].
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.damage(path, offset, bytes.len(), |old| old.copy_from_slice(&bytes[..old.len()]))
    }

    /// Limits the sum of all files' lengths; beyond it writes fail with `StorageFull`.
    pub fn limit_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Makes the next `count` syncs fail.
    pub fn fail_syncs(&self, count: u64) {
        self.lock().failing_syncs = count;
    }

    /// Makes each of the next `count` writes stop somewhere and fail with `StorageFull`, as on a
    /// file system that allocates late.
    pub fn cut_writes_short(&self, count: u64) {
        self.lock().short_writes = count;
    }

    /// Marks the disk as slow, or as itself again. The disk never waits: whoever owns virtual time
    /// asks [`MemDisk::stall`] and delays completions.
    pub fn mark_stall(&self, stall: Option<Duration>) {
        self.lock().stall = stall;
    }

    /// How much longer than usual each operation takes at present.
    #[must_use]
    pub fn stall(&self) -> Option<Duration> {
        self.lock().stall
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> DiskCounts {
        self.lock().counts
    }

    /// What readers see of a file.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn contents(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut state = self.lock();
        let id = state.find(path)?;
        Ok(state.file(id).seen.to_vec())
    }

    fn damage(
        &self,
        path: &Path,
        offset: u64,
        len: usize,
        change: impl Fn(&mut [u8]),
    ) -> io::Result<()> {
        let mut state = self.lock();
        let id = state.find(path)?;
        let file = state.file(id);
        let at = offset as usize;
        let mut bytes = vec![0; len];
        file.seen.read(at, &mut bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        change(&mut bytes);
        file.seen.write(at, &bytes);
        // The platter may hold less than readers see.
        bytes.truncate(file.durable.len().saturating_sub(at));
        if !bytes.is_empty() && file.durable.read(at, &mut bytes).is_some() {
            change(&mut bytes);
            file.durable.write(at, &bytes);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds the disk's lock")
    }
}

impl State {
    fn find(&self, path: &Path) -> io::Result<FileId> {
        self.names.get(path).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, id: FileId) -> &mut FileState {
        self.files.entry(id).or_default()
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.files.get(id)).map(|f| f.seen.len() as u64).sum()
    }

    fn change_name(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.pending_names.push(change);
    }

    fn reserve(&self, file_len: usize, needed: u64) -> io::Result<()> {
        let more = needed.saturating_sub(file_len as u64);
        if more > 0 && self.used().saturating_add(more) > self.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl FileState {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.seen);
        self.pending.push(change);
    }

    fn sync(&mut self) {
        for change in self.pending.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    fn crash(&mut self, rng: &mut Rng) {
        if self.pending.is_empty() {
            return; // all that readers see is on the platter
        }
        for change in self.pending.drain(..) {
            match rng.below(3) {
                0 => {}
                1 => change.apply(&mut self.durable),
                _ => change.tear(&mut self.durable, rng),
            }
        }
        self.seen.clone_from(&self.durable);
    }
}

impl Change {
    fn apply(&self, content: &mut Content) {
        match self {
            Self::SetLen(len) => content.resize(*len),
            Self::Write { offset, bytes } => content.write(*offset, bytes),
        }
    }

    /// Lets each sector survive on its own.
    fn tear(&self, content: &mut Content, rng: &mut Rng) {
        let Self::Write { offset, bytes } = self else { return };
        let mut at = 0;
        while at < bytes.len() {
            let sector_end = (*offset + at) / SECTOR_BYTES * SECTOR_BYTES + SECTOR_BYTES;
            let end = (sector_end - *offset).min(bytes.len());
            if rng.chance(1, 2) {
                content.write(*offset + at, &bytes[at..end]);
            }
            at = end;
        }
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.lock();
        let id = match (mode, state.names.get(path).copied()) {
            (OpenMode::CreateNew, Some(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
            (OpenMode::CreateNew, None) => {
                if path.parent().is_some_and(|dir| !state.dirs.contains(dir)) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let id = state.next_file;
                state.next_file += 1;
                state.files.insert(id, FileState::default());
                state.change_name(NameChange::Create(path.to_path_buf(), id));
                id
            }
            (_, found) => found.ok_or(io::ErrorKind::NotFound)?,
        };
        let life = state.life;
        drop(state);
        Ok(Box::new(MemFile { disk: self.clone(), id, life, mode }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let state = self.lock();
        if !state.dirs.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(state.names.keys().filter(|path| path.parent() == Some(dir)).cloned().collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.find(from)?;
        state.change_name(NameChange::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.find(path)?;
        state.change_name(NameChange::Remove(path.to_path_buf()));
        Ok(())
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let state = &mut *self.lock();
        state.counts.dir_syncs += 1;
        // Changes survive in order, so a sync takes along what came before its last own change.
        let own = state.pending_names.iter().rposition(|change| change.touches(dir));
        for change in state.pending_names.drain(..own.map_or(0, |last| last + 1)) {
            change.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.lock();
        Ok(state.names.contains_key(path) || state.dirs.contains(path))
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

struct MemFile {
    disk: MemDisk,
    id: FileId,
    life: u64,
    mode: OpenMode,
}

impl MemFile {
    fn lock(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.disk.lock();
        if state.life == self.life {
            return Ok(state);
        }
        Err(io::Error::other("the process that opened this file is dead"))
    }

    fn lock_for_write(&self) -> io::Result<MutexGuard<'_, State>> {
        if self.mode == OpenMode::Read {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.lock()
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.lock()?;
        let found = state.file(self.id).seen.read(offset as usize, buf);
        found.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.lock_for_write()?;
        state.counts.writes += 1;
        state.counts.written_bytes += bytes.len() as u64;
        let len = state.file(self.id).seen.len();
        state.reserve(len, offset + bytes.len() as u64)?;
        let mut bytes = bytes.to_vec();
        let is_short = state.short_writes > 0;
        if is_short {
            state.short_writes -= 1;
            let kept = state.rng.below(bytes.len() as u64 + 1) as usize;
            bytes.truncate(kept);
        }
        state.file(self.id).change(Change::Write { offset: offset as usize, bytes });
        if is_short { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock()?;
        state.counts.syncs += 1;
        if state.failing_syncs > 0 {
            state.failing_syncs -= 1;
            return Err(io::Error::other("the disk could not make its writes durable"));
        }
        state.file(self.id).sync();
        Ok(())
    }

    fn allocate_zeroed(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock_for_write()?;
        let old = state.file(self.id).seen.len();
        state.reserve(old, len)?;
        let file = state.file(self.id);
        file.change(Change::SetLen(0));
        file.change(Change::SetLen(len as usize));
        drop(state);
        self.sync()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock()?.file(self.id).seen.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock_for_write()?;
        let old = state.file(self.id).seen.len();
        state.reserve(old, len)?;
        state.file(self.id).change(Change::SetLen(len as usize));
        Ok(())
    }
}
