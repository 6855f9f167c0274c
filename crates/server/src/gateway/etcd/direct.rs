//! The short way of the calls that clients make most, those of `etcdserverpb.KV`.
//!
//! A call that comes as nearly all do, one small message that is not compressed, is read, answered
//! and written here: its message is decoded from what came, its answer encoded once into memory of
//! its size, and nothing is looked up on the way. Every other call, and whatever about a request is
//! unusual, takes the way of all services, with what was read of it given back: who asks can't tell
//! which way it took.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

use atoll_transport::stub::etcdserverpb::kv_server::Kv;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use hyper::body::{Body as HttpBody, Frame, Incoming};
use hyper::service::Service;
use prost::{DecodeError, Message};
use tonic::body::Body;
use tonic::codegen::{Service as _, StdError as BoxError, http};
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::{Request, Response, Status};

use super::Etcd;
use crate::gateway::flight::{Counted, Flight};
use crate::gateway::{GRPC_TIMEOUT, timeout_in};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// Larger messages are not read in advance.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// Where the services that are answered here are found.
const SERVICE: &str = "/etcdserverpb.KV/";

type Answered = Pin<Box<dyn Future<Output = http::Response<Said>> + Send>>;

/// All services, some of whose calls take the short way.
#[derive(Clone)]
pub(in crate::gateway) struct Direct {
    pub(super) etcd: Etcd,
    pub(super) flight: Flight,
    /// How many reads are under way by their own way.
    pub(super) reads: Arc<AtomicUsize>,
    /// The way of all services.
    rest: Counted,
}

impl Direct {
    pub(in crate::gateway) fn new(etcd: Etcd, flight: Flight, rest: Counted) -> Self {
        Self { etcd, flight, reads: Arc::default(), rest }
    }

    /// Answers any request.
    pub(in crate::gateway) fn answer<B>(&self, request: http::Request<B>) -> Answered
    where
        B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
    {
        let (head, body) = request.into_parts();
        let method = Method::named(head.uri.path()).filter(|_| is_plain(&head));
        let rest = self.rest.clone();
        let Some(method) = method else {
            return Box::pin(go(rest, http::Request::from_parts(head, Body::new(body))));
        };
        let etcd = self.etcd.clone();
        let flying = self.flight.begin();
        Box::pin(async move {
            let _flying = flying;
            match answer(&etcd, method, head, body).await {
                Ok(response) => response,
                Err(request) => go(rest, *request).await,
            }
        })
    }
}

impl Service<http::Request<Incoming>> for Direct {
    type Response = http::Response<Said>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Said>, Infallible>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let answered = self.answer(request);
        Box::pin(async move { Ok(answered.await) })
    }
}

/// The way of all services, for as long as the caller waits.
async fn go(mut rest: Counted, request: http::Request<Body>) -> http::Response<Said> {
    let timeout = request.headers().get(GRPC_TIMEOUT).and_then(|v| timeout_in(v.as_bytes()));
    // Routes are always ready.
    let answered = rest.call(request);
    let answered = match timeout {
        None => answered.await,
        Some(timeout) => match tokio::time::timeout(timeout, answered).await {
            Ok(answered) => answered,
            Err(_) => Ok(Status::cancelled("Timeout expired").into_http()),
        },
    };
    match answered {
        Ok(response) => response.map(Said::Other),
        Err(never) => match never {},
    }
}

/// Whether the request says nothing that is not understood here.
pub(super) fn is_plain(head: &http::request::Parts) -> bool {
    let headers = &head.headers;
    let content = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    head.method == http::Method::POST
        && matches!(content, Some(b"application/grpc" | b"application/grpc+proto"))
        && headers.get("grpc-encoding").is_none_or(|encoding| encoding == "identity")
}

/// What is answered here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Method {
    Range,
    Put,
    DeleteRange,
    Txn,
}

/// What came for it.
enum Asked {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    DeleteRange(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
}

impl Method {
    pub(super) fn named(path: &str) -> Option<Self> {
        Some(match path.strip_prefix(SERVICE)? {
            "Range" => Self::Range,
            "Put" => Self::Put,
            "DeleteRange" => Self::DeleteRange,
            "Txn" => Self::Txn,
            _ => return None,
        })
    }

