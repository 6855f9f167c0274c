//! Callers that wait for a lock, and those that observe who leads an election.
//!
//! A call that asks for a lock is answered when its request holds it or has left the queue. The
//! request itself is in the replicated state: a caller that asks again, here or at the next leader,
//! finds its place, so nothing is lost when an answer is not given.

use std::collections::BTreeMap;

use atoll_base::{Code, Failure, Happened, Time};
use atoll_coord::{Answer, AnswerBody, Origin, WATCH_CREDIT};
use atoll_machine::{
    Claim, Effect, Leadership, Left, LockReply, Place, Reply, ShardMachine, Token,
};
use bytes::Bytes;

use crate::ask::Ask;
use crate::turn::Turn;

struct Observer {
    credit: u32,
    /// The newest that its reader was not ready for; what came before it is skipped.
    news: Option<Option<Leadership>>,
}

/// Who waits at one shard's leader.
#[derive(Default)]
pub(crate) struct Claims {
    waiting: BTreeMap<Claim, Vec<Ask>>,
    /// Said to wait by a reply: where they stand is to be looked up, a kept reply is old.
    fresh: Vec<Claim>,
    observers: BTreeMap<(Bytes, Origin, u64), Observer>,
    observed: BTreeMap<(Origin, u64), Bytes>,
}

impl Claims {
    /// Calls that wait for a lock.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// A call is answered when its request is through.
    pub(crate) fn wait(&mut self, claim: Claim, ask: Ask) {
        self.fresh.push(claim.clone());
        self.waiting.entry(claim).or_default().push(ask);
    }

    /// Answers those whose requests are through already.
    pub(crate) fn look_up(&mut self, machine: &ShardMachine, turn: &mut Turn) {
        for claim in std::mem::take(&mut self.fresh) {
            match machine.claim_place(&claim) {
                Place::Waits => {}
                Place::Holds(token) => self.acquired(&claim, token, turn),
                Place::Nowhere => {
                    let (session, request) = (claim.session, claim.request);
                    let lock = claim.lock.escape_ascii();
                    let text = format!(
                        "request {request} of session {session} is no longer with lock {lock}"
                    );
                    self.refuse(&claim, &Failure::new(Code::NotFound, text), turn);
                }
            }
        }
    }

    fn acquired(&mut self, claim: &Claim, token: Token, turn: &mut Turn) {
        for ask in self.waiting.remove(claim).unwrap_or_default() {
            let reply = Reply::Lock(LockReply::Acquired { token });
            turn.answer(ask, AnswerBody::Command(reply));
        }
    }

    fn refuse(&mut self, claim: &Claim, failure: &Failure, turn: &mut Turn) {
        for ask in self.waiting.remove(claim).unwrap_or_default() {
            turn.refuse(ask, failure.clone());
        }
    }

    /// Tells whom it concerns.
    pub(crate) fn tell(&mut self, effect: Effect, turn: &mut Turn) {
        match effect {
            Effect::Granted { claim, token, .. } => self.acquired(&claim, token, turn),
            Effect::LeftQueue { claim, why, .. } => {
                self.refuse(&claim, &left(&claim, why), turn);
            }
            Effect::Leads { lock, leadership } => self.news(&lock, &leadership, turn),
            _ => {}
        }
    }

    /// Starts to observe; the caller is told what is so now, and then every change.
    pub(crate) fn observe(&mut self, ask: Ask, lock: &Bytes, max: usize) -> Result<(), Failure> {
        if self.observed.len() >= max {
            let text = format!("{max} calls observe elections, which is the limit");
            return Err(Failure::new(Code::Overloaded, text));
        }
        if self.observed.insert((ask.origin, ask.id), lock.clone()).is_some() {
            let text = format!("call {} observes an election already", ask.id);
            return Err(Failure::new(Code::AlreadyExists, text));
        }
        let observer = Observer { credit: WATCH_CREDIT - 1, news: None };
        self.observers.insert((lock.clone(), ask.origin, ask.id), observer);
        Ok(())
    }

