//! Calls for gateways, which translate other protocols: any question and any change, of a keyspace
//! that is held to one shard.

use std::time::Duration;

use atoll_base::{Failure, NodeId, ShardId};
use atoll_coord::{AnswerBody, RequestBody};
use atoll_machine::{Op, Reply};
use bytes::Bytes;
use tokio::time::Instant;

use crate::call::{Applied, Where};
use crate::client::Client;
use crate::keyspace::Keyspace;

/// The first shard of a keyspace, and where it has no other, the only one.
const FIRST: Bytes = Bytes::new();

impl Keyspace {
    /// Asks the keyspace's first shard for something that changes nothing. Retried, over whatever
    /// node, until the handle's timeout.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn ask(&self, body: RequestBody) -> Result<AnswerBody, Failure> {
        let whom = Where::Key { keyspace: &self.name, key: &FIRST };
        Ok(self.inner().read(whom, body, self.deadline()).await?.1)
    }

    /// Carries out a change at the keyspace's first shard, exactly once.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn apply(&self, op: Op) -> Result<Reply, Failure> {
        let whom = Where::Key { keyspace: &self.name, key: &FIRST };
        let Applied { reply, .. } = self.inner().command(whom, op, self.deadline()).await?;
        Ok(reply)
    }
}

impl Client {
    /// Asks one node about its replica of a shard, once.
    ///
    /// # Errors
    /// What the node refuses with, and why it can't be reached.
    pub async fn ask_node(
        &self,
        node: NodeId,
        shard: ShardId,
        body: RequestBody,
        timeout: Duration,
    ) -> Result<AnswerBody, Failure> {
        self.inner().ask_once(shard, node, body, Instant::now() + timeout).await
    }
}
