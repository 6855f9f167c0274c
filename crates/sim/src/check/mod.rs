//! Checkers: one file per property, each naming its source and each proved to catch the bug that it
//! is for.
//!
//! Two kinds. *Observers* see the run while it goes ([`election`], [`logs`], [`machines`],
//! [`cut`], [`bounds`]): what nodes send, write and apply. *Judges* see what clients saw when it
//! is over ([`linear`], [`order`], [`effects`], [`reads`], [`watching`], [`bank`], [`holding`],
//! [`importing`], [`lists`], [`liveness`]). A judge trusts nothing that the cluster says about
//! itself without comparing it to what it told somebody else.

use std::fmt;

pub mod bank;
pub mod bounds;
pub mod cut;
pub mod effects;
pub mod election;
pub mod holding;
pub mod importing;
pub mod linear;
pub mod lists;
pub mod liveness;
pub mod logs;
pub mod machines;
pub mod order;
pub mod reads;
pub mod watching;

/// A property that does not hold, and what shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The checker's name.
    pub checker: &'static str,
    /// What was seen, with ids and values.
    pub what: String,
}

impl Violation {
    /// A violation found by `checker`.
    pub fn new(checker: &'static str, what: impl Into<String>) -> Self {
        Self { checker, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.what)
    }
}
