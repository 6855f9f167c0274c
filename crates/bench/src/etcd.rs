//! etcd: three processes with its defaults, and a client of its gRPC surface.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use atoll_wire::etcd::{etcdserverpb as proto, v3lockpb};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::grpc::{Answers, Call, Connection};
use crate::process::{self, Server};
use crate::target::{self, Route, Swap, Target};

const MEMBERS: usize = 3;
/// A contender's lease; longer than any cell is measured.
const LEASE_TTL_S: i64 = 600;

/// A cluster of three etcd processes.
pub(crate) struct Etcd {
    binary: PathBuf,
    version: String,
    client_ports: Vec<u16>,
    peer_ports: Vec<u16>,
    servers: Vec<Server>,
}

impl Etcd {
    /// A cluster of this program, not started yet.
    pub(crate) fn new(binary: &Path) -> Result<Self> {
        let output = Command::new(binary).arg("--version").output();
        let output = output.with_context(|| {
            format!("cannot start {}: name an etcd by ETCD_BIN or --binary", binary.display())
        })?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().next().and_then(|line| line.split(": ").nth(1));
        let mut ports = process::free_ports(2 * MEMBERS)?;
        let peer_ports = ports.split_off(MEMBERS);
        Ok(Self {
            binary: binary.to_owned(),
            version: version.unwrap_or("of unknown version").to_owned(),
            client_ports: ports,
            peer_ports,
            servers: Vec::new(),
        })
    }

