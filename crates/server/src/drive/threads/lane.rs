//! The thread that turns a lane.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use atoll_base::LaneId;
use atoll_node::{Lane, Output};

use super::abort::AbortOnPanic;
use crate::drive::clock::Clock;
use crate::drive::hub::Hub;
use crate::drive::mailbox::Taken;
use crate::drive::metrics::observe;

/// Starts the thread that turns `lane` until its queue is closed and empty.
pub(crate) fn start(lane: Lane, id: LaneId, hub: Arc<Hub>) -> std::io::Result<JoinHandle<()>> {
    let name = format!("lane-{}-{id}", hub.node);
    std::thread::Builder::new().name(name).spawn(move || run(lane, id, &hub))
}

fn run(mut lane: Lane, id: LaneId, hub: &Hub) {
    let _guard = AbortOnPanic("a lane");
    let mailbox = hub.lanes.mailbox(id);
    let mut inputs = Vec::new();
    let mut output = Output::default();
    loop {
        let timeout = lane.next_deadline().map(|at| hub.clock.until(at));
        let taken = mailbox.take(&mut inputs, timeout);
        if hub.raft_counts.is_asked(id) {
            hub.raft_counts.tell(id, lane.counters());
        }
        match taken {
            Taken::Items(waited) => observe(&hub.metrics.queue, waited),
            Taken::TimedOut => {}
            Taken::Nudged => continue,
            Taken::Closed => return,
        }
        let began = Instant::now();
        lane.step(hub.clock.now(), Clock::wall(), &mut inputs, &mut output);
        let stepped = Instant::now();
        if lane.apply() {
            observe(&hub.metrics.apply, stepped.elapsed());
        }
        lane.serve(&mut output);
        let turned = Instant::now();
        observe(&hub.metrics.lane_turn, turned - began);
        hub.metrics.turns.inc();
        carry_out(&mut output, id, hub);
        observe(&hub.metrics.lane_output, turned.elapsed());
    }
}

/// Does what a turn wants done, in the order that `Output` asks for.
fn carry_out(output: &mut Output, lane: LaneId, hub: &Hub) {
    for (to, messages) in std::mem::take(&mut output.messages) {
        hub.links.send(to, messages);
    }
    if let Some(write) = output.write.take() {
        hub.log.write(lane, write);
    }
    if !output.answers.is_empty() {
        hub.metrics.answers.inc_by(output.answers.len() as u64);
        for slow in hub.origins.route(&mut output.answers) {
            hub.lanes.origin_gone(slow);
        }
        output.answers.clear();
    }
    for took in output.replicated.drain(..) {
        observe(&hub.metrics.replicate, took);
    }
    if !output.catalog.is_empty() {
        hub.on_catalog(std::mem::take(&mut output.catalog));
    }
    if !output.dropped.is_empty() {
        hub.on_dropped(lane, std::mem::take(&mut output.dropped));
    }
    if !output.leaders.is_empty() {
        hub.on_leaders(std::mem::take(&mut output.leaders));
    }
    if let Some(request) = output.persist.take() {
        hub.upkeep.persist(lane, request);
    }
    // What the log may forget stands in the lane's writes too; the log acts on those.
    output.release.clear();
}
