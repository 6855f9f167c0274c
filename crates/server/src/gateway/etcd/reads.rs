//! The shortest way of linearizable reads: those that came on a connection together are handed to
//! the node's own replica together, without a task, a timer or a waiter for each, and answered by
//! the task that drives the connection.
//!
//! It is for what nearly all reads are: one whole message on the usual store, one key or a range
//! without a limit that one page holds. Whatever else is asked, or goes wrong here, takes the
//! general way with the request as it came, which also asks the leader where this node's replica
//! can't answer. A read changes nothing, so it does no harm that it is asked twice.
//!
//! Invariant: every read that was begun is answered once, by its answer, or by the general way: the
//! lane answers each by its deadline, and a queue that closes sends all of them there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_base::{Epoch, Failure};
use atoll_coord::{Answer, AnswerBody, Origin, Request, RequestBody};
use atoll_wire::etcd::etcdserverpb as pb;
use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tonic::codegen::http;

use super::direct::{Direct, Method, Whole, grpc_head, is_plain, one_message};
use super::range::Plan;
use super::space::{NEAR_TIMEOUT, Space, near};
use super::stream::{self, Asked};
use super::{Etcd, KEYSPACE_METADATA, LEADER_METADATA, check};
use crate::drive::{Attached, Batch, Hub, observe};
use crate::gateway::flight::Flying;
use crate::gateway::{GRPC_TIMEOUT, timeout_in};

/// Reads under way on a node by this way; more take the general one, where they wait for room.
const READS_MAX: usize = 4096;

/// The reads of one connection.
pub(in crate::gateway) struct Reads {
    etcd: Etcd,
    /// The usual store, once it is known.
    space: Option<Arc<Space>>,
    desk: Option<Desk>,
    /// What was begun and not handed over yet.
    batch: Vec<Request>,
    waiting: Slots<Waiting>,
    /// All connections' reads.
    count: Arc<AtomicUsize>,
    flying: Option<Flying>,
}

/// Where a connection's answers come.
struct Desk {
    origin: Origin,
    answers: mpsc::Receiver<Batch>,
}

impl Desk {
    fn open(hub: &Hub) -> Self {
        // Only the node holds the sender, so that the queue closes when it hangs up.
        let Attached { origin, answers, sender: _ } = hub.attach();
        Self { origin, answers }
    }
}

/// A read whose answer is to come.
struct Waiting {
    asked: Asked,
    plan: Plan,
}

/// Things by their numbers.
struct Slots<T> {
    all: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { all: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slots<T> {
    /// The number that what is added next gets.
    fn next(&self) -> u64 {
        self.free.last().copied().unwrap_or(self.all.len()) as u64
    }

    fn add(&mut self, it: T) {
        match self.free.pop() {
            Some(slot) => self.all[slot] = Some(it),
            None => self.all.push(Some(it)),
        }
    }

    fn take(&mut self, number: u64) -> Option<T> {
        let slot = usize::try_from(number).ok()?;
        let it = self.all.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(it)
    }

    fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }
}

impl Reads {
    pub(in crate::gateway) fn new(service: &Direct) -> Self {
        Self {
            etcd: service.etcd.clone(),
            space: None,
            desk: None,
            batch: Vec::new(),
            waiting: Slots::default(),
            count: service.reads.clone(),
            flying: None,
        }
    }

    /// Begins a read, or gives the request back.
    pub(in crate::gateway) fn begin(
        &mut self,
        mut asked: Asked,
        cx: &mut Context<'_>,
    ) -> Option<Asked> {
        if Method::named(asked.head.uri.path()) != Some(Method::Range) || !is_plain(&asked.head) {
            return Some(asked);
        }
        let Poll::Ready(Some(Ok(piece))) = asked.body.rest.poll_data(cx) else {
            return Some(asked);
        };
        let _ = asked.body.rest.flow_control().release_capacity(piece.len());
        let is_whole = asked.body.rest.is_end_stream();
        let message = if is_whole { one_message(&piece) } else { None };
        asked.body.first = Some(piece);
        let Some((space, plan, body)) = message.and_then(|m| self.plan(&asked.head, m)) else {
            return Some(asked);
        };
        if self.count.fetch_add(1, Relaxed) >= READS_MAX {
            self.count.fetch_sub(1, Relaxed);
            return Some(asked);
        }
        let hub = &space.hub;
        let origin = self.desk.get_or_insert_with(|| Desk::open(hub)).origin;
        let timeout = asked.head.headers.get(GRPC_TIMEOUT);
        let timeout = timeout.and_then(|t| timeout_in(t.as_bytes())).unwrap_or(Duration::MAX);
        self.batch.push(Request {
            origin,
            id: self.waiting.next(),
            shard: space.shard,
            epoch: Epoch::ZERO,
            deadline: hub.now().after(timeout.min(NEAR_TIMEOUT)),
            body,
        });
        self.waiting.add(Waiting { asked, plan });
        None
    }

