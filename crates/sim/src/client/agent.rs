//! Everybody who calls nodes hears the same of the network: timers that ring, streams that break,
//! answers.

use atoll_base::NodeId;
use atoll_coord::{Answer, Origin};

use super::Around;
use super::desk::{Desk, Fate};
use crate::fabric::Token;

/// Somebody whom events find by a number.
pub(crate) trait Agent {
    /// A timer rings.
    fn on_timer(&mut self, token: Token, around: &mut Around<'_>);
    /// A stream broke.
    fn on_broken(&mut self, node: NodeId, origin: Origin, around: &mut Around<'_>);
    /// An answer arrives.
    fn on_answer(&mut self, answer: Answer, around: &mut Around<'_>);
}

/// An agent whose calls go over a desk.
pub(crate) trait Caller {
    /// What a slot of the desk is busy with.
    type Job;
    /// The desk.
    fn desk(&mut self) -> &mut Desk<Self::Job>;
    /// Goes on after an event.
    fn settle(&mut self, fate: Fate<Self::Job>, around: &mut Around<'_>);
}

impl<C: Caller> Agent for C {
    fn on_timer(&mut self, token: Token, around: &mut Around<'_>) {
        let fate = self.desk().on_timer(token, around);
        self.settle(fate, around);
    }

    fn on_broken(&mut self, node: NodeId, origin: Origin, around: &mut Around<'_>) {
        for fate in self.desk().on_broken(node, origin, around) {
            self.settle(fate, around);
        }
    }

    fn on_answer(&mut self, answer: Answer, around: &mut Around<'_>) {
        let fate = self.desk().on_answer(answer, around);
        self.settle(fate, around);
    }
}
