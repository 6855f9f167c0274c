//! What must hold over a whole group, checked after every step. Each check names its invariant.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term};
use atoll_raft::{Body, CoreRole, LogReader, Membership, Message, RaftCore, ReadContext, quorum};

use super::mem_log::MemLog;
use super::{Health, Replica};

/// A digest of `entry` on top of `state`.
pub fn digest(state: u64, entry: &Entry) -> u64 {
    let mut hash = state ^ 0xcbf2_9ce4_8422_2325;
    let fixed = [entry.index.0.to_le_bytes(), entry.term.0.to_le_bytes()];
    for byte in fixed.iter().flatten().chain(entry.payload.iter()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}

/// A start of a replica, a life of its log, and whether that has begun: a rebuild starts over.
type Life = (u64, u64, bool);

/// See [`Checks`].
#[derive(Default)]
struct Acked {
    terms: BTreeMap<LogIndex, Term>,
    /// Start, term and index of the last one.
    last: (u64, Term, LogIndex),
    /// It has lost its log since it was last whole.
    is_amnesic: bool,
}

/// What was seen so far, by any replica.
#[derive(Default)]
pub struct Checks {
    leaders: BTreeMap<Term, NodeId>,
    /// (index, term) -> the term before and the entry's digest; no digest yet where only witnesses
    /// had it.
    entries: BTreeMap<(LogIndex, Term), (Term, Option<u64>)>,
    /// Committed: index -> term.
    committed: BTreeMap<LogIndex, Term>,
    /// Applied: index -> state.
    states: BTreeMap<LogIndex, u64>,
    /// Votes that left: (voter, term) -> candidate.
    votes: BTreeMap<(NodeId, Term), NodeId>,
    /// Life, commit and term of each core at its last step.
    seen: BTreeMap<NodeId, (Life, LogIndex, Term)>,
    /// What each replica acknowledged: entries, and where the last acknowledgement ended.
    acked: BTreeMap<NodeId, Acked>,
    /// Reads under way: what was committed when they came.
    reads: BTreeMap<ReadContext, (NodeId, LogIndex)>,
    pub reads_served: u64,
    /// They hold no data.
    pub witnesses: BTreeSet<NodeId>,
}

impl Acked {
    fn add(&mut self, replica: &Replica, term: Term, matched: LogIndex) {
        let (lives, last_term, last) = self.last;
        let goes_on = (lives, last_term) == (replica.lives, term);
        let mut at = if goes_on { last.next() } else { replica.disk.first_index() };
        while at <= matched {
            if let Ok(term) = replica.disk.term(at) {
                self.terms.insert(at, term);
            }
            at = at.next();
        }
        self.last = (replica.lives, term, if goes_on { matched.max(last) } else { matched });
    }
}

impl Checks {
    pub fn committed(&self) -> LogIndex {
        self.committed.keys().next_back().copied().unwrap_or_default()
    }

    /// I3: the same index and term mean the same entry after the same entry.
    pub fn on_entries(&mut self, node: NodeId, log: &MemLog, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        let mut before = log.term(first.index.prev()).unwrap_or_default();
        let witness = self.witnesses.contains(&node);
        for entry in entries {
            let stripped = witness && entry.kind == EntryKind::Commands;
            let content = (!stripped).then(|| digest(0, entry));
            let key = (entry.index, entry.term);
            let known = self.entries.entry(key).or_insert((before, content));
            assert_eq!(known.0, before, "I3: term before {} on node {node}", entry.index);
            if content.is_some() && known.1.is_some() {
                assert_eq!(known.1, content, "I3: content of {} on node {node}", entry.index);
            }
            known.1 = known.1.or(content);
            before = entry.term;
        }
    }

    /// I1, I4, I5, I7 and what commits.
    pub fn on_step(&mut self, replicas: &BTreeMap<NodeId, Replica>, node: NodeId) {
        let replica = &replicas[&node];
        let Some(core) = &replica.core else { return };
        let (commit, term) = (core.commit(), core.term());
        let life = (replica.lives, core.life(), core.is_amnesic() && core.is_damaged());
        let before = self.seen.insert(node, (life, commit, term));
        let mut from = LogIndex::ZERO;
        if let Some((old_life, old_commit, old_term)) = before {
            let is_restarted = old_life.0 != life.0;
            assert!(term >= old_term || is_restarted, "I7: the term of {node} fell");
            if life == old_life {
                assert!(commit >= old_commit, "I5: the commit index of {node} fell");
                from = old_commit;
            }
        }
        self.check_commit(replicas, core, from.max(core.first_index().prev()));
        self.check_memory(replica, core);
        if core.role() == CoreRole::Leader {
            assert_eq!(replica.health, Health::Whole, "T14: {node} leads without its state");
            let first = *self.leaders.entry(term).or_insert(node);
            assert_eq!(first, node, "I1: two leaders in term {term}");
            let was_leader = before.is_some_and(|(_, _, t)| t == term) && first == node;
            if !was_leader || core.last_index() == core.commit().next() {
                self.check_complete(core, node);
            }
        }
    }

    /// I9: the configuration in force is the last one in the log, whatever was cut off or put
    /// before it; where the log holds none, the one as of its start.
    pub fn on_log(&self, replica: &Replica) {
        let Some(core) = &replica.core else { return };
        let node = core.id();
        let mut at = replica.log.last_index();
        while at >= replica.log.first_index() {
            let entry = replica.log.get(at).expect("between the first and the last one");
            if entry.kind == EntryKind::Membership {
                let held = Membership::decode(&entry.payload).expect("it was proposed");
                assert_eq!(core.membership_index(), at, "I9: {node} follows another entry");
                assert_eq!(core.membership(), &held, "I9: {node} follows other members");
                return;
            }
            at = at.prev();
        }
        let index = core.membership_index();
        assert!(index <= at, "I9: {node} follows {index}, its log holds no configuration");
        assert_eq!(core.membership(), &replica.base, "I9: {node} follows other members");
    }

    fn check_commit(
        &mut self,
        replicas: &BTreeMap<NodeId, Replica>,
        core: &RaftCore,
        from: LogIndex,
    ) {
        let (node, commit) = (core.id(), core.commit());
        let mut index = from.next();
        while index <= commit {
            let term = core.term_at(index).expect("committed is in the log");
            let known = self.committed.get(&index).copied();
            if let Some(known) = known {
                assert_eq!(known, term, "node {node} commits another entry at {index}");
            } else {
                self.check_durable(replicas, core, index, term);
                self.committed.insert(index, term);
            }
            index = index.next();
        }
    }

    /// What commits first is durable on a replication quorum of the configuration (I8, R3, R4).
    fn check_durable(
        &self,
        replicas: &BTreeMap<NodeId, Replica>,
        core: &RaftCore,
        index: LogIndex,
        term: Term,
    ) {
        if core.role() != CoreRole::Leader {
            return;
        }
        let holds = |n: NodeId| {
            replicas.get(&n).is_some_and(|r| {
                // An acknowledgement may be under way when its log is lost; its votes count for
                // less
                // until it has the entry again, which `check_memory` and later I4 see to.
                !r.remembers()
                    || r.disk.first_index() > index
                    || r.disk.term(index).ok() == Some(term)
            })
        };
        // The configuration at that entry, or a later one already in force: either may have
        // counted.
        let at = core.membership_at(index.max(core.commit())).unwrap_or(core.membership());
        let durable = quorum::replicates(core.membership(), holds) || quorum::replicates(at, holds);
        assert!(durable, "I8: {index} of term {term} commits on {} without a quorum", core.id());
    }

    /// T14: a replica that ends its amnesia has every committed entry that it ever acknowledged.
    fn check_memory(&mut self, replica: &Replica, core: &RaftCore) {
        let node = core.id();
        let Some(acked) = self.acked.get_mut(&node) else { return };
        let was = std::mem::replace(&mut acked.is_amnesic, core.is_amnesic());
        if !was || acked.is_amnesic {
            return;
        }
        for (index, term) in acked.terms.range(replica.disk.first_index()..) {
            if self.committed.get(index) == Some(term) {
                let has = replica.disk.term(*index).ok();
                assert_eq!(has, Some(*term), "T14: {node} is whole without {index}");
            }
        }
    }

    /// I4: a leader has every committed entry.
    fn check_complete(&self, core: &RaftCore, node: NodeId) {
        for (index, term) in self.committed.range(core.first_index()..) {
            // Its own term's predecessors only: a stale leader may lack what later ones commit.
            if *term < core.term() || *index <= core.last_index() {
                let newer = self.leaders.keys().next_back().is_some_and(|t| *t > core.term());
                if newer {
                    return;
                }
                let has = core.term_at(*index);
                assert_eq!(has, Some(*term), "I4: leader {node} lacks committed {index}");
            }
        }
    }

    /// State machine safety: the same states everywhere.
    pub fn on_apply(&mut self, node: NodeId, entry: &Entry, state: u64) {
        if self.witnesses.contains(&node) {
            return;
        }
        let known = *self.states.entry(entry.index).or_insert(state);
        assert_eq!(known, state, "node {node} applied something else at {}", entry.index);
    }

    /// I7 and I8, on what leaves a replica.
    pub fn on_send(&mut self, replicas: &BTreeMap<NodeId, Replica>, message: &Message) {
        let Message { from, to, term, body } = message;
        let disk = &replicas[from].disk;
        match body {
            Body::AppendReply { matched, life } => {
                let durable = disk.last_index();
                assert!(*matched <= durable, "I8: {from} acknowledges {matched}, has {durable}");
                let recorded = replicas[from].disk_hard.life;
                assert!(*life <= recorded, "I8: {from} speaks of life {life}, has {recorded}");
                self.acked.entry(*from).or_default().add(&replicas[from], *term, *matched);
            }
            Body::VoteReply { ballot } if ballot.is_yes() => {
                let hard = replicas[from].disk_hard;
                assert!(hard.term >= *term, "I8: {from} votes in {term}, durable is {}", hard.term);
                let first = *self.votes.entry((*from, *term)).or_insert(*to);
                assert_eq!(first, *to, "I7: {from} votes twice in term {term}");
            }
            _ => {}
        }
    }

    /// A read came: nothing older may answer it.
    pub fn on_read(
        &mut self,
        replicas: &BTreeMap<NodeId, Replica>,
        node: NodeId,
        context: ReadContext,
    ) {
        let cores = replicas.values().filter_map(|r| r.core.as_ref());
        let committed = cores.map(RaftCore::commit).max().unwrap_or_default();
        self.reads.insert(context, (node, committed.max(self.committed())));
    }

    /// Linearizable: the index covers all that was committed when the read came (R1, R2).
    pub fn on_read_served(&mut self, context: ReadContext, index: LogIndex) {
        if let Some((node, committed)) = self.reads.remove(&context) {
            assert!(
                index >= committed,
                "stale read {} on {node}: index {index}, committed was {committed}",
                context.0
            );
            self.reads_served += 1;
        }
    }

    pub fn forget_reads(&mut self, node: NodeId) {
        self.reads.retain(|_, (at, _)| *at != node);
    }
}
