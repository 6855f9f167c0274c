//! Carries the schedule's faults out, and mends them.

use std::time::Duration;

use atoll_base::{LaneId, NodeId, Time};
use atoll_coord::{Origin, Request, RequestBody};
use atoll_node::Input;
use atoll_storage::{Disk, Location};

use super::log::log_dir;
use super::{World, index};
use crate::fabric::Event;
use crate::faults::{Damage, Direction, Fault, Planned, Reach, Target};
use crate::moment::Moment;
use crate::network::{LinkOrder, NetworkProfile, Place};

/// Bytes that a full disk has left.
const ROOM_BYTES: u64 = 1_000;
/// Where the records of a segment begin.
const RECORDS_FROM: u64 = 64;
/// Bytes of a short lost stretch.
const LOST_BYTES_MAX: u64 = 700;

/// Where a fault is that waits for a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// It waits.
    Open,
    /// The moment came, and was about this node.
    Came(NodeId),
    /// It has struck, or will not any more.
    Over,
}

impl World {
    /// A fault's time has come: it strikes, or waits for its moment.
    pub(super) fn strike_or_wait(&mut self, i: usize) {
        let Planned { from, until, cue, .. } = self.schedule.faults[i];
        let Some(cue) = cue else { return self.strike(i, until) };
        let came = match self.waits.get(&i).copied() {
            None => {
                self.waits.insert(i, Wait::Open);
                self.fabric.queue.after(cue.patience, Event::Strike(i));
                return self.look_out();
            }
            Some(Wait::Over) => return,
            Some(Wait::Open) => None,
            Some(Wait::Came(node)) => Some(node),
        };
        self.waits.insert(i, Wait::Over);
        self.look_out();
        if !self.is_healed() {
            self.actor = came;
            self.strike(i, self.fabric.now().after(until.since(from)).min(self.healed));
            self.actor = None;
        }
    }

    /// Who waits for this moment strikes after its lag.
    pub(super) fn on_moment(&mut self, moment: Moment, node: NodeId) {
        for (i, wait) in &mut self.waits {
            let cue = self.schedule.faults[*i].cue.filter(|cue| cue.moment == moment);
            if let Some(cue) = cue.filter(|_| *wait == Wait::Open) {
                *wait = Wait::Came(node);
                self.fabric.queue.after(cue.lag, Event::Strike(*i));
            }
        }
        self.look_out();
    }

    fn look_out(&mut self) {
        let open = self.waits.iter().filter(|(_, wait)| **wait == Wait::Open);
        let cues = open.filter_map(|(i, _)| self.schedule.faults[*i].cue);
        self.observer.lookout.look_out(cues.map(|cue| cue.moment));
    }

