//! A simulated import: stores the records of an input, several at a time, is killed now and then,
//! and goes on from what it had noted.
//!
//! It keeps the rules of `atoll import`: every record before the noted `done` is acknowledged (I1),
//! and none behind `claimed` was ever sent (I2); what lies between is put only where the key does
//! not have that value already; records of one key are under way one at a time. In the end it reads
//! what became of all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_base::{Revision, Rng, ShardId};
use atoll_coord::{AnswerBody, Consistency, RequestBody};
use atoll_machine::{KeyEnd, RangePage, RangeQuery, Reply};
use bytes::Bytes;

use super::agent::Caller;
use super::desk::{Desk, Fate};
use super::pursuit::{End, Pursuit};
use super::{Around, jobs};
use crate::check::importing::{self, Found, Imported};
use crate::history::{KeyNumber, Value};
use crate::plant::Plant;
use crate::value::{IMPORTED_FROM, LISTED, encode_key};

/// Records under way at once.
const PARALLEL: usize = 4;
/// Records that one claim covers.
const CLAIM: usize = 8;
/// Time given to one call.
const PATIENCE: Duration = Duration::from_secs(4);
/// Records read in a page.
const PAGE: u64 = 16;

/// What a slot is busy with.
#[derive(Debug)]
pub(crate) enum Job {
    /// Storing the so-manieth record.
    Store(usize),
    /// Reading what a shard holds of them.
    Look { revision: Option<Revision>, found: Vec<Found> },
}

struct Item {
    shard: ShardId,
    key: KeyNumber,
    value: Value,
    /// How often it may have been written besides once.
    again: u64,
}

/// What survives the process: counts of records.
#[derive(Clone, Copy, Default)]
struct Note {
    done: usize,
    claimed: usize,
}

/// An import of one input.
pub(crate) struct Importer {
    desk: Desk<Job>,
    rng: Rng,
    records: u32,
    input: Vec<Item>,
    note: Note,
    /// Records that this process has begun with.
    read: usize,
    /// Records below this one may have been sent by an earlier process.
    doubtful: usize,
    open: BTreeSet<usize>,
    /// A record could not be stored: the process ends.
    has_failed: bool,
    /// Shards not yet looked at.
    unseen: Vec<ShardId>,
    is_closing: bool,
}

impl Importer {
    pub(crate) fn new(number: u32, records: u32, mut rng: Rng) -> Self {
        Self {
            desk: Desk::new(number, PARALLEL, rng.fork()),
            rng,
            records,
            input: Vec::new(),
            note: Note::default(),
            read: 0,
            doubtful: 0,
            open: BTreeSet::new(),
            has_failed: false,
            unseen: Vec::new(),
            is_closing: false,
        }
    }

