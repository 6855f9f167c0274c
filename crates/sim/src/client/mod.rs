//! Simulated clients: they call, retry elsewhere under the same command id, and write down what
//! they were told.
//!
//! A client has some *slots*, each busy with one job at a time, and one stream to every node that
//! it talks to: its [`desk`]. Jobs are described in [`jobs`], the fate of one call in [`pursuit`],
//! what was seen in [`record`]. Watchers are apart, in [`watcher`], and so are [`holder`]s of
//! locks, the [`importer`], the [`appender`] and the [`operator`].

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{NodeId, Revision, Rng, ShardId};
use atoll_coord::{AnswerBody, Consistency, Request, RequestBody};
use atoll_machine::{RangePage, Reply};

pub(crate) mod agent;
pub(crate) mod appender;
pub(crate) mod desk;
pub(crate) mod holder;
pub(crate) mod importer;
pub(crate) mod jobs;
pub(crate) mod operator;
pub(crate) mod pursuit;
pub(crate) mod record;
mod scripted;
pub(crate) mod watcher;

use crate::fabric::{Fabric, Packet};
use crate::history::{Call, Found, KeyNumber, Return};
use crate::network::Place;
use crate::shell::Shell;
use crate::value::KEYS_END;
use agent::Caller;
use desk::{Desk, Fate};
use jobs::{Job, Scan, Then, bank};
use pursuit::{End, Pursuit};
use record::Record;

/// Time that a caller gives a job.
const PATIENCE_MS: (u64, u64) = (500, 5_000);

/// One client.
pub(crate) struct Client {
    desk: Desk<Job>,
    rng: Rng,
    /// What each register held when last seen.
    seen: BTreeMap<(ShardId, KeyNumber), Option<u64>>,
    newest: BTreeMap<ShardId, Revision>,
    /// No new jobs.
    is_closing: bool,
}

/// Everything that a client needs of the world.
pub(crate) struct Around<'a> {
    pub(crate) fabric: &'a mut Fabric,
    pub(crate) record: &'a mut Record,
    pub(crate) shell: &'a Shell,
}

impl Around<'_> {
    /// Sends a request of this client over its stream to `node`.
    fn send(&mut self, client: u32, node: NodeId, request: Request, within: Duration) {
        let (from, to, origin) = (Place::Client(client), Place::Node(node), request.origin);
        let packet = Packet::Request { request: Box::new(request), within };
        self.fabric.stream(from, to, origin, packet);
    }
}

impl Client {
    pub(crate) fn new(number: u32, slots: u32, mut rng: Rng) -> Self {
        Self {
            desk: Desk::new(number, slots as usize, rng.fork()),
            rng,
            seen: BTreeMap::new(),
            newest: BTreeMap::new(),
            is_closing: false,
        }
    }

