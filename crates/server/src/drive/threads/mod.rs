//! The threads of a node, and the tasks that stand for them where there is only one.

mod abort;
mod alarm;
pub(super) mod lane;
pub(super) mod log;
mod running;
pub(super) mod upkeep;

pub(crate) use abort::abort;
pub(super) use running::{Place, Running};
