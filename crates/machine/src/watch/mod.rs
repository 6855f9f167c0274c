//! Watches, fed from apply.

mod event;

pub use event::{Event, EventKind};
