//! Compaction and the garbage collection that follows it, entry by entry.

use atoll_base::{Code, Revision};
use atoll_storage::{Direction, Tree};

use super::{ChangeKind, ChangeRecord, KvBatch, Stop, refuse};
use crate::error::MachineError;
use crate::keys::{borrowed, history_key, parse_change_key};
use crate::overlay::Reads;
use crate::reply::Reply;

impl KvBatch<'_> {
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<Reply, Stop> {
        let (now, compacted) = (self.state.revision, self.state.compacted);
        if revision > now {
            let message = format!("revision {revision} is in the future, the shard is at {now}");
            return refuse(Code::FutureRevision, message);
        }
        if revision <= compacted {
            let message =
                format!("revision {revision} is compacted, the oldest kept is {compacted}");
            return refuse(Code::Compacted, message);
        }
        self.state.compacted = revision;
        Ok(Reply::Compact { revision: now, compacted: revision })
    }

    /// Clears a bounded number of changes below the compact revision, oldest first, so that of
    /// every key the older versions go before the younger.
    pub(crate) fn collect(&mut self) -> Result<(), MachineError> {
        if !self.state.must_collect() {
            return Ok(());
        }
        atoll_base::reached!("history was collected");
        let quantum = usize::try_from(self.limits.collect_per_entry).unwrap_or(usize::MAX).max(1);
        let span = self.scope.change_span(self.state.collected, Some(self.state.compacted));
        let mut cleared = Vec::with_capacity(quantum.min(1024));
        for pair in self.overlay.scan(Tree::Meta, borrowed(&span), Direction::Forward).take(quantum)
        {
            cleared.push(pair.map_err(|e| self.scope.engine(e))?);
        }
        let is_last = cleared.len() < quantum;
        for (change_key, value) in cleared {
            let (revision, sub) = parse_change_key(&change_key).ok_or_else(|| {
                self.scope.inconsistent("change record has a key of another form")
            })?;
            let change = ChangeRecord::decode(value).map_err(|e| self.scope.record("change", e))?;
            let history = self.scope.history();
            if let Some(previous) = change.previous {
                self.overlay.delete(history, history_key(&change.key, previous));
            }
            if change.kind == ChangeKind::Delete {
                self.overlay.delete(history, history_key(&change.key, revision));
            }
            self.overlay.delete(Tree::Meta, change_key);
            self.state.collected = (revision, sub + 1);
        }
        if is_last {
            self.state.collected = (self.state.compacted, 0);
        }
        Ok(())
    }
}
