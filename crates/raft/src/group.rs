//! What must hold between the replicas of a group, as far as their present states show it.
//!
//! [`RaftCore::validate`] sees one core and [`RaftCore::validate_output`] what it wants sent; these
//! are the invariants that take two. What only history shows (an entry that was committed and is
//! in no log any more, a vote that was given twice) is for a checker that remembers, as the random
//! walk's (`tests/world/checks.rs`).

use atoll_base::LogIndex;

use crate::core::{CoreRole, RaftCore};

/// Asserts I1, I3 and I4 over `cores`, replicas of one group as they are at one moment; those that
/// are down may be left out. Cost: every pair of cores, times the terms that their logs hold.
///
/// # Panics
/// When one is broken, naming it, both replicas and the index or the term.
pub fn validate_group(cores: &[&RaftCore]) {
    for (at, a) in cores.iter().enumerate() {
        for b in &cores[at + 1..] {
            check_leaders(a, b);
            check_matching(a, b);
            check_complete(a, b);
            check_complete(b, a);
        }
    }
}

/// I1: at most one leader a term (paper 5.2).
fn check_leaders(a: &RaftCore, b: &RaftCore) {
    let both_lead = a.role() == CoreRole::Leader && b.role() == CoreRole::Leader;
    let (one, other, term) = (a.id(), b.id(), a.term());
    assert!(!both_lead || term != b.term(), "I1: {one} and {other} lead in term {term}");
}

/// I3: where two logs hold an entry of one term at one index, all before it are of equal terms
/// (paper 5.3).
fn check_matching(a: &RaftCore, b: &RaftCore) {
    let from = a.first_index().prev().max(b.first_index().prev());
    let to = a.last_index().min(b.last_index());
    if from > to {
        return;
    }
    // Between two starts of runs both terms stay as they are: what holds at a start holds up to
    // the next one.
    let starts = a.log.runs().iter().chain(b.log.runs()).map(|(start, _)| (*start).max(from));
    let mut starts: Vec<LogIndex> = starts.filter(|start| *start <= to).collect();
    starts.sort_unstable();
    let equal = |index: &LogIndex| a.term_at(*index) == b.term_at(*index);
    let Some(last_equal) = starts.iter().rposition(equal) else { return };
    if let Some(differs) = starts[..last_equal].iter().find(|start| !equal(start)) {
        let (one, other, same) = (a.id(), b.id(), starts[last_equal]);
        panic!("I3: {one} and {other} have the same entry at {same}, others at {differs}");
    }
}

/// I4: a leader has what anybody of its term or an earlier one knows to be committed (paper 5.4).
fn check_complete(leader: &RaftCore, other: &RaftCore) {
    if leader.role() != CoreRole::Leader || other.term() > leader.term() {
        return;
    }
    let (committed, holder, knows) = (other.commit(), leader.id(), other.id());
    let last = leader.last_index();
    assert!(committed <= last, "I4: leader {holder} ends at {last}, {knows} commits {committed}");
    if let (Some(mine), Some(theirs)) = (leader.term_at(committed), other.term_at(committed)) {
        assert_eq!(mine, theirs, "I4: leader {holder} lacks {committed}, which {knows} commits");
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use atoll_base::{Entry, EntryKind, Term};
    use bytes::Bytes;

    use super::*;
    use crate::invariants::tests::{follower, leader};

    /// A follower of `term` whose log has entries of these terms.
    fn with_log(term: u64, terms: &[u64]) -> RaftCore {
        let mut core = follower();
        core.term = Term(term);
        for (at, term) in terms.iter().enumerate() {
            let (index, term) = (LogIndex(at as u64 + 1), Term(*term));
            core.log.push(Entry { index, term, kind: EntryKind::Empty, payload: Bytes::new() });
        }
        core
    }

    fn says(a: &RaftCore, b: &RaftCore) -> String {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let result = catch_unwind(AssertUnwindSafe(|| validate_group(&[a, b])));
        std::panic::set_hook(hook);
        match result {
            Ok(()) => "nothing".to_owned(),
            Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
        }
    }

    #[test]
    fn two_leaders_of_a_term_are_seen() {
        assert!(says(&leader(), &leader()).contains("I1:"));
        let mut later = leader();
        later.term = Term(2);
        assert_eq!(says(&leader(), &later), "nothing", "a deposed leader may not know it yet");
    }

    #[test]
    fn logs_that_part_and_meet_again_are_seen() {
        let whole = with_log(4, &[1, 1, 2, 4, 4]);
        for (other, expected) in [
            (&[1, 1, 2, 4][..], "nothing"),
            (&[1, 1, 3, 3, 3, 3], "nothing"),
            (&[], "nothing"),
            (&[1, 2, 2, 4], "I3:"),
            (&[1, 1, 3, 4], "I3:"),
        ] {
            let said = says(&whole, &with_log(4, other));
            assert!(said.contains(expected), "{other:?}: {said}");
        }
        let mut compacted = with_log(4, &[1, 1, 3, 4]);
        compacted.log.compact(LogIndex(4));
        assert!(says(&whole, &compacted).contains("I3:"), "the entry before the first counts");
    }

    #[test]
    fn a_leader_without_a_committed_entry_is_seen() {
        // It leads in term 1 with one entry.
        let mut other = with_log(1, &[1, 1]);
        other.commit = LogIndex(2);
        assert!(says(&leader(), &other).contains("I4:"));
        other.term = Term(2);
        assert_eq!(says(&leader(), &other), "nothing", "of a later term");
        let mut other = with_log(1, &[0, 0]);
        other.commit = LogIndex(1);
        assert!(says(&other, &leader()).contains("I4:"));
    }
}