    /// Lets every slot begin.
    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        for slot in 0..self.desk.slots() {
            let delay = Duration::from_micros(self.rng.below(50_000));
            self.desk.set_timer(slot, delay, around);
        }
    }

    /// Takes no new jobs from now on.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// True when no call is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.desk.is_idle()
    }

    /// Begins a job of the caller's choice in the first slot, which must be idle.
    pub(crate) fn begin(
        &mut self,
        shard: ShardId,
        within: Duration,
        (job, body): (Job, RequestBody),
        around: &mut Around<'_>,
    ) {
        let deadline = around.fabric.now().after(within);
        self.desk.pursue(0, job, Pursuit::new(shard, body, deadline), around);
    }

    fn new_job(&mut self, slot: usize, around: &mut Around<'_>) {
        let shards = around.shell.user_shards();
        let shard = *self.rng.pick(&shards).expect("a run has user shards");
        let deadline = around
            .fabric
            .now()
            .after(Duration::from_millis(self.rng.range(PATIENCE_MS.0, PATIENCE_MS.1)));
        let (job, body) = self.choose(shard, around);
        let pursuit = Pursuit::new(shard, body, deadline);
        let pursuit = if matches!(job, Job::Operator) { pursuit.anonymous() } else { pursuit };
        self.desk.pursue(slot, job, pursuit, around);
    }

    fn choose(&mut self, shard: ShardId, around: &mut Around<'_>) -> (Job, RequestBody) {
        let shape = &around.shell.shape;
        let register = KeyNumber(self.rng.below(u64::from(shape.registers)) as u32);
        let newest = self.newest.get(&shard).copied().unwrap_or_default();
        let call = match self.rng.below(100) {
            0..25 => Call::Get,
            25..50 => Call::Put(around.record.next_value()),
            50..58 => Call::Delete(around.record.next_value()),
            58..70 => {
                let expect = self.seen.get(&(shard, register)).copied().flatten();
                Call::Swap { expect, value: around.record.next_value() }
            }
            70..78 => {
                let call = Call::Put(around.record.next_value());
                return self.operation(shard, jobs::counter(self.desk.number()), call, around);
            }
            78..84 => {
                let at = self
                    .rng
                    .chance(1, 2)
                    .then(|| Revision(newest.0.saturating_sub(self.rng.below(30)).max(1)));
                let consistency = match at {
                    Some(_) if self.rng.chance(1, 2) => Consistency::Linearizable,
                    _ => {
                        let max = self.rng.chance(1, 2).then(|| self.rng.range(1, 300));
                        Consistency::Stale { max: max.map(Duration::from_millis) }
                    }
                };
                return (Job::OldRead(register), jobs::get(shard, register, at, consistency));
            }
            84..97 => {
                let then = if self.rng.chance(3, 4) { Then::Transfer } else { Then::Rest };
                return self.scan(shard, then, around);
            }
            97..98 if newest.0 > 200 => {
                return (Job::Operator, jobs::compact(Revision(newest.0 - 150)));
            }
            _ => {
                let members = around.shell.members(shard);
                let to = *self.rng.pick(&members).expect("every shard has members");
                return (Job::Operator, jobs::hand_over(to));
            }
        };
        self.operation(shard, register, call, around)
    }

    /// An operation that the history keeps.
    pub(crate) fn operation(
        &mut self,
        shard: ShardId,
        key: KeyNumber,
        call: Call,
        around: &mut Around<'_>,
    ) -> (Job, RequestBody) {
        let now = around.fabric.now();
        let number = around.record.history.call(now, self.desk.number(), (shard, key), call);
        let body = jobs::request(shard, key, call, around.shell.shape.padding_max);
        (Job::Operation(number), body)
    }

    /// A scan from its first page on.
    pub(crate) fn scan(
        &mut self,
        shard: ShardId,
        then: Then,
        around: &mut Around<'_>,
    ) -> (Job, RequestBody) {
        let called = around.record.history.stamp();
        let scan = Scan { called, revision: None, pairs: Vec::new(), then };
        (Job::Scan(scan), jobs::page(shard, None, None, self.rng.range(1, 8)))
    }

    fn ended(
        &mut self,
        slot: usize,
        (job, shard): (Job, ShardId),
        end: End,
        around: &mut Around<'_>,
    ) {
        if let End::Answered(body) = &end {
            self.note_revision(shard, body);
        }
        match (job, end) {
            (Job::Operation(number) | Job::Transfer(number), End::Refused(failure)) => {
                around
                    .fabric
                    .say(format_args!("client {} is refused: {failure}", self.desk.number()));
                around.record.history.refused(number);
            }
            (Job::Operation(number) | Job::Transfer(number), End::Answered(body)) => {
                self.operation_done(number, *body, around);
            }
            (Job::OldRead(key), End::Answered(body)) => old_read_done(shard, key, *body, around),
            (Job::Scan(scan), End::Answered(body)) => {
                if let AnswerBody::Range { page, .. } = *body {
                    self.page_done(slot, shard, (scan, page), around);
                }
            }
            _ => {}
        }
    }

    fn note_revision(&mut self, shard: ShardId, body: &AnswerBody) {
        let revision = match body {
            AnswerBody::Command(reply) => reply.revision(),
            AnswerBody::Range { page, .. } => Some(page.revision),
            _ => None,
        };
        let newest = self.newest.entry(shard).or_default();
        *newest = revision.unwrap_or_default().max(*newest);
    }

    fn operation_done(
        &mut self,
        number: crate::history::OperationNumber,
        body: AnswerBody,
        around: &mut Around<'_>,
    ) {
        let (shard, key) = around.record.history.target(number);
        let (returned, revision) = match body {
            AnswerBody::Command(Reply::Put { revision, .. }) => (Return::Put, revision),
            AnswerBody::Command(Reply::Delete { revision, deleted, .. }) => {
                (Return::Deleted(found(deleted > 0)), revision)
            }
            AnswerBody::Command(Reply::Txn { revision, succeeded, .. }) => {
                (Return::Swapped(found(succeeded)), revision)
            }
            AnswerBody::Get { kv, revision, .. } => {
                let pair = kv.map(|kv| around.record.pair(shard, &kv));
                let held = pair.flatten().map(|pair| pair.value);
                self.seen.insert((shard, key), held);
                let value = held;
                let row = crate::check::reads::Row { shard, key, revision, value };
                around.record.rows.push(row);
                (Return::Got(held), revision)
            }
            other => {
                around.record.report("answers", format!("shard {shard} answered {other:?}"));
                return;
            }
        };
        around.record.history.done(number, returned, revision);
    }

    fn page_done(
        &mut self,
        slot: usize,
        shard: ShardId,
        (mut scan, page): (Scan, RangePage),
        around: &mut Around<'_>,
    ) {
        let revision = *scan.revision.get_or_insert(page.revision);
        for kv in &page.kvs {
            // Keys of leases come and go by themselves.
            let pair = around.record.pair(shard, kv);
            scan.pairs.extend(pair.filter(|pair| pair.key.0 < KEYS_END));
        }
        let now = around.fabric.now();
        let patience = Duration::from_millis(self.rng.range(PATIENCE_MS.0, PATIENCE_MS.1));
        if page.more.is_some() {
            let body = jobs::page(shard, page.more, Some(revision), self.rng.range(1, 8));
            let pursuit = Pursuit::new(shard, body, now.after(patience));
            self.desk.pursue(slot, Job::Scan(scan), pursuit, around);
            return;
        }
        let bank = bank(&around.shell.shape);
        around.record.scan(shard, (scan.called, revision), &scan.pairs, bank);
        match scan.then {
            Then::Rest => {}
            Then::Close => around.record.close(shard, revision, scan.pairs),
            Then::Transfer => {
                let (job, body) = self.transfer(shard, &scan, around);
                let pursuit = Pursuit::new(shard, body, now.after(patience));
                self.desk.pursue(slot, job, pursuit, around);
            }
        }
    }

    fn transfer(
        &mut self,
        shard: ShardId,
        scan: &Scan,
        around: &mut Around<'_>,
    ) -> (Job, RequestBody) {
        let shape = &around.shell.shape;
        let accounts: Vec<_> = scan.pairs.iter().filter(|pair| pair.is_account()).collect();
        let (key, (call, body)) = if accounts.len() < 2 {
            let record = &mut *around.record;
            let founded = jobs::found_bank(shard, shape, || record.next_value());
            (KeyNumber(crate::value::ACCOUNTS_FROM), founded)
        } else {
            let from = self.rng.below(accounts.len() as u64) as usize;
            let step = 1 + self.rng.below(accounts.len() as u64 - 1) as usize;
            let pair = (*accounts[from], *accounts[(from + step) % accounts.len()]);
            let value = around.record.next_value();
            (pair.0.key, jobs::transfer(shard, shape, pair, value, &mut self.rng))
        };
        let now = around.fabric.now();
        let number = around.record.history.call(now, self.desk.number(), (shard, key), call);
        (Job::Transfer(number), body)
    }
}

