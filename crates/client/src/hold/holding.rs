//! A claim that was granted.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Failure, LeaseId};
use atoll_machine::{Busy, Guard, Mode, Token};
use bytes::Bytes;

use super::claim::{Outcome, Wish, release};
use super::pulse::Standing;
use super::tenure::Tenure;
use crate::keyspace::Keyspace;

/// How long a release may take that nobody waits for.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// A lock, or permits of a semaphore, held by this client. It renews itself until it is released,
/// dropped, or lost.
///
/// Mutual exclusion by time alone has an end: a holder that sleeps for longer than its time to live
/// wakes up and still believes. So write under [`Holding::guard`], which the store checks, or give
/// [`Holding::token`] to whatever the lock protects and let that refuse smaller ones.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let held = client.lock("billing").acquire().await?;
/// let bills = client.keyspace("default").guarded_by(held.guard());
/// tokio::select! {
///     done = bills.put("bill/17", "sent") => drop(done?),
///     () = held.lost() => println!("somebody else may bill now"),
/// }
/// held.release().await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "it is released when it is dropped"]
pub struct Holding {
    keyspace: Keyspace,
    name: Bytes,
    mode: Mode,
    token: Token,
    guard: Guard,
    tenure: Arc<Tenure>,
    is_released: bool,
}

/// What came of an attempt that does not wait.
#[derive(Debug)]
#[must_use = "what is held is released when it is dropped"]
pub enum Attempt {
    /// It is held.
    Held(Holding),
    /// Others hold it, or wait for it.
    Busy(Busy),
}

impl std::fmt::Debug for Holding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.escape_ascii().to_string();
        f.debug_struct("Holding")
            .field("name", &name)
            .field("token", &self.token)
            .field("standing", &self.standing())
            .finish_non_exhaustive()
    }
}

impl Holding {
    /// Asks for it.
    pub(crate) async fn acquire(wish: &Wish) -> Result<Attempt, Failure> {
        let id = wish.keyspace.id().await?;
        let (tenure, token) = match wish.acquire().await? {
            Outcome::Granted { tenure, token } => (tenure, token),
            Outcome::Busy(busy) => return Ok(Attempt::Busy(busy)),
        };
        let guard = Guard { keyspace: id, lock: wish.name.clone(), token };
        Ok(Attempt::Held(Self {
            keyspace: wish.keyspace.clone(),
            name: wish.name.clone(),
            mode: wish.mode,
            token,
            guard,
            tenure,
            is_released: false,
        }))
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &Bytes {
        &self.name
    }

    /// How it is held.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The fencing token: larger than those of all who held it before.
    #[must_use]
    pub fn token(&self) -> Token {
        self.token
    }

    /// The session that it lives by.
    #[must_use]
    pub fn session(&self) -> LeaseId {
        self.tenure.session()
    }

    /// Makes writes conditional on it: see [`Keyspace::guarded_by`].
    #[must_use]
    pub fn guard(&self) -> Guard {
        self.guard.clone()
    }

    /// How it stands at this moment, by this machine's clock and what was heard of the cluster.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.tenure.pulse.standing()
    }

    /// How long it is sure to be held if nothing more is heard of the cluster; zero once it is
    /// lost.
    #[must_use]
    pub fn sure_for(&self) -> Duration {
        self.tenure.pulse.left()
    }

    /// Waits until it stands otherwise than `from`, and returns how.
    ///
    /// Cancel safe: yes.
    pub async fn changed(&self, from: Standing) -> Standing {
        self.tenure.pulse.changed(from).await
    }

    /// Waits until it is lost: what was done under its protection must stop now.
    ///
    /// Cancel safe: yes.
    pub async fn lost(&self) {
        self.tenure.pulse.lost().await;
    }

    /// Lets go of it, and waits until the next one in the queue can have it. Dropping it does the
    /// same in the background.
    ///
    /// # Errors
    /// `PreconditionFailed` when it was lost before: somebody else may have held it since. When the
    /// outcome is not known, it ends at the latest when the session does.
    pub async fn release(mut self) -> Result<(), Failure> {
        self.is_released = true;
        release(&self.keyspace, &self.name, self.session(), self.token).await
    }

    pub(crate) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        if self.is_released || self.standing() == Standing::Lost {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let keyspace = self.keyspace.clone().with_timeout(RELEASE_TIMEOUT);
        let (name, session, token) = (self.name.clone(), self.session(), self.token);
        runtime.spawn(async move {
            if let Err(failure) = release(&keyspace, &name, session, token).await {
                tracing::debug!(%session, %failure, "a dropped lock was not released");
            }
        });
    }
}
