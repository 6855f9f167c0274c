//! Ranges: the machine gives pages in key order; etcd's orders and filters are applied to them.
//!
//! A limit, and the order of keys either way, are left to the machine. Other orders and filters
//! need the whole range, as they do in etcd; but where a limit has no order, only what is cut.

use atoll_base::ordkey::successor;
use atoll_base::{Code, Failure, Revision};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_machine::{KeyEnd, KeyValue, RangePage, RangeQuery};
use atoll_storage::Direction;
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use pb::range_request::{SortOrder, SortTarget};

use super::Call;
use super::translate::{key_value, range_end, revision};

/// Bytes of one answer; a range that holds more must be read with limits.
const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// Reads anew when history is compacted between the pages of a range.
const ATTEMPTS_MAX: u32 = 3;

/// A range as it is asked of the machine, and what is left to do with what comes.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) query: RangeQuery,
    consistency: Consistency,
    /// What the sender of the request allowed; the query has it only where that is the same.
    limit: Option<u64>,
    sort: Option<(SortTarget, Direction)>,
    filters: Filters,
    keys_only: bool,
}

/// Bounds of revisions; 0 for none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Filters {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Filters {
    fn let_pass(&self, kv: &KeyValue) -> bool {
        let within = |revision: Revision, min: i64, max: i64| {
            let revision = revision.0 as i64;
            (min == 0 || revision >= min) && (max == 0 || revision <= max)
        };
        within(kv.mod_revision, self.min_mod, self.max_mod)
            && within(kv.create_revision, self.min_create, self.max_create)
    }
}

/// What a range holds, before orders and filters.
#[derive(Default)]
pub(super) struct Found {
    kvs: Vec<KeyValue>,
    count: u64,
}

impl From<Option<KeyValue>> for Found {
    fn from(kv: Option<KeyValue>) -> Self {
        let count = u64::from(kv.is_some());
        Self { kvs: kv.into_iter().collect(), count }
    }
}

impl Plan {
    pub(super) fn new(wire: pb::RangeRequest) -> Self {
        let (order, target) = (wire.sort_order(), wire.sort_target());
        let filters = Filters {
            min_mod: wire.min_mod_revision,
            max_mod: wire.max_mod_revision,
            min_create: wire.min_create_revision,
            max_create: wire.max_create_revision,
        };
        let direction = match order {
            SortOrder::Descend => Direction::Backward,
            SortOrder::None | SortOrder::Ascend => Direction::Forward,
        };
        let limit = u64::try_from(wire.limit).ok().filter(|limit| *limit != 0);
        let is_by_key = target == SortTarget::Key;
        // Without an order etcd cuts by keys, one more than asked for, before it sorts.
        let is_cut_first = is_by_key || order == SortOrder::None;
        let is_plain = is_cut_first && filters == Filters::default();
        let fetched = limit.map(|limit| limit.saturating_add(u64::from(!is_by_key)));
        let end = range_end(&wire.key, wire.range_end);
        let query = RangeQuery {
            direction: if is_by_key { direction } else { Direction::Forward },
            limit: fetched.filter(|_| is_plain),
            at: revision(wire.revision),
            // Values that are sorted by must be there.
            keys_only: wire.keys_only && target != SortTarget::Value,
            count_only: wire.count_only,
            count_total: is_plain && limit.is_some(),
            ..RangeQuery::new(wire.key, end)
        };
        let consistency = match wire.serializable {
            true => Consistency::Stale { max: None },
            false => Consistency::Linearizable,
        };
        let sort = (!is_by_key).then_some((target, direction));
        Self { query, consistency, limit, sort, filters, keys_only: wire.keys_only }
    }

