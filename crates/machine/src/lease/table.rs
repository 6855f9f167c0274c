//! The leases of a shard, in memory and, since the last flush, in the engine.

use std::collections::BTreeMap;

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{Code, Failure, LeaseId, ShardId};
use atoll_storage::Tree;
use bytes::Bytes;

use crate::counters::Counters;
use crate::keys::{self, Scope};
use crate::limits::MachineLimits;
use crate::overlay::Overlay;
use crate::refusal::LEASE_NOT_FOUND;

const VERSION: u8 = 1;

/// One lease that lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// How long it lives without a keep-alive, milliseconds.
    pub ttl_ms: u64,
    /// How long its locks stay closed after it expired, milliseconds.
    pub lock_delay_ms: u64,
    /// Tells it from an older lease of the same id.
    pub birth: u64,
    /// Keys attached to it.
    pub keys: u64,
    /// Bytes of them and their values.
    pub bytes: u64,
}

/// What an attached pair counts in [`Lease::bytes`].
pub(crate) fn attached_cost(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

/// All leases of a shard.
#[derive(Default, Debug)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<LeaseId, Lease>,
    /// Leases whose record in the engine is old, or that are gone.
    dirty: Vec<LeaseId>,
}

impl LeaseTable {
    pub(crate) fn get(&self, id: LeaseId) -> Option<&Lease> {
        self.leases.get(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (*id, lease))
    }

    /// The leases behind `after`, in the order of their ids.
    pub(crate) fn after(&self, after: Option<LeaseId>) -> impl Iterator<Item = (LeaseId, &Lease)> {
        let from = LeaseId(after.map_or(0, |id| id.0.saturating_add(1)));
        self.leases.range(from..).map(|(id, lease)| (*id, lease))
    }

    pub(crate) fn check_lives(&self, id: LeaseId) -> Result<&Lease, Failure> {
        self.get(id)
            .ok_or_else(|| Failure::new(Code::NotFound, format!("{LEASE_NOT_FOUND}: lease {id}")))
    }

    /// Makes a lease.
    pub(crate) fn grant(
        &mut self,
        shard: ShardId,
        id: Option<LeaseId>,
        (ttl_ms, lock_delay_ms): (u64, u64),
        limits: &MachineLimits,
        counters: &mut Counters,
    ) -> Result<(LeaseId, Lease), Failure> {
        let longest = limits.lease_ttl_max_ms;
        if ttl_ms == 0 || ttl_ms > longest || lock_delay_ms > longest {
            let text = format!(
                "lease ttl of {ttl_ms} ms, lock delay of {lock_delay_ms} ms: limits are 1 to \
                 {longest} ms"
            );
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        if let Some(id) = id
            && (id.0 == 0 || self.leases.contains_key(&id))
        {
            return Err(Failure::new(Code::AlreadyExists, format!("lease {id} already exists")));
        }
        let (count, max) = (self.leases.len() as u64, limits.leases_max);
        if count >= max {
            let text = format!("shard {shard} has {count} leases, limit is {max}");
            return Err(Failure::new(Code::Overloaded, text));
        }
        let birth = counters.next_serial();
        let id = id.unwrap_or_else(|| self.unused_id(shard, birth));
        let ttl_ms = ttl_ms.max(limits.lease_ttl_min_ms);
        let lease = Lease { ttl_ms, lock_delay_ms, birth, keys: 0, bytes: 0 };
        self.leases.insert(id, lease);
        self.dirty.push(id);
        Ok((id, lease))
    }

    /// An id that no lease has: a function of the state, spread out so that those of different
    /// shards hardly ever meet, and positive for those who take it for a signed number.
    fn unused_id(&self, shard: ShardId, birth: u64) -> LeaseId {
        let mut mixed = shard.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ birth;
        loop {
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb).wrapping_add(1);
            let id = LeaseId((mixed ^ (mixed >> 31)) >> 1);
            if id.0 != 0 && !self.leases.contains_key(&id) {
                return id;
            }
        }
    }

    /// Takes a lease out; its keys must be gone.
    pub(crate) fn end(&mut self, id: LeaseId) -> Option<Lease> {
        self.dirty.push(id);
        self.leases.remove(&id)
    }

    /// A key's pair is attached with `cost` bytes.
    pub(crate) fn attach(
        &mut self,
        id: LeaseId,
        key: &[u8],
        cost: u64,
        scope: &Scope,
        overlay: &mut Overlay<'_>,
    ) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.keys += 1;
        lease.bytes += cost;
        let mut w = Writer::default();
        w.varint(cost);
        overlay.put(Tree::Meta, scope.attached_key(id, key), w.finish());
    }

    /// A key's pair is no longer attached.
    pub(crate) fn detach(
        &mut self,
        id: LeaseId,
        key: &[u8],
        cost: u64,
        scope: &Scope,
        overlay: &mut Overlay<'_>,
    ) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        lease.keys = lease.keys.saturating_sub(1);
        lease.bytes = lease.bytes.saturating_sub(cost);
        overlay.delete(Tree::Meta, scope.attached_key(id, key));
    }

    /// Takes in a lease's record of the engine, or that of an attached key.
    pub(crate) fn load(&mut self, key: &Bytes, value: Bytes) -> Result<(), DecodeError> {
        let malformed = DecodeError::Truncated { what: "lease key", offset: 0, needed: 1 };
        let id = LeaseId(keys::parse_number_key(key).ok_or(malformed.clone())?);
        match key.get(8) {
            Some(&keys::LEASE) => drop(self.leases.insert(id, decode(value)?)),
            Some(&keys::ATTACHED) => {
                let lease = self.leases.get_mut(&id).ok_or(malformed)?;
                lease.keys += 1;
                lease.bytes += Reader::new(value).varint("attached cost")?;
            }
            _ => return Err(malformed),
        }
        Ok(())
    }

    /// Writes what changed since the last flush.
    pub(crate) fn flush(&mut self, scope: &Scope, overlay: &mut Overlay<'_>) {
        for id in std::mem::take(&mut self.dirty) {
            match self.leases.get(&id) {
                Some(lease) => overlay.put(Tree::Meta, scope.lease_key(id), encode(lease)),
                None => overlay.delete(Tree::Meta, scope.lease_key(id)),
            }
        }
    }

    /// The records that the engine should hold, for checks.
    pub(crate) fn records(&self) -> impl Iterator<Item = (LeaseId, Vec<u8>)> {
        self.leases.iter().map(|(id, lease)| (*id, encode(lease)))
    }
}

fn encode(lease: &Lease) -> Vec<u8> {
    let mut w = Writer::default();
    w.u8(VERSION).varint(lease.birth).varint(lease.ttl_ms).varint(lease.lock_delay_ms);
    w.finish()
}

fn decode(bytes: Bytes) -> Result<Lease, DecodeError> {
    let mut r = Reader::new(bytes);
    let version = r.u8("lease version")?;
    if version != VERSION {
        let value = u64::from(version);
        return Err(DecodeError::Unknown { what: "lease version", offset: 0, value });
    }
    let lease = Lease {
        birth: r.varint("lease birth")?,
        ttl_ms: r.varint("lease ttl")?,
        lock_delay_ms: r.varint("lock delay")?,
        keys: 0,
        bytes: 0,
    };
    r.finish("lease")?;
    Ok(lease)
}
