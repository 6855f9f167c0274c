//! One watch of a whole store, shared by all watches of etcd's clients on this node.
//!
//! A change comes from the store once, is encoded once, and its bytes go to everybody whom it
//! concerns. Who wants the past reads it by a watch of its own and comes over as soon as it is not
//! behind any more; who can't take what the feed has is taken out, with the revision to go on from,
//! and catches up by itself. So a slow reader costs others nothing (trap T43).
//!
//! ```text
//!   store ──one watch──> take: index by key ──pieces──> outbox of each stream
//!                          ring of recent changes         │ full
//!   watch of the past ──── join (rest from the ring) <── behind
//! ```
//!
//! Invariants:
//! - F1 A subscriber has got, or will never want, every change up to the feed's revision.
//! - F2 All changes of a revision are put into an outbox at once.
//! - F3 The feed begins, and after a failure begins anew, at a revision that its source names:
//!   subscribers are never carried over a gap, they are taken out before.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use atoll_base::{Failure, Revision};
use atoll_client::{Changes, Keys, Watch};
use atoll_machine::watch::{WatchId, WatchIndex};
use atoll_machine::{Event, EventKind, KeyEnd};
use atoll_wire::etcd::{etcdserverpb as pb, mvccpb};
use bytes::Bytes;
use prost::Message;
use tokio::sync::watch as signal;
use tokio::time::{Instant, interval};

use super::super::space::Space;
use super::super::{Call, translate};
use super::outbox::{Outbox, Piece, Refused};

/// Bytes of recent changes that are kept for those who come over.
const RING_BYTES_MAX: usize = 1 << 20;
/// What a change costs besides its bytes.
const EVENT_COST: usize = size_of::<Told>();
/// How long an idle watch that wants to hear how far it is waits for it, at most.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked who has waited for so long.
const PROGRESS_LOOK: Duration = Duration::from_secs(1);
/// How long a feed that nobody uses is kept.
const LINGER: Duration = Duration::from_secs(10);
/// Stands for no place in the feed.
const NOWHERE: u64 = 0;

/// A change, encoded when the first one wants it.
struct Told {
    revision: Revision,
    key: Bytes,
    is_put: bool,
    /// With what was before.
    event: mvccpb::Event,
    plain: Bytes,
    full: OnceLock<Bytes>,
}

/// An event as etcd has it, with what was before if that is known.
pub(super) fn event(event: Event) -> mvccpb::Event {
    let Event { revision, key, kind, previous } = event;
    let prev_kv = previous.map(|record| translate::key_value(record.with_key(key.clone())));
    let (r#type, kv) = match kind {
        EventKind::Put(record) => {
            (mvccpb::event::EventType::Put, translate::key_value(record.with_key(key)))
        }
        EventKind::Delete => {
            let mod_revision = revision.0 as i64;
            let kv = mvccpb::KeyValue { key, mod_revision, ..Default::default() };
            (mvccpb::event::EventType::Delete, kv)
        }
    };
    mvccpb::Event { r#type: r#type as i32, kv: Some(kv), prev_kv }
}

impl Told {
    fn new(source: Event) -> Self {
        let (revision, key) = (source.revision, source.key.clone());
        let is_put = matches!(source.kind, EventKind::Put(_));
        let mut event = event(source);
        let previous = event.prev_kv.take();
        let plain = Bytes::from(event.encode_to_vec());
        event.prev_kv = previous;
        Self { revision, key, is_put, event, plain, full: OnceLock::new() }
    }

    fn bytes(&self, wants_previous: bool) -> Bytes {
        if !wants_previous || self.event.prev_kv.is_none() {
            return self.plain.clone();
        }
        self.full.get_or_init(|| Bytes::from(self.event.encode_to_vec())).clone()
    }

    fn cost(&self) -> usize {
        let previous = self.event.prev_kv.as_ref().map_or(0, |kv| kv.value.len());
        self.plain.len() + previous + EVENT_COST
    }
}

/// Where a watch is: in the feed, or by itself so far.
#[derive(Default)]
pub(super) struct Standing {
    place: AtomicU64,
    /// Everything up to here is in the stream's queue, while it is by itself.
    through: AtomicU64,
}

impl Standing {
    /// By itself, told up to `through`.
    pub(super) fn told(&self, through: Revision) {
        self.through.store(through.0, Ordering::Release);
    }

    /// Nobody need wait for it any more.
    pub(super) fn over(&self) {
        self.through.store(u64::MAX, Ordering::Release);
    }

    fn is_shared(&self) -> bool {
        self.place.load(Ordering::Acquire) != NOWHERE
    }
}

/// What a watch wants of the feed.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) watch: i64,
    pub(super) start: Bytes,
    pub(super) end: KeyEnd,
    pub(super) filter: Filter,
    pub(super) outbox: Arc<Outbox>,
    pub(super) standing: Arc<Standing>,
}

