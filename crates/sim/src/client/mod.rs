//! Simulated clients: they call, retry elsewhere under the same command id, and write down what
//! they were told.
//!
//! A client has some *slots*, each busy with one job at a time, and one stream to every node that
//! it talks to. Jobs are described in [`jobs`], the fate of one call in [`pursuit`], what was seen
//! in [`record`]. Watchers are apart, in [`watcher`].

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_base::{ClientId, NodeId, Revision, Rng, Sequence, ShardId, Time};
use atoll_coord::{Answer, AnswerBody, Consistency, Origin, Request, RequestBody};
use atoll_machine::{CommandId, RangePage, Reply};

pub(crate) mod jobs;
pub(crate) mod pursuit;
pub(crate) mod record;
pub(crate) mod watcher;

use crate::fabric::{Event, Fabric, Packet, Token};
use crate::history::{Call, Found, KeyNumber, Return};
use crate::network::Place;
use crate::shell::Shell;
use jobs::{Job, Scan, Then, bank};
use pursuit::{End, Next, Pursuit};
use record::Record;

/// Time that a caller gives a job.
const PATIENCE_MS: (u64, u64) = (500, 5_000);

/// One client.
pub(crate) struct Client {
    number: u32,
    id: ClientId,
    rng: Rng,
    slots: Vec<Slot>,
    streams: BTreeMap<NodeId, Origin>,
    /// Who led each shard when last heard.
    leaders: BTreeMap<ShardId, NodeId>,
    /// What each register held when last seen.
    seen: BTreeMap<(ShardId, KeyNumber), Option<u64>>,
    newest: BTreeMap<ShardId, Revision>,
    last_request: u64,
    sequences: BTreeMap<ShardId, Sequences>,
    /// No new jobs.
    is_closing: bool,
}

/// A client's mutating calls to one shard.
#[derive(Default)]
struct Sequences {
    last: Sequence,
    open: BTreeSet<Sequence>,
}

#[derive(Default)]
struct Slot {
    job: Option<(Job, Pursuit)>,
    /// The timer that counts; all others are stale.
    timer: u64,
}

/// Everything that a client needs of the world.
pub(crate) struct Around<'a> {
    pub(crate) fabric: &'a mut Fabric,
    pub(crate) record: &'a mut Record,
    pub(crate) shell: &'a Shell,
}

impl Client {
    pub(crate) fn new(number: u32, slots: u32, mut rng: Rng) -> Self {
        Self {
            number,
            id: ClientId(rng.next_u64() | 1),
            rng,
            slots: (0..slots).map(|_| Slot::default()).collect(),
            streams: BTreeMap::new(),
            leaders: BTreeMap::new(),
            seen: BTreeMap::new(),
            newest: BTreeMap::new(),
            last_request: 0,
            sequences: BTreeMap::new(),
            is_closing: false,
        }
    }

    /// Lets every slot begin.
    pub(crate) fn start(&mut self, around: &mut Around<'_>) {
        for slot in 0..self.slots.len() {
            let delay = Duration::from_micros(self.rng.below(50_000));
            self.set_timer(slot, delay, around);
        }
    }

    /// Takes no new jobs from now on.
    pub(crate) fn close(&mut self) {
        self.is_closing = true;
    }

