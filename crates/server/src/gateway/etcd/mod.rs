//! etcd's client API, on the port where clients of Atoll connect.
//!
//! An etcd store is a keyspace of one shard: the shard's revision is the store's. Clients that say
//! nothing use the keyspace that the setting `etcd_keyspace` names, which is made when it is first
//! used; others are named by the metadata `atoll-keyspace`. Nothing is decided here: requests are
//! checked and translated, the shard's machine decides, and what it says is translated back, with
//! etcd's codes and texts, because its clients tell refusals apart by those.
//!
//! ```text
//!   kv, watch, lease, lock, election, cluster, maintenance, auth     one file per service
//!       check (what etcd refuses unseen)     refusal (codes and texts)
//!       range, txn, translate                space (which keyspace; who answers)
//!       queue, line (behind locks, elections)   http (`/version`, `/health`)
//!       direct, reads (the short ways of calls of kv)   stream (one call by HTTP/2)
//!   client library -> node
//! ```
//!
//! `docs/etcd.md` says what is offered, and where it differs from etcd.

mod auth;
mod check;
mod cluster;
pub(super) mod direct;
mod election;
pub(super) mod http;
mod kv;
mod lease;
mod line;
mod lock;
mod maintenance;
mod queue;
mod range;
pub(super) mod reads;
mod refusal;
mod space;
pub(super) mod stream;
mod translate;
mod txn;
mod watch;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_base::{Code, Failure};
use atoll_client::{Client, Keyspace, KeyspaceSpec, ShardOptions};
use atoll_coord::{Consistency, RequestBody};
use atoll_transport::stub::etcdserverpb as stub;
use atoll_transport::stub::v3electionpb::election_server::ElectionServer;
use atoll_transport::stub::v3lockpb::lock_server::LockServer;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use tokio::sync::watch as signal;
use tonic::service::RoutesBuilder;
use tonic::{Request, Status};

use self::line::Lines;
use self::refusal::refused;
use self::space::Space;
use self::watch::Feed;
use super::request_timeout;
use crate::config::NodeConfig;
use crate::drive::Hub;

/// The version of etcd whose API this is; its clients look at it before they use what is newer.
const VERSION: &str = "3.5.13";
/// Names the keyspace, where it is not the usual one.
const KEYSPACE_METADATA: &str = "atoll-keyspace";
/// A client that would rather fail than wait says `true`.
const LEADER_METADATA: &str = "hasleader";
/// The longest that a call waits, as with etcd: then its client is told so.
const TIMEOUT: Duration = Duration::from_secs(7);
/// How often a store that was just found is looked at until its leader is known here, too.
const FIRST_LOOKS_MAX: usize = 50;
const FIRST_LOOK_PAUSE: Duration = Duration::from_millis(20);
/// What a request may have beyond what is kept of it.
const OVERHEAD_BYTES: usize = 512 << 10;
/// History is kept until somebody compacts it, as with etcd. A shard adds a quarter to this number.
const ALL_HISTORY: u64 = 1 << 62;

/// What all services share.
#[derive(Clone)]
pub(super) struct Etcd {
    shared: Arc<Shared>,
}

struct Shared {
    hub: Arc<Hub>,
    client: Client,
    keyspace: String,
    limits: check::Limits,
    stop: signal::Receiver<bool>,
    spaces: Mutex<BTreeMap<String, Known>>,
}

/// A store, and what happens in it for all watches on this node.
#[derive(Clone)]
struct Known {
    space: Arc<Space>,
    feed: Arc<Feed>,
    lines: Arc<Lines>,
    keyspace: Keyspace,
}

/// One call of a client: the store that it is for, and a handle with the time that it may take.
struct Call {
    space: Arc<Space>,
    feed: Arc<Feed>,
    lines: Arc<Lines>,
    client: Client,
    keyspace: Keyspace,
    /// The time that it may take.
    timeout: Duration,
}

impl Etcd {
    pub(super) fn new(
        config: &NodeConfig,
        hub: Arc<Hub>,
        client: Client,
        stop: signal::Receiver<bool>,
    ) -> Self {
        let limits = check::Limits {
            txn_ops_max: config.etcd_txn_ops_max,
            request_bytes_max: config.etcd_request_bytes_max,
        };
        let keyspace = config.etcd_keyspace.clone();
        let spaces = Mutex::default();
        Self { shared: Arc::new(Shared { hub, client, keyspace, limits, stop, spaces }) }
    }

