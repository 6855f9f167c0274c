//! A client's calls under way: slots that each pursue one job, one stream to every node talked to,
//! and the command ids that make retries safe.
//!
//! The desk knows how calls travel and come back; what they are for is their owner's business: it
//! begins jobs and hears how each ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_base::{ClientId, Epoch, NodeId, Rng, Sequence, ShardId, Time};
use atoll_coord::{Answer, Origin, Request, RequestBody};
use atoll_machine::CommandId;

use super::pursuit::{End, Next, Pursuit};
use super::{Around, jobs};
use crate::fabric::{Event, Token};
use crate::network::Place;

/// The slots of one client.
pub(crate) struct Desk<J> {
    number: u32,
    id: ClientId,
    rng: Rng,
    slots: Vec<Slot<J>>,
    streams: BTreeMap<NodeId, Origin>,
    /// Who led each shard when last heard.
    leaders: BTreeMap<ShardId, NodeId>,
    last_request: u64,
    sequences: BTreeMap<ShardId, Sequences>,
    /// An attempt of a call that is over, which is still on its way.
    late: Option<(ShardId, RequestBody)>,
}

/// A client's mutating calls to one shard.
#[derive(Default)]
struct Sequences {
    last: Sequence,
    open: BTreeSet<Sequence>,
}

struct Slot<J> {
    job: Option<(J, Pursuit)>,
    /// The timer that counts; all others are stale.
    timer: u64,
}

/// What an event meant for a desk.
pub(crate) enum Fate<J> {
    /// Nothing, or not yet.
    Open,
    /// A slot without a job is due.
    Free(usize),
    /// A slot's job ended; its last attempt left at `sent`.
    Ended { slot: usize, job: J, shard: ShardId, end: End, sent: Time },
}

impl<J> Desk<J> {
    pub(crate) fn new(number: u32, slots: usize, mut rng: Rng) -> Self {
        Self {
            number,
            id: ClientId(rng.next_u64() | 1),
            rng,
            slots: (0..slots).map(|_| Slot { job: None, timer: 0 }).collect(),
            streams: BTreeMap::new(),
            leaders: BTreeMap::new(),
            last_request: 0,
            sequences: BTreeMap::new(),
            late: None,
        }
    }