    fn decode(self, message: Bytes) -> Result<Asked, DecodeError> {
        Ok(match self {
            Self::Range => Asked::Range(Message::decode(message)?),
            Self::Put => Asked::Put(Message::decode(message)?),
            Self::DeleteRange => Asked::DeleteRange(Message::decode(message)?),
            Self::Txn => Asked::Txn(Message::decode(message)?),
        })
    }
}

/// The answer, or the request as it came where it is not for this way.
async fn answer<B>(
    etcd: &Etcd,
    method: Method,
    parts: http::request::Parts,
    mut body: B,
) -> Result<http::Response<Said>, Box<http::Request<Body>>>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let read = match read(&mut body).await {
        Ok(read) => read,
        Err(status) => return Ok(status.into_http()),
    };
    let asked = read.message().and_then(|message| method.decode(message).ok());
    let Some(asked) = asked else {
        let replayed = Replayed { read, rest: body };
        return Err(Box::new(http::Request::from_parts(parts, Body::new(replayed))));
    };
    let (metadata, extensions) = (MetadataMap::from_headers(parts.headers), parts.extensions);
    Ok(match asked {
        Asked::Range(message) => {
            respond(etcd.range(Request::from_parts(metadata, extensions, message)).await)
        }
        Asked::Put(message) => {
            respond(etcd.put(Request::from_parts(metadata, extensions, message)).await)
        }
        Asked::DeleteRange(message) => {
            respond(etcd.delete_range(Request::from_parts(metadata, extensions, message)).await)
        }
        Asked::Txn(message) => {
            respond(etcd.txn(Request::from_parts(metadata, extensions, message)).await)
        }
    })
}

/// What was read of a request's body: usually one piece, and all of it.
#[derive(Default)]
struct Read {
    first: Option<Bytes>,
    second: Option<Bytes>,
    is_whole: bool,
}

impl Read {
    /// The one message, where there is one and it came in one piece.
    fn message(&self) -> Option<Bytes> {
        one_message(self.first.as_ref().filter(|_| self.is_whole && self.second.is_none())?)
    }
}

/// The message that a piece holds, where that is all that it holds. It is a copy: parts of it may
/// live long and would keep all that came with it.
pub(super) fn one_message(piece: &[u8]) -> Option<Bytes> {
    let (prefix, message) = piece.split_at_checked(PREFIX)?;
    let length = u32::from_be_bytes(prefix[1..].try_into().ok()?) as usize;
    let is_it = prefix[0] == 0 && length == message.len() && length <= MESSAGE_BYTES_MAX;
    is_it.then(|| Bytes::copy_from_slice(message))
}

/// Reads a body until it ends or is seen to be for the other way.
async fn read<B>(body: &mut B) -> Result<Read, Status>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    let mut read = Read::default();
    loop {
        if body.is_end_stream() {
            read.is_whole = true;
            return Ok(read);
        }
        let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await else {
            read.is_whole = true;
            return Ok(read);
        };
        // Requests have no trailers.
        let frame = frame.map_err(|e| Status::from_error(e.into()))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.is_empty() {
            continue;
        }
        if read.first.is_some() {
            read.second = Some(data);
            return Ok(read);
        }
        let is_promising = data.len() >= PREFIX && data.len() <= PREFIX + MESSAGE_BYTES_MAX;
        read.first = Some(data);
        if !is_promising {
            return Ok(read);
        }
    }
}

/// A body of which some was read already.
struct Replayed<B> {
    read: Read,
    rest: B,
}

impl<B> HttpBody for Replayed<B>
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.read.first.take().or_else(|| self.read.second.take()) {
            Some(data) => Poll::Ready(Some(Ok(Frame::data(data)))),
            None if self.read.is_whole => Poll::Ready(None),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }
}

/// What the client hears.
fn respond<T: Message>(answer: Result<Response<T>, Status>) -> http::Response<Said> {
    let (metadata, message, extensions) = match answer {
        Ok(answer) => answer.into_parts(),
        Err(status) => return status.into_http(),
    };
    let mut response = http::Response::new(Said::Whole(Whole::new(&message)));
    *response.headers_mut() = metadata.into_headers();
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    *response.extensions_mut() = extensions;
    response
}

/// The body of an answer.
pub(in crate::gateway) enum Said {
    Whole(Whole),
    Other(Body),
}

impl Default for Said {
    fn default() -> Self {
        Self::Other(Body::empty())
    }
}

impl HttpBody for Said {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut *self {
            Self::Whole(whole) => Poll::Ready(whole.next().map(Ok)),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_over,
            Self::Other(body) => body.is_end_stream(),
        }
    }
}

/// A body of one message and the status that says that this is all.
pub(in crate::gateway) struct Whole {
    message: Option<Bytes>,
    is_over: bool,
}

/// The head of an answer that is a success so far.
pub(super) fn grpc_head() -> http::Response<()> {
    let mut head = http::Response::new(());
    head.headers_mut().insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    head
}

/// The trailers of a success.
fn success() -> http::HeaderMap {
    let mut trailers = http::HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, http::HeaderValue::from_static("0"));
    trailers
}

impl Whole {
    /// Sends all of it at once: it is in memory already, and leaves as fast as it is taken.
    pub(in crate::gateway) fn send(
        self,
        head: http::Response<()>,
        mut respond: SendResponse<Bytes>,
    ) -> Result<(), h2::Error> {
        let mut stream = respond.send_response(head, false)?;
        if let Some(message) = self.message {
            stream.send_data(message, false)?;
        }
        stream.send_trailers(success())
    }

