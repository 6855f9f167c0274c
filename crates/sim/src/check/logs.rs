//! Log matching, leader append-only, leader completeness, committed entries never change, and
//! commit only on what a quorum has made durable.
//!
//! Source: Raft paper, figure 3; thesis 3.5, 3.6, 10.2.1 (a leader counts itself only after its own
//! write). The checker keeps its own copy of every replica's log from the writes that nodes issue,
//! once as issued and once as durable, and compares the claims that nodes make with these copies.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, ShardId, Term};
use atoll_raft::{Membership, quorum};

use super::Violation;

/// An entry's term and a hash of all its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Mark {
    term: Term,
    hash: u64,
}

/// One replica's log as the checker knows it.
#[derive(Clone, Default, Debug)]
struct Copy {
    /// Everything below is cut away or inside a snapshot.
    first: LogIndex,
    entries: BTreeMap<LogIndex, Mark>,
    /// What stood here and was cut away, so was committed: a leader that counts alone cuts entries
    /// before any message says that they are.
    cut: BTreeMap<LogIndex, Mark>,
    /// Where it began anew after a snapshot, in this life of its node.
    begun: Option<LogIndex>,
    /// What was written in the place of something else, in this life of its node.
    replacing: BTreeSet<(LogIndex, Mark)>,
}

impl Copy {
    fn append(&mut self, index: LogIndex, mark: Mark) {
        if self.entries.get(&index).is_some_and(|old| *old != mark) {
            self.replacing.insert((index, mark));
        }
        while self.entries.last_key_value().is_some_and(|(last, _)| *last >= index) {
            self.entries.pop_last();
        }
        self.entries.insert(index, mark);
    }

    fn start(&mut self, first: LogIndex, kept: Kept) {
        match kept {
            Kept::Suffix => {
                while let Some(entry) = self.entries.first_entry().filter(|e| *e.key() < first) {
                    let (index, mark) = entry.remove_entry();
                    self.cut.insert(index, mark);
                }
            }
            Kept::Nothing => {
                self.entries.clear();
                self.begun = Some(first);
            }
        }
        self.first = first;
    }

    fn covers(&self, index: LogIndex, mark: Mark) -> bool {
        index < self.first || self.entries.get(&index) == Some(&mark)
    }
}

/// What a log keeps when its start moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// What lies at and above the start: the log was cut.
    Suffix,
    /// Nothing: a snapshot took the log's place.
    Nothing,
}

/// Whether a write was only issued or has become durable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// Handed to the log thread.
    Issued,
    /// Synced.
    Durable,
}

/// Every replica's log and everything known to be committed.
#[derive(Default, Debug)]
pub struct Logs {
    /// The configuration that each group was founded with.
    founded: BTreeMap<ShardId, Membership>,
    /// Every configuration that any log held.
    memberships: BTreeMap<ShardId, BTreeMap<(LogIndex, Term), Membership>>,
    copies: BTreeMap<(Stage, ShardId, NodeId), Copy>,
    /// What stands at `(shard, index, term)`, and the term before it.
    known: BTreeMap<(ShardId, LogIndex, Term), (u64, Option<Term>)>,
    committed: BTreeMap<ShardId, BTreeMap<LogIndex, Mark>>,
    /// The term whose leader said first that the entry is committed.
    committed_in: BTreeMap<(ShardId, LogIndex), Term>,
    leading: BTreeMap<(ShardId, NodeId), Term>,
    /// Shards of keyspaces that were dropped.
    dropped: BTreeSet<ShardId>,
    /// Replicas whose removal was handed to the log, and that may be gone after a crash.
    leaving: BTreeSet<(ShardId, NodeId)>,
    /// Replicas that were given up.
    removed: BTreeSet<(ShardId, NodeId)>,
    /// What replicas had made durable and lost to damage, until they have a snapshot: who was not
    /// told yet still counts the acknowledgements it has. That nobody who was told does is for the
    /// core's own walk to see, which knows what each core heard.
    lost: BTreeMap<(ShardId, NodeId), Copy>,
}

impl Logs {
    /// These nodes vote in `shard`'s group from the start; without this, commits are not counted
    /// before the group's log holds a configuration.
    pub fn voters(&mut self, shard: ShardId, voters: impl IntoIterator<Item = NodeId>) {
        self.founded.insert(shard, Membership::of_voters(voters));
    }

