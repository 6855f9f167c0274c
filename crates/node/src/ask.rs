//! Who waits for an answer.

use atoll_base::{Failure, Time};
use atoll_coord::{Answer, AnswerBody, Origin, Request};

/// A call that was taken in and not yet answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) origin: Origin,
    pub(crate) id: u64,
    pub(crate) deadline: Time,
}

impl Ask {
    pub(crate) fn of(request: &Request) -> Self {
        Self { origin: request.origin, id: request.id, deadline: request.deadline }
    }

    pub(crate) fn answer(self, body: Result<AnswerBody, Failure>) -> Answer {
        Answer { origin: self.origin, id: self.id, body }
    }
}
