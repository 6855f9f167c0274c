//! Following changes: one task per shard, each resuming by itself, into one bounded channel.
//!
//! Invariants:
//! - C1 Of one shard, every change from the start on is delivered once, in order of revision.
//! - C2 `through` covers only what was delivered with it or before.
//! - C3 What cannot be delivered (history is gone) ends the watch with an error, never with a gap.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{Code, Failure, Revision, ShardId};
use atoll_coord::retry::Attempts;
use atoll_coord::{RequestBody, Told, WatchEvents, WatchSpec};
use atoll_machine::Event;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::Where;
use crate::keys::Keys;
use crate::keyspace::Keyspace;
use crate::map::Place;
use crate::session::{Ask, WatchItem, WatchStream};

/// Batches that wait for the consumer; more wait in the sessions, within their limits.
const BATCHES_QUEUED: usize = 16;
/// How long a watch that stood once goes on trying to stand again before it tries anew: for ever.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Describes a watch.
pub struct WatchBuilder {
    keyspace: Keyspace,
    keys: Keys,
    from: From,
    spec: WatchSpec,
}

#[derive(Clone)]
enum From {
    Now,
    Everywhere(Revision),
    Each(BTreeMap<ShardId, Revision>),
}

impl From {
    fn at(&self, shard: ShardId) -> Option<Revision> {
        match self {
            Self::Now => None,
            Self::Everywhere(revision) => Some(*revision),
            Self::Each(revisions) => revisions.get(&shard).copied(),
        }
    }
}

/// Changes of one shard, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The shard.
    pub shard: ShardId,
    /// The changes; those of one revision are neighbours and never parted. Empty: progress only.
    pub events: Vec<Event>,
    /// Everything up to this revision of the shard was delivered. A watch that is started again
    /// from the next one goes on behind it.
    pub through: Revision,
}

impl Keyspace {
    /// Follows the changes of a range of keys.
    #[must_use]
    pub fn watch(&self, keys: Keys) -> WatchBuilder {
        WatchBuilder::new(self.clone(), keys)
    }
}

impl WatchBuilder {
    fn new(keyspace: Keyspace, keys: Keys) -> Self {
        let spec = WatchSpec {
            start: keys.start().clone(),
            end: keys.key_end(),
            from: None,
            puts: Told::Yes,
            deletes: Told::Yes,
            previous: Told::No,
            progress: Told::No,
        };
        Self { keyspace, keys, from: From::Now, spec }
    }

    /// Delivers from this revision on, which may lie in the past as far as history is kept.
    /// Revisions are counted per shard: where there are several, see [`WatchBuilder::from_each`].
    #[must_use]
    pub fn from(mut self, revision: Revision) -> Self {
        self.from = From::Everywhere(revision);
        self
    }

    /// Delivers from these revisions of the shards on, and of others from now on. To go on where
    /// another watch ended, give each shard's last [`Changes::through`] plus one.
    #[must_use]
    pub fn from_each(mut self, revisions: BTreeMap<ShardId, Revision>) -> Self {
        self.from = From::Each(revisions);
        self
    }

    /// Events carry what was there before.
    #[must_use]
    pub fn with_previous(mut self) -> Self {
        self.spec.previous = Told::Yes;
        self
    }

    /// Leaves puts out.
    #[must_use]
    pub fn no_puts(mut self) -> Self {
        self.spec.puts = Told::No;
        self
    }

    /// Leaves deletes out.
    #[must_use]
    pub fn no_deletes(mut self) -> Self {
        self.spec.deletes = Told::No;
        self
    }

    /// Also says from time to time how far an idle shard has come.
    #[must_use]
    pub fn with_progress(mut self) -> Self {
        self.spec.progress = Told::Yes;
        self
    }

    /// Starts the watch. When this returns, it stands: every change acknowledged afterwards is
    /// delivered.
    ///
    /// # Errors
    /// `NotFound` when there is no such keyspace, `Compacted` when history begins later than asked
    /// for, and why it cannot stand within the handle's timeout.
    ///
    /// # Examples
    /// ```no_run
    /// # use atoll_client::{Client, EventKind, Failure, Keys};
    /// # async fn example(client: Client) -> Result<(), Failure> {
    /// let mut watch = client.keyspace("orders").watch(Keys::prefix("order/")).start().await?;
    /// while let Some(changes) = watch.next().await {
    ///     for event in changes?.events {
    ///         match event.kind {
    ///             EventKind::Put(new) => println!("{:?} = {:?}", event.key, new.value),
    ///             EventKind::Delete => println!("{:?} deleted", event.key),
    ///         }
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn start(self) -> Result<Watch, Failure> {
        let deadline = self.keyspace.deadline();
        let shards = self.keyspace.shards(&self.keys, deadline).await?;
        let (sender, receiver) = mpsc::channel(BATCHES_QUEUED);
        let mut tasks = JoinSet::new();
        let mut standing = Vec::new();
        for shard in shards {
            let part = self.keys.clip(&shard.start, shard.end.as_ref());
            let (start, end) = (part.start().clone(), part.key_end());
            let from = self.from.at(shard.shard);
            let (stands, stood) = oneshot::channel();
            let task = ShardWatch {
                keyspace: self.keyspace.clone(),
                shard: shard.shard,
                spec: WatchSpec { start, end, from, ..self.spec.clone() },
                sender: sender.clone(),
                stands: Some(stands),
                deadline,
            };
            tasks.spawn(task.run());
            standing.push((shard.shard, stood));
        }
        let mut from = BTreeMap::new();
        for (shard, stood) in standing {
            let gone = |_| Err(Failure::new(Code::Internal, "a watch ended before it stood"));
            from.insert(shard, stood.await.unwrap_or_else(gone)?);
        }
        Ok(Watch { receiver, from, _tasks: tasks })
    }
}

