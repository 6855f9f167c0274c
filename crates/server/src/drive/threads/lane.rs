//! Who turns a lane: a thread of its own, or a task on the thread of the connections (setting
//! `one_thread`).
//!
//! As a task, it takes what connections read and leaves what they send without waking another
//! thread, which costs more than a small turn. It runs after the connections that were ready with
//! it, so it takes what they all read at once, and gives way after each turn.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use atoll_base::LaneId;
use atoll_node::{Input, Lane, Output};

use super::abort::AbortOnPanic;
use super::alarm::Alarm;
use super::running::{Place, Running};
use crate::drive::clock::Clock;
use crate::drive::hub::Hub;
use crate::drive::mailbox::Taken;
use crate::drive::metrics::observe;

/// Starts to turn `lane` until its queue is closed and empty.
pub(crate) fn start(
    lane: Lane,
    id: LaneId,
    hub: Arc<Hub>,
    place: Place,
) -> std::io::Result<Running> {
    let name = format!("lane-{}-{id}", hub.node);
    let turner = Turner { lane, id, hub, inputs: Vec::new(), output: Output::default() };
    match place {
        Place::Task => Ok(Running::Task(tokio::spawn(turner.run_as_task()))),
        Place::Thread => Running::thread(name, move || turner.run()),
    }
}

struct Turner {
    lane: Lane,
    id: LaneId,
    hub: Arc<Hub>,
    inputs: Vec<Input>,
    output: Output,
}

impl Turner {
    fn run(mut self) {
        loop {
            let timeout = self.patience();
            let mailbox = self.hub.lanes.mailbox(self.id);
            let taken = mailbox.take(&mut self.inputs, timeout);
            if self.turn(taken) == Then::End {
                return;
            }
        }
    }

    async fn run_as_task(mut self) {
        let mut alarm = Alarm::new();
        loop {
            let until = self.patience().map(|patience| Instant::now() + patience);
            let taken = poll_fn(|context| {
                let mailbox = self.hub.lanes.mailbox(self.id);
                match mailbox.poll_take(context, &mut self.inputs) {
                    Poll::Ready(taken) => Poll::Ready(taken),
                    Poll::Pending => alarm.poll(until, context).map(|()| Taken::TimedOut),
                }
            });
            let taken = taken.await;
            if self.turn(taken) == Then::End {
                return;
            }
            if self.patience() == Some(Duration::ZERO)
                || self.hub.lanes.mailbox(self.id).has_waiting()
            {
                tokio::task::yield_now().await;
            }
        }
    }

    /// How long the lane may be left alone.
    fn patience(&self) -> Option<Duration> {
        self.lane.next_deadline().map(|at| self.hub.clock.until(at))
    }

    /// One turn with what was taken.
    fn turn(&mut self, taken: Taken) -> Then {
        let _guard = AbortOnPanic("a lane");
        let Self { lane, id, hub, inputs, output } = self;
        if hub.raft_counts.is_asked(*id) {
            hub.raft_counts.tell(*id, lane.counters());
        }
        match taken {
            Taken::Items(waited) => observe(&hub.metrics.queue, waited),
            Taken::TimedOut => {}
            Taken::Nudged => return Then::GoOn,
            Taken::Closed => return Then::End,
        }
        let began = Instant::now();
        lane.step(hub.clock.now(), Clock::wall(), inputs, output);
        let stepped = Instant::now();
        if lane.apply() {
            observe(&hub.metrics.apply, stepped.elapsed());
        }
        lane.serve(output);
        let turned = Instant::now();
        observe(&hub.metrics.lane_turn, turned - began);
        hub.metrics.turns.inc();
        carry_out(output, *id, hub);
        observe(&hub.metrics.lane_output, turned.elapsed());
        Then::GoOn
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Then {
    GoOn,
    End,
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
