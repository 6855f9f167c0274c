//! Nodes that come and go, and the members of shards: each change step by step, safe to repeat.
//!
//! A step is a change of the shard's description in the catalog (`coord::plan::members`). The
//! group's leader brings its members in line with it; this client waits for that, says meanwhile
//! what it waits for, and makes the next step. A command that was interrupted is given again: steps
//! that were made are seen to be made.

use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, LogIndex, NodeId, Revision, ShardId};
use atoll_coord::catalog::{Catalog, NodeRecord};
use atoll_coord::plan::members;
use atoll_coord::{AnswerBody, Descriptor, RequestBody};
use atoll_machine::TxnOp;
use atoll_raft::Role;
use tokio::time::Instant;

use crate::admin::PLANS_MAX;
use crate::call::{Where, unexpected};
use crate::client::Client;

/// How long the leader is asked to wait before its state is told.
const LOOK: Duration = Duration::from_secs(1);
/// How long a node that is to delete its replica is asked before it is left for later.
const RETIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two such attempts.
const RETIRE_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two looks at a node that is to begin as a witness.
const WITNESS_PAUSE: Duration = Duration::from_millis(50);

/// What a node becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Joining {
    /// It catches up as a learner, then votes.
    Voter,
    /// It holds a copy and does not vote.
    Learner,
    /// It votes and holds no data.
    Witness,
}

/// What a change of members is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberProgress {
    /// Which shard.
    pub shard: ShardId,
    /// What is done or waited for, in words.
    pub text: String,
}

/// A change of members under way: what to change, how long to wait, whom to tell.
pub struct MemberChange<'a> {
    client: &'a Client,
    shard: Option<ShardId>,
    node: NodeId,
    wait: Duration,
    tell: Box<dyn FnMut(MemberProgress) + Send + Sync + 'a>,
}

