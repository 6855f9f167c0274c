//! Reads, now and at a revision.

use atoll_base::Revision;
use atoll_storage::{Direction, EngineError};
use bytes::Bytes;

use super::{Stop, check_covers};
use crate::error::MachineError;
use crate::keys::{Scope, borrowed, history_key, parse_history_key};
use crate::limits::MachineLimits;
use crate::overlay::Reads;
use crate::query::{KeyEnd, RangePage, RangeQuery};
use crate::record::{KeyValue, Record};

/// A version: its bytes as stored, and what they say.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Bytes,
    pub(crate) record: Record,
}

/// A record of `Current`, where no tombstone may be.
pub(crate) fn decode_current(scope: &Scope, bytes: Bytes) -> Result<Record, MachineError> {
    Record::decode(bytes)
        .map_err(|e| scope.record("current", e))?
        .ok_or_else(|| scope.inconsistent("tombstone in the current tree"))
}

/// What `key` had at revision `at`.
pub(crate) fn read_at(
    reads: &impl Reads,
    scope: &Scope,
    key: &[u8],
    at: Revision,
) -> Result<Option<Record>, MachineError> {
    let newest = reads.get(scope.current(), key).map_err(|e| scope.engine(e))?;
    if let Some(bytes) = newest {
        let record = decode_current(scope, bytes)?;
        if record.mod_revision <= at {
            return Ok(Some(record));
        }
    }
    let (from, to) = (history_key(key, at), history_key(key, Revision::ZERO));
    let span = (std::ops::Bound::Included(&from[..]), std::ops::Bound::Included(&to[..]));
    match reads.scan(scope.history(), span, Direction::Forward).next() {
        None => Ok(None),
        Some(pair) => {
            let (_, bytes) = pair.map_err(|e| scope.engine(e))?;
            Record::decode(bytes).map_err(|e| scope.record("history", e))
        }
    }
}

/// Exactly version `revision` of `key`; `None` if it is no longer kept.
pub(crate) fn read_version(
    reads: &impl Reads,
    scope: &Scope,
    key: &[u8],
    revision: Revision,
) -> Result<Option<Record>, MachineError> {
    let newest = reads.get(scope.current(), key).map_err(|e| scope.engine(e))?;
    if let Some(bytes) = newest {
        let record = decode_current(scope, bytes)?;
        if record.mod_revision == revision {
            return Ok(Some(record));
        }
    }
    let older = reads.get(scope.history(), &history_key(key, revision));
    match older.map_err(|e| scope.engine(e))? {
        None => Ok(None),
        Some(bytes) => Record::decode(bytes).map_err(|e| scope.record("history", e)),
    }
}

/// One page of a range; `newest` is the largest revision that `Current` may hold.
pub(crate) fn read_range(
    reads: &impl Reads,
    scope: &Scope,
    limits: &MachineLimits,
    newest: Revision,
    query: &RangeQuery,
) -> Result<RangePage, Stop> {
    check_covers(scope, &query.start, &query.end)?;
    let at = query.at.filter(|at| *at < newest);
    let mut page = PageBuilder::new(query, limits, query.at.unwrap_or(newest));
    if query.end == KeyEnd::Single {
        let found = match at {
            Some(at) => read_at(reads, scope, &query.start, at)?,
            None => match reads.get(scope.current(), &query.start) {
                Ok(found) => found.map(|bytes| decode_current(scope, bytes)).transpose()?,
                Err(e) => return Err(scope.engine(e).into()),
            },
        };
        if let Some(record) = found {
            page.take(query.start.clone(), record);
        }
        return Ok(page.page);
    }
    let range = Visit { start: &query.start, end: &query.end, direction: query.direction, at };
    let mut visited = 0;
    let mut see = |key: Bytes, record: Option<Record>| {
        visited += 1;
        if visited > limits.page_visits_max {
            page.stop(key);
            return false;
        }
        record.is_none_or(|record| page.take(key, record))
    };
    if at.is_some() {
        visit(reads, scope, range, |key, found| Ok(see(key, found.map(|found| found.record))))?;
        return Ok(page.page);
    }
    // Most ranges by far are read as they are now.
    let span = Scope::current_span(&query.start, &query.end);
    for pair in reads.scan(scope.current(), borrowed(&span), query.direction) {
        let (key, bytes) = pair.map_err(|e| scope.engine(e))?;
        if !see(key, Some(decode_current(scope, bytes)?)) {
            break;
        }
    }
    Ok(page.page)
}

/// Fills a page.
struct PageBuilder<'q> {
    query: &'q RangeQuery,
    page: RangePage,
    bytes: u64,
    bytes_max: u64,
}

impl<'q> PageBuilder<'q> {
    fn new(query: &'q RangeQuery, limits: &MachineLimits, revision: Revision) -> Self {
        let bytes_max = query.bytes_max.unwrap_or(u64::MAX).min(limits.page_bytes_max);
        let page = RangePage { revision, ..RangePage::default() };
        Self { query, page, bytes: 0, bytes_max }
    }