    /// Finds the input, and begins.
    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        let shards = around.shell.user_shards();
        for n in 0..self.records {
            // Now and then a key that a record before has.
            let again = self.rng.chance(1, 10);
            let known = self.rng.pick(&self.input).filter(|_| again).map(|it| (it.shard, it.key));
            let shard = *self.rng.pick(&shards).expect("a run has user shards");
            let (shard, key) = known.unwrap_or((shard, KeyNumber(IMPORTED_FROM + n)));
            let value = around.record.next_value();
            self.input.push(Item { shard, key, value, again: 0 });
        }
        self.unseen = shards;
        self.begin(300, around);
    }

    /// Is killed no more.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// What is not yet done.
    pub(crate) fn debt(&self) -> Option<String> {
        let (noted, all) = (self.note.done, self.input.len());
        (!self.unseen.is_empty()).then(|| format!("an import stays at {noted} of {all} records"))
    }

    /// A process begins, within so many milliseconds.
    fn begin(&mut self, within_ms: u64, around: &mut Around<'_>) {
        (self.read, self.doubtful) = (self.note.done, self.note.claimed);
        self.open.clear();
        self.has_failed = false;
        for slot in 0..PARALLEL {
            let delay = Duration::from_micros(self.rng.below(within_ms * 1_000));
            self.desk.set_timer(slot, delay, around);
        }
    }

    fn kill(&mut self, around: &mut Around<'_>) {
        atoll_base::reached!("an import was killed");
        for at in &self.open {
            self.input[*at].again += 1;
        }
        self.desk.abandon(around);
        self.begin(1_000, around);
    }

    /// Begins with another record, or looks at them when all are stored.
    fn next(&mut self, slot: usize, around: &mut Around<'_>) {
        if self.has_failed {
            return;
        }
        let Some(item) = self.input.get(self.read) else {
            if self.open.is_empty() && self.desk.is_idle() {
                self.note.done = self.read;
                self.look(slot, (None, None, Vec::new()), around);
            }
            return;
        };
        let (shard, key, value) = (item.shard, item.key, item.value);
        if self.open.iter().any(|at| (self.input[*at].shard, self.input[*at].key) == (shard, key)) {
            return self.desk.set_timer(slot, Duration::from_millis(5), around);
        }
        if self.read >= self.note.claimed {
            self.note.claimed = self.read + CLAIM;
            self.save(around);
        }
        let is_doubtful = self.read < self.doubtful;
        let of_key = |it: &&Item| (it.shard, it.key) == (shard, key);
        if is_doubtful && self.input.iter().filter(of_key).count() > 1 {
            self.input[self.read].again += 1;
        }
        let body = jobs::store(shard, key, value, is_doubtful, around.shell.shape.padding_max);
        around.record.others.0 += 1;
        self.open.insert(self.read);
        let job = Job::Store(self.read);
        self.read += 1;
        let deadline = around.fabric.now().after(PATIENCE);
        self.desk.pursue(slot, job, Pursuit::new(shard, body, deadline), around);
    }

    fn stored(&mut self, at: usize, end: End, around: &mut Around<'_>) {
        match end {
            End::Answered(body) => {
                if let AnswerBody::Command(Reply::Txn { succeeded: true, .. }) = *body {
                    atoll_base::reached!("an import found a record where it belongs");
                }
                around.record.others.1 += 1;
                self.open.remove(&at);
                if self.rng.chance(1, 4) {
                    self.save(around);
                }
            }
            // It stays open, so that `done` never moves behind it.
            End::Refused(_) => self.has_failed = true,
            End::Unknown => {
                self.has_failed = true;
                self.input[at].again += 1;
            }
        }
    }

    fn save(&mut self, around: &Around<'_>) {
        let is_careless = around.shell.plants(Plant::NoteAhead);
        let first = self.open.first().copied().filter(|_| !is_careless);
        self.note.done = first.unwrap_or(self.read);
    }

    /// Reads a page of the records in the next shard.
    fn look(
        &mut self,
        slot: usize,
        (from, revision, found): (Option<Bytes>, Option<Revision>, Vec<Found>),
        around: &mut Around<'_>,
    ) {
        let Some(shard) = self.unseen.last().copied() else { return };
        let start = from.unwrap_or_else(|| encode_key(shard, KeyNumber(IMPORTED_FROM)));
        let end = KeyEnd::Until(encode_key(shard, KeyNumber(LISTED)));
        let mut query = RangeQuery::new(start, end);
        (query.at, query.limit) = (revision, Some(PAGE));
        let body = RequestBody::Range { query, consistency: Consistency::Linearizable };
        let pursuit = Pursuit::new(shard, body, around.fabric.now().after(PATIENCE));
        self.desk.pursue(slot, Job::Look { revision, found }, pursuit, around);
    }

    fn looked(
        &mut self,
        (slot, shard): (usize, ShardId),
        (revision, mut found): (Option<Revision>, Vec<Found>),
        end: End,
        around: &mut Around<'_>,
    ) {
        // Without an answer it is asked again, from the beginning.
        let End::Answered(body) = end else { return };
        let AnswerBody::Range { page: RangePage { kvs, more, revision: read_at, .. }, .. } = *body
        else {
            return;
        };
        let pairs = kvs.iter().filter_map(|kv| around.record.pair(shard, kv));
        found.extend(pairs.map(|pair| Found {
            key: pair.key,
            value: pair.value,
            version: pair.version,
        }));
        if more.is_some() {
            return self.look(slot, (more, Some(revision.unwrap_or(read_at)), found), around);
        }
        around.record.note(importing::check(&self.expected(shard), &found));
        self.unseen.pop();
    }

    fn expected(&self, shard: ShardId) -> Vec<Imported> {
        let mut keys: BTreeMap<KeyNumber, Imported> = BTreeMap::new();
        for item in self.input.iter().filter(|it| it.shard == shard) {
            let fresh = || Imported { key: item.key, values: Vec::new(), again: 0 };
            let it = keys.entry(item.key).or_insert_with(fresh);
            it.values.push(item.value);
            it.again += item.again;
        }
        keys.into_values().collect()
    }
}

impl Caller for Importer {
    type Job = Job;

    fn desk(&mut self) -> &mut Desk<Job> {
        &mut self.desk
    }

    fn settle(&mut self, fate: Fate<Job>, around: &mut Around<'_>) {
        match fate {
            Fate::Open => return,
            Fate::Free(slot) => return self.next(slot, around),
            Fate::Ended { slot, job, shard, end, .. } => {
                match job {
                    Job::Store(at) => self.stored(at, end, around),
                    Job::Look { revision, found } => {
                        self.looked((slot, shard), (revision, found), end, around);
                    }
                }
                if self.desk.is_free(slot) {
                    let think = around.shell.shape.think.as_micros() as u64;
                    let delay = Duration::from_micros(self.rng.below(think));
                    self.desk.set_timer(slot, delay, around);
                }
            }
        }
        if !self.is_closing && !self.open.is_empty() && self.rng.chance(1, 25) {
            self.kill(around);
        } else if self.has_failed && self.desk.is_idle() {
            self.save(around);
            self.begin(300, around);
        }
    }
}