    /// What is to be asked, where this way is for it.
    fn plan(
        &mut self,
        head: &http::request::Parts,
        message: Bytes,
    ) -> Option<(Arc<Space>, Plan, RequestBody)> {
        // A walk over the few that there are; to look each up takes longer.
        let mut names = head.headers.keys().map(http::HeaderName::as_str);
        if names.any(|name| matches!(name, KEYSPACE_METADATA | LEADER_METADATA)) {
            return None;
        }
        let wire = pb::RangeRequest::decode(message).ok()?;
        check::range(&wire).ok()?;
        if self.space.is_none() {
            self.space = self.etcd.usual_space();
        }
        let space = self.space.clone().filter(|space| space.answers_here())?;
        let plan = Plan::new(wire);
        let body = near(&plan.in_one()?)?;
        Some((space, plan, body))
    }

    /// Hands over what was begun, and answers what came; ready when something was answered.
    pub(in crate::gateway) fn poll(&mut self, service: &Direct, cx: &mut Context<'_>) -> Poll<()> {
        if !self.batch.is_empty() {
            self.flying.get_or_insert_with(|| service.flight.begin());
            self.hand_over(service);
        }
        let mut answered = Poll::Pending;
        while let Some(desk) = &mut self.desk {
            match desk.answers.poll_recv(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(batch)) => {
                    if let Some(space) = &self.space {
                        observe(&space.hub.metrics.reply, batch.left_at.elapsed());
                    }
                    batch.answers.into_iter().for_each(|answer| self.finish(answer, service));
                }
                // The node hung up.
                Poll::Ready(None) => {
                    self.detach();
                    let all = 0..self.waiting.all.len() as u64;
                    all.for_each(|number| self.give_up(number, service));
                }
            }
            answered = Poll::Ready(());
        }
        if self.waiting.len() == 0 {
            self.flying = None;
        }
        answered
    }

    fn hand_over(&mut self, service: &Direct) {
        let Some(space) = &self.space else { return };
        let batch = std::mem::take(&mut self.batch);
        let numbers: Vec<u64> = batch.iter().map(|request| request.id).collect();
        if space.hub.submit(batch).is_err() {
            numbers.into_iter().for_each(|number| self.give_up(number, service));
        }
    }

    fn take(&mut self, number: u64) -> Option<Waiting> {
        let waiting = self.waiting.take(number)?;
        self.count.fetch_sub(1, Relaxed);
        Some(waiting)
    }

    /// Leaves a read to the general way.
    fn give_up(&mut self, number: u64, service: &Direct) {
        if let Some(waiting) = self.take(number) {
            stream::spawn(service, waiting.asked);
        }
    }

    fn finish(&mut self, answer: Answer, service: &Direct) {
        let Some(Waiting { asked, plan }) = self.take(answer.id) else { return };
        let Some(space) = &self.space else { return };
        match response(space, &plan, answer.body) {
            Some(response) => {
                // It is of no interest to anybody that the caller is gone.
                let _ = Whole::new(&response).send(grpc_head(), asked.respond);
            }
            None => stream::spawn(service, asked),
        }
    }

    fn detach(&mut self) {
        if let (Some(desk), Some(space)) = (self.desk.take(), &self.space) {
            space.hub.detach(desk.origin);
        }
    }
}

impl Drop for Reads {
    fn drop(&mut self) {
        self.count.fetch_sub(self.waiting.len(), Relaxed);
        self.detach();
    }
}

/// The answer, where it is a whole one.
fn response(
    space: &Space,
    plan: &Plan,
    answer: Result<AnswerBody, Failure>,
) -> Option<pb::RangeResponse> {
    let (revision, found) = match answer {
        Ok(AnswerBody::Get { kv, revision, .. }) => (revision, kv.into()),
        Ok(AnswerBody::Range { page, newest, .. }) => (newest, plan.whole(page)?),
        Ok(_) => return None,
        Err(failure) => {
            space.refused_here(&failure);
            return None;
        }
    };
    space.saw(revision);
    Some(pb::RangeResponse { header: Some(space.header(revision)), ..plan.finish(found) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_out_anew_when_they_are_free() {
        let mut slots = Slots::default();
        let add = |slots: &mut Slots<char>, it| {
            let number = slots.next();
            slots.add(it);
            number
        };
        let numbers = ['a', 'b', 'c'].map(|it| add(&mut slots, it));
        assert_eq!((numbers, slots.len()), ([0, 1, 2], 3));
        assert_eq!((slots.take(1), slots.take(1), slots.take(7)), (Some('b'), None, None));
        assert_eq!(slots.len(), 2);
        assert_eq!((add(&mut slots, 'd'), add(&mut slots, 'e')), (1, 3));
        assert_eq!((slots.take(1), slots.take(0), slots.len()), (Some('d'), Some('a'), 2));
    }
}
