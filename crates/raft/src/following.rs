//! The follower's side of the log: appends, acknowledgements, heartbeats.
//!
//! An acknowledgement says that everything up to an index is durable here *and* equal to the
//! leader's log. So it waits for the write that makes it true (invariant I8), and one that finds
//! nothing new answers with what is durable already; the rest is acknowledged when its write, which
//! perhaps an earlier leader caused, is done. A replica with amnesia keeps the acknowledgement that
//! would say that it is whole until that is durable too.

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term};

use crate::config::planted;
use crate::core::{CoreRole, RaftCore, Turn};
use crate::membership::Membership;
use crate::message::Body;

impl RaftCore {
    /// A message that only this term's leader sends came from `from`. False when this core leads
    /// that term itself, which no correct peer contradicts.
    pub(crate) fn hear_leader(&mut self, t: &mut Turn<'_>, from: NodeId) -> bool {
        if self.role == CoreRole::Leader {
            return false;
        }
        if self.role != CoreRole::Follower {
            self.become_follower(t, self.term, Some(from));
        }
        self.follow(t, Some(from));
        self.heard_at = Some(t.now);
        self.election_deadline = self.election_deadline.map(|_| t.now.after(self.timeout));
        true
    }

    pub(crate) fn on_append(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        prev: (LogIndex, Term),
        commit: LogIndex,
        mut entries: Vec<Entry>,
    ) {
        if !self.hear_leader(t, from) || !is_sequence(prev, self.term, &entries) {
            return;
        }
        let (mut prev_index, mut prev_term) = prev;
        // What is committed here matches every later leader's log (I4): skip it, also because the
        // terms before it may be compacted.
        if prev_index < self.commit {
            let skip = (self.commit.0 - prev_index.0) as usize;
            if skip > entries.len() {
                atoll_base::reached!("an append held only what is committed here");
                self.verified = self.verified.max(self.commit);
                return self.acknowledge(t, from);
            }
            entries.drain(..skip);
            prev_index = self.commit;
            prev_term = self.log.term(self.commit).expect("the commit index is in the log");
        }
        if self.log.term(prev_index) != Some(prev_term) && !planted!(self.config, NoPrevCheck) {
            atoll_base::reached!("an append did not follow the log");
            return self.reject(t, from, prev_index, prev_term);
        }
        if prev_index > self.log.last() {
            return;
        }
        let end = prev_index.plus(entries.len() as u64);
        let known = entries.iter().take_while(|e| self.log.term(e.index) == Some(e.term)).count();
        if known < entries.len() {
            entries.drain(..known);
            let Some(memberships) = memberships(&entries) else { return };
            self.append(t, entries, memberships);
        } else if planted!(self.config, TruncateOnShortAppend) && end < self.log.last() {
            self.log.truncate(end.next().max(self.log.first()));
        }
        self.verified = self.verified.max(end);
        self.commit_to(commit.min(end));
        self.acknowledge(t, from);
    }

    fn reject(&self, t: &mut Turn<'_>, to: NodeId, prev_index: LogIndex, prev_term: Term) {
        // The last entry here that could be the leader's (thesis 3.5): one trip per term, not
        // entry.
        let conflict_index = self.log.last_at_most(prev_index, prev_term);
        let conflict_term = self.log.term(conflict_index).unwrap_or(Term::ZERO);
        self.send(t, to, Body::AppendReject { prev_index, conflict_index, conflict_term });
    }

    /// Acknowledges what this step appended once that is durable; without a write, what is already.
    pub(crate) fn acknowledge(&mut self, t: &mut Turn<'_>, to: NodeId) {
        if planted!(self.config, AckUnwritten) {
            let (matched, life) = (self.verified, self.life);
            return self.send(t, to, Body::AppendReply { matched, life });
        }
        let writes = t.out.write.as_ref().is_some_and(|w| !w.entries.is_empty());
        let matched = if writes { self.verified } else { self.verified.min(self.durable()) };
        if self.keeps_back(matched) {
            self.ask_for_rest(t, to);
            return;
        }
        self.acknowledged = self.acknowledged.max(matched);
        let life = self.life;
        self.send_after(t, to, Body::AppendReply { matched, life });
    }

    /// Acknowledges what a write made durable and no message that waited for it said.
    pub(crate) fn acknowledge_written(&mut self, t: &mut Turn<'_>) {
        let matched = self.verified.min(self.durable());
        let Some(leader) = self.leader else { return };
        let is_news = matched > self.acknowledged && !self.keeps_back(matched);
        if self.role == CoreRole::Follower && is_news {
            self.acknowledged = matched;
            let life = self.life;
            self.send_after(t, leader, Body::AppendReply { matched, life });
        }
    }

    pub(crate) fn commit_to(&mut self, index: LogIndex) {
        self.commit = self.commit.max(index.min(self.log.last()));
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        t: &mut Turn<'_>,
        from: NodeId,
        commit: LogIndex,
        round: u64,
    ) {
        if !self.hear_leader(t, from) {
            return;
        }
        self.commit_to(commit);
        if round > 0 && !self.ask_for_rest(t, from) {
            self.send(t, from, Body::HeartbeatReply { round });
        }
    }
}

/// True for entries that follow each other and what came before, none from the leader's future.
fn is_sequence(prev: (LogIndex, Term), leader_term: Term, entries: &[Entry]) -> bool {
    let (mut index, mut term) = prev;
    entries.iter().all(|e| {
        let fits = e.index == index.next() && e.term >= term;
        (index, term) = (e.index, e.term);
        fits
    }) && term <= leader_term
}

/// The configurations among `entries`; `None` when one can't be read.
fn memberships(entries: &[Entry]) -> Option<Vec<(LogIndex, Membership)>> {
    let carrying = entries.iter().filter(|e| e.kind == EntryKind::Membership);
    carrying.map(|e| Some((e.index, Membership::decode(&e.payload).ok()?))).collect()
}
