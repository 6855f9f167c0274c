//! Elections: an exclusive lock whose holder says something about itself.

use std::time::Duration;

use atoll_base::{Code, Failure};
use atoll_coord::RequestBody;
use atoll_coord::retry::Attempts;
use atoll_machine::{Leadership, LockOp, Mode};
use bytes::Bytes;
use tokio::time::Instant;

use super::claim::Wish;
use super::holding::{Attempt, Holding};
use super::lock::busy_failure;
use crate::call::Where;
use crate::client::Client;
use crate::coordinate::PATIENCE_MAX;
use crate::keyspace::Keyspace;
use crate::map::Place;
use crate::session::{Ask, WatchItem, WatchStream};

/// An election by name.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let leader = client.election("scheduler").campaign("10.0.0.7:9000").await?;
/// tokio::select! {
///     () = leader.holding().lost() => println!("no longer the leader"),
///     () = std::future::pending() => {}
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is asked for yet"]
pub struct Election {
    wish: Wish,
}

/// What a candidate says of itself: where it can be reached, for example.
pub type Candidacy = Bytes;

impl Client {
    /// An election of the keyspace `default`.
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        self.keyspace("default").election(name)
    }
}

impl Keyspace {
    /// An election by name. Elections are locks, and share their names.
    pub fn election(&self, name: impl Into<Bytes>) -> Election {
        Election { wish: Wish::new(self, name.into(), Mode::Exclusive) }
    }
}

impl Election {
    /// Campaigns at most so long. Without this, for as long as it takes.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wish.wait_at_most(at_most);
        self
    }

    /// How long the cluster waits for a sign of life before it elects the next one; 15 seconds if
    /// this is not said, at least 2.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.wish.ttl = ttl;
        self
    }

    /// Waits until this client leads; those who observe are told `value`.
    ///
    /// Cancel safe: a call that is dropped leaves the queue.
    ///
    /// # Errors
    /// As [`Lock::acquire`](crate::Lock::acquire).
    pub async fn campaign(&self, value: impl Into<Candidacy>) -> Result<Leader, Failure> {
        let wish = Wish { value: value.into(), ..self.wish.clone() };
        match Holding::acquire(&wish).await? {
            Attempt::Held(holding) => Ok(Leader { holding }),
            Attempt::Busy(busy) => Err(busy_failure(&wish.name, &busy)),
        }
    }

    /// Who leads, as of now.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn leader(&self) -> Result<Option<Leadership>, Failure> {
        let info = self.wish.keyspace.lock_info(&self.wish.name).await?;
        Ok(info.and_then(|info| info.leadership))
    }

    /// Follows who leads.
    pub fn observe(&self) -> Observation {
        Observation {
            keyspace: self.wish.keyspace.clone(),
            name: self.wish.name.clone(),
            stream: None,
            attempts: Attempts::NONE,
            told: None,
        }
    }
}

/// The lead of an election. It renews itself; dropped, it resigns in the background.
#[derive(Debug)]
#[must_use = "it resigns when it is dropped"]
pub struct Leader {
    holding: Holding,
}

impl Leader {
    /// The lock behind it: token, guard, standing.
    pub fn holding(&self) -> &Holding {
        &self.holding
    }

    /// The lock behind it, without the rest.
    pub fn into_holding(self) -> Holding {
        self.holding
    }

    /// Says something else of itself.
    ///
    /// # Errors
    /// `PreconditionFailed` when somebody else leads by now.
    pub async fn proclaim(&self, value: impl Into<Candidacy>) -> Result<(), Failure> {
        let (session, token) = (self.holding.session(), self.holding.token());
        let (lock, value) = (self.holding.name().clone(), value.into());
        let op = LockOp::Proclaim { lock, session, token, value };
        self.holding.keyspace().lock_command(op).await.map(drop)
    }

    /// Gives the lead up; the next candidate has it when this returns.
    ///
    /// # Errors
    /// As [`Holding::release`].
    pub async fn resign(self) -> Result<(), Failure> {
        self.holding.release().await
    }
}

/// Who leads an election, as it changes. Of changes that come faster than they are taken the newest
/// is told; it survives changes of leaders of the shard, and broken connections.
pub struct Observation {
    keyspace: Keyspace,
    name: Bytes,
    stream: Option<(WatchStream, Place)>,
    attempts: Attempts,
    /// Told last; not told again.
    told: Option<Option<Leadership>>,
}

impl Observation {
    /// Who leads: at first as of now, then whenever it is somebody else, or says something else, or
    /// nobody.
    ///
    /// Cancel safe: yes.
    ///
    /// # Errors
    /// `NotFound` when there is no such keyspace. It may be asked again after an error.
    pub async fn next(&mut self) -> Result<Option<Leadership>, Failure> {
        loop {
            let Some((stream, place)) = &mut self.stream else {
                self.connect().await?;
                continue;
            };
            let failure = match stream.next().await {
                WatchItem::Observed(leadership) => {
                    self.attempts = Attempts::NONE;
                    if self.told.as_ref() == Some(&leadership) {
                        continue;
                    }
                    self.told = Some(leadership.clone());
                    return Ok(leadership);
                }
                WatchItem::Lagging => None,
                WatchItem::Ended(failure) => Some(failure),
                other => {
                    let text = format!("the observation of an election was told {other:?}");
                    Some(Failure::new(Code::Internal, text))
                }
            };
            let place = place.clone();
            self.stream = None;
            if let Some(failure) = failure {
                let deadline = Instant::now() + PATIENCE_MAX;
                let inner = self.keyspace.inner();
                inner.after(failure, &mut self.attempts, &place, deadline).await?;
            }
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE_MAX;
        let inner = self.keyspace.inner();
        let whom = Where::Key { keyspace: &self.keyspace.name, key: &self.name };
        let place = inner.locate(whom, deadline).await?;
        let body = RequestBody::Observe { lock: self.name.clone() };
        let ask = Ask { shard: place.shard, epoch: place.epoch, deadline, body };
        let map = inner.map.load();
        let session = map.node(place.node).map(|node| node.session().watch(ask));
        match session.and_then(|stream| stream) {
            Ok(stream) => self.stream = Some((stream, place)),
            Err(failure) => {
                drop(map);
                inner.after(failure, &mut self.attempts, &place, deadline).await?;
            }
        }
        Ok(())
    }
}
