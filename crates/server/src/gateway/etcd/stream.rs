//! One call on a stream of HTTP/2, by the services' general way.
//!
//! The call ends when its answer is sent, or when its caller, or the connection, is gone: then what
//! was under way for it is dropped.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use hyper::body::{Body as HttpBody, Frame};
use tonic::codegen::http;

use super::direct::{Direct, Said};

/// A request, and the way to answer it.
pub(in crate::gateway) struct Asked {
    pub(in crate::gateway) head: http::request::Parts,
    pub(in crate::gateway) body: Came,
    pub(in crate::gateway) respond: SendResponse<Bytes>,
}

/// Answers a request in a task of its own.
pub(in crate::gateway) fn spawn(service: &Direct, asked: Asked) {
    let Asked { head, body, respond } = asked;
    let call = service.answer(http::Request::from_parts(head, body));
    tokio::spawn(async move {
        // What goes wrong here is that nobody listens any more.
        let _ = answer(call, respond).await;
    });
}

async fn answer(
    call: impl Future<Output = http::Response<Said>>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let response = {
        let mut call = pin!(call);
        poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(response) => Poll::Ready(Ok(response)),
            Poll::Pending => respond.poll_reset(cx).map(|reset| Err(gone(reset))),
        })
        .await?
    };
    let (head, body) = response.into_parts();
    let head = http::Response::from_parts(head, ());
    match body {
        Said::Whole(whole) => whole.send(head, respond),
        Said::Other(body) if body.is_end_stream() => respond.send_response(head, true).map(drop),
        Said::Other(body) => pass_on(body, respond.send_response(head, false)?).await,
    }
}

fn gone(reset: Result<Reason, h2::Error>) -> h2::Error {
    reset.map_or_else(|error| error, h2::Error::from)
}

/// Sends a body as fast as it is read.
async fn pass_on(
    mut body: tonic::body::Body,
    mut stream: SendStream<Bytes>,
) -> Result<(), h2::Error> {
    loop {
        let next = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(reset) => Poll::Ready(Err(gone(reset))),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(Ok),
        });
        let Some(frame) = next.await? else { return stream.send_data(Bytes::new(), true) };
        let Ok(frame) = frame else {
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        };
        match frame.into_data() {
            Ok(data) => {
                let is_last = body.is_end_stream();
                if !data.is_empty() {
                    room(&mut stream).await?;
                }
                stream.send_data(data, is_last)?;
                if is_last {
                    return Ok(());
                }
            }
            Err(frame) => {
                // Frames are data or trailers.
                let Ok(trailers) = frame.into_trailers() else { continue };
                stream.reserve_capacity(0);
                return stream.send_trailers(trailers);
            }
        }
    }
}

/// Waits until the other side takes something. No more than a byte is claimed: the rest of what is
/// sent waits in line with other streams' data.
async fn room(stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    stream.reserve_capacity(1);
    poll_fn(|cx| {
        while stream.capacity() == 0 {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(gone(reset)));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Ready(Err(Reason::CANCEL.into())),
            }
        }
        Poll::Ready(Ok(()))
    })
    .await
}

/// The body of a request: what was read of it already, and the rest.
pub(in crate::gateway) struct Came {
    pub(in crate::gateway) first: Option<Bytes>,
    pub(in crate::gateway) rest: RecvStream,
}

impl From<RecvStream> for Came {
    fn from(rest: RecvStream) -> Self {
        Self { first: None, rest }
    }
}