impl Caller for Client {
    type Job = Job;

    fn desk(&mut self) -> &mut Desk<Job> {
        &mut self.desk
    }

    fn settle(&mut self, fate: Fate<Job>, around: &mut Around<'_>) {
        let (slot, job, shard, end) = match fate {
            Fate::Free(slot) if !self.is_closing => return self.new_job(slot, around),
            Fate::Open | Fate::Free(_) => return,
            Fate::Ended { slot, job, shard, end, .. } => (slot, job, shard, end),
        };
        self.ended(slot, (job, shard), end, around);
        if self.desk.is_free(slot) {
            let think = around.shell.shape.think.as_micros() as u64;
            let delay = Duration::from_micros(self.rng.below(2 * think));
            self.desk.set_timer(slot, delay, around);
        }
    }
}

fn found(yes: bool) -> Found {
    if yes { Found::Yes } else { Found::No }
}

fn old_read_done(shard: ShardId, key: KeyNumber, body: AnswerBody, around: &mut Around<'_>) {
    if let AnswerBody::Get { kv, revision, .. } = body {
        let pair = kv.map(|kv| around.record.pair(shard, &kv));
        let value = pair.flatten().map(|pair| pair.value);
        let row = crate::check::reads::Row { shard, key, revision, value };
        around.record.rows.push(row);
    }
}
