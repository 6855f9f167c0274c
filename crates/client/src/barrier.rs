//! Meeting points: a barrier, over and over again, and a latch, once. Made of keys, transactions
//! and watches; who dies on the way does not count.

use std::time::Duration;

use atoll_base::{Code, Failure};
use atoll_machine::{KeyEnd, KeyValue, PutOp, RangeQuery, TxnResult, TxnStep};
use bytes::Bytes;

use crate::client::Client;
use crate::hold::Lease;
use crate::keys::Keys;
use crate::keyspace::Keyspace;
use crate::txn::when;
use crate::watch::Watch;

/// The time to live of the leases that arrivals hang on.
const TTL: Duration = Duration::from_secs(15);

/// A barrier by name: whoever arrives waits until so many have; then all go on, and the next
/// generation begins. An arrival counts while its client lives and waits.
///
/// It is kept under the key of its name and keys that begin with the name and `/`, which must lie
/// in one shard.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let start = client.barrier("start", 3);
/// let generation = start.arrive().await?;
/// println!("all three are there, for the {generation}. time");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is asked for yet"]
pub struct Barrier {
    keyspace: Keyspace,
    name: Bytes,
    parties: u64,
}

/// A latch by name: it is set to a number, counted down by anybody, and opens for good at zero.
///
/// ```no_run
/// # async fn example(client: atoll_client::Client) -> Result<(), atoll_client::Failure> {
/// let loaded = client.latch("loaded");
/// loaded.set(2).await?;
/// // by each of two loaders, in other processes: loaded.count_down().await?;
/// loaded.opened().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is asked for yet"]
pub struct Latch {
    keyspace: Keyspace,
    name: Bytes,
}

impl Client {
    /// A barrier of the keyspace `default`.
    pub fn barrier(&self, name: impl Into<Bytes>, parties: u64) -> Barrier {
        self.keyspace("default").barrier(name, parties)
    }

    /// A latch of the keyspace `default`.
    pub fn latch(&self, name: impl Into<Bytes>) -> Latch {
        self.keyspace("default").latch(name)
    }
}

impl Keyspace {
    /// A barrier for so many parties.
    pub fn barrier(&self, name: impl Into<Bytes>, parties: u64) -> Barrier {
        Barrier { keyspace: self.clone(), name: name.into(), parties }
    }

    /// A latch, kept under the key of its name.
    pub fn latch(&self, name: impl Into<Bytes>) -> Latch {
        Latch { keyspace: self.clone(), name: name.into() }
    }
}

/// A number kept as text, so that people can read it.
fn number(kv: Option<&KeyValue>) -> Result<u64, Failure> {
    let Some(kv) = kv else { return Ok(0) };
    let number = std::str::from_utf8(&kv.value).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| {
        let (key, value) = (kv.key.escape_ascii(), kv.value.escape_ascii());
        let text = format!("key {key} holds \"{value}\", which is no count");
        Failure::new(Code::InvalidArgument, text)
    })
}

/// The condition that a key is as it was found.
fn unchanged(key: &Bytes, found: Option<&KeyValue>) -> atoll_machine::Compare {
    match found {
        Some(kv) => when::unchanged_since(key.clone(), kv.mod_revision),
        None => when::missing(key.clone()),
    }
}

/// Waits for the next change that a watch tells of.
async fn next_change(watch: &mut Watch) -> Result<(), Failure> {
    loop {
        match watch.next().await {
            Some(Ok(changes)) if changes.events.is_empty() => {}
            Some(Ok(_)) => return Ok(()),
            Some(Err(failure)) => return Err(failure),
            None => return Err(Failure::new(Code::Internal, "a watch ended without a reason")),
        }
    }
}

