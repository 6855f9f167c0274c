//! Reading many keys in order, with bounded memory.

use std::collections::VecDeque;
use std::time::Duration;

use atoll_base::ordkey::successor;
use atoll_base::{Failure, Revision, ShardId};
use atoll_coord::{AnswerBody, Consistency, Descriptor, RequestBody};
use atoll_machine::{KeyValue, RangePage, RangeQuery};
use atoll_storage::Direction;
use bytes::Bytes;
use tokio::time::Instant;

use crate::call::{Where, unexpected};
use crate::keys::Keys;
use crate::keyspace::Keyspace;

/// Keys per page where the caller doesn't say.
const PAGE_KEYS: u64 = 1000;

/// A scan of a range of keys, in key order, across shards.
///
/// Each shard is read at one revision: that of its first page. Different shards are read at
/// different moments. One page at a time is in memory. Each page has the keyspace handle's timeout
/// to itself.
///
/// ```no_run
/// # use atoll_client::{Client, Failure, Keys};
/// # async fn example(client: Client) -> Result<(), Failure> {
/// let mut scan = client.keyspace("orders").scan(Keys::prefix("order/")).limit(100);
/// while let Some(kv) = scan.next().await? {
///     println!("{:?} = {:?}", kv.key, kv.value);
/// }
/// # Ok(())
/// # }
/// ```
pub struct Scan {
    keyspace: Keyspace,
    /// What is still to be read.
    rest: Option<Keys>,
    direction: Direction,
    left: Option<u64>,
    page_keys: u64,
    page_bytes: Option<u64>,
    values: Values,
    consistency: Consistency,
    at: Option<Revision>,
    /// The shard that is being read and its revision.
    pinned: Option<(ShardId, Revision)>,
    buffer: VecDeque<KeyValue>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Read,
    Omit,
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// The shard that was read.
    pub shard: ShardId,
    /// At which of its revisions.
    pub revision: Revision,
    /// At most so old; zero for linearizable scans.
    pub staleness: Duration,
    /// In the scan's order; may be empty.
    pub kvs: Vec<KeyValue>,
}

impl Keyspace {
    /// Reads a range of keys in key order, page by page.
    #[must_use]
    pub fn scan(&self, keys: Keys) -> Scan {
        Scan::new(self.clone(), keys)
    }
}

impl Scan {
    fn new(keyspace: Keyspace, keys: Keys) -> Self {
        Self {
            keyspace,
            rest: Some(keys).filter(|k| !k.is_empty()),
            direction: Direction::Forward,
            left: None,
            page_keys: PAGE_KEYS,
            page_bytes: None,
            values: Values::Read,
            consistency: Consistency::Linearizable,
            at: None,
            pinned: None,
            buffer: VecDeque::new(),
        }
    }