/// What it wants to hear.
#[derive(Clone, Copy, Default)]
pub(super) struct Filter {
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
    pub(super) previous: bool,
    pub(super) progress: bool,
}

struct Subscriber {
    wish: Wish,
    /// Changes before are not for it.
    from: Revision,
    told_at: Instant,
}

impl Subscriber {
    fn piece(&self, told: &Told) -> Option<Piece> {
        let Wish { watch, filter, .. } = &self.wish;
        let is_left_out = if told.is_put { filter.no_put } else { filter.no_delete };
        if is_left_out || told.revision < self.from {
            return None;
        }
        let event = told.bytes(filter.previous);
        Some(Piece { watch: *watch, revision: told.revision, event })
    }
}

struct State {
    is_running: bool,
    /// Everything up to here was taken in.
    through: Revision,
    index: WatchIndex,
    subscribers: BTreeMap<WatchId, Subscriber>,
    last_id: u64,
    /// Recent changes, all from `ring_first` on.
    ring: VecDeque<Told>,
    ring_first: Revision,
    ring_bytes: usize,
    /// When the last one left; the feed stays for a while, because others may come.
    unused_since: Option<Instant>,
}

/// The shared watch of a store.
pub(in super::super) struct Feed {
    state: Mutex<State>,
    /// Held while it is being started.
    starting: tokio::sync::Mutex<()>,
    advanced: signal::Sender<Revision>,
}