    fn strike(&mut self, i: usize, until: Time) {
        let planned = self.schedule.faults[i].clone();
        let now = self.fabric.now();
        self.fabric.say(format_args!("fault until {until:?}: {:?}", planned.fault));
        let extra = until.since(now);
        match planned.fault {
            Fault::Partition { side } => {
                let (left, right): (Vec<_>, Vec<_>) =
                    self.places().into_iter().partition(|place| match place {
                        Place::Node(node) => side & (1 << index(*node)) != 0,
                        Place::Client(_) => false,
                    });
                self.fabric.network.part(&left, &right);
            }
            Fault::Isolate { target, clients } => self.isolate(target, clients),
            Fault::OneWay { target, direction } => self.cut_one_way(target, direction),
            Fault::Ring => self.cut_to_ring(),
            Fault::Bridge { middle } => self.cut_to_bridge(middle),
            Fault::SlowLink { target, extra } => {
                let node = self.resolve(target);
                for other in self.places() {
                    self.fabric.network.slow_down(Place::Node(node), other, extra);
                    self.fabric.network.slow_down(other, Place::Node(node), extra);
                }
            }
            Fault::Storm => {
                let storm = NetworkProfile {
                    tail_ppm: 100_000,
                    loss_ppm: 150_000,
                    duplicate_ppm: 100_000,
                    order: LinkOrder::Free,
                    ..self.shell.shape.network
                };
                self.fabric.network.use_profile(storm);
            }
            Fault::Crash { target, damage } => {
                let node = self.resolve(target);
                self.power_off(node, extra);
                self.hurt(node, damage);
            }
            Fault::Rot { target } => {
                let node = self.resolve(target);
                self.hurt(node, Damage::BitFlip);
            }
            Fault::Blackout => {
                for i in 0..self.nodes.len() {
                    let delay = Duration::from_millis(self.rng.below(300));
                    self.power_off(self.nodes[i].id, extra + delay);
                }
            }
            Fault::Pause { target } => {
                let node = self.resolve(target);
                self.nodes[index(node)].paused_until = until;
            }
            Fault::WallJump { target, by_ms } => {
                let node = self.resolve(target);
                self.nodes[index(node)].clock.jump(by_ms);
            }
            Fault::DiskStall { target, extra } => {
                let node = self.resolve(target);
                self.nodes[index(node)].disk_stall = extra;
            }
            Fault::DiskFull { target, short_writes } => {
                let node = self.resolve(target);
                self.fill_disk(node, short_writes);
            }
            Fault::SyncFails { target } => {
                let node = self.resolve(target);
                self.nodes[index(node)].disk.fail_syncs(1);
            }
            Fault::Transfer { shard, to } => self.hand_over(shard, to),
        }
        self.fabric.queue.at(until, Event::Mend(i));
    }

    fn fill_disk(&self, node: NodeId, short_writes: u64) {
        let disk = &self.nodes[index(node)].disk;
        // It may be full already.
        disk.limit_capacity(u64::MAX);
        let used = u64::MAX - disk.free_bytes(&log_dir()).unwrap_or(0);
        disk.limit_capacity(used + ROOM_BYTES);
        disk.cut_writes_short(short_writes);
    }

    /// Ends a fault. Network faults all end together: overlapping cuts would be hard to follow.
    pub(super) fn mend(&mut self, i: usize) {
        let planned = self.schedule.faults[i].clone();
        match planned.fault {
            Fault::Partition { .. }
            | Fault::Isolate { .. }
            | Fault::OneWay { .. }
            | Fault::Ring
            | Fault::Bridge { .. }
            | Fault::SlowLink { .. } => self.fabric.network.heal(),
            Fault::Storm if !self.is_healed() => {
                self.fabric.network.use_profile(self.shell.shape.network);
            }
            Fault::DiskStall { .. } => {
                self.nodes.iter_mut().for_each(|node| node.disk_stall = Duration::ZERO);
            }
            Fault::DiskFull { .. } => {
                for node in &self.nodes {
                    node.disk.limit_capacity(u64::MAX);
                    node.disk.cut_writes_short(0);
                }
            }
            Fault::SyncFails { .. } => self.nodes.iter().for_each(|node| node.disk.fail_syncs(0)),
            _ => {}
        }
    }

    fn is_healed(&self) -> bool {
        self.fabric.now() >= self.healed
    }

    fn places(&self) -> Vec<Place> {
        self.nodes.iter().map(|node| Place::Node(node.id)).collect()
    }

    fn client_places(&self) -> Vec<Place> {
        (0..self.agents.count()).map(Place::Client).collect()
    }

    /// Who is meant, now.
    fn resolve(&mut self, target: Target) -> NodeId {
        match target {
            Target::Node(i) => self.nodes[i].id,
            Target::Actor => match self.actor {
                Some(node) => node,
                None => self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id,
            },
            Target::LeaderOf(i) => {
                let shard = self.shards_all()[i];
                let leads = |node: &&super::SimNode| node.lanes().any(|lane| lane.leads(shard));
                let leader = self.nodes.iter().find(leads).map(|node| node.id);
                let any = self.nodes[self.rng.below(self.nodes.len() as u64) as usize].id;
                leader.unwrap_or(any)
            }
        }
    }

