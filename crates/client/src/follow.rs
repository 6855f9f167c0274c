//! Keeps the shard map up to date: reads the catalog from any node that has it, then watches it.
//!
//! ```text
//!   read (any replica, or the leader when asked to refresh) ──> watch from the next revision
//!        ^                                                        │ lost, lagging, or asked
//!        └────────────────────────────────────────────────────────┘
//! ```
//!
//! Invariants:
//! - F1 The map's revision never goes down: an answer from a replica that is behind is dropped.
//! - F2 A refresh is reported to those who asked before its read began, never to later ones, so
//!   that "does not exist" is an answer of the catalog and not of an old map.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, Revision, Rng, ShardId};
use atoll_coord::{AnswerBody, Catalog, Consistency, RequestBody, Told, WatchEvents, WatchSpec};
use atoll_machine::{KeyEnd, RangeQuery};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::call::Inner;
use crate::ids::random;
use crate::map::{NodeSessions, Outcome, ShardMap};
use crate::session::{Ask, WatchItem, WatchStream};

/// How long one node may take for one page of the catalog or for starting a watch.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest pause after no node could be asked.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The task that follows the catalog.
pub(crate) struct Follower {
    pub(crate) inner: Arc<Inner>,
    pub(crate) seeds: Vec<Arc<NodeSessions>>,
    pub(crate) outcome: watch::Sender<Outcome>,
}