    /// Adds etcd's services to those of a server.
    pub(super) fn add_to(&self, routes: &mut RoutesBuilder) {
        let bytes_max = self.shared.limits.request_bytes_max + OVERHEAD_BYTES;
        routes
            .add_service(
                stub::kv_server::KvServer::new(self.clone()).max_decoding_message_size(bytes_max),
            )
            .add_service(stub::lease_server::LeaseServer::new(self.clone()))
            .add_service(stub::watch_server::WatchServer::new(self.clone()))
            .add_service(stub::cluster_server::ClusterServer::new(self.clone()))
            .add_service(stub::maintenance_server::MaintenanceServer::new(self.clone()))
            .add_service(stub::auth_server::AuthServer::new(self.clone()))
            .add_service(LockServer::new(self.clone()))
            .add_service(ElectionServer::new(self.clone()));
    }

    /// Waits for something that may never come, but not when the node is about to leave.
    async fn or_stopped<T>(
        &self,
        waited_for: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        tokio::select! {
            done = waited_for => done,
            () = super::stopped(self.shared.stop.clone()) => Err(refusal::stopped()),
        }
    }

    fn spaces(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.shared.spaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store of clients that name none, once it was used.
    fn usual_space(&self) -> Option<Arc<Space>> {
        self.spaces().get(&self.shared.keyspace).map(|known| known.space.clone())
    }

    /// The store that a request is for.
    async fn open<T>(&self, request: &Request<T>) -> Result<Call, Status> {
        let metadata = request.metadata();
        let name = match metadata.get(KEYSPACE_METADATA) {
            None => &self.shared.keyspace,
            Some(name) => name.to_str().map_err(|_| {
                Status::invalid_argument(format!("{KEYSPACE_METADATA} is no keyspace's name"))
            })?,
        };
        let timeout = request_timeout(request).map_or(TIMEOUT, |t| t.min(TIMEOUT));
        let known = self.spaces().get(name).cloned();
        let Known { space, feed, lines, keyspace } = match known {
            Some(known) => known,
            None => self.find(name).await.map_err(|f| refused(&f))?,
        };
        let wants_leader = metadata.get(LEADER_METADATA).is_some_and(|v| v == "true");
        if wants_leader && !space.has_leader() {
            // What was seen may be old by now.
            space.look().await;
            if !space.has_leader() {
                return Err(refusal::no_leader());
            }
        }
        let keyspace = keyspace.with_timeout(timeout);
        let client = self.shared.client.clone();
        Ok(Call { space, feed, lines, client, keyspace, timeout })
    }

    /// Looks a keyspace up; the usual one is made if it is not there.
    async fn find(&self, name: &str) -> Result<Known, Failure> {
        let client = &self.shared.client;
        let info = match client.describe_keyspace(name).await {
            Err(failure) if failure.code == Code::NotFound && name == self.shared.keyspace => {
                let mut spec = KeyspaceSpec::new(name);
                spec.shards = Some(1);
                spec.options =
                    ShardOptions { history_revisions: ALL_HISTORY, ..ShardOptions::default() };
                match client.create_keyspace(&spec).await {
                    Err(failure) if failure.code == Code::AlreadyExists => {
                        client.describe_keyspace(name).await?
                    }
                    other => other?,
                }
            }
            other => other?,
        };
        let [shard] = &info.shards[..] else {
            let count = info.shards.len();
            let text = format!("keyspace {name} has {count} shards, etcd's api needs one");
            return Err(Failure::new(Code::Unsupported, text));
        };
        // A store that was just made has no leader for a moment; its first answer shows one.
        let consistency = Consistency::Linearizable;
        let any_key = RequestBody::Get { key: Bytes::from_static(&[0]), at: None, consistency };
        client.keyspace(name).with_timeout(TIMEOUT).ask(any_key).await?;
        let space = Arc::new(Space::new(self.shared.hub.clone(), shard.shard));
        for _ in 0..FIRST_LOOKS_MAX {
            space.look().await;
            if space.has_leader() {
                break;
            }
            tokio::time::sleep(FIRST_LOOK_PAUSE).await;
        }
        let (feed, lines) = (Arc::new(Feed::new()), Arc::default());
        let known = Known { space, feed, lines, keyspace: client.keyspace(name) };
        let known = self.spaces().entry(name.to_owned()).or_insert(known).clone();
        space::follow(&known.space);
        Ok(known)
    }
}

impl Call {
    /// Who answers, from which revision.
    fn header(&self, revision: atoll_base::Revision) -> Option<pb::ResponseHeader> {
        self.space.saw(revision);
        Some(self.space.header(revision))
    }
}
