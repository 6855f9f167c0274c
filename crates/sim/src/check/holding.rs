//! Locks are held by one at a time, grants have rising tokens, writes are held to them, and leases
//! live for as long as their holders were told.
//!
//! Source: traps T26 (a pause or a clock jump cost mutual exclusion), T28 and T29 (leases ended too
//! early); Gray and Cheriton 1989 (a holder may trust its lease for the time from when it asked);
//! Burrows 2006 (Chubby's sequencers and lock delay). What a holder believes is an interval of
//! virtual time: from the answer that granted the lock until it asks for its release, or until its
//! lease may have run out, whichever is first.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_base::{Revision, ShardId, Time};

use super::Violation;

/// A lock of the workload: its shard and its number there.
pub type LockName = (ShardId, u32);

/// Clocks go wrong by less than one part in this many.
const DRIFT: u32 = 50;

/// The time that is left of `length` when the one who counts it has a clock that runs fast.
#[must_use]
pub fn trusted(length: Duration) -> Duration {
    length - length / DRIFT
}

/// How a hold ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldEnd {
    /// Its holder asked for the release, or gave its lease up.
    Released,
    /// Its lease was not kept alive.
    Expired,
}

/// One lock held by one client, as that client believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hold {
    /// Which lock.
    pub lock: LockName,
    /// The grant's fencing token.
    pub token: u64,
    /// When the holder asked for the lock.
    pub called: Time,
    /// When it heard that it has it.
    pub from: Time,
    /// Until when it may believe so.
    pub until: Time,
    /// How that ended.
    pub end: HoldEnd,
    /// How long the lock stays closed when the lease expires.
    pub delay: Duration,
}

/// A write that named a token and was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardedWrite {
    /// The lock named.
    pub lock: LockName,
    /// The token named.
    pub token: u64,
    /// When it was asked for.
    pub called: Time,
    /// What it made the shard's revision.
    pub revision: Revision,
}

/// Everything that holders believed and did.
#[derive(Clone, Default, Debug)]
pub struct Holding {
    /// All holds that ended.
    pub holds: Vec<Hold>,
    /// All guarded writes that were done.
    pub writes: Vec<GuardedWrite>,
    /// Leases that ended, by their holders' will or not.
    pub leases: u64,
}

impl Holding {
    /// Judges the whole run.
    ///
    /// # Errors
    /// The first promise that was broken.
    pub fn check(&self) -> Result<(), Violation> {
        let mut by_lock: BTreeMap<LockName, Vec<Hold>> = BTreeMap::new();
        for hold in &self.holds {
            by_lock.entry(hold.lock).or_default().push(*hold);
        }
        for holds in by_lock.values_mut() {
            holds.sort_by_key(|hold| hold.token);
            check_holds(holds)?;
        }
        let mut writes: BTreeMap<LockName, Vec<GuardedWrite>> = BTreeMap::new();
        for write in &self.writes {
            writes.entry(write.lock).or_default().push(*write);
        }
        for (lock, writes) in &mut writes {
            writes.sort_by_key(|write| write.revision);
            check_writes(writes, by_lock.get(lock).map_or(&[], Vec::as_slice))?;
        }
        Ok(())
    }
}

/// `holds` of one lock, by token.
fn check_holds(holds: &[Hold]) -> Result<(), Violation> {
    for pair in holds.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        if before.token == after.token {
            return wrong("tokens", format!("{before:?} and {after:?} have the same token"));
        }
        if after.from < before.called {
            let what = format!("{before:?} was asked for after {after:?} was granted");
            return wrong("tokens", what);
        }
        if after.from < before.until {
            return wrong("mutual exclusion", format!("{before:?} and {after:?} overlap"));
        }
        let opens = before.until.after(trusted(before.delay));
        if before.end == HoldEnd::Expired && after.from < opens {
            return wrong("lock delay", format!("{before:?}, yet {after:?} before {opens:?}"));
        }
    }
    Ok(())
}

/// `writes` by revision, `holds` by token.
fn check_writes(writes: &[GuardedWrite], holds: &[Hold]) -> Result<(), Violation> {
    for pair in writes.windows(2) {
        if pair[1].token < pair[0].token {
            let what = format!("{:?} was done after {:?}", pair[1], pair[0]);
            return wrong("fencing", what);
        }
    }
    for write in writes {
        let behind = holds.partition_point(|hold| hold.token <= write.token);
        if let Some(later) = holds[behind..].iter().find(|hold| hold.from < write.called) {
            let what = format!("{write:?} was done, yet the lock was {later:?}'s already");
            return wrong("fencing", what);
        }
    }
    Ok(())
}

fn wrong(checker: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation::new(checker, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: LockName = (ShardId(2), 0);

    fn hold(token: u64, from: u64, until: u64, end: HoldEnd) -> Hold {
        let at = Time::from_millis;
        let (called, delay) = (at(from - 1), Duration::from_millis(100));
        Hold { lock: LOCK, token, called, from: at(from), until: at(until), end, delay }
    }

    fn write(token: u64, called: u64, revision: u64) -> GuardedWrite {
        let (called, revision) = (Time::from_millis(called), Revision(revision));
        GuardedWrite { lock: LOCK, token, called, revision }
    }

    fn check(holds: &[Hold], writes: &[GuardedWrite]) -> Result<(), &'static str> {
        let holding = Holding { holds: holds.to_vec(), writes: writes.to_vec(), leases: 0 };
        holding.check().map_err(|violation| violation.checker)
    }

    #[test]
    fn one_after_the_other_is_fine() {
        let holds = [
            hold(5, 300, 400, HoldEnd::Released),
            hold(1, 10, 100, HoldEnd::Released),
            hold(3, 100, 200, HoldEnd::Expired),
        ];
        assert_eq!(check(&holds, &[write(1, 50, 7), write(3, 150, 8), write(3, 160, 9)]), Ok(()));
    }

    #[test]
    fn two_holders_at_once_and_tokens_given_twice_are_caught() {
        let holds = [hold(1, 10, 100, HoldEnd::Released), hold(2, 90, 150, HoldEnd::Released)];
        assert_eq!(check(&holds, &[]), Err("mutual exclusion"));
        let holds = [hold(1, 10, 20, HoldEnd::Released), hold(1, 90, 150, HoldEnd::Released)];
        assert_eq!(check(&holds, &[]), Err("tokens"));
    }

    #[test]
    fn a_lock_that_opens_too_early_is_caught() {
        let holds = [hold(1, 10, 100, HoldEnd::Expired), hold(2, 150, 160, HoldEnd::Released)];
        assert_eq!(check(&holds, &[]), Err("lock delay"));
    }

    #[test]
    fn a_token_smaller_than_an_earlier_one_is_caught() {
        let holds = [hold(2, 10, 20, HoldEnd::Released), hold(1, 90, 95, HoldEnd::Released)];
        assert!(check(&holds, &[]).is_err());
    }

    #[test]
    fn writes_under_old_tokens_are_caught() {
        let holds = [hold(1, 10, 100, HoldEnd::Released), hold(2, 100, 200, HoldEnd::Released)];
        assert_eq!(check(&holds, &[write(2, 120, 7), write(1, 90, 8)]), Err("fencing"));
        assert_eq!(check(&holds, &[write(1, 150, 7)]), Err("fencing"));
    }
}
