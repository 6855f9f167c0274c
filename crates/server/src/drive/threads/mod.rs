//! The threads of a node.

mod abort;
pub(super) mod lane;
pub(super) mod log;
pub(super) mod upkeep;

pub(crate) use abort::abort;
