//! One call, pursued over nodes and failures until it is answered, refused or out of time.
//!
//! It does what the client library promises: the same command id on every attempt, the leader hint
//! followed, backoff as told, a deadline; and it keeps book of whether any attempt may have
//! happened.

use std::time::Duration;

use atoll_base::{ClientId, Code, Failure, Happened, NodeId, Retry, Rng, Sequence, ShardId, Time};
use atoll_coord::{AnswerBody, Origin, RequestBody};

/// How long an attempt waits before it is given up, at least and at most.
const ATTEMPT_MS: (u64, u64) = (150, 1_500);

/// A call on its way.
#[derive(Debug)]
pub(crate) struct Pursuit {
    pub(crate) shard: ShardId,
    pub(crate) body: RequestBody,
    pub(crate) deadline: Time,
    /// The shard has forgotten who calls.
    pub(crate) is_forgotten: bool,
    /// A mutating call's place among those of its client and shard.
    pub(crate) sequence: Option<(ClientId, Sequence)>,
    /// A mutating call that may happen twice.
    pub(crate) is_anonymous: bool,
    /// The only node to ask; `None`: whoever leads.
    pub(crate) node: Option<NodeId>,
    /// When the newest attempt left.
    pub(crate) attempted_at: Time,
    /// The attempt under way: its request id and connection.
    pub(crate) attempt: Option<(u64, Origin, NodeId)>,
    tries: u32,
    may_have_happened: bool,
}

/// How a call ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Answered.
    Answered(Box<AnswerBody>),
    /// It had no effect.
    Refused(Failure),
    /// Nobody knows.
    Unknown,
}

/// What to do next about a call.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing more.
    End(End),
    /// Try again after a while, at this node if it is named.
    Retry(Duration, Option<NodeId>),
}

impl Pursuit {
    pub(crate) fn new(shard: ShardId, body: RequestBody, deadline: Time) -> Self {
        Self {
            shard,
            body,
            deadline,
            sequence: None,
            is_forgotten: false,
            is_anonymous: false,
            node: None,
            attempted_at: Time::ZERO,
            attempt: None,
            tries: 0,
            may_have_happened: false,
        }
    }

    /// The same call without an id.
    pub(crate) fn anonymous(self) -> Self {
        Self { is_anonymous: true, ..self }
    }

    /// The same call to this node only.
    pub(crate) fn to(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// A new attempt begins; how long it may take.
    pub(crate) fn begin(&mut self, attempt: (u64, Origin, NodeId), rng: &mut Rng) -> Duration {
        self.attempt = Some(attempt);
        self.tries += 1;
        Duration::from_millis(rng.range(ATTEMPT_MS.0, ATTEMPT_MS.1))
    }

    /// The attempt was answered.
    pub(crate) fn on_answer(
        &mut self,
        now: Time,
        body: Result<AnswerBody, Failure>,
        rng: &mut Rng,
    ) -> Next {
        self.attempt = None;
        let failure = match body {
            Ok(body) => return Next::End(End::Answered(Box::new(body))),
            Err(failure) => failure,
        };
        self.is_forgotten |= failure.code == Code::SessionExpired;
        match failure.happened {
            Happened::No => {}
            Happened::Maybe => self.may_have_happened = true,
            Happened::Yes => return Next::End(End::Unknown),
        }
        let wait = match failure.retry {
            Retry::Never => return self.give_up(Some(failure)),
            Retry::Now => Duration::from_millis(u64::from(self.tries.min(20))),
            Retry::After(wait) => wait,
        };
        let wait = wait + Duration::from_micros(rng.below(5_000));
        if now.after(wait) >= self.deadline {
            return self.give_up(Some(failure));
        }
        Next::Retry(wait, failure.leader)
    }

    /// The attempt was not answered in time, or its connection broke.
    pub(crate) fn on_silence(&mut self, now: Time) -> Next {
        self.attempt = None;
        self.may_have_happened = true;
        if now >= self.deadline {
            return self.give_up(None);
        }
        Next::Retry(Duration::from_millis(1), None)
    }

    fn give_up(&self, failure: Option<Failure>) -> Next {
        match failure {
            Some(failure) if !self.may_have_happened => Next::End(End::Refused(failure)),
            _ => Next::End(End::Unknown),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pursuit() -> Pursuit {
        Pursuit::new(ShardId(2), RequestBody::Status, Time::from_millis(1_000))
    }

    fn end(next: Next) -> &'static str {
        match next {
            Next::End(End::Answered(_)) => "answered",
            Next::End(End::Refused(_)) => "refused",
            Next::End(End::Unknown) => "unknown",
            Next::Retry(..) => "retry",
        }
    }

    #[test]
    fn a_refusal_counts_only_when_no_attempt_may_have_happened() {
        let mut rng = Rng::new(1);
        let never = || Err(Failure::new(Code::InvalidArgument, "no"));
        assert_eq!(end(pursuit().on_answer(Time::ZERO, never(), &mut rng)), "refused");
        let mut silent = pursuit();
        assert_eq!(end(silent.on_silence(Time::ZERO)), "retry");
        assert_eq!(end(silent.on_answer(Time::ZERO, never(), &mut rng)), "unknown");
        let mut maybe = pursuit();
        let failure = Err(Failure::new(Code::Indeterminate, "lost"));
        assert_eq!(end(maybe.on_answer(Time::ZERO, failure, &mut rng)), "retry");
        assert_eq!(end(maybe.on_answer(Time::ZERO, never(), &mut rng)), "unknown");
    }

    #[test]
    fn the_deadline_ends_it_and_the_hint_is_followed() {
        let mut rng = Rng::new(1);
        let not_leader = || Err(Failure::new(Code::NotLeader, "no").with_leader(Some(NodeId(3))));
        let next = pursuit().on_answer(Time::ZERO, not_leader(), &mut rng);
        assert!(matches!(next, Next::Retry(_, Some(NodeId(3)))), "{next:?}");
        let late = Time::from_millis(1_000);
        assert_eq!(end(pursuit().on_answer(late, not_leader(), &mut rng)), "refused");
        assert_eq!(end(pursuit().on_silence(late)), "unknown");
    }
}
