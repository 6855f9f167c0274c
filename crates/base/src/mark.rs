//! Marks on rare branches, so that a simulation can tell which of them its seeds reached.
//!
//! `reached!("catch-up by snapshot")` in a branch costs nothing unless the crate is built with the
//! feature `marks` (the simulator asks for it), and then a look at one thread-local flag, unless
//! the thread counts ([`start`]). Marks decide nothing: code that reads them back would be
//! different code under test.

/// Says that this branch was taken. The name is a lower-case phrase, unique in the workspace.
#[macro_export]
macro_rules! reached {
    ($name:literal) => {
        $crate::mark::hit($name)
    };
}

pub use counting::{hit, start, take};

#[cfg(feature = "marks")]
mod counting {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    thread_local! {
        static COUNTS: Cell<bool> = const { Cell::new(false) };
        static HITS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
    }

    /// Counts one more visit of `name` on this thread, if it counts. Use
    /// [`reached!`](crate::reached).
    #[inline]
    pub fn hit(name: &'static str) {
        if COUNTS.get() {
            count(name);
        }
    }

    #[cold]
    fn count(name: &'static str) {
        HITS.with_borrow_mut(|hits| *hits.entry(name).or_default() += 1);
    }

    /// This thread counts from now on, from nothing.
    pub fn start() {
        COUNTS.set(true);
        HITS.take();
    }

    /// What this thread has counted since it started, which ends with it.
    #[must_use]
    pub fn take() -> BTreeMap<&'static str, u64> {
        COUNTS.set(false);
        HITS.take()
    }
}

#[cfg(not(feature = "marks"))]
mod counting {
    use std::collections::BTreeMap;

    /// Nothing: this build keeps no marks. Use [`reached!`](crate::reached).
    #[inline(always)]
    pub fn hit(_name: &'static str) {}

    /// Nothing: this build keeps no marks.
    pub fn start() {}

    /// Nothing: this build keeps no marks.
    #[must_use]
    pub fn take() -> BTreeMap<&'static str, u64> {
        BTreeMap::new()
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn marks_are_counted_only_when_they_are_built_in() {
        crate::reached!("a test's branch");
        super::start();
        for _ in 0..2 {
            crate::reached!("a test's branch");
        }
        let hits = super::take();
        let want = cfg!(feature = "marks").then_some(&2);
        assert_eq!(hits.get("a test's branch"), want);
        assert!(super::take().is_empty());
    }
}