    /// From the last key to the first.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.direction = Direction::Backward;
        self
    }

    /// At most so many keys in all.
    #[must_use]
    pub fn limit(mut self, keys: u64) -> Self {
        self.left = Some(keys);
        self
    }

    /// At most so many keys in a page.
    #[must_use]
    pub fn page_keys(mut self, keys: u64) -> Self {
        self.page_keys = keys.max(1);
        self
    }

    /// A page ends once it holds so many bytes of keys and values; the node's own limit counts
    /// where it is smaller. A page has one key at least.
    #[must_use]
    pub fn page_bytes(mut self, bytes: u64) -> Self {
        self.page_bytes = Some(bytes);
        self
    }

    /// Reads the shard that `other` read last at the revision at which that did.
    #[must_use]
    pub fn in_view_of(mut self, other: &Self) -> Self {
        self.pinned = other.pinned;
        self
    }

    /// Leaves the values out.
    #[must_use]
    pub fn keys_only(mut self) -> Self {
        self.values = Values::Omit;
        self
    }

    /// Reads any replicas, refused where they may be older than `age`.
    #[must_use]
    pub fn stale(mut self, age: Option<Duration>) -> Self {
        self.consistency = Consistency::Stale { max: age };
        self
    }

    /// Reads at a revision of the past. Revisions are counted per shard, so this makes sense where
    /// the range lies in one shard.
    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.at = Some(revision);
        self
    }

    /// What no page has covered yet; `None` behind the last one. A scan of this range, with the
    /// same options, goes on where this one stands.
    #[must_use]
    pub fn rest(&self) -> Option<&Keys> {
        self.rest.as_ref()
    }

    /// The next key, `None` behind the last one.
    ///
    /// Cancel safe: yes; the page that was under way is asked for again.
    ///
    /// # Errors
    /// As [`Keyspace::get`]; `Compacted` when the shard forgot the scan's revision. The scan can be
    /// continued after an error.
    pub async fn next(&mut self) -> Result<Option<KeyValue>, Failure> {
        loop {
            if let Some(kv) = self.buffer.pop_front() {
                return Ok(Some(kv));
            }
            match self.next_page().await? {
                Some(page) => self.buffer.extend(page.kvs),
                None => return Ok(None),
            }
        }
    }

    /// The next page, `None` behind the last one. Don't mix with [`Scan::next`]: what it holds is
    /// not in a page.
    ///
    /// Cancel safe: yes.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn next_page(&mut self) -> Result<Option<Page>, Failure> {
        let (Some(rest), Some(limit)) = (self.rest.clone(), self.page_limit()) else {
            return Ok(None);
        };
        let deadline = self.keyspace.deadline();
        let Some(shard) = self.shard(&rest, deadline).await? else {
            self.rest = None;
            return Ok(None);
        };
        let part = rest.clip(&shard.start, shard.end.as_ref());
        let mut query = self.query(&part, shard.shard);
        query.limit = Some(limit);
        let (page, staleness) = self.ask(shard.shard, query, deadline).await?;
        self.left = self.left.map(|left| left.saturating_sub(page.kvs.len() as u64));
        self.advance(&rest, &shard, &page);
        let (revision, kvs) = (page.revision, page.kvs);
        Ok(Some(Page { shard: shard.shard, revision, staleness, kvs }))
    }

    /// Every key that is left. The memory it takes is as large as they are.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn collect(mut self) -> Result<Vec<KeyValue>, Failure> {
        let mut all: Vec<KeyValue> = self.buffer.drain(..).collect();
        while let Some(page) = self.next_page().await? {
            all.extend(page.kvs);
        }
        Ok(all)
    }

    /// How many keys there are, without fetching them. Ignores the limit.
    ///
    /// # Errors
    /// As [`Scan::next`].
    pub async fn count(mut self) -> Result<u64, Failure> {
        let mut count = self.buffer.len() as u64;
        self.direction = Direction::Forward;
        while let Some(rest) = self.rest.clone() {
            let deadline = self.keyspace.deadline();
            let Some(shard) = self.shard(&rest, deadline).await? else { break };
            let part = rest.clip(&shard.start, shard.end.as_ref());
            let query = RangeQuery { count_only: true, ..self.query(&part, shard.shard) };
            let (mut page, _) = self.ask(shard.shard, query, deadline).await?;
            count += page.count;
            page.more = page.uncounted.take();
            self.advance(&rest, &shard, &page);
        }
        Ok(count)
    }

    /// Keys that the next page may have; `None` when the limit is used up.
    fn page_limit(&self) -> Option<u64> {
        match self.left {
            Some(0) => None,
            Some(left) => Some(left.min(self.page_keys)),
            None => Some(self.page_keys),
        }
    }

    /// The shard that the next page lies in.
    async fn shard(&self, rest: &Keys, deadline: Instant) -> Result<Option<Descriptor>, Failure> {
        let mut shards = self.keyspace.shards(rest, deadline).await?;
        Ok(match self.direction {
            Direction::Forward => shards.into_iter().next(),
            Direction::Backward => shards.pop(),
        })
    }

    fn query(&self, part: &Keys, shard: ShardId) -> RangeQuery {
        let pinned = self.pinned.filter(|(id, _)| *id == shard).map(|(_, revision)| revision);
        RangeQuery {
            direction: self.direction,
            at: pinned.or(self.at),
            bytes_max: self.page_bytes,
            keys_only: self.values == Values::Omit,
            ..RangeQuery::new(part.start().clone(), part.key_end())
        }
    }

    async fn ask(
        &self,
        shard: ShardId,
        query: RangeQuery,
        deadline: Instant,
    ) -> Result<(RangePage, Duration), Failure> {
        let body = RequestBody::Range { query, consistency: self.consistency };
        match self.keyspace.inner().read(Where::Shard(shard), body, deadline).await? {
            (_, AnswerBody::Range { page, staleness, .. }) => Ok((page, staleness)),
            (_, other) => Err(unexpected("a range", &other)),
        }
    }

    /// Notes what has been read: the page, or with its last page the shard.
    fn advance(&mut self, rest: &Keys, shard: &Descriptor, page: &RangePage) {
        self.pinned = Some((shard.shard, page.revision));
        let unread = |start: &Bytes, end: Option<&Bytes>| match end {
            Some(end) => Keys::between(start.clone(), end.clone()),
            None => Keys::from(start.clone()),
        };
        let rest = match (self.direction, &page.more) {
            (Direction::Forward, Some(next)) => Some(unread(next, rest.end())),
            (Direction::Forward, None) => shard.end.as_ref().map(|end| unread(end, rest.end())),
            (Direction::Backward, Some(last)) => Some(unread(rest.start(), Some(&successor(last)))),
            (Direction::Backward, None) => Some(unread(rest.start(), Some(&shard.start))),
        };
        self.rest = rest.filter(|keys| !keys.is_empty());
    }
}
