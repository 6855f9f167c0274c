//! Whether the disk takes new data, as two observers see it.

use std::sync::{Mutex, PoisonError};

use atoll_base::Failure;
use atoll_node::Input;

use super::lanes::Lanes;

/// Who noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Observer {
    /// The log thread: a write found no room.
    Log,
    /// A look at the disk: the reserve was given up.
    Upkeep,
}

/// What the observers said last; lanes are told when the sum changes.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    failures: Mutex<[Option<Failure>; 2]>,
}

impl Pressure {
    /// Whether new data is refused.
    pub(crate) fn is_full(&self) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().any(Option::is_some)
    }

    /// Notes what `observer` sees and tells every lane if that changes whether there is room.
    pub(crate) fn set(&self, observer: Observer, failure: Option<Failure>, lanes: &Lanes) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failures.iter().any(Option::is_some);
        failures[observer as usize] = failure;
        let now = failures.iter().flatten().next().cloned();
        if before != now.is_some() {
            lanes.tell_all(|| Input::DiskFull(now.clone()));
        }
    }
}
