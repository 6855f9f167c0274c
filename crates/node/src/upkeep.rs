//! Housekeeping of a lane: persisting the engine, cutting logs, forgetting history.
//!
//! The log is cut only below what the engine has persisted (DESIGN 4), and a leader keeps what a
//! follower that lags a little still needs.

use std::collections::VecDeque;

use atoll_base::{LogIndex, NodeId, Revision, ShardId, Time, Timestamp, planted};
use atoll_coord::AnswerBody;
use atoll_machine::{BatchWriter, Command, Op};
use std::time::Duration;

use crate::ask::Ask;
use crate::drops::Dropped;
use crate::incoming::Incoming;
use crate::lane::Lane;
use crate::output::Output;
use crate::replica::{Condition, Replica};
use crate::retire::Sentence;
use crate::turn::Turn;

/// After so long without changes the engine is persisted, whatever the interval,
const PAUSE: Duration = Duration::from_millis(500);
/// if it was given so many bytes: reads need not look for those beside its tables any longer, their
/// memory is free, and a restart has nothing to do. Fewer are not worth tables of their own.
const PAUSE_BYTES: u64 = 1 << 20;
/// Sessions unused for this long (by the log's time) are forgotten.
const SESSION_TTL: Duration = Duration::from_secs(3600);
/// How often a leader proposes that.
const SESSION_SWEEP: Duration = Duration::from_secs(300);

/// A request to persist the engine that is under way.
struct Persisting {
    request: u64,
    applied: Vec<(ShardId, LogIndex)>,
    /// Replicas whose snapshot was complete when the request was made.
    installed: Vec<ShardId>,
    /// Who is told that a replica is gone.
    retired: Vec<Ask>,
    /// Replicas that go once their gravestones are kept.
    sentences: Vec<Sentence>,
    /// Replicas that take part once their founding is kept.
    founded: Vec<ShardId>,
    /// Shards of dropped keyspaces that the engine has forgotten then.
    dropped: Vec<Dropped>,
}

/// What the lane's housekeeping remembers.
pub(crate) struct LaneUpkeep {
    /// Bytes given to the engine since the last request to persist.
    applied_bytes: u64,
    /// When the engine was given something last.
    applied_at: Time,
    pub(crate) leaders_changed: Vec<(ShardId, Option<NodeId>)>,
    last_request: u64,
    requested_at: Time,
    persisting: VecDeque<Persisting>,
    release: Vec<(ShardId, LogIndex)>,
    sessions_at: Time,
    /// A shard's log holds a segment back.
    pinned: bool,
    /// Some replica may have a snapshot that is complete.
    pub(crate) may_have_installed: bool,
    interval: Duration,
}

impl LaneUpkeep {
    pub(crate) fn new(now: Time, interval: Duration) -> Self {
        Self {
            applied_bytes: 0,
            applied_at: now,
            leaders_changed: Vec::new(),
            last_request: 0,
            requested_at: now,
            persisting: VecDeque::new(),
            release: Vec::new(),
            sessions_at: now,
            pinned: false,
            may_have_installed: false,
            interval,
        }
    }

    /// Asks for the engine to be persisted with the next turn.
    pub(crate) fn persist_soon(&mut self) {
        self.pinned = true;
    }

    /// The engine was given so many bytes.
    pub(crate) fn note_applied(&mut self, bytes: u64, now: Time) {
        self.applied_bytes += bytes;
        self.applied_at = now;
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        let waits = self.applied_bytes > 0 && self.persisting.is_empty();
        waits.then(|| self.due_at())
    }

    /// When what was applied is persisted at the latest.
    fn due_at(&self) -> Time {
        let due = self.requested_at.after(self.interval);
        match self.applied_bytes >= PAUSE_BYTES {
            true => due.min(self.applied_at.after(PAUSE)),
            false => due,
        }
    }
}

impl Lane {
    pub(crate) fn run_upkeep(&mut self, output: &mut Output) {
        self.ask_to_persist(output);
        self.sweep_sessions();
        let catalog = self.replicas.get_mut(&ShardId::SYSTEM);
        if catalog.is_some_and(|r| std::mem::take(&mut r.catalog_changed)) {
            self.tell_catalog();
        }
        output.release.append(&mut self.upkeep.release);
    }

    fn ask_to_persist(&mut self, output: &mut Output) {
        let settings = &self.turn.config.upkeep;
        let upkeep = &mut self.upkeep;
        if !upkeep.persisting.is_empty() {
            return;
        }
        let installed =
            upkeep.may_have_installed && self.replicas.values().any(Replica::has_complete_snapshot);
        upkeep.may_have_installed = installed;
        if upkeep.applied_bytes == 0 && !installed && !upkeep.pinned {
            return;
        }
        let due = installed
            || upkeep.pinned
            || upkeep.applied_bytes >= settings.persist_bytes
            || self.turn.now >= upkeep.due_at();
        if !due {
            return;
        }
        upkeep.applied_bytes = 0;
        upkeep.pinned = false;
        upkeep.requested_at = self.turn.now;
        upkeep.last_request += 1;
        let applies =
            |r: &Replica| r.machine().is_some() || matches!(r.condition, Condition::Witness);
        let serving = self.replicas.iter().filter(|(_, r)| applies(r));
        let applied = serving.map(|(shard, r)| (*shard, r.applied)).collect();
        let complete = self.replicas.iter().filter(|(_, r)| r.has_complete_snapshot());
        let installed = complete.map(|(shard, _)| *shard).collect();
        let request = upkeep.last_request;
        let retired = self.retirements.take_unpersisted();
        let sentences = self.retirements.take_sentences();
        let (founded, dropped) = (self.founders.take_unasked(), self.drops.take_begun());
        let asked =
            Persisting { request, applied, installed, retired, sentences, founded, dropped };
        upkeep.persisting.push_back(asked);
        output.persist = Some(request);
    }