    fn isolate(&mut self, target: Target, clients: Reach) {
        let node = Place::Node(self.resolve(target));
        let mut others = self.places();
        if clients == Reach::Closed {
            others.extend(self.client_places());
        }
        others.retain(|place| *place != node);
        self.fabric.network.part(&[node], &others);
    }

    fn cut_one_way(&mut self, target: Target, direction: Direction) {
        let node = Place::Node(self.resolve(target));
        for other in self.places() {
            match direction {
                Direction::Outgoing => self.fabric.network.cut(node, other),
                Direction::Incoming => self.fabric.network.cut(other, node),
            }
        }
    }

    fn cut_to_ring(&mut self) {
        let n = self.nodes.len();
        for a in 0..n {
            for b in a + 1..n {
                let neighbours = b == a + 1 || (a == 0 && b == n - 1);
                if !neighbours {
                    let (a, b) = (self.nodes[a].id, self.nodes[b].id);
                    self.fabric.network.part(&[Place::Node(a)], &[Place::Node(b)]);
                }
            }
        }
    }

    fn cut_to_bridge(&mut self, middle: usize) {
        let mut others: Vec<Place> = self.places();
        others.remove(middle);
        let right = others.split_off(others.len() / 2);
        self.fabric.network.part(&others, &right);
    }

    fn power_off(&mut self, node: NodeId, off: Duration) {
        self.crash(index(node));
        let life = self.nodes[index(node)].life;
        self.fabric.queue.after(off, Event::Boot { node, life });
    }

    /// Damages what was durable in a node's log before its last write, on few nodes only: data that
    /// a majority has lost is lost.
    fn hurt(&mut self, node: NodeId, damage: Damage) {
        let hurt = self.nodes.iter().filter(|node| node.is_hurt).count();
        let it = &mut self.nodes[index(node)];
        if !it.is_hurt && hurt >= self.hurt_max {
            return;
        }
        let old = it.running.as_ref().and_then(|running| running.log.older()).or(it.old_entry);
        let Some(Location { segment, offset, len }) = old else { return };
        let path = log_dir().join(format!("{segment:016x}.seg"));
        let (at, done) = match damage {
            Damage::None => return,
            Damage::BitFlip => {
                let at = u64::from(offset) + self.rng.below(u64::from(len));
                (at, it.disk.flip_bit(&path, at, self.rng.below(8) as u8).is_ok())
            }
            Damage::LostStretch => {
                // Now and then all that the segment holds up to there.
                let end = u64::from(offset) + self.rng.below(u64::from(len));
                let all = self.rng.chance(1, 3);
                let at = if all { RECORDS_FROM } else { self.rng.range(RECORDS_FROM, end + 1) };
                let most = if all { u64::MAX } else { self.rng.range(1, LOST_BYTES_MAX) };
                let garbage = vec![0xee; (end - at).min(most) as usize];
                let is_there = it.disk.contents(&path).is_ok();
                (at, is_there && it.disk.overwrite(&path, at, &garbage).is_ok())
            }
        };
        if done {
            it.is_hurt = true;
            let path = path.display();
            self.fabric.say(format_args!("n{node}: {damage:?} in {path} at {at}"));
        }
    }

    fn hand_over(&mut self, shard: usize, to: usize) {
        let shard = self.shards_all()[shard];
        let to = self.nodes[to].id;
        for i in 0..self.nodes.len() {
            let request = Request {
                origin: Origin(u64::MAX),
                id: self.fabric.now().0,
                shard,
                epoch: atoll_base::Epoch::ZERO,
                deadline: Time::MAX,
                body: RequestBody::Transfer(to),
            };
            let lane: LaneId = self.nodes[i].lane_of(shard);
            self.nodes[i].give(lane, Input::Requests(vec![request]), &mut self.fabric);
        }
    }
}
