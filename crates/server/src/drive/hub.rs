//! What the threads and tasks of one node share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use atoll_base::{Code, Failure, KeyspaceId, LaneId, NodeId, ShardId, Time};
use atoll_coord::{Answer, Catalog, Origin, Request};
use atoll_machine::Event;
use atoll_node::Input;
use atoll_replica::PeerMessage;
use atoll_storage::Engine;
use atoll_transport::link::{Links, PeerSink};

use super::catalog::CatalogView;
use super::clock::Clock;
use super::counts::RaftCounts;
use super::lanes::Lanes;
use super::metrics::Metrics;
use super::origins::{Attached, Origins};
use super::pressure::{Observer, Pressure};
use super::room::{Change, Room};
use super::work::{LogQueue, UpkeepQueue};

/// The queues, registries and counters of one node. Nothing here blocks.
pub(crate) struct Hub {
    pub(crate) node: NodeId,
    pub(crate) cluster: u64,
    pub(crate) room: Room,
    pub(crate) clock: Clock,
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) links: Arc<Links>,
    pub(crate) log: LogQueue,
    pub(super) log_segment_bytes: u64,
    pub(crate) upkeep: UpkeepQueue,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) origins: Origins,
    pub(crate) catalog: CatalogView,
    pub(crate) pressure: Pressure,
    pub(crate) metrics: Metrics,
    pub(crate) raft_counts: RaftCounts,
    pub(super) stopping: AtomicBool,
    /// This node does not know yet whether it may take part.
    pub(super) probation: tokio::sync::watch::Sender<bool>,
    /// Why this node can't go on.
    pub(super) verdict: tokio::sync::watch::Sender<Option<String>>,
}

impl Hub {
    /// Whether the node is on its way down.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Whether the node does not know yet whether it may take part.
    pub(super) fn is_on_probation(&self) -> bool {
        *self.probation.borrow()
    }

    /// Ready when the node may take part.
    pub(crate) async fn may_take_part(&self) {
        // The sender is here, so that it can't be gone.
        let _ = self.probation.subscribe().wait_for(|on| !on).await;
    }

    /// Ready with the reason when the node can't go on and must be stopped.
    pub(crate) async fn is_doomed(&self) -> String {
        let mut verdict = self.verdict.subscribe();
        loop {
            if let Some(why) = verdict.borrow_and_update().clone() {
                return why;
            }
            let _ = verdict.changed().await;
        }
    }

    /// The node's clock.
    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Looks at the disk's free space and tells every lane when new data is refused or taken again.
    pub(super) fn look_at_disk(&self) {
        let look = self.room.look();
        self.metrics.disk_free.set(look.free_bytes);
        match look.change {
            None => {}
            Some(Change::Full(failure)) => {
                tracing::error!("new data is refused: {}", failure.message);
                self.pressure.set(Observer::Upkeep, Some(failure), &self.lanes);
            }
            Some(Change::Free) => {
                tracing::info!(free_bytes = look.free_bytes, "there is room on the disk again");
                self.pressure.set(Observer::Upkeep, None, &self.lanes);
            }
        }
    }

    /// Bytes of the engine and the log on disk.
    pub(crate) fn disk_used_bytes(&self) -> u64 {
        let log = self.metrics.log_segments.get().max(0) as u64 * self.log_segment_bytes;
        self.engine.disk_bytes().unwrap_or(0) + log
    }

    /// Takes in a catalog that other nodes told.
    pub(crate) fn adopt(&self, catalog: Catalog) {
        self.catalog.adopt(catalog, &self.links, &self.lanes);
    }

    /// Registers a caller.
    pub(crate) fn attach(&self) -> Attached {
        let attached = self.origins.attach();
        self.metrics.origins.set(self.origins.len() as i64);
        attached
    }

    /// Forgets a caller and its watches.
    pub(crate) fn detach(&self, origin: Origin) {
        self.origins.detach(origin);
        self.metrics.origins.set(self.origins.len() as i64);
        self.lanes.origin_gone(origin);
    }

