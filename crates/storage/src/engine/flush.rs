//! Layers over tables, and the thread that turns one into the other.
//!
//! Writes go to the *active* layer. Once it is full, or somebody asks to persist, it is *sealed*
//! and a new one takes its place; the flush thread puts the sealed one into the tables and then
//! lets it go. There is one sealed layer at most: a writer that fills the next one too waits.
//!
//! ```text
//!   write -> active --seal--> sealed --flush--> tables
//!   read  -> active, then sealed, then tables
//! ```
//!
//! A full disk is not the end: the sealed layer stays, the flush is tried again, and writes are
//! taken as long as the active layer has room. After any other error no more is written.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use atoll_base::KeyspaceId;
use bytes::Bytes;

use super::layer::{BatchNumber, Layer, NEWEST};
use super::tables::{Tables, TablesView};
use super::{EngineError, Tree, WriteBatch};

/// How long after a full disk the flush is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Gives this thread, and those that it starts, less of a busy core than threads that answer
/// requests get; on failure all stay equal.
pub(super) fn yield_to_lanes() {
    let _ = rustix::process::nice(5);
}

/// The layers that reads look at.
struct Layers {
    active: Arc<Layer>,
    sealed: Option<Arc<Layer>>,
}

/// Why nothing is flushed.
enum Failure {
    DiskFull,
    Damaged(String),
    /// Told once as it is; from then on the engine is poisoned.
    Other(Option<EngineError>),
}

impl Failure {
    fn of(error: EngineError) -> Self {
        match error {
            EngineError::DiskFull { .. } => Self::DiskFull,
            EngineError::Damaged { reason, .. } => Self::Damaged(reason),
            other => Self::Other(Some(other)),
        }
    }

    fn told(&mut self, during: &'static str) -> EngineError {
        match self {
            Self::DiskFull => EngineError::DiskFull { during },
            Self::Damaged(reason) => EngineError::Damaged { during, reason: reason.clone() },
            Self::Other(first) => first.take().unwrap_or(EngineError::Poisoned { during }),
        }
    }
}

#[derive(Default)]
struct Progress {
    /// Layers sealed and flushed so far.
    sealed: u64,
    flushed: u64,
    failure: Option<Failure>,
    is_stopping: bool,
}

struct Shared {
    tables: Tables,
    /// Bytes of a layer that is full.
    layer_bytes: u64,
    layers: RwLock<Layers>,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// Held while tables change.
    flushing: Mutex<()>,
    /// A failure other than a full disk.
    is_broken: AtomicBool,
}

/// Layers over tables.
pub(super) struct LayeredTables {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A layer as a view sees it.
pub(super) struct Held {
    pub(super) layer: Arc<Layer>,
    pub(super) number: BatchNumber,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.number != NEWEST {
            self.layer.release(self.number);
        }
    }
}

