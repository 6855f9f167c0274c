//! The engine as the node trusts it: damage is never served, and never lives long.
//!
//! What the engine holds can be had again, from the log and from the other replicas; what its files
//! say after a failed checksum can't be trusted, and a table that is damaged stays so. Therefore:
//!
//! * **G1** The first read or write that meets damage notes it in `ENGINE-SUSPECT` and ends the
//!   process. No answer is made of what was read.
//! * **G2** A start that finds the engine damaged, by that note or by itself, sets it aside as
//!   `engine.damaged` and begins with an empty one. The replicas replay their logs, or where those
//!   were cut take part only to be rebuilt by a snapshot. Votes and promises lie in the log and
//!   stay.
//! * **G3** An engine that refuses writes after an earlier failure (a full disk, or a background
//!   thread that met damage) ends the process too, and is read through before the next start trusts
//!   it.
//! * **G4** A node without peers has nobody to be rebuilt by: it tells the error to who asked, goes
//!   on, and sets nothing aside.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use atoll_base::KeyspaceId;
use atoll_storage::engine::{KeyRange, Scan};
use atoll_storage::{
    Direction, Engine, EngineError, FjallEngine, FjallOptions, ReadView, Tree, WriteBatch,
};
use bytes::Bytes;

use super::threads::abort;

const ENGINE: &str = "engine";
const SUSPECT: &str = "ENGINE-SUSPECT";
const SET_ASIDE: &str = "engine.damaged";
/// What a note of proven damage begins with; other notes ask for a check.
const PROVEN: &str = "damaged";

/// Whether somebody else holds what this node holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peers {
    /// The cluster has other nodes.
    Some,
    /// This node is alone.
    None,
}

/// An engine whose failures end the process before anybody is told something wrong.
pub(crate) struct GuardedEngine {
    inner: FjallEngine,
    guard: Guard,
}

#[derive(Clone)]
struct Guard {
    folder: PathBuf,
    peers: Peers,
}

impl GuardedEngine {
    /// Opens the engine of a data folder, or a new one in place of what is damaged (G2).
    ///
    /// # Errors
    /// What kept it from being opened; damage only where the node has no peers.
    pub(crate) fn open(
        folder: &Path,
        options: &FjallOptions,
        peers: Peers,
    ) -> Result<Self, EngineError> {
        let guard = Guard { folder: folder.to_owned(), peers };
        let failed = |e: io::Error| EngineError::Failed { during: "open", source: e.into() };
        let note = std::fs::read_to_string(guard.note()).ok();
        let inner = match open_checked(&folder.join(ENGINE), options, note.as_deref()) {
            Ok(engine) => engine,
            Err(error @ EngineError::Damaged { .. }) if peers == Peers::Some => {
                let aside = guard.set_aside().map_err(failed)?;
                tracing::error!(%error, aside = %aside.display(),
                    "the engine is damaged and was set aside; this node's replicas are rebuilt \
                     from the log and the other nodes; remove the folder when they are");
                FjallEngine::open(&folder.join(ENGINE), options.clone())?
            }
            Err(error) => return Err(error),
        };
        if note.is_some() {
            std::fs::remove_file(guard.note()).map_err(failed)?;
        }
        Ok(Self { inner, guard })
    }
}

fn open_checked(
    path: &Path,
    options: &FjallOptions,
    note: Option<&str>,
) -> Result<FjallEngine, EngineError> {
    if let Some(note) = note
        && note.starts_with(PROVEN)
    {
        return Err(EngineError::Damaged { during: "earlier run", reason: note.to_owned() });
    }
    let engine = FjallEngine::open(path, options.clone())?;
    if let Some(note) = note {
        tracing::warn!(note, "the engine failed in an earlier run: reading all of it");
        engine.check()?;
    }
    Ok(engine)
}

impl Guard {
    fn note(&self) -> PathBuf {
        self.folder.join(SUSPECT)
    }

    /// Makes room for a new engine. Keeps the newest damaged one only.
    fn set_aside(&self) -> io::Result<PathBuf> {
        let aside = self.folder.join(SET_ASIDE);
        match std::fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::rename(self.folder.join(ENGINE), &aside)?;
        File::open(&self.folder)?.sync_all()?;
        Ok(aside)
    }

