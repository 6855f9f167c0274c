//! What a run did, as one number and as its last lines.
//!
//! Every event of a run is folded into a hash. Two runs of one seed by the same commit have the
//! same hash, in debug and in release; where they differ, something reads a clock, an address or
//! an unordered map. The last lines are kept for people.

use std::collections::VecDeque;
use std::fmt;

use atoll_base::Time;

/// The hash and the tail of a run's events.
#[derive(Debug)]
pub struct Trace {
    hash: u64,
    events: u64,
    steps: u64,
    lines: VecDeque<String>,
    lines_max: usize,
}

impl Trace {
    /// An empty trace that keeps the last `lines_max` lines (0: none, which is fastest).
    #[must_use]
    pub fn new(lines_max: usize) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, events: 0, steps: 0, lines: VecDeque::new(), lines_max }
    }

    /// Folds numbers that tell this event from others into the hash.
    pub fn fold(&mut self, numbers: &[u64]) {
        for number in numbers {
            // One round of a 64-bit mix: order matters, and so does every bit.
            self.hash ^= number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.hash = self.hash.rotate_left(27).wrapping_mul(0x94d0_49bb_1331_11eb);
        }
        self.events += 1;
    }

    /// The next step of the run begins: lines bear its number.
    pub fn begin_step(&mut self) {
        self.steps += 1;
    }

    /// How many steps there were.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Keeps a line for people. The text is made only when lines are kept.
    pub fn line(&mut self, at: Time, text: fmt::Arguments<'_>) {
        if self.lines_max == 0 {
            return;
        }
        if self.lines.len() == self.lines_max {
            self.lines.pop_front();
        }
        self.lines.push_back(format!("{} {at:?} {text}", self.steps));
    }

    /// Whether lines are kept: texts that cost something need not be made otherwise.
    #[must_use]
    pub fn keeps_lines(&self) -> bool {
        self.lines_max > 0
    }

    /// The hash of everything so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events were folded in.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The lines kept, oldest first.
    #[must_use]
    pub fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_order_and_the_tail_is_bounded() {
        let (mut a, mut b) = (Trace::new(2), Trace::new(0));
        a.fold(&[1, 2]);
        b.fold(&[2, 1]);
        assert_ne!(a.hash(), b.hash());
        for n in 0..3 {
            a.begin_step();
            a.line(Time(n), format_args!("event {n}"));
            b.line(Time(n), format_args!("event {n}"));
        }
        assert_eq!(a.into_lines(), ["2 0.000ms event 1", "3 0.000ms event 2"]);
        assert!(b.into_lines().is_empty());
    }
}
