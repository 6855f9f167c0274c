//! A forward scan of a tree of current versions: along stretches that are kept, and through tables
//! where there are none, keeping what it finds.

use atoll_base::KeyspaceId;
use atoll_base::ordkey::successor;
use bytes::Bytes;

use super::stretches::{Moment, Next, Stretch, Stretches};
use super::{EngineError, Pair, Scan};

/// Rows that are copied out of a stretch first, and how many at most at a time: many a scan wants
/// a few rows only.
const COPY_MIN: usize = 16;
const COPY_MAX: usize = 128;
/// A stretch that has as many bytes of rows is kept and the next one begun, so that a write makes
/// little of what is kept stale.
const STRETCH_BYTES: usize = 16 << 10;
/// Smaller ones are kept only where a scan went on to the end of what it was asked for.
const STRETCH_ROWS_MIN: usize = 16;
/// Stretches that one scan keeps at most: who reads all there is shall not displace what others
/// read often.
const KEPT_MAX: usize = 64;

/// What a scan reads through where nothing is kept: the tables from a key on to another, which it
/// does not include.
pub(super) trait Below<'a> {
    fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scan<'a>;
}

/// Where a scan is.
enum State<'a> {
    /// Before `at`, with nothing in hand.
    Between,
    /// In rows that were copied out of a stretch.
    Copied(Box<dyn Iterator<Item = Pair> + 'a>),
    /// In tables up to a key, and what was found since the scan's `at`.
    Read {
        rows: Scan<'a>,
        until: Option<Bytes>,
        found: Option<Stretch>,
    },
    Ended,
}

/// Rows from `at` on to `to`.
pub(super) struct TableScan<'a, B> {
    below: B,
    stretches: &'a Stretches,
    moment: &'a Moment,
    keyspace: KeyspaceId,
    /// The first key that was not looked at.
    at: Bytes,
    /// Exclusive; `None` is the end of the tree.
    to: Option<Bytes>,
    copied_next: usize,
    kept: usize,
    state: State<'a>,
}

impl<'a, B: Below<'a>> TableScan<'a, B> {
    pub(super) fn new(
        below: B,
        (stretches, moment): (&'a Stretches, &'a Moment),
        keyspace: KeyspaceId,
        (at, to): (Bytes, Option<Bytes>),
    ) -> Self {
        Self {
            below,
            stretches,
            moment,
            keyspace,
            at,
            to,
            copied_next: COPY_MIN,
            kept: 0,
            state: State::Between,
        }
    }

    /// What is next at `at`.
    fn look(&mut self) -> State<'a> {
        if self.to.as_ref().is_some_and(|to| self.at >= to) {
            return State::Ended;
        }
        match self.stretches.next(self.keyspace, &self.at, self.moment) {
            Next::Kept(stretch, end) => self.copy(&stretch, end),
            Next::Unknown(end) => {
                let until = nearer(end, self.to.clone());
                let rows = self.below.scan(&self.at, until.as_deref());
                let found = (self.kept < KEPT_MAX).then(Stretch::default);
                State::Read { rows, until, found }
            }
        }
    }

    /// Takes some rows out of a stretch that has `at` and ends at `end`.
    fn copy(&mut self, stretch: &Stretch, end: Option<Bytes>) -> State<'a> {
        let first = stretch.first_from(&self.at);
        let of_range = self.to.as_ref().map_or(stretch.len(), |to| stretch.first_from(to));
        let until = of_range.min(first + self.copied_next);
        self.copied_next = (2 * self.copied_next).min(COPY_MAX);
        let next = if until < stretch.len() {
            Some(Bytes::copy_from_slice(stretch.key(until)))
        } else {
            end
        };
        match next {
            Some(next) => self.at = next,
            // The end of the tree: nothing is left to look at.
            None => self.to = Some(Bytes::new()),
        }
        State::Copied(Box::new(stretch.copy(first..until)))
    }

    /// Adds a row of the tables to what was found, and keeps that once it is large enough.
    fn find(&mut self, (key, value): &Pair) {
        let State::Read { found, .. } = &mut self.state else { return };
        let Some(stretch) = found else { return };
        if !stretch.push(key, value) {
            *found = None;
            return;
        }
        if stretch.bytes() >= STRETCH_BYTES {
            let stretch = std::mem::take(stretch);
            let end = successor(key);
            self.kept += 1;
            if self.kept >= KEPT_MAX {
                *found = None;
            }
            let from = std::mem::replace(&mut self.at, end.clone());
            self.stretches.keep(self.keyspace, (from, Some(end)), stretch, self.moment);
        }
    }

    /// Ends the part in tables, which was read to its end.
    fn end_read(&mut self) {
        let State::Read { until, found, .. } = std::mem::replace(&mut self.state, State::Between)
        else {
            return;
        };
        if let Some(stretch) = found {
            self.kept += 1;
            let span = (self.at.clone(), until.clone());
            self.stretches.keep(self.keyspace, span, stretch, self.moment);
        }
        match until {
            Some(until) => self.at = until,
            None => self.state = State::Ended,
        }
    }
}