impl Client {
    /// Prepares to change what `node` does. Without [`MemberChange::shard`] the change is made to
    /// every shard that it concerns, one after the other.
    ///
    /// # Examples
    /// ```no_run
    /// # use atoll_client::{Client, Failure, Joining, NodeId};
    /// # async fn example(client: Client) -> Result<(), Failure> {
    /// client.change_members(NodeId(4)).add(Joining::Voter).await?;
    /// client.change_members(NodeId(1)).tell(|p| println!("{}: {}", p.shard,
    /// p.text)).remove().await?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn change_members(&self, node: NodeId) -> MemberChange<'_> {
        let tell = Box::new(|_| ());
        MemberChange { client: self, shard: None, node, wait: Duration::from_secs(600), tell }
    }

    /// Writes down where a node is reached, unless the catalog says so already.
    ///
    /// # Errors
    /// `AlreadyExists` where another node has one of its addresses; otherwise as a put.
    pub async fn put_node(&self, record: &NodeRecord) -> Result<(), Failure> {
        let deadline = self.default_deadline();
        self.change_if_needed(|catalog| members::put_node(catalog, record), deadline).await
    }

    /// The catalog as this client knows it.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        self.inner().map.load().catalog.clone()
    }

    /// The catalog as it is now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn newest_catalog(&self) -> Result<Catalog, Failure> {
        self.inner().refresh_map(self.default_deadline()).await?;
        Ok(self.catalog())
    }

    /// Waits until this client knows a catalog newer than `revision`. Cancel safe: yes.
    pub async fn newer_catalog(&self, revision: Revision) -> Catalog {
        let mut outcome = self.inner().outcome.clone();
        loop {
            let catalog = self.inner().map.load();
            if catalog.catalog.revision() > revision {
                return catalog.catalog.clone();
            }
            drop(catalog);
            if outcome.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Hands a shard's leadership to one of its voters, which is preferred from then on.
    ///
    /// # Errors
    /// `PreconditionFailed` when the node is no voter of the shard; otherwise as a put.
    pub async fn transfer_leader(&self, shard: ShardId, to: NodeId) -> Result<(), Failure> {
        let mut change = self.change_members(to).shard(shard);
        change.wait = self.inner().options.timeout;
        change.lead(shard).await
    }

    /// Carries out what `plan` makes of the newest catalog, if that is anything.
    async fn change_if_needed(
        &self,
        plan: impl Fn(&Catalog) -> Result<Option<TxnOp>, Failure>,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let inner = self.inner();
        for _ in 0..PLANS_MAX {
            inner.refresh_map(deadline).await?;
            let Some(txn) = plan(&inner.map.load().catalog)? else { return Ok(()) };
            if self.carry_out(txn, deadline).await? {
                return Ok(());
            }
        }
        Err(crate::admin::too_many_plans())
    }
}

impl<'a> MemberChange<'a> {
    /// Only this shard.
    #[must_use]
    pub fn shard(mut self, shard: ShardId) -> Self {
        self.shard = Some(shard);
        self
    }

    /// How long to wait for one shard's group; ten minutes without this. What was begun goes on
    /// when the wait is over.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// Whom to tell what is done and waited for.
    #[must_use]
    pub fn tell(mut self, tell: impl FnMut(MemberProgress) + Send + Sync + 'a) -> Self {
        self.tell = Box::new(tell);
        self
    }

    /// Gives the node a replica of the shard, or of every shard, and waits until it does what it is
    /// to do there. Returns the shards as they are then.
    ///
    /// # Errors
    /// `NotFound` for a node that has not joined, `PreconditionFailed` naming what is in the way,
    /// and
    /// `DeadlineExceeded` naming what it still waits for.
    pub async fn add(mut self, joining: Joining) -> Result<Vec<Descriptor>, Failure> {
        let node = self.node;
        let role = if joining == Joining::Witness { Role::Witness } else { Role::Learner };
        let shards = self.shards(|_| true).await?;
        for &shard in &shards {
            self.begin(shard).await?;
            self.step(shard, |c| members::add(c, shard, node, role)).await?;
            self.settle(shard).await?;
            match joining {
                Joining::Learner => {}
                Joining::Voter => {
                    self.step(shard, |c| members::promote(c, shard, node)).await?;
                    self.settle(shard).await?;
                }
                Joining::Witness => self.await_witness(shard).await?,
            }
            self.say(shard, "done");
        }
        Ok(self.descriptors(&shards))
    }

    /// Lets the node vote in the shard, or in every shard where it is a learner.
    ///
    /// # Errors
    /// As [`MemberChange::add`].
    pub async fn promote(mut self) -> Result<Vec<Descriptor>, Failure> {
        let node = self.node;
        let holds = move |d: &Descriptor| {
            d.members.iter().any(|m| m.node == node && m.role != Role::Witness)
        };
        let shards = self.shards(holds).await?;
        for &shard in &shards {
            self.begin(shard).await?;
            self.step(shard, |c| members::promote(c, shard, node)).await?;
            self.settle(shard).await?;
            self.say(shard, "done");
        }
        Ok(self.descriptors(&shards))
    }

    /// Takes the node out of the shard and lets it delete its replica; without a shard out of all
    /// of them, and then out of the cluster. A node that can't be reached keeps its data until this
    /// is repeated while it can.
    ///
    /// # Errors
    /// As [`MemberChange::add`].
    pub async fn remove(mut self) -> Result<Vec<Descriptor>, Failure> {
        let node = self.node;
        let every = self.shard.is_none();
        if every && self.client.newest_catalog().await?.node(node).is_none() {
            return Ok(Vec::new());
        }
        let shards = self.shards(|_| true).await?;
        for &shard in &shards {
            let is_member = self.holds(shard);
            if is_member {
                self.begin(shard).await?;
                self.step(shard, |c| members::remove(c, shard, node)).await?;
            }
            if is_member || self.has_replica(shard).await {
                let (epoch, index) = self.settle(shard).await?;
                self.retire(shard, epoch, index).await;
                self.say(shard, "done");
            }
        }
        if every {
            let deadline = self.client.default_deadline();
            let forget = |c: &Catalog| members::forget_node(c, node);
            self.client.change_if_needed(forget, deadline).await?;
        }
        Ok(self.descriptors(&shards))
    }

    async fn lead(mut self, shard: ShardId) -> Result<(), Failure> {
        let to = self.node;
        self.begin(shard).await?;
        self.step(shard, |c| members::prefer(c, shard, to)).await?;
        let (body, deadline) = (RequestBody::Transfer(to), self.client.default_deadline());
        match self.client.inner().read(Where::Shard(shard), body, deadline).await {
            Ok((_, AnswerBody::Transferred)) => Ok(()),
            Ok((_, other)) => Err(unexpected("a transfer", &other)),
            // The preference is recorded: that is what brings leadership there later.
            Err(mut failure) => {
                failure.message +=
                    &format!("; it is preferred now, and node {to} leads when it can");
                Err(failure)
            }
        }
    }

    fn say(&mut self, shard: ShardId, text: impl Into<String>) {
        (self.tell)(MemberProgress { shard, text: text.into() });
    }

    /// The shard that was named, or all those that `concerns` picks.
    async fn shards(
        &self,
        concerns: impl Fn(&Descriptor) -> bool,
    ) -> Result<Vec<ShardId>, Failure> {
        let catalog = self.client.newest_catalog().await?;
        Ok(match self.shard {
            Some(shard) => vec![shard],
            None => {
                let all = catalog.descriptors().filter(|d| !d.dropped && concerns(d));
                all.map(|d| d.shard).collect()
            }
        })
    }

    fn descriptors(&self, shards: &[ShardId]) -> Vec<Descriptor> {
        let map = self.client.inner().map.load();
        shards.iter().filter_map(|s| map.shard(*s).ok()).cloned().collect()
    }

    fn holds(&self, shard: ShardId) -> bool {
        let descriptors = self.descriptors(&[shard]);
        descriptors.iter().any(|d| d.members.iter().any(|m| m.node == self.node))
    }

    /// Before the first change ever the group writes its founding members down, so that no replica
    /// has to guess them from a description that has moved on.
    async fn begin(&mut self, shard: ShardId) -> Result<(), Failure> {
        let is_founding = self.descriptors(&[shard]).iter().any(|d| d.epoch == Epoch(1));
        if is_founding {
            self.settle(shard).await?;
        }
        Ok(())
    }

    async fn step(
        &mut self,
        shard: ShardId,
        plan: impl Fn(&Catalog) -> Result<Option<TxnOp>, Failure>,
    ) -> Result<(), Failure> {
        self.say(shard, "the catalog is told");
        self.client.change_if_needed(plan, self.client.default_deadline()).await
    }

    /// Waits until the group is as the catalog describes it.
    async fn settle(&mut self, shard: ShardId) -> Result<(Epoch, LogIndex), Failure> {
        let end = Instant::now() + self.wait;
        loop {
            let now = Instant::now();
            let deadline = end.min(now + LOOK);
            let body = RequestBody::Members(Vec::new());
            let asked = self.client.inner().read(Where::Shard(shard), body, deadline).await;
            let failure = match asked {
                Ok((_, AnswerBody::Members { epoch, index })) => return Ok((epoch, index)),
                Ok((_, other)) => return Err(unexpected("a question about members", &other)),
                Err(failure) if failure.code == Code::DeadlineExceeded => failure,
                Err(failure) => return Err(failure),
            };
            let waits_for = match self.waits_for(shard).await {
                Some(text) => format!("waits for {text}"),
                None => failure.message,
            };
            self.say(shard, waits_for.clone());
            if Instant::now() >= end {
                let text = format!(
                    "shard {shard} {waits_for}; the change goes on by itself, repeat the command \
                     to wait on"
                );
                return Err(Failure::new(Code::DeadlineExceeded, text));
            }
        }
    }

    /// Waits until the node has what a witness needs to vote: it counts as a member before.
    async fn await_witness(&mut self, shard: ShardId) -> Result<(), Failure> {
        let (node, end) = (self.node, Instant::now() + self.wait);
        loop {
            let deadline = end.min(Instant::now() + LOOK);
            let inner = self.client.inner();
            let state = match inner.ask_once(shard, node, RequestBody::Status, deadline).await {
                Ok(AnswerBody::Status(status)) if status.state == "witness" => return Ok(()),
                Ok(AnswerBody::Status(status)) => format!("it is {}", status.state),
                Ok(other) => return Err(unexpected("a status", &other)),
                Err(failure) => failure.message,
            };
            let text = format!("waits for node {node} to begin as a witness: {state}");
            if Instant::now() >= end {
                let text = format!(
                    "shard {shard} {text}; the change goes on by itself, repeat the command to \
                     wait on"
                );
                return Err(Failure::new(Code::DeadlineExceeded, text));
            }
            self.say(shard, text);
            tokio::time::sleep(WITNESS_PAUSE).await;
        }
    }

    /// What the group's leader waits for.
    async fn waits_for(&self, shard: ShardId) -> Option<String> {
        let deadline = Instant::now() + LOOK;
        let place = self.client.inner().locate(Where::Shard(shard), deadline).await.ok()?;
        let inner = self.client.inner();
        let answer = inner.ask_once(shard, place.node, RequestBody::Status, deadline).await;
        match answer {
            Ok(AnswerBody::Status(status)) if !status.waits_for.is_empty() => {
                Some(status.waits_for)
            }
            _ => None,
        }
    }

    async fn has_replica(&self, shard: ShardId) -> bool {
        let deadline = Instant::now() + LOOK;
        let inner = self.client.inner();
        inner.ask_once(shard, self.node, RequestBody::Status, deadline).await.is_ok()
    }

    /// Lets the node delete what it still has of the shard, if it can be reached.
    async fn retire(&mut self, shard: ShardId, epoch: Epoch, index: LogIndex) {
        let end = Instant::now() + RETIRE_TIMEOUT.min(self.wait);
        let mut told = String::new();
        loop {
            let body = RequestBody::Retire { epoch, index };
            let deadline = end.min(Instant::now() + LOOK);
            let asked = self.client.inner().ask_once(shard, self.node, body, deadline).await;
            let failure = match asked {
                Ok(_) => return,
                Err(failure) => failure,
            };
            if Instant::now() >= end || failure.code == Code::PreconditionFailed {
                let node = self.node;
                self.say(
                    shard,
                    format!(
                        "node {node} keeps its replica, which serves nothing any more: {}; repeat \
                         the command once node {node} is up",
                        failure.message
                    ),
                );
                return;
            }
            if told != failure.message {
                self.say(
                    shard,
                    format!("node {} is told to leave: {}", self.node, failure.message),
                );
                told = failure.message;
            }
            tokio::time::sleep(RETIRE_PAUSE).await;
        }
    }
}