    /// Gives watches leave to go on. Never refused: a watch holds a few credits at most.
    pub(crate) fn credit(&self, credits: Vec<Request>) {
        self.lanes.submit_always(credits);
    }

    /// The catalog changed as far as this node has it.
    pub(super) fn on_catalog(&self, events: Vec<Event>) {
        self.catalog.on_events(events, &self.links, &self.lanes);
    }

    /// A lane holds nothing any more of these keyspaces; when all say so, their data goes.
    pub(super) fn on_dropped(&self, lane: LaneId, keyspaces: Vec<KeyspaceId>) {
        for keyspace in self.catalog.on_dropped(lane, keyspaces, self.lanes.count()) {
            self.upkeep.drop_keyspace(keyspace);
        }
    }

    /// Leadership of shards moved.
    pub(super) fn on_leaders(&self, leaders: Vec<(ShardId, Option<NodeId>)>) {
        let leading = self.catalog.on_leaders(leaders, self.node);
        self.metrics.leading.set(leading as i64);
    }

    /// Hands calls to their lanes, all or none.
    ///
    /// # Errors
    /// `Overloaded` or `ShuttingDown`; nothing happened.
    pub(crate) fn submit(&self, requests: Vec<Request>) -> Result<(), Failure> {
        let count = requests.len() as u64;
        let result = if self.is_stopping() {
            Err(Failure::new(Code::ShuttingDown, format!("node {} is stopping", self.node)))
        } else {
            self.lanes.submit(requests)
        };
        match &result {
            Ok(()) => self.metrics.calls.inc_by(count),
            Err(_) => self.metrics.calls_refused.inc_by(count),
        };
        result
    }
}

/// The way in for what peers say.
pub(super) struct PeerInbox {
    pub(super) lanes: Arc<Lanes>,
    pub(super) metrics: Metrics,
}

impl PeerSink for PeerInbox {
    fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>) {
        let dropped = self.lanes.deliver(from, messages);
        if dropped > 0 {
            self.metrics.peer_dropped.inc_by(dropped as u64);
        }
    }

    fn liveness(&self, node: NodeId, alive: bool) {
        let state = if alive { "up" } else { "down" };
        tracing::info!(peer = node.0, state, "peer");
        self.lanes.tell_all(|| Input::PeerLiveness { node, alive });
    }
}

/// An in-process caller that waits for one answer at a time.
pub(crate) struct Caller {
    hub: Arc<Hub>,
    attached: Attached,
    next: u64,
}

impl Caller {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        let attached = hub.attach();
        Self { hub, attached, next: 1 }
    }

    /// Asks this node's replica of `shard` and waits for the answer. Cancel safe: the answer is
    /// then dropped when it comes.
    pub(crate) async fn call(
        &mut self,
        shard: ShardId,
        body: atoll_coord::RequestBody,
        timeout: std::time::Duration,
    ) -> Answer {
        let (origin, id) = (self.attached.origin, self.next);
        self.next += 1;
        let deadline = self.hub.now().after(timeout);
        let epoch = atoll_base::Epoch(0);
        let request = Request { origin, id, shard, epoch, deadline, body };
        let failed = |failure| Answer { origin, id, body: Err(failure) };
        if let Err(failure) = self.hub.submit(vec![request]) {
            return failed(failure);
        }
        let wait = async {
            while let Some(batch) = self.attached.answers.recv().await {
                if let Some(answer) = batch.answers.into_iter().find(|a| a.id == id) {
                    return answer;
                }
            }
            failed(
                Failure::new(Code::ShuttingDown, "this node is stopping")
                    .with_happened(atoll_base::Happened::Maybe),
            )
        };
        // The lane answers by the deadline; this is for the case that it does not.
        match tokio::time::timeout(timeout * 2, wait).await {
            Ok(answer) => answer,
            Err(_) => failed(Failure::new(
                Code::DeadlineExceeded,
                format!("shard {shard} gave no answer in {timeout:?}"),
            )),
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.hub.detach(self.attached.origin);
    }
}
