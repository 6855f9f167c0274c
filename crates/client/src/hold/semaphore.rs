//! Counting semaphores.

use std::time::Duration;

use atoll_base::Failure;
use atoll_machine::{LockInfo, LockOp, Mode};
use bytes::Bytes;

use super::claim::Wish;
use super::holding::{Attempt, Holding};
use super::lock::busy_failure;
use crate::client::Client;
use crate::keyspace::Keyspace;

/// A semaphore by name: so many permits, held by clients that live. The limit is kept by the
/// cluster and set once, by whoever knows it; requests queue in order, and a small one does not
/// pass a large one.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let renderers = client.semaphore("renderers");
/// renderers.set_limit(8).await?;
/// let held = renderers.acquire(2).await?;
/// held.release().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is asked for yet"]
pub struct Semaphore {
    wish: Wish,
}

impl Client {
    /// A semaphore of the keyspace `default`.
    pub fn semaphore(&self, name: impl Into<Bytes>) -> Semaphore {
        self.keyspace("default").semaphore(name)
    }
}

impl Keyspace {
    /// A semaphore by name. Locks and semaphores share their names.
    pub fn semaphore(&self, name: impl Into<Bytes>) -> Semaphore {
        Semaphore { wish: Wish::new(self, name.into(), Mode::Permits(1)) }
    }
}

impl Semaphore {
    /// Waits at most so long for permits. Without this, for as long as it takes.
    pub fn wait(mut self, at_most: Duration) -> Self {
        self.wish.wait_at_most(at_most);
        self
    }

    /// How long the cluster waits for a sign of life before it gives the permits to others; 15
    /// seconds if this is not said, at least 2.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.wish.ttl = ttl;
        self
    }

    /// Makes the semaphore, or changes how many permits it has. When there are fewer than are held,
    /// none is given until enough came back; requests for more than there are leave the queue. With
    /// 0 it is closed, and gone once nobody holds any.
    ///
    /// # Errors
    /// `AlreadyExists` for the name of a lock that is in use, and as [`Keyspace::put`].
    pub async fn set_limit(&self, permits: u64) -> Result<(), Failure> {
        let op = LockOp::SetSemaphore { lock: self.wish.name.clone(), limit: permits };
        self.wish.keyspace.lock_command(op).await.map(drop)
    }

    /// Waits in the queue for permits.
    ///
    /// Cancel safe: a call that is dropped leaves the queue.
    ///
    /// # Errors
    /// `NotFound` before a limit was set, `InvalidArgument` for more permits than there are, and as
    /// [`Lock::acquire`](crate::Lock::acquire).
    pub async fn acquire(&self, permits: u64) -> Result<Holding, Failure> {
        let wish = Wish { mode: Mode::Permits(permits), ..self.wish.clone() };
        match Holding::acquire(&wish).await? {
            Attempt::Held(holding) => Ok(holding),
            Attempt::Busy(busy) => Err(busy_failure(&wish.name, &busy)),
        }
    }

    /// Takes permits if there are enough and nobody waits, and says how it stands otherwise.
    ///
    /// # Errors
    /// As [`Semaphore::acquire`].
    pub async fn try_acquire(&self, permits: u64) -> Result<Attempt, Failure> {
        let (mode, wait) = (Mode::Permits(permits), Some(Duration::ZERO));
        Holding::acquire(&Wish { mode, wait, ..self.wish.clone() }).await
    }

    /// Its limit, who holds permits and who waits; `None` when no limit was set.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn info(&self) -> Result<Option<LockInfo>, Failure> {
        self.wish.keyspace.lock_info(&self.wish.name).await
    }
}
