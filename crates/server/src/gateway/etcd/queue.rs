//! The queue behind locks and elections, laid out as etcd's own clients lay it out, so that those
//! who use the services and those who build the same from keys and watches exclude each other.
//!
//! Who wants something named N puts the key `N/LEASE` under its lease, once. The keys below `N/`
//! are the queue, in the order of their creation; the first one has what all want. A lease that
//! ends takes its key out in the same revision, and nobody is let in but at a revision at which its
//! own key stands there and no older one: a waiter whose lease died is told so, never served (trap
//! T27). Who finds the queue empty sees that in the very change that puts its key there; who has to
//! wait does so in a line (`super::line`).

use atoll_base::{LeaseId, Revision};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_machine::{
    Compare, CompareTarget, DeleteOp, KeyEnd, KeyValue, Op, PutOp, RangePage, RangeQuery, Relation,
    Reply, TxnOp, TxnResult, TxnStep,
};
use bytes::Bytes;
use tonic::Status;

use super::Call;
use super::line::{self, Verdict};
use super::refusal::{refused, unexpected};

/// A place in a queue. Dropped before it is kept, it is given up.
pub(super) struct Place {
    call: std::sync::Arc<Call>,
    pub(super) key: Bytes,
    /// The revision that created the key.
    pub(super) created: Revision,
    /// Where it was seen to be the only one.
    alone_at: Option<Revision>,
    is_kept: bool,
}

/// The first key of the queue for `name`.
pub(super) fn prefix(name: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(name.len() + 1);
    key.extend_from_slice(name);
    key.push(b'/');
    Bytes::from(key)
}

fn key_of(name: &[u8], lease: LeaseId) -> Bytes {
    let mut key = Vec::from(prefix(name));
    key.extend_from_slice(format!("{:x}", lease.0).as_bytes());
    Bytes::from(key)
}

/// Holds while `key` is the one that was created at `created`; 0: while there is none.
pub(super) fn created_at(key: &Bytes, created: Revision) -> Compare {
    Compare {
        key: key.clone(),
        end: KeyEnd::Single,
        target: CompareTarget::Create(created),
        relation: Relation::Equal,
    }
}

impl Call {
    /// The keys of a queue, in the order of their keys, at one revision.
    pub(super) async fn queue(&self, name: &[u8]) -> Result<(Revision, Vec<KeyValue>), Status> {
        let start = prefix(name);
        let end = KeyEnd::of_prefix(&start);
        let mut query = RangeQuery::new(start, end);
        let mut all: Vec<KeyValue> = Vec::new();
        loop {
            let consistency = Consistency::Linearizable;
            let body = RequestBody::Range { query: query.clone(), consistency };
            let answer = self.ask(body).await.map_err(|f| refused(&f))?;
            let AnswerBody::Range { page, .. } = answer else { return Err(unexpected("a range")) };
            let RangePage { kvs, more, revision, .. } = page;
            all.extend(kvs);
            match more {
                None => return Ok((revision, all)),
                Some(next) => (query.start, query.at) = (next, Some(revision)),
            }
        }
    }
}

impl Place {
    /// Joins the queue for `name`, or finds the place that the lease has in it. The second is what
    /// the place's key holds.
    pub(super) async fn take(
        call: std::sync::Arc<Call>,
        name: &[u8],
        lease: LeaseId,
        value: Bytes,
    ) -> Result<(Self, Bytes), Status> {
        let key = key_of(name, lease);
        let put = PutOp {
            key: key.clone(),
            value: value.clone(),
            lease: Some(lease),
            ..PutOp::default()
        };
        let own = RangeQuery::new(key.clone(), KeyEnd::Single);
        let (mut then, mut otherwise) = (vec![TxnStep::Put(put)], vec![TxnStep::Range(own)]);
        if !call.lines.is_followed(name) {
            let start = prefix(name);
            let end = KeyEnd::of_prefix(&start);
            let all = RangeQuery { limit: Some(2), keys_only: true, ..RangeQuery::new(start, end) };
            then.push(TxnStep::Range(all.clone()));
            otherwise.push(TxnStep::Range(all));
        }
        let txn = TxnOp { compares: vec![created_at(&key, Revision::ZERO)], then, otherwise };
        let Reply::Txn { revision, succeeded, results } = call.apply(Op::Txn(txn)).await? else {
            return Err(unexpected("a transaction"));
        };
        let mut results = results.into_iter();
        let found = match (succeeded, results.next()) {
            (true, _) => None,
            (false, Some(TxnResult::Range(page))) => page.kvs.into_iter().next(),
            (false, _) => return Err(unexpected("a transaction")),
        };
        let is_alone =
            matches!(results.next(), Some(TxnResult::Range(page)) if page.kvs.len() == 1);
        let (created, value) = match found {
            Some(kv) => (kv.create_revision, kv.value),
            None => (revision, value),
        };
        let alone_at = is_alone.then_some(revision);
        Ok((Self { call, key, created, alone_at, is_kept: false }, value))
    }

    /// Waits until the place is the first. Returns the revision at which it was.
    pub(super) async fn wait(&self, name: &Bytes) -> Result<Revision, Status> {
        if let Some(revision) = self.alone_at {
            return Ok(revision);
        }
        match line::verdict(&self.call, name, (self.created, self.key.clone())).await? {
            Verdict::First(revision) => Ok(revision.max(self.created)),
            Verdict::Gone => Err(Status::unknown("etcdserver: session is expired")),
        }
    }

    /// The place is to stay when this is dropped.
    pub(super) fn keep(mut self) -> (Bytes, Revision) {
        self.is_kept = true;
        (self.key.clone(), self.created)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        // Whoever waited is gone. If this fails, the lease's end takes the place out of the queue.
        let (call, key, created) = (self.call.clone(), self.key.clone(), self.created);
        tokio::spawn(async move {
            let txn = TxnOp {
                compares: vec![created_at(&key, created)],
                then: vec![TxnStep::Delete(DeleteOp { key, end: KeyEnd::Single, prev_kv: false })],
                otherwise: Vec::new(),
            };
            let _ = call.apply(Op::Txn(txn)).await;
        });
    }
}