impl Feed {
    pub(in super::super) fn new() -> Self {
        let state = State {
            is_running: false,
            through: Revision::ZERO,
            index: WatchIndex::default(),
            subscribers: BTreeMap::new(),
            last_id: NOWHERE,
            ring: VecDeque::new(),
            ring_first: Revision::ZERO,
            ring_bytes: 0,
            unused_since: None,
        };
        let (state, starting) = (Mutex::new(state), tokio::sync::Mutex::default());
        Self { state, starting, advanced: signal::Sender::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of each revision that the feed gets to.
    pub(super) fn advanced(&self) -> signal::Receiver<Revision> {
        self.advanced.subscribe()
    }

    /// A watch that is by itself got further.
    pub(super) fn nudge(&self) {
        self.advanced.send_modify(|_| {});
    }

    /// Starts the feed if it does not run.
    pub(super) async fn ensure(call: &Call) -> Result<(), Failure> {
        let feed = &call.feed;
        if feed.lock().is_running {
            return Ok(());
        }
        let _starting = feed.starting.lock().await;
        if feed.lock().is_running {
            return Ok(());
        }
        let all = call.keyspace.watch(Keys::all()).with_previous().with_progress();
        let watch = all.start().await?;
        let from = watch.from().values().next().copied().unwrap_or_default();
        {
            let mut state = feed.lock();
            (state.is_running, state.through) = (true, from.prev());
            state.unused_since = None;
            (state.ring_first, state.ring_bytes) = (from, 0);
            state.ring.clear();
        }
        tokio::spawn(run(feed.clone(), call.space.clone(), watch));
        Ok(())
    }

    /// Gives a new watch a place: `from` a revision that nothing has reached, or from now on. The
    /// stream hears `created` before everything else. False when it must begin by itself.
    pub(super) fn subscribe(
        &self,
        wish: &Wish,
        (from, newest): (Option<Revision>, Revision),
        created: pb::WatchResponse,
    ) -> bool {
        let mut state = self.lock();
        let now = state.through.max(newest);
        if !state.is_running || from.is_some_and(|from| from <= now) {
            return false;
        }
        wish.outbox.say_now(created);
        state.add(wish.clone(), from.unwrap_or(now.next()));
        true
    }

    /// Takes over a watch that was told everything before `next`, if the feed knows what follows.
    pub(super) fn join(&self, wish: &Wish, next: Revision) -> bool {
        let mut state = self.lock();
        if !state.is_running || (next <= state.through && next < state.ring_first) {
            return false;
        }
        let told_at = Instant::now();
        let subscriber = Subscriber { wish: wish.clone(), from: next, told_at };
        let missed = state.ring.iter().filter(|told| wish.end.contains(&wish.start, &told.key));
        let mut missed = missed.filter_map(|told| subscriber.piece(told)).peekable();
        if missed.peek().is_some() && wish.outbox.deliver(&mut missed).is_err() {
            return false;
        }
        drop(missed);
        let from = next.max(state.through.next());
        state.add(subscriber.wish, from);
        true
    }

    /// Takes a watch out.
    pub(super) fn leave(&self, standing: &Standing) {
        let mut state = self.lock();
        let place = standing.place.load(Ordering::Acquire);
        state.remove(WatchId(place));
    }

    /// Whether a watch is in the feed.
    pub(super) fn has_place(&self, standing: &Standing) -> bool {
        let _state = self.lock();
        standing.is_shared()
    }

    /// Whether a watch was told everything up to `wanted`.
    pub(super) fn has_told(&self, standing: &Standing, wanted: Revision) -> bool {
        let state = self.lock();
        match standing.is_shared() {
            true => state.through >= wanted,
            false => standing.through.load(Ordering::Acquire) >= wanted.0,
        }
    }

    /// Takes in changes and puts them into the outboxes. False when nobody wants them any more.
    fn take(&self, changes: Changes) -> bool {
        let Changes { events, through, .. } = changes;
        let told: Vec<Told> = events.into_iter().map(Told::new).collect();
        let mut state = self.lock();
        let mut reached: Vec<(usize, WatchId, usize)> = Vec::new();
        for (n, told) in told.iter().enumerate() {
            let subscribers = &state.subscribers;
            state.index.matching(&told.key, |id| {
                let outbox = &subscribers[&id].wish.outbox;
                reached.push((Arc::as_ptr(outbox) as usize, id, n));
            });
        }
        // Those of one stream are neighbours, and each watch's changes, in order.
        reached.sort_unstable();
        let now = Instant::now();
        for group in reached.chunk_by(|a, b| a.0 == b.0) {
            state.deliver(group, &told, now);
        }
        state.through = state.through.max(through);
        state.remember(told);
        let is_needed = state.is_needed(now);
        state.is_running = is_needed;
        drop(state);
        self.advanced.send_replace(through);
        is_needed
    }

    /// The source is gone: everybody goes on alone.
    fn fall(&self) {
        let mut state = self.lock();
        state.is_running = false;
        let (next, all) = (state.through.next(), std::mem::take(&mut state.subscribers));
        for (id, subscriber) in all {
            state.index.remove(id, &subscriber.wish.start, &subscriber.wish.end);
            subscriber.fall_behind(next);
        }
        drop(state);
        self.advanced.send_modify(|_| {});
    }

    /// Tells those that have heard nothing for long how far they are.
    fn tell_progress(&self, space: &Space) {
        let mut state = self.lock();
        let through = state.through;
        let now = Instant::now();
        for subscriber in state.subscribers.values_mut() {
            let is_idle = now.duration_since(subscriber.told_at) >= PROGRESS_INTERVAL;
            if subscriber.wish.filter.progress && is_idle && subscriber.wish.outbox.has_room() {
                subscriber.told_at = now;
                let header = Some(space.header(through));
                let watch_id = subscriber.wish.watch;
                let told = pb::WatchResponse { header, watch_id, ..Default::default() };
                subscriber.wish.outbox.say_now(told);
            }
        }
    }
}

/// Feeds until the source fails or nobody listens.
async fn run(feed: Arc<Feed>, space: Arc<Space>, mut watch: Watch) {
    let mut look = interval(PROGRESS_LOOK);
    loop {
        let next = tokio::select! {
            next = watch.next() => next,
            _ = look.tick() => {
                feed.tell_progress(&space);
                continue;
            }
        };
        match next {
            Some(Ok(changes)) => {
                space.saw(changes.through);
                if !feed.take(changes) {
                    return;
                }
            }
            Some(Err(_)) | None => {
                feed.fall();
                return;
            }
        }
    }
}

impl Subscriber {
    fn fall_behind(&self, next: Revision) {
        let Wish { watch, outbox, standing, .. } = &self.wish;
        standing.told(next.prev());
        standing.place.store(NOWHERE, Ordering::Release);
        outbox.note_behind(*watch, next);
    }
}

impl State {
    fn is_needed(&mut self, now: Instant) -> bool {
        if !self.subscribers.is_empty() {
            self.unused_since = None;
            return true;
        }
        let since = *self.unused_since.get_or_insert(now);
        now.duration_since(since) < LINGER
    }

    fn add(&mut self, wish: Wish, from: Revision) {
        self.last_id += 1;
        let id = WatchId(self.last_id);
        self.index.insert(id, &wish.start, &wish.end);
        wish.standing.place.store(id.0, Ordering::Release);
        self.subscribers.insert(id, Subscriber { wish, from, told_at: Instant::now() });
    }

    fn remove(&mut self, id: WatchId) -> Option<Subscriber> {
        let subscriber = self.subscribers.remove(&id)?;
        let Wish { start, end, standing, .. } = &subscriber.wish;
        self.index.remove(id, start, end);
        standing.place.store(NOWHERE, Ordering::Release);
        Some(subscriber)
    }

    /// Puts the changes of one batch into one outbox, for all of its watches.
    fn deliver(&mut self, group: &[(usize, WatchId, usize)], told: &[Told], now: Instant) {
        let Some((_, first, _)) = group.first() else { return };
        let outbox = self.subscribers[first].wish.outbox.clone();
        let subscribers = &mut self.subscribers;
        let mut pieces = group.iter().filter_map(|(_, id, n)| {
            let subscriber = subscribers.get_mut(id)?;
            subscriber.told_at = now;
            subscriber.piece(&told[*n])
        });
        let Err(refused) = outbox.deliver(&mut pieces) else { return };
        drop(pieces);
        let next = self.through.next();
        for (_, id, _) in group {
            if let Some(subscriber) = self.remove(*id)
                && refused == Refused::Full
            {
                subscriber.fall_behind(next.max(subscriber.from));
            }
        }
    }

    fn remember(&mut self, told: Vec<Told>) {
        for told in told {
            self.ring_bytes += told.cost();
            self.ring.push_back(told);
        }
        while self.ring_bytes > RING_BYTES_MAX {
            let Some(oldest) = self.ring.pop_front() else { return };
            self.ring_bytes -= oldest.cost();
            // The rest of its revision must not be taken for all of it.
            self.ring_first = oldest.revision.next();
        }
    }
}
