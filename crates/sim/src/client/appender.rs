//! Simulated clients of one list: they read it and append to it as it was read, and lose the race
//! often.

use std::time::Duration;

use atoll_base::{Revision, Rng, ShardId};
use atoll_coord::{AnswerBody, Consistency};
use atoll_machine::Reply;

use super::agent::Caller;
use super::desk::{Desk, Fate};
use super::pursuit::{End, Pursuit};
use super::{Around, jobs};
use crate::check::lists::{self, Append, Ended, Read};
use crate::history::{KeyNumber, Stamp, Value};
use crate::plant::Plant;
use crate::value::{LISTED, decode_list};

/// Clients at work at once.
const SLOTS: usize = 3;
/// The longest list: each append writes all of it.
const ELEMENTS_MAX: usize = 60;
/// Time given to one call.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a slot is busy with.
#[derive(Debug)]
pub(crate) enum Job {
    Read { called: Stamp, is_last: bool },
    Append { number: usize, list: Vec<Value> },
}

/// The clients of one list.
pub(crate) struct Appender {
    desk: Desk<Job>,
    rng: Rng,
    shard: ShardId,
    /// The list as it was last seen, and the revision that left it so.
    seen: Option<(Vec<Value>, Revision)>,
    appends: Vec<Append>,
    reads: Vec<Read>,
    is_closing: bool,
    is_done: bool,
}

impl Appender {
    pub(crate) fn new(number: u32, shard: ShardId, mut rng: Rng) -> Self {
        Self {
            desk: Desk::new(number, SLOTS, rng.fork()),
            rng,
            shard,
            seen: None,
            appends: Vec::new(),
            reads: Vec::new(),
            is_closing: false,
            is_done: false,
        }
    }

    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        for slot in 0..SLOTS {
            let delay = Duration::from_micros(self.rng.below(100_000));
            self.desk.set_timer(slot, delay, around);
        }
    }

    /// Reads once more, and that is all.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// What is not yet done.
    pub(crate) fn debt(&self) -> Option<String> {
        (!self.is_done).then(|| format!("the list of shard {} is not read", self.shard))
    }

    fn think(&self, around: &Around<'_>) -> Duration {
        3 * around.shell.shape.think
    }

    fn next(&mut self, slot: usize, around: &mut Around<'_>) {
        if self.is_done {
            return;
        }
        let now = around.fabric.now();
        let seen = self.seen.take_if(|_| !self.is_closing && self.rng.chance(2, 3));
        let appends = seen.filter(|(list, _)| list.len() < ELEMENTS_MAX);
        let (job, body) = match appends {
            None => {
                // The last look comes when everything else is over.
                if self.is_closing && !self.desk.is_idle() {
                    return self.desk.set_timer(slot, Duration::from_millis(20), around);
                }
                let (called, is_last) = (around.record.history.stamp(), self.is_closing);
                let key = KeyNumber(LISTED);
                let body = jobs::get(self.shard, key, None, Consistency::Linearizable);
                (Job::Read { called, is_last }, body)
            }
            Some((mut list, revision)) => {
                let (element, called) = (around.record.next_value(), around.record.history.stamp());
                let number = self.appends.len();
                self.appends.push(Append { element, called, ended: Ended::Unknown });
                list.push(element);
                let is_blind = around.shell.plants(Plant::BlindAppends);
                let body = jobs::append(self.shard, &list, (!is_blind).then_some(revision));
                (Job::Append { number, list }, body)
            }
        };
        around.record.others.0 += 1;
        self.desk.pursue(slot, job, Pursuit::new(self.shard, body, now.after(PATIENCE)), around);
    }

    fn has_read(
        &mut self,
        (called, is_last): (Stamp, bool),
        body: AnswerBody,
        around: &mut Around<'_>,
    ) {
        let AnswerBody::Get { kv, .. } = body else { return };
        let answered = around.record.history.stamp();
        let (list, revision) = match kv {
            None => (Some(Vec::new()), Revision::ZERO),
            Some(kv) => (decode_list(&kv.value), kv.mod_revision),
        };
        let Some(list) = list else {
            let what = format!("shard {} gave a list that nobody wrote", self.shard);
            return around.record.report("integrity", what);
        };
        self.reads.push(Read { called, answered, list: list.clone() });
        self.seen = Some((list, revision));
        if is_last {
            self.is_done = true;
            around.record.note(lists::check(&self.appends, &self.reads));
        }
    }

    fn appended(&mut self, number: usize, list: Vec<Value>, end: End, around: &mut Around<'_>) {
        let stamp = around.record.history.stamp();
        self.appends[number].ended = match end {
            End::Answered(body) => match *body {
                AnswerBody::Command(Reply::Txn { succeeded: true, revision, .. }) => {
                    self.seen = Some((list, revision));
                    Ended::Done(stamp)
                }
                _ => {
                    atoll_base::reached!("an append lost the race for a list");
                    Ended::Refused
                }
            },
            End::Refused(_) => Ended::Refused,
            End::Unknown => Ended::Unknown,
        };
    }
}

impl Caller for Appender {
    type Job = Job;

    fn desk(&mut self) -> &mut Desk<Job> {
        &mut self.desk
    }

    fn settle(&mut self, fate: Fate<Job>, around: &mut Around<'_>) {
        match fate {
            Fate::Open => {}
            Fate::Free(slot) => self.next(slot, around),
            Fate::Ended { slot, job, end, .. } => {
                around.record.others.1 += u64::from(matches!(end, End::Answered(_)));
                match (job, end) {
                    (Job::Read { called, is_last }, End::Answered(body)) => {
                        self.has_read((called, is_last), *body, around);
                    }
                    (Job::Read { .. }, _) => {}
                    (Job::Append { number, list }, end) => {
                        self.appended(number, list, end, around);
                    }
                }
                let most =
                    if self.is_closing { Duration::from_millis(20) } else { self.think(around) };
                let delay = Duration::from_micros(self.rng.below(most.as_micros() as u64));
                self.desk.set_timer(slot, delay, around);
            }
        }
    }
}