    pub(crate) fn on_persisted(&mut self, request: u64) {
        while let Some(front) = self.upkeep.persisting.front() {
            if front.request > request {
                break;
            }
            let done = self.upkeep.persisting.pop_front().expect("it was just seen");
            for ask in done.retired {
                self.turn.answer(ask, AnswerBody::Retired);
            }
            for sentence in done.sentences {
                self.execute(sentence);
            }
            self.end_founding(done.founded);
            self.forget_logs(done.dropped);
            for shard in done.installed {
                self.guarded(shard, |replica, turn| replica.finish_incoming(turn));
            }
            for (shard, applied) in done.applied {
                let cut = self.guarded(shard, |replica, turn| replica.cut_log(applied, turn));
                if let Some(Some(first)) = cut {
                    self.upkeep.release.push((shard, first));
                }
            }
        }
    }

    /// Cuts the logs of shards that hold a segment back, after a persist that is asked for now.
    pub(crate) fn on_log_pinned(&mut self, shards: &[ShardId]) {
        for shard in shards {
            if let Some(replica) = self.replicas.get_mut(shard) {
                replica.pins_log = true;
                self.upkeep.pinned = true;
            }
        }
    }

    fn sweep_sessions(&mut self) {
        if self.turn.now.since(self.upkeep.sessions_at) < SESSION_SWEEP {
            return;
        }
        self.upkeep.sessions_at = self.turn.now;
        let leading = self.replicas.iter().filter(|(_, replica)| replica.leads());
        let leading: Vec<ShardId> = leading.map(|(shard, _)| *shard).collect();
        for shard in leading {
            self.guarded(shard, Replica::forget_sessions);
        }
    }
}

impl Replica {
    /// The engine keeps everything up to `persisted`: cuts the log as far as that allows. The first
    /// entry kept, if that moved.
    fn cut_log(&mut self, persisted: LogIndex, turn: &mut Turn) -> Option<LogIndex> {
        let persisted = if planted!(LogCutTooFar) { self.applied } else { persisted };
        self.persisted = self.persisted.max(persisted);
        let keep = match (std::mem::take(&mut self.pins_log), &self.condition) {
            // Nobody is ever sent entries by a witness.
            (true, _) | (_, Condition::Witness) => 0,
            _ => turn.config.upkeep.log_keep_entries,
        };
        let mut first = LogIndex(self.persisted.0.saturating_sub(keep)).next();
        if self.leads() {
            // A follower within reach gets entries rather than a snapshot; one far behind does not
            // hold the log back.
            let reach = LogIndex(self.persisted.0.saturating_sub(keep.saturating_mul(4))).next();
            let behind = self.group.core().progress().iter().map(|(_, p)| p.matched.next()).min();
            first = first.min(behind.unwrap_or(first)).max(reach);
        }
        let before = self.group.first_index();
        self.group.compact(turn.now, first, &mut turn.sink);
        self.absorb(turn);
        (self.group.first_index() > before).then(|| self.group.first_index())
    }

    fn has_complete_snapshot(&self) -> bool {
        self.incoming.as_ref().is_some_and(Incoming::is_complete)
    }

    /// Proposes, as a leader, to forget history when there is enough of it, and says whether a
    /// snapshot that came is complete: what housekeeping wants of a replica that took its turn.
    pub(crate) fn keep_house(&mut self, turn: &mut Turn) -> bool {
        if self.leads() {
            self.trim_history(turn);
        }
        self.has_complete_snapshot()
    }

    fn trim_history(&mut self, turn: &mut Turn) {
        let Some(machine) = self.machine() else { return };
        let keep = match self.descriptor.options.history_revisions {
            0 => turn.config.upkeep.history_revisions,
            n => n,
        };
        let (now, oldest) = (machine.revision().0, machine.compact_revision().0);
        if now.saturating_sub(oldest) > keep + keep / 4 + 1
            && self.trimmed_to < Revision(now - keep)
        {
            self.trimmed_to = Revision(now - keep / 2);
            atoll_base::reached!("a leader trimmed history");
            self.propose_to_forget(Op::Compact { revision: Revision(now - keep) }, turn);
        }
    }

    /// Proposes to forget sessions that nobody used for long.
    fn forget_sessions(&mut self, turn: &mut Turn) {
        if self.machine().is_some() && turn.wall.0 > 0 {
            let ttl = u64::try_from(SESSION_TTL.as_millis()).unwrap_or(u64::MAX);
            let unused_since = Timestamp(turn.wall.0.saturating_sub(ttl));
            self.propose_to_forget(Op::ExpireSessions { unused_since }, turn);
        }
    }

    fn propose_to_forget(&mut self, op: Op, turn: &mut Turn) {
        if turn.disk_full.is_some() {
            return;
        }
        let mut batch = BatchWriter::new(turn.wall);
        batch.push(&Command::anonymous(op));
        if let Err(failure) = self.propose(vec![batch.finish()], turn) {
            tracing::debug!(shard = self.shard().0, %failure, "nothing is forgotten now");
        }
    }
}
