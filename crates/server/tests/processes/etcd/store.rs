//! A store that speaks etcd's API, and what a client needs of it.

use std::time::Duration;

use atoll_transport::stub::etcdserverpb as stub;
use atoll_transport::stub::{v3electionpb, v3lockpb};
use atoll_wire::etcd::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

use crate::harness::within;

/// How long one answer may take.
pub(super) const SOON: Duration = Duration::from_secs(30);

pub(super) type Kv = stub::kv_client::KvClient<Channel>;
pub(super) type Lease = stub::lease_client::LeaseClient<Channel>;

/// The clients of one endpoint.
#[derive(Clone)]
pub(super) struct Store {
    channel: Channel,
}

impl Store {
    pub(super) async fn connect(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self { channel: endpoint.connect().await.expect("the store is there") }
    }

    /// A store that need not be there; it is looked for when it is needed.
    pub(super) fn connect_lazily(address: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
        Self { channel: endpoint.connect_lazy() }
    }

    pub(super) fn kv(&self) -> Kv {
        stub::kv_client::KvClient::new(self.channel.clone())
    }

    pub(super) fn lease(&self) -> Lease {
        stub::lease_client::LeaseClient::new(self.channel.clone())
    }

    pub(super) fn maintenance(&self) -> stub::maintenance_client::MaintenanceClient<Channel> {
        stub::maintenance_client::MaintenanceClient::new(self.channel.clone())
    }

    pub(super) fn lock(&self) -> v3lockpb::lock_client::LockClient<Channel> {
        v3lockpb::lock_client::LockClient::new(self.channel.clone())
    }

    pub(super) fn election(&self) -> v3electionpb::election_client::ElectionClient<Channel> {
        v3electionpb::election_client::ElectionClient::new(self.channel.clone())
    }

    /// A stream of watches.
    pub(super) fn watches(&self) -> Watches {
        let (sender, requests) = mpsc::channel(16);
        let mut client = stub::watch_client::WatchClient::new(self.channel.clone());
        // etcd opens its side with its first answer, which there is none of before a request.
        let opening = tokio::spawn(async move {
            let answers = client.watch(ReceiverStream::new(requests)).await?;
            Ok(answers.into_inner())
        });
        Watches { sender, opening: Some(opening), answers: None }
    }
}

/// A stream of watches.
pub(super) struct Watches {
    sender: mpsc::Sender<pb::WatchRequest>,
    opening: Option<JoinHandle<Result<Streaming<pb::WatchResponse>, Status>>>,
    answers: Option<Streaming<pb::WatchResponse>>,
}

impl Watches {
    pub(super) async fn say(&self, request: pb::watch_request::RequestUnion) {
        let request = pb::WatchRequest { request_union: Some(request) };
        // A stream that has ended says so when it is listened to.
        let _ = self.sender.send(request).await;
    }

    pub(super) async fn create(&self, request: pb::WatchCreateRequest) {
        self.say(pb::watch_request::RequestUnion::CreateRequest(request)).await;
    }

    /// The next answer.
    pub(super) async fn hear(&mut self) -> pb::WatchResponse {
        if let Some(opening) = self.opening.take() {
            let opened = within("a stream of watches opens", SOON, opening).await;
            self.answers = Some(opened.expect("no panic").expect("a stream"));
        }
        let answers = self.answers.as_mut().expect("it was opened");
        let next = within("a watch answers", SOON, answers.message()).await;
        next.expect("the stream stands").expect("it has not ended")
    }

    /// The next answer, or how the stream ended.
    pub(super) async fn try_hear(&mut self) -> Result<Option<pb::WatchResponse>, Status> {
        if let Some(opening) = &mut self.opening {
            let opened = opening.await.expect("no panic");
            self.opening = None;
            self.answers = Some(opened?);
        }
        self.answers.as_mut().expect("it was opened").message().await
    }
}

pub(super) fn put(key: &str, value: &str) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    pb::PutRequest { key, value, ..Default::default() }
}

/// Everything that begins with `key`, or everything.
pub(super) fn prefix(key: &str) -> pb::RangeRequest {
    let mut end = key.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => end = vec![0],
    }
    let key = if key.is_empty() { vec![0] } else { key.as_bytes().to_vec() };
    pb::RangeRequest { key: key.into(), range_end: end.into(), ..Default::default() }
}

/// Code and text of a refusal.
pub(super) fn text(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}
