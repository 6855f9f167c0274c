//! Locks.

use std::time::Duration;

use atoll_base::{Code, Failure, Happened};
use atoll_machine::{Busy, LockInfo, Mode};
use bytes::Bytes;

use super::claim::Wish;
use super::holding::{Attempt, Holding};
use crate::client::Client;
use crate::keyspace::Keyspace;

/// A lock by name, and how it is wanted. It needs no making; who asks first gets it, the others
/// queue, and nobody passes the head of the queue.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let held = client.lock("nightly").acquire().await?;
/// println!("mine, with token {}", held.token());
/// held.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is asked for yet"]
pub struct Lock {
    wish: Wish,
}

impl Client {
    /// A lock of the keyspace `default`.
    pub fn lock(&self, name: impl Into<Bytes>) -> Lock {
        self.keyspace("default").lock(name)
    }
}

impl Keyspace {
    /// A lock by name. Locks and keys are apart: a lock may have the name of a key.
    pub fn lock(&self, name: impl Into<Bytes>) -> Lock {
        Lock { wish: Wish::new(self, name.into(), Mode::Exclusive) }
    }
}

impl Lock {
    /// Wants it together with others that want it so.
    pub fn shared(mut self) -> Self {
        self.wish.mode = Mode::Shared;
        self
    }

    /// Waits at most so long for it. Without this, for as long as it takes.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wish.wait_at_most(at_most);
        self
    }

    /// How long the cluster waits for a sign of life before it gives the lock to the next one; 15
    /// seconds if this is not said, at least 2.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.wish.ttl = ttl;
        self
    }

    /// Keeps the lock closed for so long after its holder *expired*: for resources that cannot
    /// check tokens, whose late holder gets this time to stop. Not after a release.
    pub fn delay_after_expiry(mut self, delay: Duration) -> Self {
        self.wish.lock_delay = delay;
        self
    }

    /// Waits in the queue until it is held. Its place is kept through changes of leaders and broken
    /// connections.
    ///
    /// Cancel safe: a call that is dropped leaves the queue.
    ///
    /// # Errors
    /// `DeadlineExceeded` when [`Lock::wait`] is over, `NotFound` when there is no such keyspace,
    /// and refusals of the shard.
    pub async fn acquire(&self) -> Result<Holding, Failure> {
        match Holding::acquire(&self.wish).await? {
            Attempt::Held(holding) => Ok(holding),
            Attempt::Busy(busy) => Err(busy_failure(&self.wish.name, &busy)),
        }
    }

    /// Takes it if it is free, and says who has it otherwise.
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Examples
    /// ```no_run
    /// # use atoll_client::{Attempt, Client, Failure};
    /// # async fn example(client: Client) -> Result<(), Failure> {
    /// match client.lock("nightly").try_acquire().await? {
    ///     Attempt::Held(held) => held.release().await?,
    ///     Attempt::Busy(busy) => println!("held by {:?}, {} wait", busy.holders, busy.waiting),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn try_acquire(&self) -> Result<Attempt, Failure> {
        Holding::acquire(&Wish { wait: Some(Duration::ZERO), ..self.wish.clone() }).await
    }

    /// Who holds it and who waits; `None` when nobody does either.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn info(&self) -> Result<Option<LockInfo>, Failure> {
        self.wish.keyspace.lock_info(&self.wish.name).await
    }
}

/// Only one that does not wait is told that others are before it.
pub(super) fn busy_failure(name: &Bytes, busy: &Busy) -> Failure {
    let (held, waiting) = (busy.held, busy.waiting);
    let name = name.escape_ascii();
    let text = format!("lock {name} is held by {held} and {waiting} wait for it");
    Failure::new(Code::PreconditionFailed, text).with_happened(Happened::No)
}
