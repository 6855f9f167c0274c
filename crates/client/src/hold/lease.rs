//! Leases by themselves: keys that go when nobody renews them.

use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Failure, LeaseId};
use atoll_coord::{LeaseStatus, Told};
use atoll_machine::{LeaseOp, LeaseReply};
use bytes::Bytes;

use super::heart::give_up;
use super::pulse::{Moment, Pulse, Standing};
use super::tenure::grant;
use crate::call::Where;
use crate::keyspace::Keyspace;

/// Leases in one page of a list.
const PAGE: usize = 1000;

/// The leases of one shard of a keyspace.
#[derive(Clone)]
pub struct Leases {
    keyspace: Keyspace,
    key: Bytes,
}

impl Keyspace {
    /// The leases of a keyspace that has one shard; of one that has several, those of the first.
    #[must_use]
    pub fn leases(&self) -> Leases {
        self.leases_for(Bytes::from_static(&[0]))
    }

    /// The leases of the shard that holds `key`. A lease can be attached to keys of its shard only.
    #[must_use]
    pub fn leases_for(&self, key: impl Into<Bytes>) -> Leases {
        Leases { keyspace: self.clone(), key: key.into() }
    }
}

impl Leases {
    /// Grants a lease that is kept alive until it is dropped, revoked or lost. Attach it to keys by
    /// [`PutOp::lease`](crate::PutOp); they are deleted, all in one revision, when it ends.
    ///
    /// # Errors
    /// `InvalidArgument` for a time to live that is none, `Overloaded` when the shard has as many
    /// leases as it may, and as [`Keyspace::put`].
    ///
    /// # Examples
    /// ```no_run
    /// # use std::time::Duration;
    /// # use atoll_client::{Client, Failure, PutOp};
    /// # async fn example(client: Client) -> Result<(), Failure> {
    /// let services = client.keyspace("services");
    /// let lease = services.leases_for("web/1").grant(Duration::from_secs(10)).await?;
    /// let (key, value) = ("web/1".into(), "10.0.0.7".into());
    /// services.put_with(PutOp { key, value, lease: Some(lease.id()), ..PutOp::default() }).await?;
    /// lease.lost().await; // the key is gone, or about to be
    /// # Ok(())
    /// # }
    /// ```
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, Failure> {
        let deadline = self.keyspace.deadline();
        let whom = Where::Key { keyspace: &self.keyspace.name, key: &self.key };
        let shard = self.keyspace.inner().locate(whom, deadline).await?.shard;
        let times = (ttl, Duration::ZERO);
        let pulse = Arc::new(grant(&self.keyspace, shard, None, times, deadline).await?);
        self.keyspace.client.heart().keep(Arc::clone(&pulse));
        Ok(Lease { keyspace: self.keyspace.clone(), pulse, at_drop: AtDrop::Revoke })
    }

    /// Grants a lease that the caller renews by itself, with [`Leases::renew`]. Returns its id and
    /// its time to live, which is at least what was asked for.
    ///
    /// # Errors
    /// `AlreadyExists` for an id that is taken, and as [`Leases::grant`].
    pub async fn grant_only(
        &self,
        id: Option<LeaseId>,
        ttl: Duration,
    ) -> Result<(LeaseId, Duration), Failure> {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let op = LeaseOp::Grant { id, ttl_ms, lock_delay_ms: 0 };
        match self.keyspace.lease_command(&self.key, op).await? {
            LeaseReply::Granted { id, ttl_ms } => Ok((id, Duration::from_millis(ttl_ms))),
            other => {
                let text = format!("the grant of a lease was answered with {other:?}");
                Err(Failure::new(atoll_base::Code::Internal, text))
            }
        }
    }

    /// Renews a lease for another time to live, which is returned; `None` when it has ended.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn renew(&self, id: LeaseId) -> Result<Option<Duration>, Failure> {
        let kept = self.keyspace.keep_alive(&self.key, vec![id]).await?;
        Ok(kept.first().and_then(|kept| kept.ttl))
    }

    /// Keeps a lease alive that was granted elsewhere, until the handle is dropped or it is lost.
    /// Dropping the handle ends the renewals only: the lease lives on for its time.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn keep(&self, id: LeaseId) -> Result<Lease, Failure> {
        let deadline = self.keyspace.deadline();
        let whom = Where::Key { keyspace: &self.keyspace.name, key: &self.key };
        let shard = self.keyspace.inner().locate(whom, deadline).await?.shard;
        let sent = Moment::now();
        let Some(ttl) = self.renew(id).await? else {
            let text = format!("requested lease not found: lease {id}");
            return Err(Failure::new(atoll_base::Code::NotFound, text));
        };
        let pulse = Arc::new(Pulse::new(shard, id, ttl, sent));
        self.keyspace.client.heart().keep(Arc::clone(&pulse));
        Ok(Lease { keyspace: self.keyspace.clone(), pulse, at_drop: AtDrop::Leave })
    }

    /// Ends a lease: its keys go in one revision, its locks are released. Returns how many keys.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn revoke(&self, id: LeaseId) -> Result<u64, Failure> {
        match self.keyspace.lease_command(&self.key, LeaseOp::Revoke { id }).await? {
            LeaseReply::Ended { deleted, .. } => Ok(deleted),
            other => {
                let text = format!("the end of a lease was answered with {other:?}");
                Err(Failure::new(atoll_base::Code::Internal, text))
            }
        }
    }

    /// How long a lease still lives, and with `keys` what is attached to it.
    ///
    /// # Errors
    /// `NotFound` when it has ended.
    pub async fn status(&self, id: LeaseId, keys: Told) -> Result<LeaseStatus, Failure> {
        self.keyspace.lease_status(&self.key, id, keys).await
    }

    /// All leases of the shard, in the order of their ids.
    ///
    /// # Errors
    /// As [`Keyspace::get`].
    pub async fn list(&self) -> Result<Vec<LeaseId>, Failure> {
        let mut all: Vec<LeaseId> = Vec::new();
        loop {
            let after = all.last().copied();
            let page = self.keyspace.leases_after(&self.key, after, PAGE).await?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }
}

/// A lease that is kept alive. Dropped, one that was granted with the handle is given up in the
/// background.
#[must_use = "it is no longer kept alive when it is dropped"]
pub struct Lease {
    keyspace: Keyspace,
    pulse: Arc<Pulse>,
    at_drop: AtDrop,
}

/// What becomes of a lease whose handle is dropped.
enum AtDrop {
    Revoke,
    Leave,
}

impl Lease {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> LeaseId {
        self.pulse.lease
    }

    /// Its time to live.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.pulse.ttl
    }

    /// Whether it is sure to live.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.pulse.standing()
    }

    /// Waits until it stands otherwise than `from`, and returns how. Cancel safe: yes.
    pub async fn changed(&self, from: Standing) -> Standing {
        self.pulse.changed(from).await
    }

    /// Waits until it is no longer sure to live. Cancel safe: yes.
    pub async fn lost(&self) {
        self.pulse.lost().await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        match self.at_drop {
            AtDrop::Revoke if self.pulse.standing() != Standing::Lost => {
                give_up(self.keyspace.inner(), Arc::clone(&self.pulse));
            }
            AtDrop::Revoke | AtDrop::Leave => self.pulse.lose(),
        }
    }
}
