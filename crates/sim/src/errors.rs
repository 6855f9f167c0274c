//! Lines of the product's log that are errors: a simulated run fails on one that nothing explains.
//!
//! A subscriber for the thread of a run keeps them; whatever else the process logs is untouched.

use std::cell::RefCell;
use std::fmt::Write;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

thread_local! {
    static ERRORS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` while errors logged on this thread are kept.
pub(crate) fn kept_during<R>(f: impl FnOnce() -> R) -> R {
    ERRORS.take();
    tracing::subscriber::with_default(Keeper, f)
}

/// The first error since the last call, if there was one.
pub(crate) fn take_first() -> Option<String> {
    ERRORS.with_borrow_mut(|errors| {
        let first = errors.first_mut().map(std::mem::take);
        errors.clear();
        first
    })
}

struct Keeper;

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        ERRORS.with_borrow_mut(|errors| errors.push(line.0));
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let gap = if self.0.is_empty() { "" } else { ", " };
        let name = field.name();
        // A string takes what is written to it.
        let _ = match name {
            "message" => write!(self.0, "{gap}{value:?}"),
            _ => write!(self.0, "{gap}{name} {value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_kept_and_warnings_are_not() {
        kept_during(|| {
            tracing::warn!("not this");
            tracing::error!(shard = 7, "replica can't be made");
            tracing::error!("nor this");
        });
        assert_eq!(take_first().as_deref(), Some("replica can't be made, shard 7"));
        assert_eq!(take_first(), None);
    }
}