    pub(super) fn new(message: &impl Message) -> Self {
        let length = message.encoded_len();
        let mut bytes = BytesMut::with_capacity(PREFIX + length);
        bytes.put_u8(0);
        bytes.put_u32(u32::try_from(length).expect("answers are bounded far below 4 GiB"));
        message.encode(&mut bytes).expect("there is room for the length that it said");
        Self { message: Some(bytes.freeze()), is_over: false }
    }

    fn next(&mut self) -> Option<Frame<Bytes>> {
        if let Some(message) = self.message.take() {
            return Some(Frame::data(message));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return None;
        }
        Some(Frame::trailers(success()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::etcd::stream::tests::Frames;

    fn body(pieces: &[&[u8]]) -> Body {
        let pieces = pieces.iter().map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece))));
        Body::new(pieces.collect::<Frames>())
    }

    async fn all(mut body: impl HttpBody<Data = Bytes, Error = Status> + Unpin) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            all.extend(frame.unwrap().into_data().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn one_message_in_one_piece_is_read_and_all_else_is_given_back_whole() {
        let message = pb::PutRequest { key: "k".into(), value: "v".into(), ..Default::default() };
        let Whole { message: Some(framed), .. } = Whole::new(&message) else { panic!("no bytes") };
        let read_first = read(&mut body(&[&framed, b""])).await.unwrap();
        let message_read = read_first.message().unwrap();
        assert_eq!(pb::PutRequest::decode(message_read).unwrap(), message);

        let (head, tail) = framed.split_at(7);
        let mut compressed = framed.to_vec();
        compressed[0] = 1;
        let mut longer = framed.to_vec();
        longer[4] += 1;
        let large = vec![0; PREFIX + MESSAGE_BYTES_MAX + 1];
        let odd: [&[&[u8]]; 9] = [
            &[head, tail],
            &[&framed[..3], &framed[3..]],
            &[&framed, &framed],
            &[&[&framed[..], &framed[..]].concat()],
            &[&compressed],
            &[&longer],
            &[&large, b"more", b"and more"],
            &[head],
            &[],
        ];
        for pieces in odd {
            let mut body = body(pieces);
            let read = read(&mut body).await.unwrap();
            assert_eq!(read.message(), None, "{} pieces", pieces.len());
            assert_eq!(all(Replayed { read, rest: body }).await, pieces.concat());
        }
    }

    #[tokio::test]
    async fn a_request_that_breaks_off_is_an_error() {
        struct Broken;
        impl HttpBody for Broken {
            type Data = Bytes;
            type Error = Status;

            fn poll_frame(
                self: Pin<&mut Self>,
                _cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
                Poll::Ready(Some(Err(Status::cancelled("gone"))))
            }
        }
        let failed = read(&mut Body::new(Broken)).await.err().unwrap();
        assert_eq!(failed.code(), tonic::Code::Cancelled);
    }

    #[tokio::test]
    async fn an_answer_is_its_message_and_a_status() {
        let answer = pb::PutResponse { header: None, prev_kv: None };
        let response = respond(Ok(Response::new(answer)));
        assert_eq!(response.headers()["content-type"], "application/grpc");
        let mut body = response.into_body();
        let mut next = async || poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let data = next().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(&data[..], [0; PREFIX]);
        let trailers = next().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert!(next().await.is_none());
        let refused = respond::<pb::PutResponse>(Err(Status::not_found("no lease")));
        assert_eq!(refused.headers()["grpc-status"], "5");
        assert_eq!(refused.headers()["grpc-message"], "no%20lease");
    }

    #[test]
    fn only_what_is_understood_here_takes_the_short_way() {
        let request = |method: &str, headers: &[(&str, &str)]| {
            let request = http::Request::builder().method(method).uri("/etcdserverpb.KV/Range");
            let add = |request: http::request::Builder, (name, value): &(&str, &str)| {
                request.header(*name, *value)
            };
            is_plain(&headers.iter().fold(request, add).body(()).unwrap().into_parts().0)
        };
        let grpc = ("content-type", "application/grpc");
        assert!(request("POST", &[grpc]));
        assert!(request("POST", &[grpc, ("grpc-encoding", "identity")]));
        assert!(!request("POST", &[grpc, ("grpc-encoding", "gzip")]));
        assert!(!request("POST", &[("content-type", "application/grpc-web")]));
        assert!(!request("GET", &[grpc]));
        assert!(!request("POST", &[]));
        assert_eq!(Method::named("/etcdserverpb.KV/Txn"), Some(Method::Txn));
        assert_eq!(Method::named("/etcdserverpb.KV/Compact"), None);
        assert_eq!(Method::named("/etcdserverpb.Watch/Watch"), None);
    }
}