impl<'a, B: Below<'a>> Iterator for TableScan<'a, B> {
    type Item = Result<Pair, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match &mut self.state {
                State::Ended => return None,
                State::Between => self.state = self.look(),
                State::Copied(rows) => match rows.next() {
                    Some(pair) => return Some(Ok(pair)),
                    None => self.state = State::Between,
                },
                State::Read { rows, .. } => match rows.next() {
                    Some(Ok(pair)) => {
                        self.find(&pair);
                        return Some(Ok(pair));
                    }
                    Some(Err(error)) => {
                        self.state = State::Ended;
                        return Some(Err(error));
                    }
                    None => self.end_read(),
                },
            }
        }
    }
}

impl<B> Drop for TableScan<'_, B> {
    /// Keeps what was found, if it is worth it.
    fn drop(&mut self) {
        if let State::Read { found: Some(stretch), .. } = &mut self.state
            && stretch.len() >= STRETCH_ROWS_MIN
        {
            let span = (self.at.clone(), Some(successor(stretch.key(stretch.len() - 1))));
            self.stretches.keep(self.keyspace, span, std::mem::take(stretch), self.moment);
        }
    }
}

/// Of two ends the one that comes first; `None` is the end of the tree.
fn nearer(a: Option<Bytes>, b: Option<Bytes>) -> Option<Bytes> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::ops::Bound;

    use atoll_base::Rng;

    use super::*;

    const KEYSPACE: KeyspaceId = KeyspaceId(1);

    /// Tables that count how often they are asked and how many rows they gave.
    #[derive(Default)]
    struct Rows {
        rows: BTreeMap<Vec<u8>, Vec<u8>>,
        scans: Cell<usize>,
        given: Cell<usize>,
    }

    impl<'a> Below<'a> for &'a Rows {
        fn scan(&self, from: &[u8], to: Option<&[u8]>) -> Scan<'a> {
            self.scans.set(self.scans.get() + 1);
            let to = to.map_or(Bound::Unbounded, Bound::Excluded);
            let rows = self.rows.range::<[u8], _>((Bound::Included(from), to));
            Box::new(rows.map(|(key, value)| {
                self.given.set(self.given.get() + 1);
                Ok((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
            }))
        }
    }

    fn filled(rng: &mut Rng, count: u64) -> Rows {
        let mut rows = Rows::default();
        for _ in 0..count {
            let key = (rng.below(4 * count) as u32).to_be_bytes().to_vec();
            rows.rows.insert(key, vec![7; rng.below(300) as usize]);
        }
        rows
    }

    fn range(rng: &mut Rng, count: u64) -> (Bytes, Option<Bytes>) {
        let key = |n: u64| Bytes::copy_from_slice(&(n as u32).to_be_bytes());
        let from = rng.below(4 * count);
        let to = from + rng.below(2 * count);
        (key(from), (to < 4 * count).then(|| key(to)))
    }

    fn scan<'a>(
        rows: &'a Rows,
        kept: (&'a Stretches, &'a Moment),
        span: &(Bytes, Option<Bytes>),
    ) -> TableScan<'a, &'a Rows> {
        TableScan::new(rows, kept, KEYSPACE, span.clone())
    }

    /// What `rows` have in `span`.
    fn expected(rows: &Rows, (from, to): &(Bytes, Option<Bytes>)) -> Vec<(Vec<u8>, Vec<u8>)> {
        let to = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = rows.rows.range::<[u8], _>((Bound::Included(&from[..]), to));
        found.map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    #[test]
    fn scans_give_what_tables_have_and_soon_ask_them_no_more() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let rows = filled(&mut rng, 2_000);
            let stretches = Stretches::new(64 << 20);
            let moment = &stretches.settle(stretches.moment(), None);
            for round in 0..200 {
                let span = range(&mut rng, 2_000);
                let want = expected(&rows, &span);
                let take = if rng.below(2) == 0 { usize::MAX } else { rng.below(300) as usize };
                let got = scan(&rows, (&stretches, moment), &span).take(take);
                let got: Vec<_> = got.map(Result::unwrap).collect();
                let same =
                    |(got, want): (&Pair, &(Vec<u8>, Vec<u8>))| got.0 == want.0 && got.1 == want.1;
                assert_eq!(got.len(), want.len().min(take), "seed {seed} round {round}");
                assert!(got.iter().zip(&want).all(same), "seed {seed} round {round}: {span:?}");
            }
            let all = (Bytes::new(), None);
            assert_eq!(scan(&rows, (&stretches, moment), &all).count(), rows.rows.len());
            let (scans, given) = (rows.scans.get(), rows.given.get());
            assert!(given <= 2 * rows.rows.len(), "{given} rows of {}", rows.rows.len());
            for _ in 0..50 {
                let span = range(&mut rng, 2_000);
                let got = scan(&rows, (&stretches, moment), &span).count();
                assert_eq!(got, expected(&rows, &span).len());
            }
            assert_eq!((rows.scans.get(), rows.given.get()), (scans, given));
        }
    }

    #[test]
    fn what_one_scan_keeps_is_bounded_and_its_errors_end_it() {
        let mut rng = Rng::new(1);
        let rows = filled(&mut rng, 40_000);
        let stretches = Stretches::new(64 << 20);
        let moment = &stretches.settle(stretches.moment(), None);
        let all = (Bytes::new(), None);
        assert_eq!(scan(&rows, (&stretches, moment), &all).count(), rows.rows.len());
        let kept = stretches.bytes();
        let room = (KEPT_MAX * (STRETCH_BYTES + 4_096)) as u64;
        assert!((room / 2..room).contains(&kept), "{kept} bytes are kept");

        struct Broken;
        impl<'a> Below<'a> for Broken {
            fn scan(&self, _: &[u8], _: Option<&[u8]>) -> Scan<'a> {
                let pair = Ok((Bytes::from_static(b"a"), Bytes::new()));
                let error = EngineError::Damaged { during: "scan", reason: "a bit".into() };
                Box::new([pair, Err(error)].into_iter())
            }
        }
        let empty = Stretches::new(1 << 20);
        let moment = empty.settle(empty.moment(), None);
        let kept = (&empty, &moment);
        let mut scan = TableScan::new(Broken, kept, KEYSPACE, all);
        assert!(matches!(scan.next(), Some(Ok(_))));
        assert!(matches!(scan.next(), Some(Err(EngineError::Damaged { .. }))));
        assert!(scan.next().is_none());
        drop(scan);
        assert_eq!(empty.bytes(), 0, "what an error cut off is not kept");
    }
}
