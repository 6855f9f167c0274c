//! Atoll: three `atoll serve` processes with their defaults, and the client library.

use std::future::{Future, poll_fn};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::task::Poll;

use anyhow::{Context, Result};
use atoll_client::{EventKind, Holding, Keys, Keyspace, Revision, TxnResult, when};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::etcd;
use crate::process::{self, Server};
use crate::target::{self, Route, Swap, Target};

const NODES: usize = 3;
/// Ports of a node: clients, peers, HTTP.
const PORTS: usize = 3;
/// The keyspace that is there from the beginning.
const KEYSPACE: &str = "default";

/// A cluster of three Atoll processes.
pub(crate) struct Atoll {
    binary: PathBuf,
    version: String,
    /// Of each node.
    ports: Vec<[u16; PORTS]>,
    servers: Vec<Server>,
}

impl Atoll {
    /// A cluster of this program, not started yet; without a name, of the `atoll` beside this one.
    pub(crate) fn new(binary: Option<&Path>) -> Result<Self> {
        let binary = match binary {
            Some(binary) => binary.to_owned(),
            None => std::env::current_exe()?.with_file_name("atoll"),
        };
        let output = Command::new(&binary).arg("--version").output().with_context(|| {
            format!(
                "cannot start {}: build it with `cargo build --release --bin atoll`, or name one \
                 by ATOLL_BIN or --binary",
                binary.display()
            )
        })?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let all = process::free_ports(NODES * PORTS)?;
        let (ports, _) = all.as_chunks();
        Ok(Self { binary, version, ports: ports.to_vec(), servers: Vec::new() })
    }

    fn client_ports(&self) -> Vec<u16> {
        self.ports.iter().map(|[client, ..]| *client).collect()
    }

    fn command(&self, node: usize, folder: &Path) -> Command {
        let [client, peer, http] = self.ports[node];
        let list = self.ports.iter().zip(1..);
        let list: Vec<_> =
            list.map(|([c, p, h], id)| format!("{id}=127.0.0.1:{c}/{p}/{h}")).collect();
        let mut command = Command::new(&self.binary);
        command
            .arg("serve")
            .arg(format!("--node-id={}", node + 1))
            .arg(format!("--data={}", folder.join(format!("n{node}")).display()))
            .arg(format!("--listen=127.0.0.1:{client}"))
            .arg(format!("--peer-listen=127.0.0.1:{peer}"))
            .arg(format!("--http-listen=127.0.0.1:{http}"))
            .arg(format!("--bootstrap={}", list.join(",")))
            .arg("--log=warn");
        command
    }
}

impl Target for Atoll {
    type Client = Client;

    fn name(&self) -> String {
        self.version.clone()
    }