impl HttpBody for Came {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        match ready!(self.rest.poll_data(cx)) {
            Some(Ok(data)) => {
                let _ = self.rest.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            // Who ends a stream so wants no more of it; that is no failure.
            Some(Err(error)) => match error.reason() {
                Some(Reason::NO_ERROR | Reason::CANCEL) => Poll::Ready(None),
                _ => Poll::Ready(Some(Err(error))),
            },
            None => match ready!(self.rest.poll_trailers(cx)) {
                Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => Poll::Ready(None),
                Err(error) => Poll::Ready(Some(Err(error))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::VecDeque;
    use std::future::{pending, ready};
    use std::time::Duration;

    use h2::client::SendRequest;
    use tokio::sync::oneshot;
    use tonic::Status;
    use tonic::body::Body;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A body that comes in these frames.
    pub(in crate::gateway::etcd) struct Frames(VecDeque<Result<Frame<Bytes>, Status>>);

    impl FromIterator<Result<Frame<Bytes>, Status>> for Frames {
        fn from_iter<I: IntoIterator<Item = Result<Frame<Bytes>, Status>>>(frames: I) -> Self {
            Self(frames.into_iter().collect())
        }
    }

    impl HttpBody for Frames {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front())
        }
    }

    fn frames(frames: impl IntoIterator<Item = Result<Frame<Bytes>, Status>>) -> Said {
        Said::Other(Body::new(frames.into_iter().collect::<Frames>()))
    }

    /// A client, and the first request of it as a server sees it.
    async fn asked(body: &'static [&'static [u8]]) -> (h2::client::ResponseFuture, Asked) {
        let (near, far) = tokio::io::duplex(1 << 12);
        let server = tokio::spawn(async move {
            let mut http = h2::server::handshake::<_>(near).await.unwrap();
            let (request, respond) = http.accept().await.unwrap().unwrap();
            tokio::spawn(async move { while http.accept().await.is_some() {} });
            let (head, body) = request.into_parts();
            Asked { head, body: body.into(), respond }
        });
        let (mut sender, connection): (SendRequest<Bytes>, _) =
            h2::client::handshake(far).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://here/").body(()).unwrap();
        let (response, mut stream) = sender.send_request(request, body.is_empty()).unwrap();
        for (n, piece) in (1..).zip(body) {
            stream.send_data(Bytes::from_static(piece), n == body.len()).unwrap();
        }
        (response, tokio::time::timeout(LONG, server).await.unwrap().unwrap())
    }

    #[tokio::test]
    async fn a_body_arrives_whole_and_after_what_was_read_of_it() {
        let (_response, mut asked) = asked(&[b"one", b"", b"two"]).await;
        asked.body.first = Some(Bytes::from_static(b"zero "));
        let mut all = Vec::new();
        let read = async {
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut asked.body).poll_frame(cx)).await {
                all.extend(frame.unwrap().into_data().unwrap());
            }
        };
        tokio::time::timeout(LONG, read).await.unwrap();
        assert_eq!(all, b"zero onetwo");
        assert!(asked.body.is_end_stream());
    }

    #[tokio::test]
    async fn an_answer_larger_than_all_windows_waits_for_its_reader() {
        const PIECE: usize = 50_000;
        let (response, asked) = asked(&[]).await;
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let pieces = (0..20).map(|n| Ok(Frame::data(Bytes::from(vec![n; PIECE]))));
        let said = frames(pieces.chain([Ok(Frame::trailers(trailers))]));
        let answering = tokio::spawn(answer(ready(http::Response::new(said)), asked.respond));
        let mut body = response.await.unwrap().into_body();
        let mut all = Vec::new();
        while let Some(data) = tokio::time::timeout(LONG, body.data()).await.unwrap() {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            all.extend_from_slice(&data);
        }
        let is_right = |(at, byte): (usize, &u8)| usize::from(*byte) == at / PIECE;
        assert!(all.len() == 20 * PIECE && all.iter().enumerate().all(is_right));
        assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "0");
        answering.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn who_hangs_up_ends_the_call() {
        struct Under(Option<oneshot::Sender<()>>);
        impl Drop for Under {
            fn drop(&mut self) {
                let _ = self.0.take().map(|gone| gone.send(()));
            }
        }
        let (response, asked) = asked(&[]).await;
        let (gone, is_gone) = oneshot::channel();
        let under = Under(Some(gone));
        let call = async move {
            let _under = under;
            pending().await
        };
        let answering = tokio::spawn(answer(call, asked.respond));
        drop(response);
        tokio::time::timeout(LONG, is_gone).await.expect("the call was dropped").unwrap();
        assert!(answering.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn a_body_that_fails_is_not_taken_for_one_that_ended() {
        let (response, asked) = asked(&[]).await;
        let said = frames([Ok(Frame::data(Bytes::from_static(b"a"))), Err(Status::internal("b"))]);
        answer(ready(http::Response::new(said)), asked.respond).await.unwrap();
        // What was not sent yet when it failed need not arrive.
        let Ok(response) = tokio::time::timeout(LONG, response).await.unwrap() else { return };
        let mut body = response.into_body();
        while let Some(data) = tokio::time::timeout(LONG, body.data()).await.unwrap() {
            if data.is_err() {
                return;
            }
        }
        panic!("the body ended");
    }
}