    fn news(&mut self, lock: &Bytes, leadership: &Option<Leadership>, turn: &mut Turn) {
        let from = (lock.clone(), Origin(0), 0);
        for ((of, origin, call), observer) in self.observers.range_mut(from..) {
            if of != lock {
                break;
            }
            if observer.credit == 0 {
                observer.news = Some(leadership.clone());
                continue;
            }
            observer.credit -= 1;
            let body = Ok(AnswerBody::Observed(leadership.clone()));
            turn.answers.push(Answer { origin: *origin, id: *call, body });
        }
    }

    /// The reader took one piece of news.
    pub(crate) fn credit(&mut self, origin: Origin, call: u64, turn: &mut Turn) {
        let Some(lock) = self.observed.get(&(origin, call)) else { return };
        let Some(observer) = self.observers.get_mut(&(lock.clone(), origin, call)) else { return };
        match observer.news.take() {
            Some(leadership) => {
                let body = Ok(AnswerBody::Observed(leadership));
                turn.answers.push(Answer { origin, id: call, body });
            }
            None => observer.credit = (observer.credit + 1).min(WATCH_CREDIT),
        }
    }

    pub(crate) fn cancel(&mut self, origin: Origin, call: u64) {
        if let Some(lock) = self.observed.remove(&(origin, call)) {
            self.observers.remove(&(lock, origin, call));
        }
    }

    /// The caller went away. What it asked for stays in the queue, for as long as its session
    /// lives.
    pub(crate) fn origin_gone(&mut self, origin: Origin) {
        self.waiting.retain(|_, asks| {
            asks.retain(|ask| ask.origin != origin);
            !asks.is_empty()
        });
        self.observed.retain(|(of, _), _| *of != origin);
        self.observers.retain(|(_, of, _), _| *of != origin);
    }

    /// Answers those whose deadline has passed; their requests still wait.
    pub(crate) fn expire(&mut self, turn: &mut Turn) {
        let text =
            "deadline passed in the queue of a lock; asked again, the request keeps its place";
        let late = Failure::new(Code::DeadlineExceeded, text);
        let now = turn.now;
        let mut expired = Vec::new();
        self.waiting.retain(|_, asks| {
            expired.extend(asks.iter().filter(|ask| ask.deadline <= now));
            asks.retain(|ask| ask.deadline > now);
            !asks.is_empty()
        });
        for ask in expired {
            turn.refuse(ask, late.clone());
        }
    }

    /// Another leader knows where they stand.
    pub(crate) fn leadership_lost(&mut self, turn: &mut Turn) {
        self.fresh.clear();
        self.observed.clear();
        if self.waiting.is_empty() && self.observers.is_empty() {
            return;
        }
        let text = "leadership changed while the request waited for a lock; it keeps its place";
        let maybe = Failure::new(Code::Indeterminate, text);
        for ask in std::mem::take(&mut self.waiting).into_values().flatten() {
            turn.refuse(ask, maybe.clone());
        }
        let gone = Failure::new(Code::NotLeader, "this replica does not lead any more");
        for (_, origin, id) in std::mem::take(&mut self.observers).into_keys() {
            turn.refuse(Ask { origin, id, deadline: Time::MAX }, gone.clone());
        }
    }
}

/// Why a request left the queue, as a refusal.
fn left(claim: &Claim, why: Left) -> Failure {
    let (code, reason) = match why {
        Left::WaitOver => (Code::DeadlineExceeded, "waited as long as it wanted to"),
        Left::Cancelled => (Code::PreconditionFailed, "was called back"),
        Left::SessionEnded => (Code::NotFound, "lost its session"),
        Left::LimitShrunk => (Code::InvalidArgument, "asks for more permits than there are now"),
    };
    let (session, request, lock) = (claim.session, claim.request, claim.lock.escape_ascii());
    let text = format!("request {request} of session {session} for lock {lock} {reason}");
    Failure::new(code, text).with_happened(Happened::No)
}
