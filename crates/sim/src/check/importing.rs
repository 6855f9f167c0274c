//! An import stores every record of its input, in their order for each key, and no key is changed
//! more often than by its records.
//!
//! Source: the rules at the head of `atoll import` (I1, I2). A write that was under way when its
//! import was killed may still arrive, once, however far the import has come meanwhile; and where a
//! doubtful stretch holds several records of one key, each of them may be stored again.

use super::Violation;
use crate::history::{KeyNumber, Value};

/// A key that records of the input have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Imported {
    /// The key.
    pub key: KeyNumber,
    /// What its records hold, in their order.
    pub values: Vec<Value>,
    /// How many writes more than these it may have got.
    pub again: u64,
}

/// A key as it was found when the import had ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    /// The key.
    pub key: KeyNumber,
    /// What it holds.
    pub value: Value,
    /// How often it was written.
    pub version: u64,
}

/// Checks what an import left in a shard; both lists by ascending keys.
///
/// # Errors
/// When a record is missing, not the last of its key, or was written too often.
pub fn check(expected: &[Imported], found: &[Found]) -> Result<(), Violation> {
    let keys = expected.iter().map(|it| it.key);
    if !keys.clone().eq(found.iter().map(|it| it.key)) {
        let found: Vec<KeyNumber> = found.iter().map(|it| it.key).collect();
        let keys: Vec<KeyNumber> = keys.collect();
        return Err(Violation::new("imports", format!("of {keys:?} {found:?} were stored")));
    }
    for (it, found) in expected.iter().zip(found) {
        let is_last = it.values.last() == Some(&found.value);
        // A late write of an earlier record may have come last.
        let is_late = it.again > 0 && it.values.contains(&found.value);
        let least = it.values.len() as u64;
        let is_counted = (least..=least + it.again).contains(&found.version);
        if !(is_last || is_late) || !is_counted {
            return Err(Violation::new("imports", format!("{it:?} became {found:?}")));
        }
        if found.version > least {
            atoll_base::reached!("a record was stored again by an import");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(again: u64) -> Vec<Imported> {
        let key = |key, values: &[Value], again| Imported {
            key: KeyNumber(key),
            values: values.to_vec(),
            again,
        };
        vec![key(1, &[10], again), key(2, &[20, 21], 0)]
    }

    fn found(rows: &[(u32, Value, u64)]) -> Vec<Found> {
        rows.iter()
            .map(|(key, value, version)| Found {
                key: KeyNumber(*key),
                value: *value,
                version: *version,
            })
            .collect()
    }

    #[test]
    fn whole_imports_are_fine_and_others_are_not() {
        assert_eq!(check(&expected(0), &found(&[(1, 10, 1), (2, 21, 2)])), Ok(()));
        assert_eq!(check(&expected(1), &found(&[(1, 10, 2), (2, 21, 2)])), Ok(()));
        for (what, bad) in [
            ("lost", &[(1, 10, 1)][..]),
            ("never sent", &[(1, 10, 1), (2, 21, 2), (3, 30, 1)]),
            ("of another key", &[(1, 21, 1), (2, 21, 2)]),
            ("in the wrong order", &[(1, 10, 1), (2, 20, 2)]),
            ("one of two", &[(1, 10, 1), (2, 21, 1)]),
            ("twice", &[(1, 10, 2), (2, 21, 2)]),
        ] {
            assert!(check(&expected(0), &found(bad)).is_err(), "{what}");
        }
        assert!(check(&expected(1), &found(&[(1, 10, 3), (2, 21, 2)])).is_err());
    }
}
