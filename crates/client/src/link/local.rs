//! The node in this process.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use atoll_base::{Code, Failure, Time};
use atoll_coord::{Answer, Origin, Request};
use tokio::time::Instant;
use tokio_stream::Stream;

use super::{AnswerSource, BoxFuture, Call, CallSink, Connection, Link, Reply};

/// What a node says to one origin, batch by batch. The node ends it when it stops, or when the
/// caller lets it wait for too long.
pub type Answers = Pin<Box<dyn Stream<Item = Vec<Answer>> + Send>>;

/// What a node offers to callers in its own process.
pub trait Port: Send + Sync + 'static {
    /// Registers a new origin; its answers come until it is detached.
    fn attach(&self) -> (Origin, Answers);

    /// Forgets an origin: its watches end and its answers are dropped.
    fn detach(&self, origin: Origin);

    /// Hands requests to the node's lanes, all or none.
    ///
    /// # Errors
    /// `Overloaded` or `ShuttingDown`; nothing happened.
    fn submit(&self, requests: Vec<Request>) -> Result<(), Failure>;

    /// The node's clock.
    fn now(&self) -> Time;
}

/// Calls a node in the same process.
pub struct LocalLink {
    port: Arc<dyn Port>,
}

impl LocalLink {
    /// A link to the node behind `port`.
    #[must_use]
    pub fn new(port: Arc<dyn Port>) -> Self {
        Self { port }
    }
}

impl Link for LocalLink {
    fn connect(&self) -> BoxFuture<'_, Result<Connection, Failure>> {
        let (origin, answers) = self.port.attach();
        let attached = Arc::new(Attached { port: Arc::clone(&self.port), origin });
        let calls = LocalCalls { attached: Arc::clone(&attached) };
        let answers = LocalAnswers { answers, _attached: attached };
        let connection = Connection { calls: Box::new(calls), answers: Box::new(answers) };
        Box::pin(async { Ok(connection) })
    }
}

/// Detaches the origin when the last half of the connection is dropped.
struct Attached {
    port: Arc<dyn Port>,
    origin: Origin,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.port.detach(self.origin);
    }
}

struct LocalCalls {
    attached: Arc<Attached>,
}

impl CallSink for LocalCalls {
    fn send<'a>(
        &'a mut self,
        calls: &'a mut Vec<Call>,
        refused: &'a mut Vec<Reply>,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let Attached { port, origin } = &*self.attached;
        let (now, clock) = (port.now(), Instant::now());
        let ids: Vec<u64> = calls.iter().map(|c| c.id).collect();
        let request = |call: Call| Request {
            origin: *origin,
            id: call.id,
            shard: call.shard,
            epoch: call.epoch,
            deadline: now.after(call.deadline.saturating_duration_since(clock)),
            body: call.body,
        };
        if let Err(failure) = port.submit(calls.drain(..).map(request).collect()) {
            refused.extend(ids.into_iter().map(|id| (id, Err(failure.clone()))));
        }
        Box::pin(async { Ok(()) })
    }
}

struct LocalAnswers {
    answers: Answers,
    _attached: Arc<Attached>,
}

impl AnswerSource for LocalAnswers {
    fn receive<'a>(&'a mut self, out: &'a mut Vec<Reply>) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(poll_fn(|cx| {
            let had = out.len();
            loop {
                match self.answers.as_mut().poll_next(cx) {
                    Poll::Ready(Some(answers)) => {
                        out.extend(answers.into_iter().map(|a| (a.id, a.body)))
                    }
                    // What came is handed on first.
                    _ if out.len() > had => return Poll::Ready(Ok(())),
                    Poll::Ready(None) => {
                        let text = "the node in this process hung up on its caller";
                        return Poll::Ready(Err(Failure::new(Code::Indeterminate, text)));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
        }))
    }
}
