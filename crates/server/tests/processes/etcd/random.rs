//! Random requests over few keys, so that they meet.

use atoll_base::Rng;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use pb::compare::TargetUnion;
use pb::request_op::Request;

const KEYS: [&str; 9] = ["a", "a/1", "a/2", "ab", "b", "b/1", "c", "c\u{1}", "\u{7f}"];
const VALUES: [&str; 5] = ["", "1", "2", "two", "\u{0}"];
/// Leases that requests name; not all of them live.
const LEASES: [i64; 4] = [7, 8, 0x7fff_ffff_0000_0001, 10];
const DEPTH_MAX: u32 = 2;

/// One thing to ask.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    TimeToLive(pb::LeaseTimeToLiveRequest),
    Leases(pb::LeaseLeasesRequest),
}

/// Makes requests; knows about which revision the store is at.
pub(super) struct Asks {
    pub(super) rng: Rng,
    pub(super) revision: i64,
    pub(super) compacted: i64,
}

impl Asks {
    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        self.rng.pick(of).copied().expect("there is one")
    }

    pub(super) fn key(&mut self) -> Bytes {
        match self.rng.chance(1, 60) {
            true => Bytes::new(),
            false => Bytes::copy_from_slice(self.any(&KEYS).as_bytes()),
        }
    }

    /// A key and the end of a range, in all shapes.
    pub(super) fn keys(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.rng.below(10) {
            0..=3 => Bytes::new(),
            4 => Bytes::from_static(&[0]),
            5 | 6 => {
                let mut end = key.to_vec();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                end.into()
            }
            // Also ends that lie before their beginning.
            _ => self.key(),
        };
        match self.rng.chance(1, 10) {
            true => (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
            false => (key, end),
        }
    }

    /// A revision at or about which something happened.
    pub(super) fn past(&mut self) -> i64 {
        let from = (self.compacted - 2).max(0);
        from + self.rng.below((self.revision + 3 - from) as u64) as i64
    }

    fn rarely(&mut self, value: i64) -> i64 {
        if self.rng.chance(1, 8) { value } else { 0 }
    }

    fn lease(&mut self) -> i64 {
        match self.rng.chance(1, 4) {
            true => self.rng.pick(&LEASES).copied().expect("there is one"),
            false => 0,
        }
    }

    fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.keys();
        let past = self.past();
        let bounds = [self.past(), self.past(), self.past(), self.past()];
        pb::RangeRequest {
            key,
            range_end,
            limit: if self.rng.chance(1, 3) { self.rng.below(5) as i64 } else { 0 },
            revision: if self.rng.chance(1, 3) { past } else { 0 },
            sort_order: if self.rng.chance(1, 2) { self.rng.below(3) as i32 } else { 0 },
            sort_target: if self.rng.chance(1, 2) { self.rng.below(5) as i32 } else { 0 },
            serializable: self.rng.chance(1, 5),
            keys_only: self.rng.chance(1, 6),
            count_only: self.rng.chance(1, 8),
            min_mod_revision: self.rarely(bounds[0]),
            max_mod_revision: self.rarely(bounds[1]),
            min_create_revision: self.rarely(bounds[2]),
            max_create_revision: self.rarely(bounds[3]),
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let (ignore_value, ignore_lease) = (self.rng.chance(1, 10), self.rng.chance(1, 10));
        let is_right = self.rng.chance(3, 4);
        let value = Bytes::copy_from_slice(self.any(&VALUES).as_bytes());
        let lease = self.lease();
        pb::PutRequest {
            key: self.key(),
            value: if ignore_value && is_right { Bytes::new() } else { value },
            lease: if ignore_lease && is_right { 0 } else { lease },
            prev_kv: self.rng.chance(1, 2),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.keys();
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.rng.chance(1, 2) }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, end) = self.keys();
        let revision = self.past();
        let target = self.rng.below(5) as i32;
        let union = match target {
            0 => TargetUnion::Version(self.rng.below(4) as i64 - 1),
            1 => TargetUnion::CreateRevision(if self.rng.chance(1, 3) { 0 } else { revision }),
            2 => TargetUnion::ModRevision(if self.rng.chance(1, 3) { 0 } else { revision }),
            3 => TargetUnion::Value(Bytes::copy_from_slice(self.any(&VALUES).as_bytes())),
            _ => TargetUnion::Lease(self.lease()),
        };
        pb::Compare {
            result: self.rng.below(4) as i32,
            target,
            key,
            target_union: (!self.rng.chance(1, 20)).then_some(union),
            range_end: if self.rng.chance(1, 3) { end } else { Bytes::new() },
        }
    }

    fn step(&mut self, depth: u32) -> pb::RequestOp {
        let request = match self.rng.below(10) {
            0..=3 => Request::RequestPut(self.put()),
            4 | 5 => Request::RequestDeleteRange(self.delete()),
            6 | 7 => Request::RequestRange(self.range()),
            _ if depth < DEPTH_MAX => Request::RequestTxn(self.txn(depth + 1)),
            _ => Request::RequestPut(self.put()),
        };
        pb::RequestOp { request: Some(request) }
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let (compares, then, otherwise) = (self.rng.below(3), self.rng.below(4), self.rng.below(4));
        pb::TxnRequest {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: (0..then).map(|_| self.step(depth)).collect(),
            failure: (0..otherwise).map(|_| self.step(depth)).collect(),
        }
    }

    pub(super) fn next(&mut self) -> Ask {
        match self.rng.below(40) {
            0..=10 => Ask::Put(self.put()),
            11..=14 => Ask::Delete(self.delete()),
            15..=24 => Ask::Range(self.range()),
            25..=33 => Ask::Txn(self.txn(0)),
            34 => Ask::Compact(pb::CompactionRequest {
                // Both begin at revision 1; what compacting there means is listed as different.
                revision: self.past().max(2),
                physical: self.rng.chance(1, 2),
            }),
            35 | 36 => Ask::Grant(pb::LeaseGrantRequest {
                id: self.rng.pick(&LEASES).copied().expect("there is one"),
                ttl: if self.rng.chance(1, 10) { 9_000_000_001 } else { 5000 },
            }),
            37 => Ask::Revoke(pb::LeaseRevokeRequest {
                id: self.rng.pick(&LEASES).copied().expect("there is one"),
            }),
            38 => Ask::TimeToLive(pb::LeaseTimeToLiveRequest {
                id: self.rng.pick(&LEASES).copied().expect("there is one"),
                keys: self.rng.chance(1, 2),
            }),
            _ => Ask::Leases(pb::LeaseLeasesRequest {}),
        }
    }
}
