//! Snapshots in the world: taken, announced, installed in two steps, or given up in between.

use atoll_base::NodeId;
use atoll_raft::{Amnesia, Input, RaftCore};

use super::mem_log::MemLog;
use super::{Health, Snapshot, World};

impl World {
    /// Takes the snapshots that leaders asked for and announces them.
    pub fn send_snapshots(&mut self) {
        for (leader, to) in self.wanted.clone() {
            self.offer_snapshot(leader, to, true);
        }
        self.wanted.clear();
    }

    /// Takes the snapshot that a leader asked for and announces it, or says that this failed.
    pub fn offer_snapshot(&mut self, leader: NodeId, to: NodeId, ok: bool) {
        let Some(at) = self.wanted.iter().rposition(|w| *w == (leader, to)) else { return };
        self.wanted.remove(at);
        let Some(snapshot) = self.take_snapshot(leader) else { return };
        let index = snapshot.index;
        let core = self.replicas[&leader].core.as_ref();
        let message = core.and_then(|c| c.snapshot_message(to, index));
        if let Some(message) = message.filter(|_| ok) {
            self.post(message);
        }
        self.step(leader, Input::SnapshotSent { to, index, ok });
    }

    /// A snapshot of what `node` has applied.
    pub fn take_snapshot(&mut self, node: NodeId) -> Option<Snapshot> {
        let replica = &self.replicas[&node];
        let core = replica.core.as_ref()?;
        let index = replica.applied;
        let (term, membership) = (core.term_at(index)?, core.membership_at(index)?.clone());
        let snapshot = Snapshot { index, term, membership, state: replica.state };
        self.snapshots.insert(index, snapshot.clone());
        Some(snapshot)
    }

    pub fn install_snapshots(&mut self) {
        for (node, _, snapshot) in std::mem::take(&mut self.offers) {
            self.install(node, snapshot);
        }
    }

    /// Installs an offered snapshot, if it is still wanted.
    pub fn install(&mut self, node: NodeId, snapshot: Snapshot) {
        self.begin_install(node, snapshot);
        self.finish_install(node);
    }

    /// The old state goes, unless the snapshot is of no use any more.
    pub fn begin_install(&mut self, node: NodeId, snapshot: Snapshot) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        let accepts = |c: &RaftCore| c.accepts_snapshot(snapshot.index, snapshot.term);
        if !replica.core.as_ref().is_some_and(accepts) {
            return;
        }
        replica.install = Some(snapshot);
        replica.state = 0;
        if replica.health == Health::Whole {
            replica.health = Health::NoState;
        }
        self.step(node, Input::InstallBegun);
    }

    /// The new state is there.
    pub fn finish_install(&mut self, node: NodeId) {
        // What was under way is finished first: a log has one order.
        self.write_done(node, usize::MAX);
        let replica = self.replicas.get_mut(&node).expect("a replica");
        let Some(snapshot) = replica.install.take() else { return };
        let Snapshot { index, term, membership, state } = snapshot;
        (replica.applied, replica.state) = (index, state);
        replica.persisted = (index, state);
        replica.health = Health::Whole;
        if replica.core.as_ref().is_some_and(|c| c.snapshot_replaces_log(index, term)) {
            replica.notices.clear();
            replica.disk = MemLog::after(index, term);
            replica.log = replica.disk.clone();
            replica.base = membership.clone();
        }
        self.step(node, Input::SnapshotInstalled { index, term, membership });
    }

    /// The install is given up half-way.
    pub fn fail_install(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a replica");
        if replica.install.take().is_none() {
            return;
        }
        match replica.health {
            Health::LogLost => self.step(node, Input::Damaged(Amnesia::Entries)),
            _ => self.step(node, Input::StateLost),
        }
    }
}