/// A running watch. Dropping it ends it.
pub struct Watch {
    receiver: mpsc::Receiver<Result<Changes, Failure>>,
    from: BTreeMap<ShardId, Revision>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// The next changes; shards come in any order, each in its own. `None` after an error was
    /// delivered by every shard.
    ///
    /// The watch survives changes of leaders, broken connections and its consumer's slowness. An
    /// error is final for its shard: `Compacted` (it was behind for so long that history is gone),
    /// `NotFound` (the keyspace was dropped).
    ///
    /// Cancel safe: yes.
    pub async fn next(&mut self) -> Option<Result<Changes, Failure>> {
        self.receiver.recv().await
    }

    /// The first revision that is delivered of each shard.
    #[must_use]
    pub fn from(&self) -> &BTreeMap<ShardId, Revision> {
        &self.from
    }
}

struct ShardWatch {
    keyspace: Keyspace,
    shard: ShardId,
    /// `from` is always the next revision to deliver, once it is known.
    spec: WatchSpec,
    sender: mpsc::Sender<Result<Changes, Failure>>,
    /// Until it stood for the first time.
    stands: Option<oneshot::Sender<Result<Revision, Failure>>>,
    deadline: Instant,
}

/// How one connection's part of a watch ended.
enum End {
    /// Start again behind what was delivered.
    Again,
    /// It was refused or lost.
    Failed(Failure),
    /// The consumer is gone.
    Dropped,
}

impl ShardWatch {
    async fn run(mut self) {
        if let Err(failure) = self.follow().await {
            match self.stands.take() {
                Some(stands) => drop(stands.send(Err(failure))),
                None => drop(self.sender.send(Err(failure)).await),
            }
        }
    }

    async fn follow(&mut self) -> Result<(), Failure> {
        let mut attempts = Attempts::NONE;
        loop {
            let deadline = match self.stands {
                Some(_) => self.deadline,
                None => Instant::now() + PATIENCE,
            };
            let whom = Where::Shard(self.shard);
            let place = self.keyspace.inner().locate(whom, deadline).await?;
            let before = self.spec.from;
            let end = match self.connect(&place, deadline) {
                Ok(stream) => self.drain(stream, deadline).await,
                Err(failure) => End::Failed(failure),
            };
            if self.spec.from != before {
                attempts = Attempts::NONE;
            }
            match end {
                End::Dropped => return Ok(()),
                End::Again => {}
                End::Failed(failure) => {
                    let inner = self.keyspace.inner();
                    inner.after(failure, &mut attempts, &place, deadline).await?;
                }
            }
        }
    }

    fn connect(&self, place: &Place, deadline: Instant) -> Result<WatchStream, Failure> {
        let map = self.keyspace.inner().map.load();
        let body = RequestBody::Watch(self.spec.clone());
        let ask = Ask { shard: place.shard, epoch: place.epoch, deadline, body };
        map.node(place.node)?.session().watch(ask)
    }

    async fn drain(&mut self, mut stream: WatchStream, deadline: Instant) -> End {
        loop {
            let item = match self.stands {
                None => stream.next().await,
                Some(_) => match tokio::time::timeout_at(deadline, stream.next()).await {
                    Ok(item) => item,
                    Err(_) => {
                        let text = format!(
                            "deadline passed before the watch of shard {} stood",
                            self.shard
                        );
                        return End::Failed(Failure::new(Code::DeadlineExceeded, text));
                    }
                },
            };
            match item {
                WatchItem::Started(from) => {
                    let from = *self.spec.from.get_or_insert(from);
                    if let Some(stands) = self.stands.take() {
                        let _ = stands.send(Ok(from));
                    }
                }
                WatchItem::Batch(batch) => {
                    if self.deliver(batch).await.is_err() {
                        return End::Dropped;
                    }
                }
                WatchItem::Lagging => return End::Again,
                WatchItem::Compacted(oldest) => {
                    let from = self.spec.from.unwrap_or_default();
                    let shard = self.shard;
                    let text = format!(
                        "watch of shard {shard} needs revision {from}, the oldest kept is {oldest}"
                    );
                    return End::Failed(Failure::new(Code::Compacted, text));
                }
                WatchItem::Observed(_) => {
                    let text = format!("a watch of shard {} was told of an election", self.shard);
                    return End::Failed(Failure::new(Code::Internal, text));
                }
                WatchItem::Ended(failure) => return End::Failed(failure),
            }
        }
    }

    /// Hands a batch to the consumer and moves the start of the next one behind it.
    async fn deliver(&mut self, batch: WatchEvents) -> Result<(), Dropped> {
        let WatchEvents { mut events, through } = batch;
        let next = self.spec.from.unwrap_or_default();
        events.retain(|e| e.revision >= next); // C1, also against a node that repeats itself
        if events.is_empty() && through < next {
            return Ok(());
        }
        let changes = Changes { shard: self.shard, events, through };
        self.sender.send(Ok(changes)).await.map_err(|_| Dropped)?;
        self.spec.from = Some(next.max(through.next()));
        Ok(())
    }
}

struct Dropped;