    /// Counts a key and puts it into the page if there is room. False when the page is done.
    fn take(&mut self, key: Bytes, record: Record) -> bool {
        if !self.query.count_only && self.page.more.is_none() {
            let count = self.page.kvs.len() as u64;
            let is_full = self.query.limit.is_some_and(|limit| count >= limit)
                || (self.bytes >= self.bytes_max && count > 0);
            if !is_full {
                let mut pair = record.with_key(key);
                if self.query.keys_only {
                    pair.value = Bytes::new();
                }
                self.bytes += KeyValue::cost(&pair);
                self.page.kvs.push(pair);
            } else if self.query.count_total {
                self.page.more = Some(key);
            } else {
                self.stop(key);
                return false;
            }
        }
        self.page.count += 1;
        true
    }

    /// Ends the page before `key`.
    fn stop(&mut self, key: Bytes) {
        self.page.more.get_or_insert_with(|| key.clone());
        self.page.uncounted = Some(key);
    }
}

/// What to visit.
pub(super) struct Visit<'q> {
    start: &'q Bytes,
    end: &'q KeyEnd,
    direction: Direction,
    /// `None`: whatever is newest.
    at: Option<Revision>,
}

impl<'q> Visit<'q> {
    /// The newest versions of `start..end`, forward.
    pub(super) fn now(start: &'q Bytes, end: &'q KeyEnd) -> Self {
        Self { start, end, direction: Direction::Forward, at: None }
    }
}

/// Gives every key of a range that has versions, in order, with the version in force: `None` where
/// the key does not exist at that revision. Ends early when `each` returns false.
pub(super) fn visit(
    reads: &impl Reads,
    scope: &Scope,
    range: Visit<'_>,
    mut each: impl FnMut(Bytes, Option<Found>) -> Result<bool, Stop>,
) -> Result<(), Stop> {
    let span = Scope::current_span(range.start, range.end);
    let mut current = reads.scan(scope.current(), borrowed(&span), range.direction).map(|pair| {
        let (key, bytes) = pair.map_err(|e| scope.engine(e))?;
        let record = decode_current(scope, bytes.clone())?;
        Ok::<_, MachineError>((key, Found { bytes, record }))
    });
    let Some(at) = range.at else {
        for pair in current {
            let (key, found) = pair?;
            if !each(key, Some(found))? {
                break;
            }
        }
        return Ok(());
    };
    let span = Scope::history_span(range.start, range.end);
    let history = reads.scan(scope.history(), borrowed(&span), range.direction);
    let mut history =
        HistoryGroups { scope, at, direction: range.direction, rest: history, next: None };
    let (mut now, mut then) = (current.next().transpose()?, history.next_key()?);
    loop {
        // The next key of either tree; a key of both is one.
        let order = match (&now, &then) {
            (None, None) => return Ok(()),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) if range.direction == Direction::Forward => a.cmp(b),
            (Some((a, _)), Some((b, _))) => b.cmp(a),
        };
        let newest = if order.is_le() { now.take() } else { None };
        let older = if order.is_ge() { then.take() } else { None };
        if order.is_le() {
            now = current.next().transpose()?;
        }
        if order.is_ge() {
            then = history.next_key()?;
        }
        let (key, found) = match (newest, older) {
            (Some((key, found)), _) if found.record.mod_revision <= at => (key, Some(found)),
            (_, Some((key, found))) => (key, found),
            (Some((key, _)), None) => (key, None),
            (None, None) => return Ok(()),
        };
        if !each(key, found)? {
            return Ok(());
        }
    }
}

/// Groups a scan of `History` by key.
struct HistoryGroups<'a, I> {
    scope: &'a Scope,
    at: Revision,
    direction: Direction,
    rest: I,
    /// The first version of the next key.
    next: Option<(Bytes, Revision, Bytes)>,
}

impl<I: Iterator<Item = Result<(Bytes, Bytes), EngineError>>> HistoryGroups<'_, I> {
    fn pull(&mut self) -> Result<Option<(Bytes, Revision, Bytes)>, MachineError> {
        if let Some(next) = self.next.take() {
            return Ok(Some(next));
        }
        let Some(pair) = self.rest.next() else { return Ok(None) };
        let (place, bytes) = pair.map_err(|e| self.scope.engine(e))?;
        let (key, revision) = parse_history_key(&place)
            .ok_or_else(|| self.scope.inconsistent("history record has a key of another form"))?;
        Ok(Some((key, revision, bytes)))
    }

    /// The next key with what it had at the revision, as far as history knows.
    fn next_key(&mut self) -> Result<Option<(Bytes, Option<Found>)>, MachineError> {
        let Some((key, mut revision, mut bytes)) = self.pull()? else { return Ok(None) };
        let mut best: Option<Bytes> = None;
        loop {
            // Forward gives newer versions first, so the first that fits counts; backward the last.
            if revision <= self.at && (best.is_none() || self.direction == Direction::Backward) {
                best = Some(bytes);
            }
            match self.pull()? {
                Some((next, r, b)) if next == key => (revision, bytes) = (r, b),
                other => {
                    self.next = other;
                    break;
                }
            }
        }
        let Some(bytes) = best else { return Ok(Some((key, None))) };
        let record = Record::decode(bytes.clone()).map_err(|e| self.scope.record("history", e))?;
        Ok(Some((key, record.map(|record| Found { bytes, record }))))
    }
}
