//! An etcd store as this node knows it: its shard, and how that is at the moment.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use atoll_base::{Revision, ShardId};
use atoll_coord::{AnswerBody, ReplicaStatus, RequestBody};
use atoll_wire::etcd::etcdserverpb::ResponseHeader;

use crate::drive::{Caller, Hub};

/// How often it is looked who leads, in which term.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long this node's replica may take to say how it is.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);

/// One store.
pub(super) struct Space {
    pub(super) hub: Arc<Hub>,
    pub(super) shard: ShardId,
    /// The newest revision seen in an answer.
    newest: AtomicU64,
    term: AtomicU64,
    /// The node that leads the shard; 0 for none known.
    leader: AtomicU64,
    is_followed: AtomicBool,
}

impl Space {
    pub(super) fn new(hub: Arc<Hub>, shard: ShardId) -> Self {
        let number = AtomicU64::default;
        let (newest, term, leader) = (AtomicU64::new(1), number(), number());
        Self { hub, shard, newest, term, leader, is_followed: AtomicBool::new(false) }
    }

    /// Who answers. The term is that of the last look.
    pub(super) fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.hub.cluster,
            member_id: self.hub.node.0,
            revision: revision.0 as i64,
            raft_term: self.term.load(Relaxed),
        }
    }

    /// An answer was of this revision.
    pub(super) fn saw(&self, revision: Revision) {
        self.newest.fetch_max(revision.0, Relaxed);
    }

    /// The newest revision that this node has seen.
    pub(super) fn newest(&self) -> Revision {
        Revision(self.newest.load(Relaxed))
    }

    /// Whether somebody led the shard at the last look.
    pub(super) fn has_leader(&self) -> bool {
        self.leader.load(Relaxed) != 0
    }

    /// Asks this node's replica how it is, if there is one.
    pub(super) async fn look(&self) -> Option<ReplicaStatus> {
        let mut caller = Caller::new(self.hub.clone());
        let answer = caller.call(self.shard, RequestBody::Status, LOOK_TIMEOUT).await;
        let status = match answer.body {
            Ok(AnswerBody::Status(status)) if status.state != "witness" => status,
            // A node without data asks others; that they lead is all it can say.
            _ => {
                self.leader.store(self.hub.node.0, Relaxed);
                return None;
            }
        };
        self.saw(status.revision);
        self.term.fetch_max(status.term.0, Relaxed);
        self.leader.store(status.leader.unwrap_or_default().0, Relaxed);
        Some(status)
    }
}

/// Keeps term and leader up to date for as long as the store is known.
pub(super) fn follow(space: &Arc<Space>) {
    if space.is_followed.swap(true, Relaxed) {
        return;
    }
    let space: Weak<Space> = Arc::downgrade(space);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let Some(space) = space.upgrade() else { return };
            if space.hub.is_stopping() {
                return;
            }
            space.look().await;
        }
    });
}