impl LayeredTables {
    pub(super) fn start(tables: Tables, layer_bytes: u64) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            tables,
            layer_bytes,
            layers: RwLock::new(Layers { active: Arc::default(), sealed: None }),
            progress: Mutex::default(),
            changed: Condvar::new(),
            flushing: Mutex::default(),
            is_broken: AtomicBool::new(false),
        });
        let flusher = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("flush".to_owned());
        let thread = Some(thread.spawn(move || flusher.run())?);
        Ok(Self { shared, thread })
    }

    pub(super) fn tables(&self) -> &Tables {
        &self.shared.tables
    }

    /// Takes a batch without range deletes.
    pub(super) fn write(&self, batch: WriteBatch) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let layer_bytes = shared.layer_bytes;
        let mut layers = shared.layers();
        while layers.active.bytes() >= 2 * layer_bytes || shared.is_broken.load(Ordering::Relaxed) {
            drop(layers);
            shared.wait_for_room()?;
            layers = shared.layers();
        }
        layers.active.write(batch);
        let is_full = layers.active.bytes() >= layer_bytes;
        drop(layers);
        if is_full {
            shared.seal_if_full(&mut shared.progress());
        }
        Ok(())
    }

    pub(super) fn get(&self, tree: Tree, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let moment = self.shared.tables.moment();
        let layers = self.shared.layers();
        let above = layers.active.get(tree, key, NEWEST);
        let above = above.or_else(|| layers.sealed.as_ref()?.get(tree, key, NEWEST));
        drop(layers);
        match above {
            Some(value) => Ok(value),
            None => self.shared.tables.get(tree, key, moment),
        }
    }

    /// Brings what the layers have of these keys near.
    pub(super) fn prefetch(&self, tree: Tree, keys: &[&[u8]]) {
        let layers = self.shared.layers();
        layers.active.prefetch(tree, keys);
        if let Some(sealed) = &layers.sealed {
            sealed.prefetch(tree, keys);
        }
    }

    /// The layers, newest first, and the tables, at one moment.
    pub(super) fn view(&self) -> (Vec<Held>, TablesView) {
        let moment = self.shared.tables.view_moment();
        let layers = self.shared.layers();
        let active = Arc::clone(&layers.active);
        let mut held = vec![Held { number: active.hold(), layer: active }];
        held.extend(layers.sealed.clone().map(|layer| Held { layer, number: NEWEST }));
        (held, self.shared.tables.view(moment, layers.sealed.as_ref()))
    }

    /// Returns when every earlier write survives a power loss.
    pub(super) fn persist(&self) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let mut progress = shared.progress();
        // Layers are sealed under this lock: what is active now becomes the next one.
        let target = progress.sealed + u64::from(shared.layers().active.bytes() > 0);
        loop {
            if let Some(failure) = &mut progress.failure {
                return Err(failure.told("persist"));
            }
            if progress.sealed < target {
                shared.seal(&mut progress);
            }
            if progress.flushed >= target {
                return Ok(());
            }
            progress = shared.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn drop_keyspace(&self, keyspace: KeyspaceId) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let _flushing = shared.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = shared.layers();
        for layer in std::iter::once(&layers.active).chain(&layers.sealed) {
            layer.forget(Tree::Current(keyspace));
            layer.forget(Tree::History(keyspace));
        }
        let sealed = layers.sealed.clone();
        drop(layers);
        if let Some(sealed) = sealed {
            shared.tables.rewrite_redo(&sealed)?;
        }
        shared.tables.drop_keyspace(keyspace)
    }

    /// Bytes of the layers.
    pub(super) fn layer_bytes(&self) -> u64 {
        let layers = self.shared.layers();
        layers.active.bytes() + layers.sealed.as_ref().map_or(0, |layer| layer.bytes())
    }
}

impl Drop for LayeredTables {
    fn drop(&mut self) {
        // What can't be persisted now, the log has.
        let _ = self.persist();
        self.shared.progress().is_stopping = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn layers(&self) -> RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the active layer has room.
    fn wait_for_room(&self) -> Result<(), EngineError> {
        let mut progress = self.progress();
        loop {
            if let Some(failure) = &mut progress.failure {
                return Err(failure.told("write"));
            }
            self.seal_if_full(&mut progress);
            if self.layers().active.bytes() < 2 * self.layer_bytes {
                return Ok(());
            }
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn seal_if_full(&self, progress: &mut Progress) {
        if self.layers().active.bytes() >= self.layer_bytes {
            self.seal(progress);
        }
    }

    /// Seals the active layer, unless it is empty or the one before is not flushed.
    fn seal(&self, progress: &mut Progress) {
        let mut layers = self.layers.write().unwrap_or_else(PoisonError::into_inner);
        if layers.sealed.is_none() && layers.active.bytes() > 0 {
            layers.sealed = Some(std::mem::take(&mut layers.active));
            progress.sealed += 1;
            self.changed.notify_all();
        }
    }

    /// The flush thread.
    fn run(&self) {
        yield_to_lanes();
        let mut progress = self.progress();
        loop {
            let Some(layer) = self.layers().sealed.clone() else {
                if progress.is_stopping {
                    return;
                }
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(progress);
            let flushed = self.flush(&layer);
            drop(layer);
            progress = self.progress();
            match flushed.map_err(Failure::of) {
                Ok(()) => {
                    self.layers.write().unwrap_or_else(PoisonError::into_inner).sealed = None;
                    progress.flushed += 1;
                    progress.failure = None;
                    self.seal_if_full(&mut progress);
                    self.changed.notify_all();
                }
                Err(Failure::DiskFull) => {
                    progress.failure = Some(Failure::DiskFull);
                    self.changed.notify_all();
                    if progress.is_stopping {
                        return;
                    }
                    let waited = self.changed.wait_timeout(progress, RETRY_AFTER);
                    progress = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Err(failure) => {
                    self.is_broken.store(true, Ordering::Relaxed);
                    progress.failure = Some(failure);
                    self.changed.notify_all();
                    return;
                }
            }
        }
    }

    fn flush(&self, layer: &Layer) -> Result<(), EngineError> {
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        // Some kinds of damage make the library panic.
        catch_unwind(AssertUnwindSafe(|| self.tables.flush(layer))).unwrap_or_else(|_| {
            let reason = "the library panicked while it flushed".to_owned();
            Err(EngineError::Damaged { during: "flush", reason })
        })
    }
}