    /// Reads all of it. Returns the store's newest revision, too.
    pub(super) async fn read(&self, call: &Call) -> Result<(Revision, pb::RangeResponse), Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.read_once(call).await {
                Err(failure)
                    if failure.code == Code::Compacted
                        && self.query.at.is_none()
                        && attempt < ATTEMPTS_MAX => {}
                Ok((newest, found)) => return Ok((newest, self.finish(found))),
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn read_once(&self, call: &Call) -> Result<(Revision, Found), Failure> {
        if self.is_one_key() {
            return self.read_one(call).await;
        }
        let (newest, page) = ask(call, self.query.clone(), self.consistency).await?;
        let at = page.revision;
        let mut bytes: u64 = page.kvs.iter().map(KeyValue::cost).sum();
        let mut found = Found { kvs: page.kvs, count: page.count };
        let mut next = page.more;
        // A later page sees the state that the first one saw.
        let from = |key: Bytes| {
            let query = RangeQuery { at: Some(at), count_total: false, ..self.query.clone() };
            match query.direction {
                Direction::Forward => RangeQuery { start: key, ..query },
                Direction::Backward => RangeQuery { end: KeyEnd::Until(successor(&key)), ..query },
            }
        };
        while let Some(key) = next.take() {
            let left = self.query.limit.map(|limit| limit.saturating_sub(found.kvs.len() as u64));
            if left == Some(0) || self.query.count_only {
                break;
            }
            let query = RangeQuery { limit: left, ..from(key) };
            let (_, page) = ask(call, query, Consistency::Linearizable).await?;
            bytes += page.kvs.iter().map(KeyValue::cost).sum::<u64>();
            if bytes > ANSWER_BYTES_MAX {
                let text = format!(
                    "the range holds over {ANSWER_BYTES_MAX} bytes, read it in parts by limit"
                );
                return Err(Failure::new(Code::Overloaded, text));
            }
            if self.query.limit.is_none() {
                found.count += page.count;
            }
            found.kvs.extend(page.kvs);
            next = page.more;
        }
        let is_counted_apart = self.query.limit.is_some() || self.query.count_only;
        let mut uncounted = page.uncounted.filter(|_| is_counted_apart);
        while let Some(key) = uncounted.take() {
            let query = RangeQuery { count_only: true, limit: None, ..from(key) };
            let (_, page) = ask(call, query, Consistency::Linearizable).await?;
            found.count += page.count;
            uncounted = page.uncounted;
        }
        Ok((newest, found))
    }

    /// One key as it is now, which is found sooner than ranges are.
    fn is_one_key(&self) -> bool {
        self.query.end == KeyEnd::Single && self.query.at.is_none() && !self.query.count_only
    }

    /// What to ask where one answer is likely to be all: one key, or a range without bounds of its
    /// length, which are counted apart.
    pub(super) fn in_one(&self) -> Option<RequestBody> {
        let consistency = self.consistency;
        if self.is_one_key() {
            let key = self.query.start.clone();
            return Some(RequestBody::Get { key, at: None, consistency });
        }
        let is_bounded = self.limit.is_some() || self.query.count_only;
        (!is_bounded).then(|| RequestBody::Range { query: self.query.clone(), consistency })
    }

    async fn read_one(&self, call: &Call) -> Result<(Revision, Found), Failure> {
        let (key, consistency) = (self.query.start.clone(), self.consistency);
        match call.ask(RequestBody::Get { key, at: None, consistency }).await? {
            AnswerBody::Get { kv, revision, .. } => Ok((revision, kv.into())),
            other => {
                let text = format!("a get was answered with {other:?}");
                Err(Failure::new(Code::Internal, text))
            }
        }
    }

    /// What one page holds; `None` when it is not all of it.
    pub(super) fn whole(&self, page: RangePage) -> Option<Found> {
        let is_limited = self.query.limit.is_some_and(|limit| page.kvs.len() as u64 >= limit);
        if page.uncounted.is_some() || (page.more.is_some() && !is_limited) {
            return None;
        }
        Some(Found { kvs: page.kvs, count: page.count })
    }

    /// Filters, sorts and cuts, as etcd does: the count knows nothing of it.
    pub(super) fn finish(&self, found: Found) -> pb::RangeResponse {
        let Found { mut kvs, count } = found;
        let mut more = self.query.limit.is_some_and(|limit| count > limit && !kvs.is_empty());
        kvs.retain(|kv| self.filters.let_pass(kv));
        if let Some((target, direction)) = self.sort {
            kvs.sort_by(|a, b| {
                let order = match target {
                    SortTarget::Key => a.key.cmp(&b.key),
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    SortTarget::Value => a.value.cmp(&b.value),
                };
                if direction == Direction::Backward { order.reverse() } else { order }
            });
        }
        if let Some(limit) = self.limit.and_then(|limit| usize::try_from(limit).ok())
            && kvs.len() > limit
        {
            kvs.truncate(limit);
            more = true;
        }
        if self.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        pb::RangeResponse {
            header: None,
            kvs: kvs.into_iter().map(key_value).collect(),
            more,
            count: count as i64,
        }
    }
}

async fn ask(
    call: &Call,
    query: RangeQuery,
    consistency: Consistency,
) -> Result<(Revision, RangePage), Failure> {
    match call.ask(RequestBody::Range { query, consistency }).await? {
        AnswerBody::Range { page, newest, .. } => Ok((newest, page)),
        other => {
            let text = format!("a range was answered with {other:?}");
            Err(Failure::new(Code::Internal, text))
        }
    }
}
