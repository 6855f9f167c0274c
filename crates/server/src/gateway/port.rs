//! This node as in-process callers see it: the same requests and answers as over a session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_base::{Epoch, Failure, ShardId, Time};
use atoll_client::link::{Answers, Port};
use atoll_coord::{Answer, AnswerBody, Origin, Request, RequestBody};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use crate::drive::{Attached, Hub, observe};

/// The way in for in-process clients.
pub(super) struct NodePort {
    hub: Arc<Hub>,
    /// Watches and their shards, by call.
    watches: Arc<Mutex<Watches>>,
}

type Watches = BTreeMap<(Origin, u64), ShardId>;

fn lock(watches: &Mutex<Watches>) -> MutexGuard<'_, Watches> {
    watches.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodePort {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        Self { hub, watches: Arc::default() }
    }
}

impl Port for NodePort {
    fn attach(&self) -> (Origin, Answers) {
        let Attached { origin, answers, sender: _ } = self.hub.attach();
        let (hub, watches) = (self.hub.clone(), self.watches.clone());
        let answers = ReceiverStream::new(answers).map(move |batch| {
            observe(&hub.metrics.reply, batch.left_at.elapsed());
            let credits = credits(&batch.answers, &watches, hub.now());
            // Events that are handed on make room for others.
            if !credits.is_empty() {
                hub.credit(credits);
            }
            batch.answers
        });
        // Only the node holds a sender, so that the queue closes when it hangs up.
        (origin, Box::pin(answers))
    }

    fn detach(&self, origin: Origin) {
        lock(&self.watches).retain(|(owner, _), _| *owner != origin);
        self.hub.detach(origin);
    }

    fn submit(&self, requests: Vec<Request>) -> Result<(), Failure> {
        for request in &requests {
            if request.body.keeps_coming() {
                lock(&self.watches).insert((request.origin, request.id), request.shard);
            }
            if let RequestBody::CancelWatch { watch } = request.body {
                lock(&self.watches).remove(&(request.origin, watch));
            }
        }
        self.hub.submit(requests)
    }

    fn now(&self) -> Time {
        self.hub.now()
    }
}

fn credits(batch: &[Answer], watches: &Mutex<Watches>, now: Time) -> Vec<Request> {
    let mut credits = Vec::new();
    for answer in batch {
        if let Ok(AnswerBody::Watch(_) | AnswerBody::Observed(_)) = &answer.body
            && let Some(shard) = lock(watches).get(&(answer.origin, answer.id))
        {
            credits.push(Request {
                origin: answer.origin,
                id: answer.id,
                shard: *shard,
                epoch: Epoch::ZERO,
                deadline: now,
                body: RequestBody::WatchCredit { watch: answer.id },
            });
        }
    }
    credits
}