    fn command(&self, member: usize, folder: &Path) -> Command {
        let client = url(self.client_ports[member]);
        let peer = url(self.peer_ports[member]);
        let all: Vec<_> =
            self.peer_ports.iter().enumerate().map(|(m, p)| format!("m{m}={}", url(*p))).collect();
        let mut command = Command::new(&self.binary);
        command
            .arg(format!("--name=m{member}"))
            .arg(format!("--data-dir={}", folder.join(format!("m{member}")).display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster={}", all.join(",")))
            .args(["--initial-cluster-state=new", "--logger=zap", "--log-level=error"]);
        command
    }
}

/// The member that leads, once every member knows one.
pub(crate) async fn leader(ports: &[u16]) -> Result<usize> {
    let mut leader = None;
    for (member, port) in ports.iter().enumerate() {
        let call = Call::new(*port, "/etcdserverpb.Maintenance/Status")?;
        let connection = Connection::open(*port).await?;
        let status: proto::StatusResponse =
            connection.unary(&call, &proto::StatusRequest::default()).await?;
        ensure!(status.leader != 0, "member {member} knows no leader");
        if status.header.is_some_and(|header| header.member_id == status.leader) {
            leader = Some(member);
        }
    }
    leader.context("no member leads")
}

impl Target for Etcd {
    type Client = Client;

    fn name(&self) -> String {
        format!("etcd {}", self.version)
    }

    async fn start(&mut self, folder: &Path) -> Result<()> {
        let commands = (0..MEMBERS).map(|member| self.command(member, folder)).collect();
        let ports = &self.client_ports;
        self.servers = target::start_all(commands, folder, async || {
            leader(ports).await?;
            for port in ports {
                target::probe(Client::connect(*port).await?).await?;
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
        leader(&self.client_ports).await
    }

    fn kill(&mut self, server: usize) -> Result<()> {
        self.servers[server].kill()
    }

    async fn revive(&mut self, server: usize, folder: &Path) -> Result<()> {
        let log = target::log_file(folder, server);
        self.servers[server] = Server::start(&mut self.command(server, folder), &log)?;
        let port = self.client_ports[server];
        let revived = std::slice::from_mut(&mut self.servers[server]);
        target::wait_until_ready(revived, async || {
            let mut client = Client::connect(port).await?;
            target::Client::get(&mut client, Bytes::from_static(b"probe")).await?;
            Ok(())
        })
        .await
    }

    fn servers(&self) -> &[Server] {
        &self.servers
    }

    async fn connect(&self, count: usize, route: Route) -> Result<Vec<Client>> {
        connect(&self.client_ports, count, route).await
    }
}

/// Connections to servers that speak etcd's API.
pub(crate) async fn connect(ports: &[u16], count: usize, route: Route) -> Result<Vec<Client>> {
    let ports = match route {
        Route::All => ports.to_vec(),
        Route::Leader => vec![ports[leader(ports).await?]],
    };
    let mut clients = Vec::with_capacity(count);
    for port in ports.iter().cycle().take(count) {
        clients.push(Client::connect(*port).await?);
    }
    Ok(clients)
}

/// One connection to a member.
#[derive(Clone)]
pub(crate) struct Client {
    connection: Connection,
    calls: Rc<Calls>,
    /// What holds its locks.
    lease: i64,
}

/// What it calls.
struct Calls {
    put: Call,
    range: Call,
    txn: Call,
    grant: Call,
    revoke: Call,
    lock: Call,
    unlock: Call,
    watch: Call,
}

impl Client {
    /// A connection to a server on this machine.
    pub(crate) async fn connect(port: u16) -> Result<Self> {
        let call = |path| Call::new(port, path);
        let calls = Calls {
            put: call("/etcdserverpb.KV/Put")?,
            range: call("/etcdserverpb.KV/Range")?,
            txn: call("/etcdserverpb.KV/Txn")?,
            grant: call("/etcdserverpb.Lease/LeaseGrant")?,
            revoke: call("/etcdserverpb.Lease/LeaseRevoke")?,
            lock: call("/v3lockpb.Lock/Lock")?,
            unlock: call("/v3lockpb.Lock/Unlock")?,
            watch: call("/etcdserverpb.Watch/Watch")?,
        };
        Ok(Self { connection: Connection::open(port).await?, calls: Rc::new(calls), lease: 0 })
    }

    /// How many pairs a range holds.
    async fn count(&self, request: &proto::RangeRequest) -> Result<usize> {
        let found: Pairs = self.connection.unary(&self.calls.range, request).await?;
        Ok(found.kvs.len())
    }
}

/// What is looked at in the answer to a range: `RangeResponse`, its pairs left as they came.
#[derive(Clone, PartialEq, prost::Message)]
struct Pairs {
    #[prost(bytes = "bytes", repeated, tag = "2")]
    kvs: Vec<Bytes>,
}

impl target::Client for Client {
    async fn put(&mut self, key: Bytes, value: Bytes) -> Result<()> {
        let request = put_request((key, value));
        let _: proto::PutResponse = self.connection.unary(&self.calls.put, &request).await?;
        Ok(())
    }

    async fn put_all(&mut self, pairs: Vec<(Bytes, Bytes)>) -> Result<()> {
        let op = |pair| proto::RequestOp {
            request: Some(proto::request_op::Request::RequestPut(put_request(pair))),
        };
        let request = proto::TxnRequest {
            success: pairs.into_iter().map(op).collect(),
            ..Default::default()
        };
        let done: proto::TxnResponse = self.connection.unary(&self.calls.txn, &request).await?;
        ensure!(done.succeeded, "a transaction without conditions did not succeed");
        Ok(())
    }

    async fn get(&mut self, key: Bytes) -> Result<bool> {
        let request = proto::RangeRequest { key, ..Default::default() };
        Ok(self.count(&request).await? > 0)
    }

    async fn range(&mut self, keys: Range<Bytes>) -> Result<usize> {
        let request =
            proto::RangeRequest { key: keys.start, range_end: keys.end, ..Default::default() };
        self.count(&request).await
    }

    async fn page(&mut self, from: Bytes, count: u64) -> Result<usize> {
        let request = proto::RangeRequest {
            key: from,
            range_end: Bytes::from_static(&[0]),
            limit: i64::try_from(count)?,
            ..Default::default()
        };
        self.count(&request).await
    }

    async fn cas(&mut self, key: Bytes, expected: u64, value: Bytes) -> Result<Swap> {
        use proto::request_op::Request;
        let op = |request| vec![proto::RequestOp { request: Some(request) }];
        let compare = proto::Compare {
            result: proto::compare::CompareResult::Equal as i32,
            target: proto::compare::CompareTarget::Mod as i32,
            key: key.clone(),
            target_union: Some(proto::compare::TargetUnion::ModRevision(i64::try_from(expected)?)),
            ..Default::default()
        };
        let read = proto::RangeRequest { key: key.clone(), ..Default::default() };
        let request = proto::TxnRequest {
            compare: vec![compare],
            success: op(Request::RequestPut(put_request((key, value)))),
            failure: op(Request::RequestRange(read)),
        };
        let answer: proto::TxnResponse = self.connection.unary(&self.calls.txn, &request).await?;
        let revision = match answer.responses.into_iter().next().and_then(|op| op.response) {
            Some(proto::response_op::Response::ResponseRange(read)) => {
                read.kvs.first().map_or(0, |kv| kv.mod_revision)
            }
            _ => answer.header.map_or(0, |header| header.revision),
        };
        Ok(Swap { is_done: answer.succeeded, revision: u64::try_from(revision)? })
    }

    type Held = Bytes;

    async fn contender(&mut self) -> Result<Self> {
        let request = proto::LeaseGrantRequest { ttl: LEASE_TTL_S, id: 0 };
        let granted: proto::LeaseGrantResponse =
            self.connection.unary(&self.calls.grant, &request).await?;
        Ok(Self { lease: granted.id, ..self.clone() })
    }

    async fn lock(&mut self, name: &'static str) -> Result<Bytes> {
        let request = v3lockpb::LockRequest { name: Bytes::from(name), lease: self.lease };
        let held: v3lockpb::LockResponse =
            self.connection.unary(&self.calls.lock, &request).await?;
        Ok(held.key)
    }

    async fn unlock(&mut self, key: Bytes) -> Result<()> {
        let request = v3lockpb::UnlockRequest { key };
        let _: v3lockpb::UnlockResponse =
            self.connection.unary(&self.calls.unlock, &request).await?;
        Ok(())
    }

    async fn leave(&mut self) -> Result<()> {
        let request = proto::LeaseRevokeRequest { id: self.lease };
        let _: proto::LeaseRevokeResponse =
            self.connection.unary(&self.calls.revoke, &request).await?;
        Ok(())
    }

    async fn watch(
        &mut self,
        key: Bytes,
        count: usize,
        stood: oneshot::Sender<()>,
        seen: impl FnMut(&[u8]),
    ) -> Result<()> {
        let create = proto::WatchCreateRequest { key, ..Default::default() };
        let create = proto::WatchRequest {
            request_union: Some(proto::watch_request::RequestUnion::CreateRequest(create)),
        };
        let creates = std::iter::repeat_n(create, count);
        let answers = self.connection.stream(&self.calls.watch, creates).await?;
        follow(answers, count, stood, seen).await
    }
}

/// The watches of one stream, as long as that takes.
async fn follow(
    mut answers: Answers,
    count: usize,
    stood: oneshot::Sender<()>,
    mut seen: impl FnMut(&[u8]),
) -> Result<()> {
    let mut created = 0;
    let mut stood = Some(stood);
    while let Some(answer) = answers.next::<proto::WatchResponse>().await? {
        ensure!(!answer.canceled, "a watch was cancelled: {}", answer.cancel_reason);
        created += usize::from(answer.created);
        if created == count
            && let Some(stood) = stood.take()
        {
            let _ = stood.send(());
        }
        for kv in answer.decoded_events()?.into_iter().filter_map(|event| event.kv) {
            seen(&kv.value);
        }
    }
    bail!("a stream of watches ended")
}

fn put_request((key, value): (Bytes, Bytes)) -> proto::PutRequest {
    proto::PutRequest { key, value, ..Default::default() }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}
