//! Simulated watchers: each follows a range of keys of one shard over all connections and nodes,
//! resumes behind what it knows to be whole, and is checked batch by batch.

use std::time::Duration;

use atoll_base::{Epoch, NodeId, Revision, Rng, ShardId, Time};
use atoll_coord::{Answer, AnswerBody, Origin, Request, RequestBody, Told, WatchEvents, WatchSpec};
use atoll_machine::{EventKind, KeyEnd};

use super::Around;
use super::agent::Agent;
use crate::check::effects::Effect;
use crate::check::watching::Watcher;
use crate::fabric::{Event, Token};
use crate::history::KeyNumber;
use crate::network::Place;
use crate::value::{decode_key, decode_value, encode_key};

/// Silence after which a watcher asks elsewhere, at least and at most.
const SILENCE_MS: (u64, u64) = (300, 3_000);

/// A watcher and its connection.
pub(crate) struct SimWatcher {
    number: u32,
    shard: ShardId,
    keys: std::ops::Range<u32>,
    rng: Rng,
    timer: u64,
    /// The call under way: its id, connection and node.
    call: Option<(u64, Origin, NodeId)>,
    last_request: u64,
    /// What is being followed; `None` until the first start is known.
    following: Option<Watcher>,
    /// Where to start next when nothing is followed; `None`: from now.
    start: Option<Revision>,
    /// What was followed before history was forgotten under the watcher.
    pub(crate) past: Vec<Watcher>,
    pub(crate) restarts: u64,
}

impl SimWatcher {
    pub(crate) fn new(
        number: u32,
        shard: ShardId,
        keys: std::ops::Range<u32>,
        start: Option<Revision>,
        rng: Rng,
    ) -> Self {
        Self {
            number,
            shard,
            keys,
            rng,
            timer: 0,
            call: None,
            last_request: 0,
            following: None,
            start,
            past: Vec::new(),
            restarts: 0,
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Everything that was followed, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Watcher> {
        self.past.iter().chain(&self.following)
    }

    /// How far it is.
    pub(crate) fn through(&self) -> Revision {
        self.following.as_ref().map_or(Revision::ZERO, Watcher::through)
    }

    fn set_timer(&mut self, delay: Duration, around: &mut Around<'_>) {
        self.timer += 1;
        let token = Token { slot: 0, number: self.timer };
        around.fabric.queue.after(delay, Event::Client { client: self.number, token });
    }

    /// Asks some replica, from where it stopped.
    pub(crate) fn ask(&mut self, around: &mut Around<'_>) {
        self.drop_call(around);
        let members = around.shell.members(self.shard);
        let node = *self.rng.pick(&members).expect("every shard has members");
        let origin = around.fabric.connect();
        self.last_request += 1;
        self.restarts += 1;
        let id = self.last_request;
        self.call = Some((id, origin, node));
        let from = match &self.following {
            Some(watcher) => Some(watcher.resume_from()),
            None => self.start,
        };
        let spec = WatchSpec {
            start: encode_key(self.shard, KeyNumber(self.keys.start)),
            end: KeyEnd::Until(encode_key(self.shard, KeyNumber(self.keys.end))),
            from,
            puts: Told::Yes,
            deletes: Told::Yes,
            previous: Told::No,
            progress: Told::Yes,
        };
        self.send(origin, node, id, RequestBody::Watch(spec), around);
        let silence = Duration::from_millis(self.rng.range(SILENCE_MS.0, SILENCE_MS.1));
        self.set_timer(silence, around);
    }

    fn drop_call(&mut self, around: &mut Around<'_>) {
        if let Some((_, origin, node)) = self.call.take() {
            let (client, node) = (Place::Client(self.number), Place::Node(node));
            around.fabric.break_stream(client, node, origin);
        }
    }

    /// Tells the node that a batch was taken, so that it sends more.
    fn give_credit(&mut self, around: &mut Around<'_>) {
        let Some((watch, origin, node)) = self.call else { return };
        self.last_request += 1;
        let id = self.last_request;
        self.send(origin, node, id, RequestBody::WatchCredit { watch }, around);
    }

    fn send(
        &self,
        origin: Origin,
        node: NodeId,
        id: u64,
        body: RequestBody,
        around: &mut Around<'_>,
    ) {
        let (shard, epoch, deadline) = (self.shard, Epoch::ZERO, Time::ZERO);
        let request = Request { origin, id, shard, epoch, deadline, body };
        around.send(self.number, node, request, Duration::from_secs(5));
    }

    fn deliver(&mut self, batch: &WatchEvents, around: &mut Around<'_>) {
        let Some(watcher) = &mut self.following else {
            let what = format!("watcher {} got events before it was started", self.number);
            around.record.report("watch", what);
            return;
        };
        let mut effects = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let key = decode_key(self.shard, &event.key);
            let value = match &event.kind {
                EventKind::Put(record) => decode_value(&record.value).map(|(v, _)| Some(v)),
                EventKind::Delete => Some(None),
            };
            let (Some(key), Some(value)) = (key, value) else {
                let what = format!("watcher {} got an event nobody caused: {event:?}", self.number);
                around.record.report("integrity", what);
                return;
            };
            effects.push(Effect { revision: event.revision, key, value });
        }
        around.record.note(watcher.deliver(&effects, batch.through));
    }
}

impl Agent for SimWatcher {
    /// It heard nothing for a while, or waited long enough: it asks again.
    fn on_timer(&mut self, token: Token, around: &mut Around<'_>) {
        if token.number == self.timer {
            self.ask(around);
        }
    }

    fn on_broken(&mut self, _: NodeId, origin: Origin, around: &mut Around<'_>) {
        if self.call.is_some_and(|(_, o, _)| o == origin) {
            self.call = None;
            let delay = Duration::from_millis(self.rng.below(100));
            self.set_timer(delay, around);
        }
    }

    fn on_answer(&mut self, answer: Answer, around: &mut Around<'_>) {
        if self.call.is_none_or(|(id, origin, _)| (id, origin) != (answer.id, answer.origin)) {
            return;
        }
        let silence = Duration::from_millis(self.rng.range(SILENCE_MS.0, SILENCE_MS.1));
        match answer.body {
            Ok(AnswerBody::WatchStarted { from }) => {
                self.following.get_or_insert_with(|| {
                    Watcher::new(self.number, self.shard, self.keys.clone(), from)
                });
                self.set_timer(silence, around);
            }
            Ok(AnswerBody::Watch(batch)) => {
                self.deliver(&batch, around);
                self.give_credit(around);
                self.set_timer(silence, around);
            }
            Ok(AnswerBody::WatchCompacted { compacted }) => {
                atoll_base::reached!("a watcher fell behind the history");
                self.past.extend(self.following.take());
                self.start = Some(compacted);
                self.call = None;
                self.set_timer(Duration::from_millis(1), around);
            }
            Ok(other) => {
                let what = format!("watcher {} was answered {other:?}", self.number);
                around.record.report("answers", what);
            }
            Err(_) => {
                self.call = None;
                let delay = Duration::from_millis(self.rng.range(5, 100));
                self.set_timer(delay, around);
            }
        }
    }
}
