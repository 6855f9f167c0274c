//! A list that clients append to, each after having read it, grows at its end only, in an order
//! that real time agrees with, and holds every acknowledged element once.
//!
//! Source: the list-append test of Elle (Kingsbury and Alvaro 2020), for one object: as lists are
//! read whole, each read tells the order of all appends before it.

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use crate::history::{Stamp, Value};

/// How an append ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was acknowledged, when.
    Done(Stamp),
    /// It had no effect.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// One element that a client wanted at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Append {
    /// The element; no other append has it.
    pub element: Value,
    /// When, among all calls and returns.
    pub called: Stamp,
    /// How it ended.
    pub ended: Ended,
}

/// The list as it was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// When it was asked for.
    pub called: Stamp,
    /// When it came.
    pub answered: Stamp,
    /// Its elements.
    pub list: Vec<Value>,
}

/// Checks what clients saw of one list. The last read must have been called when all appends had
/// ended.
///
/// # Errors
/// When no order of the appends explains all of it.
pub fn check(appends: &[Append], reads: &[Read]) -> Result<(), Violation> {
    let wrong = |what: String| Err(Violation::new("lists", what));
    let longest = reads.iter().map(|read| &read.list[..]).max_by_key(|list| list.len());
    let longest = longest.unwrap_or_default();
    if let Some(other) = reads.iter().find(|read| !longest.starts_with(&read.list)) {
        return wrong(format!("{other:?} does not begin {longest:?}"));
    }
    let places: BTreeMap<Value, usize> =
        longest.iter().enumerate().map(|(place, element)| (*element, place)).collect();
    let known: BTreeSet<Value> = appends.iter().map(|append| append.element).collect();
    if places.len() != longest.len() || !longest.iter().all(|element| known.contains(element)) {
        return wrong(format!("{longest:?} has an element twice, or one that nobody appended"));
    }
    for append in appends {
        let place = places.get(&append.element);
        let is_right = match append.ended {
            Ended::Done(_) => place.is_some(),
            Ended::Refused => place.is_none(),
            Ended::Unknown => true,
        };
        if !is_right {
            return wrong(format!("{append:?} is at {place:?} of {longest:?}"));
        }
    }
    check_time(appends, reads, &places)
}

/// What had ended before something began comes before it.
fn check_time(
    appends: &[Append],
    reads: &[Read],
    places: &BTreeMap<Value, usize>,
) -> Result<(), Violation> {
    let done = || {
        appends.iter().filter_map(|append| match append.ended {
            Ended::Done(at) => Some((at, places[&append.element] + 1, append.element)),
            Ended::Refused | Ended::Unknown => None,
        })
    };
    for read in reads {
        let len = read.list.len();
        let late = done().find(|(at, least, _)| *at < read.called && *least > len);
        let shrunk = reads.iter().find(|r| r.answered < read.called && r.list.len() > len);
        let early = appends.iter().find(|append| {
            append.called > read.answered && places.get(&append.element).is_some_and(|p| *p < len)
        });
        if late.is_some() || shrunk.is_some() || early.is_some() {
            let what = format!("{read:?} comes after {late:?}, {shrunk:?} or before {early:?}");
            return Err(Violation::new("lists", what));
        }
    }
    for append in appends {
        let Some(place) = places.get(&append.element) else { continue };
        if let Some(before) = done().find(|(at, end, _)| *at < append.called && *end > place + 1) {
            let what = format!("{append:?} stands before {before:?}");
            return Err(Violation::new("lists", what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append(element: Value, called: Stamp, ended: Ended) -> Append {
        Append { element, called, ended }
    }

    fn read(called: Stamp, answered: Stamp, list: &[Value]) -> Read {
        Read { called, answered, list: list.to_vec() }
    }

    #[test]
    fn whole_lists_are_fine_and_others_are_not() {
        use Ended::{Done, Refused, Unknown};
        let appends = [
            append(10, 1, Done(3)),
            append(20, 2, Unknown),
            append(30, 4, Refused),
            append(40, 5, Done(7)),
        ];
        let fine = |reads: &[Read]| check(&appends, reads);
        assert_eq!(fine(&[read(4, 6, &[10]), read(8, 9, &[10, 40])]), Ok(()));
        assert_eq!(fine(&[read(4, 6, &[20, 10]), read(8, 9, &[20, 10, 40])]), Ok(()));
        assert_eq!(fine(&[read(1, 2, &[]), read(8, 9, &[10, 40, 20])]), Ok(()));
        for (what, reads) in [
            ("lost", vec![read(8, 9, &[10])]),
            ("twice", vec![read(8, 9, &[10, 40, 40])]),
            ("refused", vec![read(8, 9, &[10, 30, 40])]),
            ("nobody's", vec![read(8, 9, &[10, 40, 50])]),
            ("against time", vec![read(8, 9, &[40, 10])]),
            ("forked", vec![read(4, 6, &[20, 10]), read(8, 9, &[10, 20, 40])]),
            ("shrunk", vec![read(4, 5, &[10, 20]), read(6, 7, &[10]), read(8, 9, &[10, 20, 40])]),
            ("stale", vec![read(4, 5, &[]), read(8, 9, &[10, 40])]),
            ("from the future", vec![read(3, 4, &[10, 40]), read(8, 9, &[10, 40])]),
        ] {
            assert!(fine(&reads).is_err(), "{what}");
        }
    }
}