    pub(crate) fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// True when no call is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.slots.iter().all(|slot| slot.job.is_none())
    }

    /// True when this slot has no call under way.
    pub(crate) fn is_free(&self, slot: usize) -> bool {
        self.slots[slot].job.is_none()
    }

    /// Rings after `delay`, unless another timer of the slot is set.
    pub(crate) fn set_timer(&mut self, slot: usize, delay: Duration, around: &mut Around<'_>) {
        self.slots[slot].timer += 1;
        let token = Token { slot, number: self.slots[slot].timer };
        around.fabric.queue.after(delay, Event::Client { client: self.number, token });
    }

    /// Starts a call. A command gets an id, so that it happens once.
    pub(crate) fn pursue(
        &mut self,
        slot: usize,
        job: J,
        mut pursuit: Pursuit,
        around: &mut Around<'_>,
    ) {
        if matches!(pursuit.body, RequestBody::Command(_)) && !pursuit.is_anonymous {
            let sequences = self.sequences.entry(pursuit.shard).or_default();
            sequences.last = sequences.last.next();
            sequences.open.insert(sequences.last);
            pursuit.sequence = Some((self.id, sequences.last));
        }
        self.slots[slot].job = Some((job, pursuit));
        self.attempt(slot, around);
    }

    /// The process is killed: nobody waits for what is under way, and whoever comes after it has
    /// another name.
    pub(crate) fn abandon(&mut self, around: &mut Around<'_>) {
        for slot in &mut self.slots {
            slot.job = None;
            slot.timer += 1;
        }
        for (node, origin) in std::mem::take(&mut self.streams) {
            let (client, node) = (Place::Client(self.number), Place::Node(node));
            around.fabric.break_stream(client, node, origin);
        }
        self.id = ClientId(self.rng.next_u64() | 1);
        self.sequences.clear();
        self.late = None;
    }

    fn close_sequence(&mut self, pursuit: &Pursuit) {
        if let Some((_, sequence)) = pursuit.sequence.filter(|(id, _)| *id == self.id) {
            self.sequences.entry(pursuit.shard).or_default().open.remove(&sequence);
        }
    }

    /// A timer rings: an attempt took too long, a backoff is over, or a slot is due.
    pub(crate) fn on_timer(&mut self, token: Token, around: &mut Around<'_>) -> Fate<J> {
        if self.slots[token.slot].timer != token.number {
            return Fate::Open;
        }
        match self.slots[token.slot].job.as_mut() {
            None => Fate::Free(token.slot),
            Some((_, pursuit)) if pursuit.attempt.is_some() => {
                let next = pursuit.on_silence(around.fabric.now());
                self.follow(token.slot, next, around)
            }
            Some(_) => {
                self.attempt(token.slot, around);
                Fate::Open
            }
        }
    }

    /// A stream broke: its attempts will not be answered.
    pub(crate) fn on_broken(
        &mut self,
        node: NodeId,
        origin: Origin,
        around: &mut Around<'_>,
    ) -> Vec<Fate<J>> {
        if self.streams.get(&node) == Some(&origin) {
            self.streams.remove(&node);
        }
        let now = around.fabric.now();
        let mut fates = Vec::new();
        for slot in 0..self.slots.len() {
            let Some((_, pursuit)) = &mut self.slots[slot].job else { continue };
            if pursuit.attempt.is_some_and(|(_, o, _)| o == origin) {
                let next = pursuit.on_silence(now);
                fates.push(self.follow(slot, next, around));
            }
        }
        fates
    }

    /// An answer arrives.
    pub(crate) fn on_answer(&mut self, answer: Answer, around: &mut Around<'_>) -> Fate<J> {
        let now = around.fabric.now();
        for slot in 0..self.slots.len() {
            let Some((_, pursuit)) = &mut self.slots[slot].job else { continue };
            let Some((id, origin, node)) = pursuit.attempt else { continue };
            if (id, origin) == (answer.id, answer.origin) {
                if answer.body.is_ok() {
                    self.leaders.insert(pursuit.shard, node);
                }
                let next = pursuit.on_answer(now, answer.body, &mut self.rng);
                return self.follow(slot, next, around);
            }
        }
        Fate::Open
    }

    fn follow(&mut self, slot: usize, next: Next, around: &mut Around<'_>) -> Fate<J> {
        match next {
            Next::Retry(wait, hint) => {
                let Some((_, pursuit)) = &self.slots[slot].job else { return Fate::Open };
                match hint {
                    Some(node) => self.leaders.insert(pursuit.shard, node),
                    None => self.leaders.remove(&pursuit.shard),
                };
                self.set_timer(slot, wait, around);
                Fate::Open
            }
            Next::End(end) => {
                let Some((job, pursuit)) = self.slots[slot].job.take() else { return Fate::Open };
                self.close_sequence(&pursuit);
                self.keep_late(&pursuit, &end);
                if pursuit.is_forgotten && pursuit.sequence.is_some_and(|(id, _)| id == self.id) {
                    // The shard has forgotten this client: it goes on under another name.
                    self.id = ClientId(self.rng.next_u64() | 1);
                    self.sequences.clear();
                }
                let (shard, sent) = (pursuit.shard, pursuit.attempted_at);
                Fate::Ended { slot, job, shard, end, sent }
            }
        }
    }

    /// Now and then one attempt of a command turns out to be still on its way, when the call is
    /// long over.
    fn keep_late(&mut self, pursuit: &Pursuit, end: &End) {
        let may_arrive = !matches!(end, End::Refused(_)) && self.rng.chance(1, 30);
        if let (RequestBody::Command(command), Some((client, sequence)), true) =
            (&pursuit.body, pursuit.sequence, may_arrive)
        {
            let mut command = command.clone();
            let first_unacknowledged = Sequence(1);
            command.id = Some(CommandId { client, sequence, first_unacknowledged });
            self.late = Some((pursuit.shard, RequestBody::Command(command)));
        }
    }

    /// Lets the attempt of before arrive that was on its way so long. Nobody waits for the answer.
    fn send_late(&mut self, node: NodeId, origin: Origin, around: &mut Around<'_>) {
        let Some((shard, body)) = self.late.take() else { return };
        self.last_request += 1;
        let (id, epoch, deadline) = (self.last_request, Epoch::ZERO, Time::ZERO);
        let request = Request { origin, id, shard, epoch, deadline, body };
        around.send(self.number, node, request, Duration::from_secs(1));
    }

    fn attempt(&mut self, slot: usize, around: &mut Around<'_>) {
        let Some((_, pursuit)) = &mut self.slots[slot].job else { return };
        let shard = pursuit.shard;
        let members = around.shell.members(shard);
        // Any member answers a read, by asking the leader.
        let is_read = matches!(pursuit.body, RequestBody::Get { .. } | RequestBody::Range { .. });
        let anywhere = is_read && self.rng.chance(1, 4);
        let believed = self.leaders.get(&shard).copied().filter(|_| !anywhere);
        let node = pursuit
            .node
            .or_else(|| believed.filter(|_| !self.rng.chance(1, 50)))
            .or_else(|| self.rng.pick(&members).copied())
            .unwrap_or(NodeId(1));
        let origin = *self.streams.entry(node).or_insert_with(|| around.fabric.connect());
        let is_late = self.late.as_ref().is_some_and(|(of, _)| *of == shard);
        if is_late && self.rng.chance(1, 4) {
            self.send_late(node, origin, around);
        }
        let Some((_, pursuit)) = &mut self.slots[slot].job else { return };
        self.last_request += 1;
        let id = self.last_request;
        let mut body = pursuit.body.clone();
        if anywhere {
            // As etcd's API asks the nearest replica; judged as the linearizable read that it is.
            jobs::allow_no_age(&mut body);
        }
        if let (RequestBody::Command(command), Some((client, sequence))) =
            (&mut body, pursuit.sequence)
        {
            let open = self.sequences.get(&shard).and_then(|s| s.open.first().copied());
            // Of an identity that was given up nothing is known to have arrived.
            let first = open.filter(|_| client == self.id).unwrap_or(Sequence(1));
            let first_unacknowledged = first.min(sequence);
            command.id = Some(CommandId { client, sequence, first_unacknowledged });
        }
        pursuit.attempted_at = around.fabric.now();
        let within = pursuit.begin((id, origin, node), &mut self.rng);
        let (epoch, deadline) = (Epoch::ZERO, Time::ZERO);
        let request = Request { origin, id, shard, epoch, deadline, body };
        around.send(self.number, node, request, within);
        self.set_timer(slot, within, around);
    }
}
