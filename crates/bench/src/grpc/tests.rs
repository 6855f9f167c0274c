//! The client against a small server of etcd's KV service.

use atoll_transport::stub::etcdserverpb::kv_server::{Kv, KvServer};
use atoll_wire::etcd::etcdserverpb as pb;
use atoll_wire::etcd::mvccpb::KeyValue;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Response, transport::Server};

use super::*;

/// Answers ranges with what their key asks for, and puts with the length of the value.
#[derive(Clone, Default)]
struct Small {
    /// Somebody asked for what is never answered.
    was_asked: Arc<Notify>,
}

#[tonic::async_trait]
impl Kv for Small {
    async fn range(
        &self,
        request: tonic::Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        match &request.key[..] {
            b"refused" => Err(Status::not_found("no such thing: 7 %")),
            b"never" => {
                self.was_asked.notify_one();
                std::future::pending().await
            }
            _ => {
                let pair = |n: i64| KeyValue {
                    key: request.key.clone(),
                    value: vec![n as u8; 1000].into(),
                    version: n,
                    ..Default::default()
                };
                let kvs = (0..request.limit).map(pair).collect();
                Ok(Response::new(pb::RangeResponse { kvs, ..Default::default() }))
            }
        }
    }

    async fn put(
        &self,
        request: tonic::Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let header = pb::ResponseHeader {
            revision: request.get_ref().value.len() as i64,
            ..Default::default()
        };
        Ok(Response::new(pb::PutResponse { header: Some(header), prev_kv: None }))
    }

    async fn delete_range(
        &self,
        _request: tonic::Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn txn(
        &self,
        _request: tonic::Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn compact(
        &self,
        _request: tonic::Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A server until it is aborted; where it listens.
async fn serve(small: Small) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let service = KvServer::new(small).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    (port, tokio::spawn(async move { server.await.unwrap() }))
}

const RANGE: &str = "/etcdserverpb.KV/Range";

async fn range(
    connection: &Connection,
    key: &'static str,
    limit: i64,
) -> Result<pb::RangeResponse> {
    let call = Call::new(connection.port, RANGE)?;
    connection
        .unary(&call, &pb::RangeRequest { key: key.into(), limit, ..Default::default() })
        .await
}

#[tokio::test]
async fn calls_are_answered_whatever_their_size() {
    let (port, server) = serve(Small::default()).await;
    let connection = Connection::open(port).await.unwrap();
    // The largest is more than all windows hold; the others share the connection with it.
    let sizes = [0, 1, 20, 3 * i64::from(WINDOW_BYTES) / 1000, 17_000, 2];
    let asked = sizes.map(|size| {
        let connection = connection.clone();
        tokio::spawn(async move { range(&connection, "k", size).await.unwrap() })
    });
    for (size, answer) in sizes.into_iter().zip(asked) {
        let kvs = answer.await.unwrap().kvs;
        assert_eq!(kvs.len() as i64, size);
        for (n, kv) in (0..).zip(&kvs) {
            let value = vec![n as u8; 1000];
            assert_eq!((&kv.key[..], &kv.value[..], kv.version), (&b"k"[..], &value[..], n));
        }
    }
    let call = Call::new(port, "/etcdserverpb.KV/Put").unwrap();
    let value = Bytes::from(vec![3; 5 << 20]);
    let length = value.len() as i64;
    let put = pb::PutRequest { key: "k".into(), value, ..Default::default() };
    let answer: pb::PutResponse = connection.unary(&call, &put).await.unwrap();
    assert_eq!(answer.header.unwrap().revision, length);
    server.abort();
}

#[tokio::test]
async fn a_refusal_is_told_with_its_code_and_text() {
    let (port, server) = serve(Small::default()).await;
    let connection = Connection::open(port).await.unwrap();
    let refusal = range(&connection, "refused", 0).await.unwrap_err();
    let status = refusal.downcast_ref::<Status>().expect("it is what the server said");
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such thing: 7 %"));
    let call = Call::new(port, "/etcdserverpb.KV/Nothing").unwrap();
    let unknown = connection.unary::<pb::PutResponse>(&call, &pb::PutRequest::default()).await;
    let status = unknown.unwrap_err().downcast::<Status>().unwrap();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(range(&connection, "k", 1).await.unwrap().kvs.len(), 1, "it is still of use");
    server.abort();
}

#[tokio::test]
async fn a_connection_that_broke_fails_its_calls_and_is_opened_anew() {
    let small = Small::default();
    let (port, server) = serve(small.clone()).await;
    let connection = Connection::open(port).await.unwrap();
    assert_eq!(range(&connection, "k", 1).await.unwrap().kvs.len(), 1);
    let waiting = tokio::spawn({
        let connection = connection.clone();
        async move { range(&connection, "never", 0).await }
    });
    small.was_asked.notified().await;
    connection.open.lock().await.driver.abort();
    let broken = waiting.await.unwrap().unwrap_err();
    assert!(broken.is::<h2::Error>(), "its connection is gone: {broken}");
    let again = range(&connection, "k", 2).await.unwrap();
    assert_eq!(again.kvs.len(), 2);
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    connection.open.lock().await.driver.abort();
    assert!(range(&connection, "k", 1).await.is_err(), "nobody listens there");
}

#[tokio::test]
async fn who_says_nothing_is_given_up() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (mut far, _) = listener.accept().await.unwrap();
    let mut near = Plain::new(near, Duration::from_millis(5));
    near.write_all(b"?").await.unwrap();
    far.write_all(b"!").await.unwrap();
    assert_eq!(near.read_u8().await.unwrap(), b'!');
    assert_eq!(near.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    near.write_all(b"?").await.unwrap();
    assert_eq!(far.read_u16().await.unwrap(), u16::from_be_bytes(*b"??"));
}
