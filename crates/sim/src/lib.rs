//! The whole cluster in one thread on virtual time, and checkers that are known to bite.

pub mod check;
pub mod clock;
pub mod faults;
pub mod history;
pub mod network;
pub mod queue;
pub mod trace;