impl Follower {
    /// Runs until it is aborted.
    pub(crate) async fn run(self) {
        let mut rng = Rng::new(random());
        let mut pause = Duration::from_millis(10);
        loop {
            let asked = self.inner.refreshes_asked();
            match self.look(asked).await {
                Ok(at) => {
                    self.report(asked, None);
                    pause = Duration::from_millis(10);
                    self.watch(&at).await;
                }
                Err(failure) => {
                    tracing::debug!(%failure, "catalog cannot be read");
                    self.report(asked, Some(failure));
                    let half = pause.as_millis() as u64 / 2;
                    tokio::time::sleep(Duration::from_millis(half + rng.below(half + 1))).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    /// Reads the catalog: what any replica has, where nothing is known yet, because only that names
    /// the nodes and works without a leader; what the leader has, where somebody doubts the map.
    async fn look(&self, asked: u64) -> Result<Arc<NodeSessions>, Failure> {
        let is_known = self.inner.map.load().catalog.cluster().is_some();
        if !is_known || asked == 0 {
            let node = self.read(Consistency::Stale { max: None }).await?;
            if asked == 0 {
                return Ok(node);
            }
        }
        self.read(Consistency::Linearizable).await
    }

    fn report(&self, served: u64, failure: Option<Failure>) {
        self.outcome.send_replace(Outcome { served, failure });
    }

    /// Whom to ask, the likely leader of shard 1 first, the seeds last.
    fn candidates(&self) -> Vec<Arc<NodeSessions>> {
        let map = self.inner.map.load();
        let mut candidates: Vec<Arc<NodeSessions>> = Vec::new();
        if let Ok(descriptor) = map.shard(ShardId::SYSTEM) {
            let leader = map.place(descriptor).ok().map(|p| p.node);
            let members = descriptor.members.iter().map(|m| m.node);
            let nodes = leader.into_iter().chain(members);
            candidates.extend(nodes.filter_map(|n| map.node(n).ok()).cloned());
        }
        candidates.extend(self.seeds.iter().cloned());
        let mut seen = std::collections::BTreeSet::new();
        candidates.retain(|c| seen.insert(c.address.clone()));
        candidates
    }

    /// Reads the whole catalog from the first node that gives it, and returns that node.
    async fn read(&self, consistency: Consistency) -> Result<Arc<NodeSessions>, Failure> {
        let mut last = Failure::new(Code::Unreachable, "no node is known");
        for node in self.candidates() {
            let mut node = node;
            // A refusal may name the leader; it is asked next, once.
            for _ in 0..2 {
                match self.read_from(&node, consistency).await {
                    Ok(catalog) if catalog.cluster().is_none() => {
                        last = Failure::new(
                            Code::NoLeader,
                            format!("node at {} has no catalog yet", node.address),
                        );
                        break;
                    }
                    Ok(catalog) => {
                        self.install(catalog);
                        return Ok(node);
                    }
                    Err(failure) => {
                        let leader = failure.leader;
                        last = failure;
                        let map = self.inner.map.load();
                        match leader.and_then(|l| map.node(l).ok()) {
                            Some(leader) => node = Arc::clone(leader),
                            None => break,
                        }
                    }
                }
            }
        }
        Err(last)
    }

    async fn read_from(
        &self,
        node: &NodeSessions,
        consistency: Consistency,
    ) -> Result<Catalog, Failure> {
        let mut catalog = Catalog::new();
        let mut query = RangeQuery::new(Bytes::new(), KeyEnd::ToEnd);
        loop {
            let body = RequestBody::Range { query: query.clone(), consistency };
            let deadline = Instant::now() + ANSWER_TIMEOUT;
            let ask = Ask { shard: ShardId::SYSTEM, epoch: Epoch::ZERO, deadline, body };
            let page = match node.session().call(ask).await? {
                AnswerBody::Range { page, .. } => page,
                other => return Err(crate::call::unexpected("a range", &other)),
            };
            for kv in &page.kvs {
                if let Err(error) = catalog.put(&kv.key, &kv.value, kv.mod_revision) {
                    tracing::warn!(%error, "catalog record ignored");
                }
            }
            query.at = Some(page.revision);
            match page.more {
                Some(next) => query.start = next,
                None => {
                    catalog.advance(page.revision);
                    return Ok(catalog);
                }
            }
        }
    }

    /// Puts a newer catalog in place (F1).
    fn install(&self, catalog: Catalog) {
        let inner = &self.inner;
        let old = inner.map.load();
        let known = old.catalog.cluster().is_some();
        if known && catalog.revision() < old.catalog.revision() {
            return;
        }
        let new: ShardMap = old.next(catalog, &*inner.links, &inner.options);
        inner.map.store(Arc::new(new));
    }

    /// Follows the catalog's changes until the watch is lost or somebody asks for a refresh.
    async fn watch(&self, node: &Arc<NodeSessions>) {
        let mut candidates = self.candidates();
        candidates.insert(0, Arc::clone(node));
        for node in candidates {
            let Some(mut stream) = self.start_watch(&node) else { continue };
            loop {
                let item = tokio::select! {
                    item = stream.next() => item,
                    () = self.inner.refresh.notified() => return,
                };
                match item {
                    WatchItem::Started(_) => {}
                    WatchItem::Batch(batch) => self.take(&batch),
                    WatchItem::Lagging | WatchItem::Compacted(_) | WatchItem::Observed(_) => {
                        return;
                    }
                    WatchItem::Ended(failure) => {
                        tracing::debug!(%failure, "watch of the catalog ended");
                        break;
                    }
                }
            }
        }
        // Nobody delivers events at this moment: look again soon, or when asked.
        let _ = tokio::time::timeout(PAUSE_MAX, self.inner.refresh.notified()).await;
    }

    fn start_watch(&self, node: &NodeSessions) -> Option<WatchStream> {
        let from = self.inner.map.load().catalog.revision().next();
        let spec = WatchSpec {
            start: Bytes::new(),
            end: KeyEnd::ToEnd,
            from: Some(from),
            puts: Told::Yes,
            deletes: Told::Yes,
            previous: Told::No,
            progress: Told::No,
        };
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let body = RequestBody::Watch(spec);
        node.session()
            .watch(Ask { shard: ShardId::SYSTEM, epoch: Epoch::ZERO, deadline, body })
            .ok()
    }

    fn take(&self, batch: &WatchEvents) {
        let mut catalog = self.inner.map.load().catalog.clone();
        for event in &batch.events {
            if let Err(error) = catalog.apply(event) {
                tracing::warn!(%error, "catalog record ignored");
            }
        }
        catalog.advance(batch.through);
        if !batch.events.is_empty() {
            self.install(catalog);
            let served = self.outcome.borrow().served;
            self.report(served, None); // wakes those who wait for a revision
        }
    }
}

/// Waits until the map includes `revision` of shard 1.
pub(crate) async fn wait_for_revision(
    inner: &Inner,
    mut outcome: watch::Receiver<Outcome>,
    revision: Revision,
    deadline: Instant,
) {
    let reached = async {
        while inner.map.load().catalog.revision() < revision {
            if outcome.changed().await.is_err() {
                return;
            }
        }
    };
    // The map follows by itself; whoever uses it too early asks for a refresh.
    let _ = tokio::time::timeout_at(deadline, reached).await;
}
