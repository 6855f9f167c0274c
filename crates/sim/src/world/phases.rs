//! How a run ends: faults stop, every shard must serve, everybody finishes and catches up.

use atoll_base::{NodeId, ShardId, Time};
use atoll_coord::ReplicaStatus;
use atoll_raft::Role;

use super::node::SimNode;
use super::{CHECK_EVERY, COMPARE_EVERY, INSPECT_INTERVAL, LIVENESS_BOUND, Phase, Scrutiny, World};
use crate::check::liveness::Liveness;
use crate::client::jobs::{Job, Then};
use crate::fabric::Event;
use crate::history::{Call, KeyNumber};

impl World {
    /// Faults stop; everything is mended.
    pub(super) fn heal(&mut self) {
        self.fabric.say(format_args!("faults stop"));
        self.fabric.network.heal();
        self.fabric.network.use_profile(crate::network::NetworkProfile::CALM);
        self.shell.heal();
        let now = self.fabric.now();
        for i in 0..self.nodes.len() {
            let it = &mut self.nodes[i];
            it.paused_until = now;
            it.disk_stall = std::time::Duration::ZERO;
            it.disk.limit_capacity(u64::MAX);
            it.disk.cut_writes_short(0);
            it.disk.fail_syncs(0);
            if it.running.is_none() {
                self.boot(i);
            }
        }
        let shards = self.shell.user_shards();
        self.phase = Phase::Liveness(Liveness::new(now, LIVENESS_BOUND, shards.iter().copied()));
        for shard in shards {
            let call = Call::Put(self.record.next_value());
            self.probe(shard, call);
        }
    }

    /// Lets a closer call its shard once.
    fn probe(&mut self, shard: ShardId, call: Call) {
        let (agents, mut around) = self.around();
        let Some(closer) = agents.closers.get_mut(&shard) else { return };
        let job = closer.operation(shard, KeyNumber(0), call, &mut around);
        let number = if let Job::Operation(number) = job.0 { Some(number) } else { None };
        closer.close();
        closer.begin(shard, LIVENESS_BOUND, job, &mut around);
        if let Some(number) = number {
            self.probes.insert(shard, (number, call));
        }
    }

    /// True when the shard has answered a write and then a read; asks on until it has.
    fn has_served(&mut self, shard: ShardId) -> bool {
        let Some(&(number, call)) = self.probes.get(&shard) else { return true };
        if !self.agents.closers[&shard].is_idle() {
            return false;
        }
        match (self.record.history.is_done(number), call) {
            (true, Call::Get) => return true,
            (true, _) => self.probe(shard, Call::Get),
            (false, Call::Get) => self.probe(shard, Call::Get),
            (false, _) => {
                let call = Call::Put(self.record.next_value());
                self.probe(shard, call);
            }
        }
        false
    }

    /// Lets a closer scan its shard.
    fn look(&mut self, shard: ShardId, then: Then) {
        let (agents, mut around) = self.around();
        let Some(closer) = agents.closers.get_mut(&shard) else { return };
        let job: (Job, _) = closer.scan(shard, then, &mut around);
        closer.begin(shard, LIVENESS_BOUND, job, &mut around);
    }

    /// Looks at every node, and moves to the next phase when it is time.
    pub(super) fn inspect(&mut self) {
        self.inspections += 1;
        self.fabric.queue.after(INSPECT_INTERVAL, Event::Inspect);
        self.look_at_nodes(match self.inspections {
            n if n.is_multiple_of(CHECK_EVERY) => Scrutiny::Check,
            n if n.is_multiple_of(COMPARE_EVERY) => Scrutiny::Compare,
            _ => Scrutiny::Glance,
        });
        let now = self.fabric.now();
        match self.phase.clone() {
            Phase::Safety | Phase::Over => {}
            Phase::Liveness(mut liveness) => {
                for shard in self.shell.user_shards() {
                    if self.has_served(shard) {
                        liveness.served(shard, now);
                    }
                }
                self.observer.note(liveness.check(now));
                if liveness.is_satisfied() {
                    self.fabric.say(format_args!("all shards serve"));
                    self.agents.close();
                    self.enter(Phase::Finishing);
                } else {
                    self.phase = Phase::Liveness(liveness);
                }
            }
            Phase::Finishing => match self.agents.debt() {
                None => {
                    for shard in self.shell.user_shards() {
                        self.look(shard, Then::Close);
                    }
                    self.enter(Phase::Closing);
                }
                Some(who) => self.expect_end(&who, now),
            },
            Phase::Closing => match self.laggard_ordered() {
                None => {
                    self.look_at_nodes(Scrutiny::Check);
                    self.judge();
                    self.phase = Phase::Over;
                }
                Some(who) => self.expect_end(&who, now),
            },
        }
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_ends = self.fabric.now().after(LIVENESS_BOUND);
    }