    /// `node` appends `entry` to its log of `shard`, replacing what stood there and above.
    ///
    /// # Errors
    /// When it differs from what another log holds at this index and term, or a leader overwrites
    /// its own log, or a committed entry is replaced.
    pub fn append(
        &mut self,
        stage: Stage,
        node: NodeId,
        shard: ShardId,
        entry: &Entry,
    ) -> Result<(), Violation> {
        let mark = self.mark(shard, entry);
        let copy = self.copies.entry((stage, shard, node)).or_default();
        let replaced = copy.entries.get(&entry.index).copied();
        let before = copy.entries.get(&entry.index.prev()).map(|mark| mark.term);
        copy.append(entry.index, mark);
        if stage == Stage::Durable {
            return Ok(());
        }
        if entry.kind == EntryKind::Membership
            && let Ok(membership) = Membership::decode(&entry.payload)
        {
            let place = (entry.index, entry.term);
            self.memberships.entry(shard).or_default().insert(place, membership);
        }
        let place = || format!("shard {shard} entry {} term {}", entry.index, entry.term);
        let known =
            self.known.entry((shard, entry.index, entry.term)).or_insert((mark.hash, before));
        known.1 = known.1.or(before);
        if known.0 != mark.hash || (before.is_some() && known.1 != before) {
            let what = format!(
                "{}: node {node} holds another entry than its peers, or another before it",
                place()
            );
            return Err(Violation::new("log matching", what));
        }
        if let Some(replaced) = replaced
            && replaced != mark
        {
            if self.leading.get(&(shard, node)).is_some_and(|term| *term == entry.term) {
                let what = format!(
                    "{}: leader {node} replaces its own entry of term {}",
                    place(),
                    replaced.term
                );
                return Err(Violation::new("leader append-only", what));
            }
            if self.committed_mark(shard, entry.index) == Some(replaced) {
                let what = format!(
                    "{}: node {node} replaces a committed entry of term {}",
                    place(),
                    replaced.term
                );
                return Err(Violation::new("committed entries stay", what));
            }
        }
        Ok(())
    }

    /// `node`'s log of `shard` starts at `first` from now on.
    pub fn start(
        &mut self,
        stage: Stage,
        node: NodeId,
        shard: ShardId,
        first: LogIndex,
        kept: Kept,
    ) {
        self.copies.entry((stage, shard, node)).or_default().start(first, kept);
        if stage == Stage::Durable && kept == Kept::Nothing {
            self.lost.remove(&(shard, node));
        }
    }

    /// `node` no longer has a replica of `shard`.
    pub fn remove(&mut self, stage: Stage, node: NodeId, shard: ShardId) {
        self.copies.remove(&(stage, shard, node));
        if !self.founded.contains_key(&shard) {
            // Its keyspace was dropped: who has not heard of that counts copies that are gone.
            self.dropped.insert(shard);
        }
        match stage {
            Stage::Issued => self.leaving.insert((shard, node)),
            Stage::Durable => {
                self.lost.remove(&(shard, node));
                self.removed.insert((shard, node))
            }
        };
    }

    /// True when `node` had a replica of `shard`, gave it up, and has nothing of it now: such a one
    /// has forgotten what it acknowledged, so it must not vote before it has a snapshot.
    #[must_use]
    pub fn is_blank(&self, node: NodeId, shard: ShardId) -> bool {
        let copy = self.copies.get(&(Stage::Issued, shard, node));
        let is_empty = copy.is_none_or(|c| c.entries.is_empty() && c.first <= LogIndex(1));
        is_empty && self.removed.contains(&(shard, node)) && self.founded.contains_key(&shard)
    }

    /// `node` crashed: it no longer leads.
    pub fn crashed(&mut self, node: NodeId) {
        self.leading.retain(|(_, n), _| *n != node);
    }

    /// `node` came back with this log of `shard`, which becomes the copy.
    ///
    /// # Errors
    /// When something that was durable is missing or changed.
    pub fn recovered(
        &mut self,
        node: NodeId,
        shard: ShardId,
        first: LogIndex,
        entries: &[Entry],
    ) -> Result<(), Violation> {
        let entries = entries.iter().map(|e| (e.index, self.mark(shard, e))).collect();
        let now = Copy { first, entries, ..Copy::default() };
        let issued = self.copies.get(&(Stage::Issued, shard, node)).cloned().unwrap_or_default();
        let before = self.restart(node, shard, now.clone());
        if issued.begun == Some(first) && before.begun != issued.begun {
            // The start that follows a snapshot survived without being acknowledged: it took the
            // place of all that was there.
            return Ok(());
        }
        // A suffix may have been replaced by a write that survived without being acknowledged.
        let replaced = now.entries.iter().find(|(index, mark)| {
            before.entries.get(index).is_some_and(|old| old != *mark)
                && issued.replacing.contains(&(**index, **mark))
        });
        let held = replaced.map_or(LogIndex(u64::MAX), |(index, _)| *index);
        for (index, mark) in before.entries.range(first..held).map(|(i, m)| (*i, *m)) {
            let found = now.entries.get(&index);
            if found != Some(&mark) {
                let what = format!(
                    "shard {shard} node {node}: durable entry {index} of term {} came back as {:?}",
                    mark.term,
                    found.map(|m| m.term)
                );
                return Err(Violation::new("log durability", what));
            }
        }
        Ok(())
    }

