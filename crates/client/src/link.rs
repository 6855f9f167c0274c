//! The way to one node: a seam with two real sides, the network ([`RemoteLink`]) and the node that
//! this process runs itself ([`LocalLink`]). Tests stand a small shard behind the second one.

mod local;
mod remote;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use atoll_base::{Code, Epoch, Failure, ShardId};
use atoll_coord::{AnswerBody, RequestBody};
use tokio::time::Instant;

pub use local::{Answers, LocalLink, Port};
pub use remote::{RemoteLink, RemoteLinks};

use crate::facts::NodeFacts;

/// A boxed future. Links are asked once per batch, so that the allocation is shared by many calls.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One call on its way to a node.
#[derive(Debug)]
pub struct Call {
    /// The asker's number, unique among its calls in flight on one connection.
    pub id: u64,
    /// The shard asked.
    pub shard: ShardId,
    /// The epoch at which the asker knows the shard; zero for any.
    pub epoch: Epoch,
    /// When the asker stops waiting.
    pub deadline: Instant,
    /// What is asked.
    pub body: RequestBody,
}

/// The id of a call and what came of it.
pub type Reply = (u64, Result<AnswerBody, Failure>);

/// Connects to one node.
pub trait Link: Send + Sync + 'static {
    /// Opens a connection.
    ///
    /// The failure says why there is none; nothing that was not sent has happened.
    fn connect(&self) -> BoxFuture<'_, Result<Connection, Failure>>;
}

/// The two halves of a connection. Dropping them ends it.
pub struct Connection {
    /// Takes calls.
    pub calls: Box<dyn CallSink>,
    /// Gives answers.
    pub answers: Box<dyn AnswerSource>,
}

/// Takes calls to a node.
pub trait CallSink: Send {
    /// Sends the calls and empties the list; answers to calls that cannot be sent go to `refused`.
    /// Waits while the connection takes no more.
    ///
    /// A failure ends the connection; calls that were handed over before may have arrived.
    fn send<'a>(
        &'a mut self,
        calls: &'a mut Vec<Call>,
        refused: &'a mut Vec<Reply>,
    ) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Gives a node's answers.
pub trait AnswerSource: Send {
    /// Waits for answers and adds at least one to `out`. Cancel safe: yes.
    ///
    /// A failure ends the connection.
    fn receive<'a>(&'a mut self, out: &'a mut Vec<Reply>) -> BoxFuture<'a, Result<(), Failure>>;
}

/// Knows the way to nodes by their client address.
pub trait Links: Send + Sync + 'static {
    /// The link to the node at `address`.
    ///
    /// # Errors
    /// `InvalidArgument` for an address that cannot be one.
    fn link(&self, address: &str) -> Result<Arc<dyn Link>, Failure>;

    /// What the node at `address` says of itself; links that carry calls only can't tell.
    fn facts<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<NodeFacts, Failure>> {
        let text = format!("the link to {address} carries calls only");
        Box::pin(async { Err(Failure::new(Code::Unsupported, text)) })
    }
}