    /// True when no call is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.job.is_none())
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
        self.pursue(0, job, Pursuit::new(shard, body, deadline), around);
    }

    fn set_timer(&mut self, slot: usize, delay: Duration, around: &mut Around<'_>) {
        self.slots[slot].timer += 1;
        let token = Token { slot, number: self.slots[slot].timer };
        around.fabric.queue.after(delay, Event::Client { client: self.number, token });
    }

    /// A timer rings: an attempt took too long, a backoff is over, or it is time for a new job.
    pub(crate) fn on_timer(&mut self, token: Token, around: &mut Around<'_>) {
        if self.slots[token.slot].timer != token.number {
            return;
        }
        let now = around.fabric.now();
        match self.slots[token.slot].job.as_mut() {
            None if self.is_closing => {}
            None => self.new_job(token.slot, around),
            Some((_, pursuit)) if pursuit.attempt.is_some() => {
                let next = pursuit.on_silence(now);
                self.follow(token.slot, next, around);
            }
            Some(_) => self.attempt(token.slot, around),
        }
    }

    /// A stream broke: its attempts will not be answered.
    pub(crate) fn on_broken(&mut self, node: NodeId, origin: Origin, around: &mut Around<'_>) {
        if self.streams.get(&node) == Some(&origin) {
            self.streams.remove(&node);
        }
        let now = around.fabric.now();
        for slot in 0..self.slots.len() {
            let Some((_, pursuit)) = &mut self.slots[slot].job else { continue };
            if pursuit.attempt.is_some_and(|(_, o, _)| o == origin) {
                let next = pursuit.on_silence(now);
                self.follow(slot, next, around);
            }
        }
    }

    /// An answer arrives.
    pub(crate) fn on_answer(&mut self, answer: Answer, around: &mut Around<'_>) {
        let now = around.fabric.now();
        for slot in 0..self.slots.len() {
            let Some((_, pursuit)) = &mut self.slots[slot].job else { continue };
            let Some((id, origin, node)) = pursuit.attempt else { continue };
            if (id, origin) == (answer.id, answer.origin) {
                if answer.body.is_ok() {
                    self.leaders.insert(pursuit.shard, node);
                }
                let next = pursuit.on_answer(now, answer.body, &mut self.rng);
                self.follow(slot, next, around);
                return;
            }
        }
    }

    fn follow(&mut self, slot: usize, next: Next, around: &mut Around<'_>) {
        match next {
            Next::Retry(wait, hint) => {
                let Some((_, pursuit)) = &self.slots[slot].job else { return };
                match hint {
                    Some(node) => self.leaders.insert(pursuit.shard, node),
                    None => self.leaders.remove(&pursuit.shard),
                };
                self.set_timer(slot, wait, around);
            }
            Next::End(end) => {
                let Some((job, pursuit)) = self.slots[slot].job.take() else { return };
                if let Some(sequence) = pursuit.sequence {
                    let sequences = self.sequences.entry(pursuit.shard).or_default();
                    sequences.open.remove(&sequence);
                }
                self.ended(slot, (job, pursuit.shard), end, around);
                if self.slots[slot].job.is_none() {
                    let think = around.shell.shape.think.as_micros() as u64;
                    let delay = Duration::from_micros(self.rng.below(2 * think));
                    self.set_timer(slot, delay, around);
                }
            }
        }
    }

    /// Starts a call.
    fn pursue(&mut self, slot: usize, job: Job, mut pursuit: Pursuit, around: &mut Around<'_>) {
        if matches!(pursuit.body, RequestBody::Command(_)) && !matches!(job, Job::Operator) {
            let sequences = self.sequences.entry(pursuit.shard).or_default();
            sequences.last = sequences.last.next();
            sequences.open.insert(sequences.last);
            pursuit.sequence = Some(sequences.last);
        }
        self.slots[slot].job = Some((job, pursuit));
        self.attempt(slot, around);
    }

    fn attempt(&mut self, slot: usize, around: &mut Around<'_>) {
        let Some((_, pursuit)) = &mut self.slots[slot].job else { return };
        let shard = pursuit.shard;
        let members = around.shell.members(shard);
        let believed = self.leaders.get(&shard).copied();
        let node = believed
            .filter(|_| !self.rng.chance(1, 50))
            .or_else(|| self.rng.pick(&members).copied())
            .expect("every shard has members");
        let origin = *self.streams.entry(node).or_insert_with(|| around.fabric.connect());
        self.last_request += 1;
        let id = self.last_request;
        let mut body = pursuit.body.clone();
        if let (RequestBody::Command(command), Some(sequence)) = (&mut body, pursuit.sequence) {
            let sequences = self.sequences.entry(shard).or_default();
            let first_unacknowledged = sequences.open.first().copied().unwrap_or(sequence);
            command.id = Some(CommandId { client: self.id, sequence, first_unacknowledged });
        }
        let within = pursuit.begin((id, origin, node), &mut self.rng);
        let request = Request {
            origin,
            id,
            shard,
            epoch: atoll_base::Epoch::ZERO,
            deadline: Time::ZERO,
            body,
        };
        let (from, to) = (Place::Client(self.number), Place::Node(node));
        around.fabric.stream(from, to, origin, Packet::Request { request, within });
        self.set_timer(slot, within, around);
    }

    fn new_job(&mut self, slot: usize, around: &mut Around<'_>) {
        let shards = around.shell.user_shards();
        let shard = *self.rng.pick(&shards).expect("a run has user shards");
        let deadline = around
            .fabric
            .now()
            .after(Duration::from_millis(self.rng.range(PATIENCE_MS.0, PATIENCE_MS.1)));
        let (job, body) = self.choose(shard, around);
        self.pursue(slot, job, Pursuit::new(shard, body, deadline), around);
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
                return self.operation(shard, jobs::counter(self.number), call, around);
            }
            78..84 => {
                let at = self
                    .rng
                    .chance(1, 2)
                    .then(|| Revision(newest.0.saturating_sub(self.rng.below(30)).max(1)));
                let consistency = match at {
                    Some(_) if self.rng.chance(1, 2) => Consistency::Linearizable,
                    _ => Consistency::Stale { max: None },
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
        let number = around.record.history.call(now, self.number, (shard, key), call);
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
                around.fabric.say(format_args!("client {} is refused: {failure}", self.number));
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
            scan.pairs.extend(around.record.pair(shard, kv));
        }
        let now = around.fabric.now();
        let patience = Duration::from_millis(self.rng.range(PATIENCE_MS.0, PATIENCE_MS.1));
        if page.more.is_some() {
            let body = jobs::page(shard, page.more, Some(revision), self.rng.range(1, 8));
            let pursuit = Pursuit::new(shard, body, now.after(patience));
            self.pursue(slot, Job::Scan(scan), pursuit, around);
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
                self.pursue(slot, job, pursuit, around);
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
        let number = around.record.history.call(now, self.number, (shard, key), call);
        (Job::Transfer(number), body)
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