    /// `node` came back with logs of these shards. The shards whose removal had reached the disk
    /// before it was known to have.
    ///
    /// # Errors
    /// When a log that had entries is not there any more.
    pub fn present(
        &mut self,
        node: NodeId,
        shards: &BTreeSet<ShardId>,
    ) -> Result<Vec<ShardId>, Violation> {
        let durable = self.copies.iter().filter(|((stage, shard, n), _)| {
            *stage == Stage::Durable && *n == node && !shards.contains(shard)
        });
        let absent: Vec<(ShardId, bool)> =
            durable.map(|((_, shard, _), copy)| (*shard, copy.entries.is_empty())).collect();
        let mut gone = Vec::new();
        for (shard, is_empty) in absent {
            if !self.leaving.contains(&(shard, node)) && !is_empty {
                let what = format!("shard {shard} node {node}: the whole log is gone");
                return Err(Violation::new("log durability", what));
            }
            self.copies.remove(&(Stage::Durable, shard, node));
            self.copies.remove(&(Stage::Issued, shard, node));
            self.removed.insert((shard, node));
            gone.push(shard);
        }
        Ok(gone)
    }

    /// `node` came back knowing that its log of `shard` was damaged: this is what it still has.
    pub fn damaged(&mut self, node: NodeId, shard: ShardId, first: LogIndex, entries: &[Entry]) {
        let entries = entries.iter().map(|e| (e.index, self.mark(shard, e))).collect();
        let before = self.restart(node, shard, Copy { first, entries, ..Copy::default() });
        let lost = self.lost.entry((shard, node)).or_default();
        lost.entries.extend(before.entries);
    }

    /// `node` came back with `now`. What had been durable before; what was cut stays known.
    fn restart(&mut self, node: NodeId, shard: ShardId, mut now: Copy) -> Copy {
        let before = self.copies.insert((Stage::Durable, shard, node), now.clone());
        let issued = self.copies.remove(&(Stage::Issued, shard, node));
        now.cut = issued.unwrap_or_default().cut;
        self.copies.insert((Stage::Issued, shard, node), now);
        before.unwrap_or_default()
    }

    /// The shards of which `node` had a log that is not among these, and that it had not given up.
    #[must_use]
    pub fn absent(&self, node: NodeId, shards: &BTreeSet<ShardId>) -> Vec<ShardId> {
        let had = self.copies.keys().filter(|(stage, shard, n)| {
            *stage == Stage::Durable
                && *n == node
                && !shards.contains(shard)
                && !self.leaving.contains(&(*shard, node))
        });
        had.map(|(_, shard, _)| *shard).collect()
    }

    /// `node` acts as the leader of `shard` in `term` for the first time.
    ///
    /// # Errors
    /// When a committed entry is missing in its log.
    pub fn led(&mut self, node: NodeId, shard: ShardId, term: Term) -> Result<(), Violation> {
        self.leading.insert((shard, node), term);
        let Some(committed) = self.committed.get(&shard) else { return Ok(()) };
        let copy = self.copies.entry((Stage::Issued, shard, node)).or_default();
        for (index, mark) in committed.range(copy.first..) {
            // A leader of an older term may be late to act (it stood still between its election and
            // its first word); what was committed in later terms it need not know, not even where
            // the entry itself is older.
            let committed_in = self.committed_in.get(&(shard, *index)).copied();
            if committed_in.is_none_or(|t| t <= term) && !copy.covers(*index, *mark) {
                let what = format!(
                    "shard {shard} term {term}: leader {node} lacks committed entry {index} of \
                    term {}",
                    mark.term
                );
                return Err(Violation::new("leader completeness", what));
            }
        }
        Ok(())
    }