impl Barrier {
    /// Arrives, and waits until all have. Returns the generation, from 1 on.
    ///
    /// Cancel safe: a call that is dropped takes its arrival back.
    ///
    /// # Errors
    /// `DeadlineExceeded` (did not happen) when this client lost touch with the cluster while it
    /// waited: its arrival no longer counts. `InvalidArgument` where the key holds something else.
    pub async fn arrive(&self) -> Result<u64, Failure> {
        let lease = self.keyspace.leases_for(self.name.clone()).grant(TTL).await?;
        loop {
            let found = self.keyspace.get(self.name.clone()).await?;
            let generation = number(found.as_ref())? + 1;
            let prefix = Bytes::from([&self.name, format!("/{generation}/").as_bytes()].concat());
            let key = Bytes::from([&prefix, lease.id().0.to_string().as_bytes()].concat());
            let put = PutOp { key, lease: Some(lease.id()), ..PutOp::default() };
            let end = KeyEnd::of_prefix(&prefix);
            let count = RangeQuery { count_only: true, ..RangeQuery::new(prefix.clone(), end) };
            let arrived = self.keyspace.txn().when(unchanged(&self.name, found.as_ref()));
            let arrived = arrived.step(TxnStep::Put(put)).step(TxnStep::Range(count));
            let arrived = arrived.commit().await?;
            if !arrived.succeeded {
                continue; // the generation before was completed meanwhile
            }
            let count = match arrived.results.last() {
                Some(TxnResult::Range(page)) => page.count,
                other => {
                    let text = format!("an arrival was answered with {other:?}");
                    return Err(Failure::new(Code::Internal, text));
                }
            };
            if count >= self.parties {
                // If it is not unchanged, another one of this generation was quicker.
                let next = self.keyspace.txn().when(unchanged(&self.name, found.as_ref()));
                let next = next.put(self.name.clone(), generation.to_string());
                next.delete(Keys::prefix(prefix)).commit().await?;
                return Ok(generation);
            }
            let watch = self.keyspace.watch(Keys::one(self.name.clone()));
            let mut watch = watch.from(arrived.revision.next()).start().await?;
            self.wait(&mut watch, &lease).await?;
            return Ok(generation);
        }
    }

    async fn wait(&self, watch: &mut Watch, lease: &Lease) -> Result<(), Failure> {
        tokio::select! {
            done = next_change(watch) => done,
            () = lease.lost() => {
                let name = self.name.escape_ascii();
                let text = format!("lost touch with the cluster while waiting at barrier {name}");
                let happened = atoll_base::Happened::No;
                Err(Failure::new(Code::DeadlineExceeded, text).with_happened(happened))
            }
        }
    }
}

impl Latch {
    /// Sets how often it must be counted down, if nobody has set it yet; true if this call did.
    ///
    /// # Errors
    /// As [`Keyspace::put`].
    pub async fn set(&self, count: u64) -> Result<bool, Failure> {
        let set = self.keyspace.txn().when(when::missing(self.name.clone()));
        Ok(set.put(self.name.clone(), count.to_string()).commit().await?.succeeded)
    }

    /// Counts down by one and returns what is left; at zero nothing happens.
    ///
    /// # Errors
    /// `NotFound` before it was set, and as [`Keyspace::put`].
    pub async fn count_down(&self) -> Result<u64, Failure> {
        loop {
            let Some(kv) = self.keyspace.get(self.name.clone()).await? else {
                return Err(self.not_set());
            };
            let left = number(Some(&kv))?.saturating_sub(1);
            let done = self.keyspace.txn().when(unchanged(&self.name, Some(&kv)));
            let done = done.put(self.name.clone(), left.to_string()).commit().await?;
            if done.succeeded {
                return Ok(left);
            }
        }
    }

    /// Waits until it is open.
    ///
    /// Cancel safe: yes.
    ///
    /// # Errors
    /// `NotFound` before it was set, and when its key is deleted while this waits.
    pub async fn opened(&self) -> Result<(), Failure> {
        loop {
            let read = self.keyspace.get_with(self.name.clone(), Default::default()).await?;
            let Some(kv) = read.kv else { return Err(self.not_set()) };
            if number(Some(&kv))? == 0 {
                return Ok(());
            }
            let watch = self.keyspace.watch(Keys::one(self.name.clone()));
            next_change(&mut watch.from(read.revision.next()).start().await?).await?;
        }
    }

    fn not_set(&self) -> Failure {
        Failure::new(Code::NotFound, format!("latch {} is not set", self.name.escape_ascii()))
    }
}