    async fn start(&mut self, folder: &Path) -> Result<()> {
        let commands = (0..NODES).map(|node| self.command(node, folder)).collect();
        let ports = &self.ports;
        self.servers = target::start_all(commands, folder, async || {
            for [client, ..] in ports {
                target::probe(connect(&[*client]).await?).await?;
            }
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn stop(&mut self) -> Result<()> {
        process::stop_all(std::mem::take(&mut self.servers)).await
    }

    async fn leader(&self) -> Result<usize> {
        let ports = self.client_ports();
        let client = atoll_client::Client::connect(addresses(&ports)).await?;
        let keyspace = client.describe_keyspace(KEYSPACE).await?;
        let shard = keyspace.shards.first().context("the keyspace has no shard")?.shard;
        let status = client.cluster_status().await?;
        let leads = status.nodes.iter().position(|node| {
            let mut replicas = node.replicas.iter().flatten();
            replicas.any(|r| r.shard == shard && r.leader == Some(node.node.id))
        });
        leads.context("no node leads")
    }

    fn kill(&mut self, server: usize) -> Result<()> {
        self.servers[server].kill()
    }

    async fn revive(&mut self, server: usize, folder: &Path) -> Result<()> {
        let log = target::log_file(folder, server);
        self.servers[server] = Server::start(&mut self.command(server, folder), &log)?;
        let [port, ..] = self.ports[server];
        let revived = std::slice::from_mut(&mut self.servers[server]);
        target::wait_until_ready(revived, async || target::probe(connect(&[port]).await?).await)
            .await
    }

    fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The library asks leaders directly whatever the route.
    async fn connect(&self, count: usize, _route: Route) -> Result<Vec<Client>> {
        let ports = self.client_ports();
        let mut clients = Vec::with_capacity(count);
        for _ in 0..count {
            clients.push(connect(&ports).await?);
        }
        Ok(clients)
    }
}

/// The same servers, driven through etcd's API.
pub(crate) struct AtollEtcd(Atoll);

impl AtollEtcd {
    /// As [`Atoll::new`].
    pub(crate) fn new(binary: Option<&Path>) -> Result<Self> {
        Ok(Self(Atoll::new(binary)?))
    }
}

impl Target for AtollEtcd {
    type Client = etcd::Client;

    fn name(&self) -> String {
        format!("{} (etcd's API)", self.0.version)
    }

    async fn start(&mut self, folder: &Path) -> Result<()> {
        self.0.start(folder).await?;
        let ports = self.0.client_ports();
        target::wait_until_ready(&mut self.0.servers, async || {
            for port in &ports {
                target::probe(etcd::Client::connect(*port).await?).await?;
            }
            Ok(())
        })
        .await
    }

    async fn stop(&mut self) -> Result<()> {
        self.0.stop().await
    }

    async fn leader(&self) -> Result<usize> {
        etcd::leader(&self.0.client_ports()).await
    }

    fn kill(&mut self, server: usize) -> Result<()> {
        self.0.kill(server)
    }

    async fn revive(&mut self, server: usize, folder: &Path) -> Result<()> {
        self.0.revive(server, folder).await
    }

    fn servers(&self) -> &[Server] {
        self.0.servers()
    }

    async fn connect(&self, count: usize, route: Route) -> Result<Vec<etcd::Client>> {
        etcd::connect(&self.0.client_ports(), count, route).await
    }
}

fn addresses(ports: &[u16]) -> Vec<String> {
    ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
}

async fn connect(ports: &[u16]) -> Result<Client> {
    let client = atoll_client::Client::connect(addresses(ports)).await?;
    Ok(Client { keyspace: client.keyspace(KEYSPACE) })
}

/// One instance of the client library.
#[derive(Clone)]
pub(crate) struct Client {
    keyspace: Keyspace,
}

impl target::Client for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        self.keyspace.put(key, value).await?;
        Ok(())
    }

    async fn put_all(&mut self, pairs: Vec<(Bytes, Bytes)>) -> Result<()> {
        let batch = self.keyspace.batch();
        pairs.into_iter().fold(batch, |batch, (key, value)| batch.put(key, value)).commit().await?;
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<bool> {
        Ok(self.keyspace.get(key).await?.is_some())
    }

    async fn range(&mut self, keys: Range<Bytes>) -> Result<usize> {
        Ok(self.keyspace.scan(Keys::between(keys.start, keys.end)).collect().await?.len())
    }

    async fn page(&mut self, from: Bytes, count: u64) -> Result<usize> {
        Ok(self.keyspace.scan(Keys::from(from)).limit(count).collect().await?.len())
    }

    async fn cas(&mut self, key: Bytes, expected: u64, value: Bytes) -> Result<Swap> {
        let unchanged = when::unchanged_since(key.clone(), Revision(expected));
        let txn = self.keyspace.txn().when(unchanged).put(key.clone(), value);
        let done = txn.otherwise().get(key).commit().await?;
        let revision = match done.results.into_iter().next() {
            Some(TxnResult::Range(page)) => page.kvs.first().map_or(0, |kv| kv.mod_revision.0),
            _ => done.revision.0,
        };
        Ok(Swap { is_done: done.succeeded, revision })
    }

    type Held = Holding;

    async fn contender(&mut self) -> Result<Self> {
        Ok(self.clone())
    }

    async fn lock(&mut self, name: &'static str) -> Result<Holding> {
        Ok(self.keyspace.lock(name).acquire().await?)
    }

    async fn unlock(&mut self, held: Holding) -> Result<()> {
        Ok(held.release().await?)
    }

    async fn leave(&mut self) -> Result<()> {
        // A wait that was given up and a holding that was dropped are told to the shard.
        Ok(())
    }

    async fn watch(
        &mut self,
        key: Bytes,
        count: usize,
        stood: oneshot::Sender<()>,
        mut seen: impl FnMut(&[u8]),
    ) -> Result<()> {
        let mut watches = Vec::with_capacity(count);
        for _ in 0..count {
            watches.push(self.keyspace.watch(Keys::one(key.clone())).start().await?);
        }
        let _ = stood.send(());
        loop {
            // Whichever has something; the first ones first, which is as good as any order.
            let next = poll_fn(|context| {
                let ready =
                    watches.iter_mut().find_map(|watch| match pin!(watch.next()).poll(context) {
                        Poll::Ready(next) => Some(next),
                        Poll::Pending => None,
                    });
                ready.map_or(Poll::Pending, Poll::Ready)
            });
            let changes = next.await.context("a watch ended")??;
            for event in changes.events {
                if let EventKind::Put(record) = event.kind {
                    seen(&record.value);
                }
            }
        }
    }
}