    /// Passes a result on, unless it shows that the engine can't be trusted.
    fn watch<T>(&self, result: Result<T, EngineError>) -> Result<T, EngineError> {
        match &result {
            Err(EngineError::Damaged { .. }) if self.peers == Peers::Some => {
                let error = result.err().map(|e| e.to_string()).unwrap_or_default();
                self.end(PROVEN, &error, "it will be rebuilt from the other nodes");
            }
            Err(EngineError::Poisoned { .. }) => {
                let error = result.err().map(|e| e.to_string()).unwrap_or_default();
                self.end("failed", &error, "the log has what the engine lacks");
            }
            _ => result,
        }
    }

    fn end(&self, kind: &str, error: &str, what_then: &str) -> ! {
        // Without the note the next run finds out by itself.
        let _ = std::fs::write(self.note(), format!("{kind}: {error}\n"));
        abort(&format!(
            "the engine in {} can't be trusted: {error}; this node stops rather than serve from \
             it; start it again: {what_then}",
            self.folder.join(ENGINE).display()
        ))
    }
}

impl Engine for GuardedEngine {
    fn prefetch(&self, tree: Tree, keys: &[&[u8]]) {
        self.inner.prefetch(tree, keys);
    }

    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.guard.watch(self.inner.get(tree, key))
    }

    fn view(&self) -> Box<dyn ReadView> {
        Box::new(GuardedView { inner: self.inner.view(), guard: self.guard.clone() })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        self.guard.watch(self.inner.write(batch))
    }

    fn persist(&self) -> Result<(), EngineError> {
        self.guard.watch(self.inner.persist())
    }

    fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError> {
        self.guard.watch(self.inner.drop_keyspace(keyspace))
    }

    fn disk_bytes(&self) -> Result<u64, EngineError> {
        self.inner.disk_bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }

    fn check(&self) -> Result<(), EngineError> {
        self.guard.watch(self.inner.check())
    }
}

struct GuardedView {
    inner: Box<dyn ReadView>,
    guard: Guard,
}

impl ReadView for GuardedView {
    fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.guard.watch(self.inner.get(tree, key))
    }

    fn scan<'a>(&'a self, tree: Tree, range: KeyRange<'_>, direction: Direction) -> Scan<'a> {
        let pairs = self.inner.scan(tree, range, direction);
        Box::new(pairs.map(|pair| self.guard.watch(pair)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TREE: Tree = Tree::Current(KeyspaceId(1));

    fn write_one(folder: &Path) {
        let engine = GuardedEngine::open(folder, &FjallOptions::default(), Peers::Some).unwrap();
        let mut batch = WriteBatch::new();
        batch.put(TREE, &b"key"[..], &b"value"[..]);
        engine.write(batch).unwrap();
        engine.persist().unwrap();
    }

    fn value(folder: &Path, peers: Peers) -> Result<Option<Bytes>, EngineError> {
        GuardedEngine::open(folder, &FjallOptions::default(), peers)?.get(TREE, b"key")
    }

    #[test]
    fn proven_damage_is_set_aside_only_where_there_are_peers() {
        let dir = tempfile::tempdir().unwrap();
        write_one(dir.path());
        std::fs::write(dir.path().join(SUSPECT), "damaged: a checksum failed\n").unwrap();
        let error = value(dir.path(), Peers::None).unwrap_err();
        assert!(matches!(error, EngineError::Damaged { .. }), "{error}");
        assert_eq!(value(dir.path(), Peers::Some).unwrap(), None);
        assert!(dir.path().join(SET_ASIDE).exists() && !dir.path().join(SUSPECT).exists());
    }

    #[test]
    fn after_another_failure_a_sound_engine_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        write_one(dir.path());
        std::fs::write(dir.path().join(SUSPECT), "failed: the disk was full\n").unwrap();
        let found = value(dir.path(), Peers::Some).unwrap();
        assert_eq!(found.as_deref(), Some(&b"value"[..]));
        assert!(!dir.path().join(SET_ASIDE).exists() && !dir.path().join(SUSPECT).exists());
    }
}