    /// `node`, leading `shard` in `term`, says that everything up to `index` is committed.
    ///
    /// # Errors
    /// When that contradicts an earlier commit or no quorum has made it durable.
    pub fn committed(
        &mut self,
        node: NodeId,
        shard: ShardId,
        term: Term,
        index: LogIndex,
    ) -> Result<(), Violation> {
        let known = self.committed.get(&shard).and_then(|c| c.last_key_value());
        let from = known.map_or(LogIndex(1), |(last, _)| last.next());
        for i in from.0..=index.0 {
            let i = LogIndex(i);
            let copy = self.copies.get(&(Stage::Issued, shard, node));
            let Some(mark) = copy.and_then(|copy| copy.entries.get(&i)).copied() else {
                if let Some(copy) = copy.filter(|copy| i < copy.first) {
                    if let Some(mark) = copy.cut.get(&i).copied() {
                        self.committed.entry(shard).or_default().insert(i, mark);
                        self.committed_in.insert((shard, i), term);
                    }
                    continue;
                }
                let what = format!(
                    "shard {shard} term {term}: leader {node} commits {index} without holding {i}"
                );
                return Err(Violation::new("commit rule", what));
            };
            self.check_quorum(node, shard, i, mark)?;
            self.committed_in.insert((shard, i), term);
            self.committed.entry(shard).or_default().insert(i, mark);
        }
        Ok(())
    }

    /// The configurations by which `node`, leading `shard`, may have counted `index`: the one in
    /// force there, and later ones of its log, in which it counted from when they stood there.
    fn counted_by(&self, node: NodeId, shard: ShardId, index: LogIndex) -> Vec<&Membership> {
        let copy = self.copies.get(&(Stage::Issued, shard, node));
        let held = |place: LogIndex, term: Term| {
            let mark = copy.and_then(|copy| copy.entries.get(&place).or(copy.cut.get(&place)));
            let mark = mark.copied().or_else(|| self.committed_mark(shard, place));
            mark.is_some_and(|mark| mark.term == term)
        };
        let mut all: Vec<&Membership> = self.founded.get(&shard).into_iter().collect();
        for ((place, term), membership) in self.memberships.get(&shard).into_iter().flatten() {
            if !held(*place, *term) {
                continue;
            }
            if *place <= index {
                all.clear();
            }
            all.push(membership);
        }
        all
    }

    fn check_quorum(
        &self,
        leader: NodeId,
        shard: ShardId,
        index: LogIndex,
        mark: Mark,
    ) -> Result<(), Violation> {
        let holds = |node: NodeId| {
            let copy = self.copies.get(&(Stage::Durable, shard, node));
            let lost = self.lost.get(&(shard, node));
            copy.is_some_and(|copy| copy.covers(index, mark))
                || lost.is_some_and(|lost| lost.entries.get(&index) == Some(&mark))
        };
        let counted = self.counted_by(leader, shard, index);
        if self.dropped.contains(&shard)
            || counted.is_empty()
            || counted.iter().any(|m| quorum::replicates(m, holds))
        {
            return Ok(());
        }
        let nodes = counted.iter().flat_map(|m| m.nodes()).collect::<BTreeSet<NodeId>>();
        let holders: Vec<NodeId> = nodes.into_iter().filter(|node| holds(*node)).collect();
        let what = format!(
            "shard {shard} entry {index} term {} is called committed by {leader}, durable only on \
            {holders:?} of {counted:?}",
            mark.term
        );
        Err(Violation::new("quorum durability", what))
    }

    /// The newest index known to be committed.
    #[must_use]
    pub fn last_committed(&self, shard: ShardId) -> LogIndex {
        let last = self.committed.get(&shard).and_then(|c| c.last_key_value());
        last.map_or(LogIndex::ZERO, |(index, _)| *index)
    }

    /// What stands in a log. A witness's commands are blank, and stand for what the leader had
    /// there before it sent them.
    fn mark(&self, shard: ShardId, entry: &Entry) -> Mark {
        let is_blank = entry.kind == EntryKind::Commands && entry.payload.is_empty();
        let whole = self.known.get(&(shard, entry.index, entry.term)).filter(|_| is_blank);
        Mark { term: entry.term, hash: whole.map_or_else(|| hash(entry), |(hash, _)| *hash) }
    }

    fn committed_mark(&self, shard: ShardId, index: LogIndex) -> Option<Mark> {
        self.committed.get(&shard)?.get(&index).copied()
    }
}

fn hash(entry: &Entry) -> u64 {
    let head = [entry.kind as u8, 0, 0, 0];
    let head = atoll_base::checksum::crc32c(&head);
    let whole = atoll_base::checksum::crc32c_append(head, &entry.payload);
    (u64::from(whole) << 32) | entry.payload.len() as u64
}

#[cfg(test)]
mod tests;
