//! Sees everything that nodes send, write and become, and keeps the first violation.

use std::collections::BTreeSet;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, ShardId, Term};
use atoll_node::{LogWrite, Output};
use atoll_raft::{Body, Message};
use atoll_replica::{PeerBody, PeerMessage};
use atoll_storage::{LogAmnesia, LogRecord, StartReason};

use crate::check::Violation;
use crate::check::bounds::Bounds;
use crate::check::cut::Cuts;
use crate::check::election::Elections;
use crate::check::logs::{Kept, Logs, Stage};
use crate::check::machines::Machines;
use crate::moment::{Lookout, Moment};

/// All observers, and the first violation that any of them found.
#[derive(Default)]
pub(crate) struct Observer {
    pub(crate) elections: Elections,
    pub(crate) logs: Logs,
    pub(crate) machines: Machines,
    pub(crate) bounds: Bounds,
    pub(crate) cuts: Cuts,
    pub(crate) lookout: Lookout,
    violation: Option<Violation>,
}

impl Observer {
    /// Keeps the first violation.
    pub(crate) fn note(&mut self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.get_or_insert(violation);
        }
    }

    /// Adds a violation found elsewhere.
    pub(crate) fn report(&mut self, checker: &'static str, what: impl Into<String>) {
        self.note(Err(Violation::new(checker, what)));
    }

    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A lane of `node` has put this out.
    pub(crate) fn output(&mut self, node: NodeId, output: &Output) {
        if let Some(write) = &output.write {
            self.records(Stage::Issued, node, write);
        }
        for message in output.messages.values().flatten() {
            self.message(node, message);
        }
    }

    /// A log write of `node` is durable: the messages that waited for it leave. Had power been lost
    /// before, they never would have.
    pub(crate) fn durable(&mut self, node: NodeId, write: &LogWrite) {
        self.records(Stage::Durable, node, write);
        for message in write.after.values().flatten() {
            self.message(node, message);
        }
    }

    /// `node` came back with logs of these shards.
    pub(crate) fn present(&mut self, node: NodeId, shards: &BTreeSet<ShardId>) {
        match self.logs.present(node, shards) {
            Ok(gone) => gone.into_iter().for_each(|shard| self.gone(node, shard)),
            Err(violation) => self.note(Err(violation)),
        }
    }

    /// `node`, whose log was damaged, came back with logs of these shards: of others it may have
    /// lost all.
    pub(crate) fn may_have_lost(&mut self, node: NodeId, shards: &BTreeSet<ShardId>) {
        for shard in self.logs.absent(node, shards) {
            self.damaged(node, shard, LogIndex(1), &[]);
        }
    }

    /// `node` came back knowing that it lost something of `shard`; this is what it still has.
    pub(crate) fn damaged(
        &mut self,
        node: NodeId,
        shard: ShardId,
        first: LogIndex,
        entries: &[Entry],
    ) {
        self.logs.damaged(node, shard, first, entries);
        self.elections.forgot(shard, node);
    }

    fn gone(&mut self, node: NodeId, shard: ShardId) {
        self.elections.forgot(shard, node);
        self.machines.removed(shard, node);
    }

    fn records(&mut self, stage: Stage, node: NodeId, write: &LogWrite) {
        for record in &write.batch.records {
            if stage == Stage::Issued
                && let Some(moment) = moment_of(record)
            {
                self.lookout.came(moment, node);
            }
            let result = match record {
                LogRecord::Entry { shard, entry } => self.logs.append(stage, node, *shard, entry),
                LogRecord::HardState { shard, state } if stage == Stage::Durable => {
                    // Damage took term and vote. It gives no vote before it is rebuilt, and what it
                    // told candidates is held against it all the same.
                    if state.amnesia == LogAmnesia::Votes {
                        self.elections.forgot(*shard, node);
                    }
                    self.elections.promised(*shard, node, state.term, state.vote)
                }
                LogRecord::LogStart { shard, first, reason, .. } => {
                    let kept = match reason {
                        StartReason::Cut | StartReason::Damaged => Kept::Suffix,
                        StartReason::Snapshot => Kept::Nothing,
                    };
                    self.logs.start(stage, node, *shard, *first, kept);
                    if stage == Stage::Durable && kept == Kept::Nothing {
                        self.cuts.is_settled(node, *shard);
                    }
                    Ok(())
                }
                LogRecord::ShardRemoved { shard } => {
                    self.logs.remove(stage, node, *shard);
                    match stage {
                        Stage::Issued => self.cuts.leaves(node, *shard),
                        Stage::Durable => {
                            self.cuts.is_settled(node, *shard);
                            self.gone(node, *shard);
                        }
                    }
                    Ok(())
                }
                LogRecord::HardState { .. } => Ok(()),
            };
            self.note(result);
        }
    }

    fn message(&mut self, node: NodeId, message: &PeerMessage) {
        let PeerBody::Raft(Message { from, to, term, body }) = &message.body else { return };
        if *from != node {
            self.report("forged sender", format!("node {node} sends as node {from}: {body:?}"));
        }
        let commit = match body {
            Body::Append { commit, .. } | Body::Heartbeat { commit, .. } => Some(*commit),
            Body::Snapshot { .. } => {
                self.lookout.came(Moment::Announce, node);
                None
            }
            Body::TimeoutNow => None,
            Body::VoteReply { ballot } if ballot.is_yes() => {
                self.lookout.came(Moment::Vote, node);
                let result = self.elections.voted(message.shard, node, *term, *to);
                self.note(result);
                if self.logs.is_blank(node, message.shard) {
                    let shard = message.shard;
                    let what = format!(
                        "shard {shard} term {term}: node {node}, which gave its replica up, votes \
                         for node {to} without a log"
                    );
                    self.report("election safety", what);
                }
                return;
            }
            // A candidate votes for itself, durably before it asks others.
            Body::Vote { .. } => {
                let result = self.elections.voted(message.shard, node, *term, node);
                return self.note(result);
            }
            _ => return,
        };
        self.leads(message.shard, *term, node);
        if let Some(commit) = commit {
            let result = self.logs.committed(node, message.shard, *term, commit);
            self.note(result);
        }
    }

    fn leads(&mut self, shard: ShardId, term: Term, node: NodeId) {
        match self.elections.led(shard, term, node) {
            Ok(true) => {
                self.lookout.came(Moment::Lead, node);
                let result = self.logs.led(node, shard, term);
                self.note(result);
            }
            Ok(false) => {}
            Err(violation) => self.note(Err(violation)),
        }
    }

    pub(crate) fn crashed(&mut self, node: NodeId) {
        self.logs.crashed(node);
        self.machines.crashed(node);
    }
}

/// The moment that a write of this record is, if faults may wait for it.
fn moment_of(record: &LogRecord) -> Option<Moment> {
    match record {
        LogRecord::Entry { entry, .. } if entry.kind == EntryKind::Membership => {
            Some(Moment::Change)
        }
        LogRecord::LogStart { reason: StartReason::Snapshot, .. } => Some(Moment::Install),
        LogRecord::ShardRemoved { .. } => Some(Moment::Removal),
        _ => None,
    }
}