    fn expect_end(&mut self, what: &str, now: Time) {
        if now >= self.phase_ends {
            let what = format!("{what} within {LIVENESS_BOUND:?}");
            self.observer.report("liveness", what);
        }
    }

    /// Who has not caught up; replicas that damage brought back are ordered away again.
    fn laggard_ordered(&mut self) -> Option<String> {
        let hurt = self.nodes.iter().filter(|node| node.is_hurt);
        let held = hurt.flat_map(|node| {
            node.lanes().flat_map(|lane| lane.conditions()).map(|(shard, ..)| (shard, node.id))
        });
        let back: Vec<_> = held.filter(|(shard, node)| !self.is_member(*node, *shard)).collect();
        for (shard, node) in back {
            self.agents.operator.iter_mut().for_each(|o| o.order_again(shard, node));
        }
        self.laggard()
    }

    /// Who has not caught up with the last look at its shard.
    fn laggard(&self) -> Option<String> {
        for shard in self.shell.user_shards() {
            let Some((revision, _)) = self.record.closed.get(&shard) else {
                return Some(format!("shard {shard} is not read"));
            };
            for watcher in self.agents.watchers.iter().filter(|w| w.shard() == shard) {
                if watcher.through() < *revision {
                    let through = watcher.through();
                    return Some(format!(
                        "a watcher of shard {shard} stays at revision {through} of {revision}"
                    ));
                }
            }
            for node in &self.nodes {
                for status in node.lanes().flat_map(|lane| lane.statuses()) {
                    // A witness has no revisions; it must have come so far as to be one.
                    let is_behind = match self.role_of(node.id, shard) {
                        Some(Role::Witness) => status.state != "witness",
                        _ => status.revision < *revision,
                    };
                    if status.shard == shard && is_behind && self.is_member(node.id, shard) {
                        let progress = self.progress_of(shard);
                        return Some(format!(
                            "node {} of shard {shard} stays at revision {} of {revision}: \
                             {status:?}, its leaders see {progress:?}",
                            node.id, status.revision
                        ));
                    }
                }
            }
        }
        self.leftover()
    }

    fn is_member(&self, node: NodeId, shard: ShardId) -> bool {
        let descriptor = self.shell.descriptor(shard);
        descriptor.is_none_or(|d| !d.dropped && d.members.iter().any(|m| m.node == node))
    }

    fn role_of(&self, node: NodeId, shard: ShardId) -> Option<Role> {
        let descriptor = self.shell.descriptor(shard)?;
        descriptor.members.iter().find(|m| m.node == node).map(|m| m.role)
    }

    /// A replica that should not be there any more, or one that is missing.
    fn leftover(&self) -> Option<String> {
        for node in &self.nodes {
            for (shard, ..) in node.lanes().flat_map(|lane| lane.conditions()) {
                if !self.is_member(node.id, shard) {
                    return Some(format!("node {} keeps a replica of shard {shard}", node.id));
                }
            }
        }
        None
    }

    fn progress_of(&self, shard: ShardId) -> Vec<ReplicaStatus> {
        let statuses = self.nodes.iter().flat_map(SimNode::lanes).flat_map(|lane| lane.statuses());
        statuses.filter(|s| s.shard == shard && s.state == "leader").collect()
    }
}
