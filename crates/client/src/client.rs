//! The client: what is shared by everything made from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use atoll_base::{Failure, ShardId};
use atoll_coord::{AnswerBody, RequestBody};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::call::{Inner, Where};
use crate::facts::NodeFacts;
use crate::follow::Follower;
use crate::hold::Heart;
use crate::link::{BoxFuture, Link, Links, RemoteLinks};
use crate::map::{NodeSessions, Outcome};
use crate::options::Options;

/// A client of one cluster. Cloning is cheap; all clones share connections, shard map and limits.
/// Everything stops when the last clone, and the last handle made from one, is dropped.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) inner: Arc<Inner>,
    heart: Arc<Heart>,
    follower: JoinHandle<()>,
    beating: JoinHandle<()>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.follower.abort();
        self.beating.abort();
    }
}

impl Client {
    /// Connects to a cluster through any of its nodes, `host:port` each, with default [`Options`].
    ///
    /// One reachable node is enough; the others are learned from it. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is none, and why no node could be asked when none
    /// answered within [`Options::timeout`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn example() -> Result<(), atoll_client::Failure> {
    /// let client = atoll_client::Client::connect(["127.0.0.1:7400", "127.0.0.1:7410"]).await?;
    /// client.keyspace("default").put("greeting", "hello").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect<A: AsRef<str>>(
        addresses: impl IntoIterator<Item = A>,
    ) -> Result<Self, Failure> {
        Self::builder().addresses(addresses).connect().await
    }

    /// A client with other settings.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Ends this client's sessions now: what it holds is released and what it waits for given up,
    /// of all clones. For programs that end; otherwise the cluster notices when the sessions'
    /// time to live is over. Takes two seconds at most.
    pub async fn close(&self) {
        self.heart().close(self.inner()).await;
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.shared.inner
    }

    pub(crate) fn heart(&self) -> &Arc<Heart> {
        &self.shared.heart
    }

    pub(crate) fn default_deadline(&self) -> Instant {
        Instant::now() + self.inner().options.timeout
    }
}

/// Makes a [`Client`].
#[derive(Default)]
pub struct ClientBuilder {
    addresses: Vec<String>,
    options: Options,
    local: BTreeMap<String, Arc<dyn Link>>,
    links: Option<Arc<dyn Links>>,
}

impl ClientBuilder {
    /// Nodes to ask first.
    #[must_use]
    pub fn addresses<A: AsRef<str>>(mut self, addresses: impl IntoIterator<Item = A>) -> Self {
        self.addresses.extend(addresses.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// Settings.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Reaches the node that the catalog knows by `address` over this link instead of the network:
    /// how a node asks itself. It is also one of the nodes to ask first.
    #[must_use]
    pub fn local(mut self, address: &str, link: Arc<dyn Link>) -> Self {
        self.addresses.insert(0, address.to_owned());
        self.local.insert(address.to_owned(), link);
        self
    }

    /// Reaches all other nodes by these links instead of the network.
    #[must_use]
    pub fn links(mut self, links: Arc<dyn Links>) -> Self {
        self.links = Some(links);
        self
    }

    /// Starts the client without waiting for the cluster: calls wait until the shard map is known.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that is none.
    pub fn start(self) -> Result<Client, Failure> {
        let options = self.options;
        let remote = self.links.unwrap_or_else(|| {
            Arc::new(RemoteLinks::new(options.message_bytes_max, options.connect_timeout))
        });
        let links: Arc<dyn Links> = Arc::new(Overlay { local: self.local, remote });
        let seed = |address: &String| NodeSessions::start(address, &*links, &options).map(Arc::new);
        let seeds = self.addresses.iter().map(seed).collect::<Result<Vec<_>, _>>()?;
        let (sender, outcome) = watch::channel(Outcome::NONE);
        let inner = Arc::new(Inner::new(options, links, outcome));
        let follower = Follower { inner: Arc::clone(&inner), seeds, outcome: sender };
        let follower = tokio::spawn(follower.run());
        let heart = Arc::new(Heart::default());
        let beating = tokio::spawn(Arc::clone(&heart).run(Arc::clone(&inner)));
        Ok(Client { shared: Arc::new(Shared { inner, heart, follower, beating }) })
    }

    /// Starts the client and waits until it knows the cluster.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn connect(self) -> Result<Client, Failure> {
        let client = self.start()?;
        client.ready().await?;
        Ok(client)
    }
}

impl Client {
    /// Waits until the shard map is known.
    ///
    /// # Errors
    /// Why the catalog cannot be read, after [`Options::timeout`].
    pub async fn ready(&self) -> Result<(), Failure> {
        let inner = self.inner();
        let mut outcome = inner.outcome.clone();
        let known = outcome.wait_for(|_| inner.map.load().catalog.cluster().is_some());
        let known = tokio::time::timeout_at(self.default_deadline(), known).await;
        if known.is_ok() {
            return Ok(());
        }
        let last = inner.outcome.borrow().failure.clone();
        Err(last.unwrap_or_else(|| {
            let limit = inner.options.timeout;
            let text = format!("no node gave the shard map within {limit:?}");
            Failure::new(atoll_base::Code::Unreachable, text)
        }))
    }

    /// Asks whoever leads a shard something that changes nothing, within [`Options::timeout`]. For
    /// gateways that pass on what they were asked; others use [`Keyspace`](crate::Keyspace).
    /// Cancel safe: yes.
    ///
    /// # Errors
    /// What the shard says, or why it could not be asked in time.
    pub async fn ask_leader(
        &self,
        shard: ShardId,
        question: RequestBody,
    ) -> Result<AnswerBody, Failure> {
        let deadline = self.default_deadline();
        Ok(self.inner().read(Where::Shard(shard), question, deadline).await?.1)
    }
}

/// Local links first.
struct Overlay {
    local: BTreeMap<String, Arc<dyn Link>>,
    remote: Arc<dyn Links>,
}

impl Links for Overlay {
    fn link(&self, address: &str) -> Result<Arc<dyn Link>, Failure> {
        match self.local.get(address) {
            Some(link) => Ok(Arc::clone(link)),
            None => self.remote.link(address),
        }
    }

    fn facts<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<NodeFacts, Failure>> {
        self.remote.facts(address)
    }
}
