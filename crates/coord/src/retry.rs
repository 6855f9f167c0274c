//! What to do after a refusal: try again, when and where, or give up. Pure: time and dice come in.
//!
//! A call that changes something carries an idempotency key, so that it may be sent again whatever
//! became of it; a call that has none is sent again only if it did not happen. A retry waits longer
//! each time (exponential, with full jitter above half, so that callers that failed together do not
//! come back together), except when the refusal says where to go: a redirection is followed at
//! once, a few times.
//!
//! A budget keeps retries from multiplying an overload: retries may be a tenth of all calls, on top
//! of a small reserve. Beyond that nothing fails, it only gets slow: such retries wait the longest
//! time there is. The deadline ends everything.

use std::time::Duration;

use atoll_base::{Code, Failure, Happened, NodeId, Retry, Rng};

/// Redirections that are followed without waiting.
const REDIRECTIONS_AT_ONCE: u32 = 3;

/// How long to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RetryPolicy {
    /// Before the first retry.
    pub backoff_min: Duration,
    /// Before any retry.
    pub backoff_max: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { backoff_min: Duration::from_millis(5), backoff_max: Duration::from_millis(100) }
    }
}

/// Whether a call may be sent again when nobody knows if it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Repeatable {
    /// Reads, and commands with an idempotency key.
    Always,
    /// Commands without one.
    IfNotHappened,
}

/// Whom to ask next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// This node, which the refusal named.
    Node(NodeId),
    /// Another replica than the one that refused.
    Another,
    /// The same one.
    Same,
    /// Whoever the shard map names once it has been fetched again.
    Refreshed,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Ask again.
    Retry {
        /// Not before this long.
        wait: Duration,
        /// Whom.
        target: Target,
    },
    /// Tell the caller.
    GiveUp(Failure),
}

/// One call's state across its attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempts {
    /// Refusals so far.
    pub failed: u32,
    /// Redirections among them.
    pub redirected: u32,
    /// Whether an attempt ended without anybody knowing whether it happened.
    pub uncertain: bool,
}

impl Attempts {
    /// Before the first.
    pub const NONE: Self = Self { failed: 0, redirected: 0, uncertain: false };
}

impl RetryPolicy {
    /// Decides after `failure`, and counts it in `attempts`.
    pub fn decide(
        &self,
        failure: Failure,
        attempts: &mut Attempts,
        repeatable: Repeatable,
        remaining: Duration,
        budget: &mut RetryBudget,
        rng: &mut Rng,
    ) -> Decision {
        attempts.failed += 1;
        attempts.uncertain |= failure.happened == Happened::Maybe;
        let uncertain = attempts.uncertain && repeatable == Repeatable::IfNotHappened;
        if failure.retry == Retry::Never || failure.happened == Happened::Yes || uncertain {
            return Decision::GiveUp(settle(failure, *attempts));
        }
        if remaining.is_zero() {
            return Decision::GiveUp(deadline(&failure, *attempts));
        }
        let target = target(&failure);
        let redirected = matches!(target, Target::Node(_) | Target::Refreshed);
        attempts.redirected += u32::from(redirected);
        if redirected && attempts.redirected <= REDIRECTIONS_AT_ONCE {
            return Decision::Retry { wait: Duration::ZERO, target };
        }
        let mut wait = match budget.withdraw() {
            true => self.backoff(attempts.failed, rng),
            false => self.backoff_max,
        };
        if let Retry::After(asked) = failure.retry {
            wait = wait.max(asked);
        }
        if wait >= remaining {
            return Decision::GiveUp(deadline(&failure, *attempts));
        }
        Decision::Retry { wait, target }
    }

    /// Between half of and the full exponential wait of this attempt.
    fn backoff(&self, failed: u32, rng: &mut Rng) -> Duration {
        let doublings = failed.saturating_sub(1).min(16);
        let full = self.backoff_min.saturating_mul(1 << doublings).min(self.backoff_max);
        let half = u64::try_from(full.as_nanos() / 2).unwrap_or(u64::MAX / 2);
        Duration::from_nanos(half + rng.below(half + 1))
    }
}

fn target(failure: &Failure) -> Target {
    match (failure.code, failure.leader) {
        (Code::StaleEpoch, _) => Target::Refreshed,
        (_, Some(leader)) => Target::Node(leader),
        (Code::Overloaded | Code::DiskFull, None) => Target::Same,
        (_, None) => Target::Another,
    }
}

/// The failure as the caller must read it: an earlier attempt may have happened although the last
/// one did not.
fn settle(failure: Failure, attempts: Attempts) -> Failure {
    match (failure.happened, attempts.uncertain) {
        (Happened::No, true) => failure.with_happened(Happened::Maybe),
        _ => failure,
    }
}

fn deadline(last: &Failure, attempts: Attempts) -> Failure {
    let happened = if attempts.uncertain { Happened::Maybe } else { last.happened };
    let failed = attempts.failed;
    // When the cluster has refused for want of room all the time, that is what callers must know.
    let code = match (last.code, happened) {
        (Code::DiskFull | Code::Overloaded, Happened::No) => last.code,
        _ => Code::DeadlineExceeded,
    };
    Failure::new(
        code,
        format!("deadline passed after {failed} attempts, the last one: {}", last.message),
    )
    .with_happened(happened)
    .with_leader(last.leader)
}

/// How many retries a client may make, from how many calls it makes.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    calls_seen: u64,
    tenths: u64,
}

impl RetryBudget {
    /// Retries that are always allowed after a quiet time.
    pub const RESERVE: u64 = 100;
    const TENTHS_MAX: u64 = Self::RESERVE * 10 * 10;

    /// A budget with its whole reserve.
    #[must_use]
    pub fn new() -> Self {
        Self { calls_seen: 0, tenths: Self::RESERVE * 10 }
    }

    /// Takes in how many calls the client has made in all; each allows a tenth of a retry.
    pub fn observe(&mut self, calls: u64) {
        let new = calls.saturating_sub(self.calls_seen);
        self.calls_seen = self.calls_seen.max(calls);
        self.tenths = self.tenths.saturating_add(new).min(Self::TENTHS_MAX);
    }

    /// Takes one retry; false when there is none left.
    #[must_use]
    pub fn withdraw(&mut self) -> bool {
        match self.tenths.checked_sub(10) {
            Some(rest) => {
                self.tenths = rest;
                true
            }
            None => false,
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(5);

    struct Case {
        attempts: Attempts,
        budget: RetryBudget,
        rng: Rng,
    }

    impl Case {
        fn new() -> Self {
            Self { attempts: Attempts::NONE, budget: RetryBudget::new(), rng: Rng::new(1) }
        }

        fn decide(&mut self, failure: Failure, repeatable: Repeatable, left: Duration) -> Decision {
            let (attempts, budget) = (&mut self.attempts, &mut self.budget);
            let policy = RetryPolicy::default();
            policy.decide(failure, attempts, repeatable, left, budget, &mut self.rng)
        }
    }

    fn failure(code: Code) -> Failure {
        Failure::new(code, "shard 7 says so")
    }

    fn waited(decision: &Decision) -> Duration {
        match decision {
            Decision::Retry { wait, .. } => *wait,
            Decision::GiveUp(failure) => panic!("gave up: {failure}"),
        }
    }

    #[test]
    fn a_redirection_is_followed_at_once_but_not_for_ever() {
        let mut case = Case::new();
        let moved = || failure(Code::NotLeader).with_leader(Some(NodeId(2)));
        for _ in 0..REDIRECTIONS_AT_ONCE {
            let decision = case.decide(moved(), Repeatable::Always, LONG);
            let target = Target::Node(NodeId(2));
            assert_eq!(decision, Decision::Retry { wait: Duration::ZERO, target });
        }
        assert!(waited(&case.decide(moved(), Repeatable::Always, LONG)) > Duration::ZERO);
    }

    #[test]
    fn waits_grow_and_are_jittered_within_their_bounds() {
        let policy = RetryPolicy::default();
        for seed in 0..100 {
            let mut case = Case { rng: Rng::new(seed), ..Case::new() };
            for failed in 1..20 {
                let decision = case.decide(failure(Code::NotLeader), Repeatable::Always, LONG);
                let full = (policy.backoff_min * (1 << (failed - 1))).min(policy.backoff_max);
                let wait = waited(&decision);
                assert!(wait >= full / 2 && wait <= full, "retry {failed} waits {wait:?}");
            }
        }
    }

    #[test]
    fn what_may_have_happened_is_repeated_only_with_a_key() {
        let lost = || failure(Code::Indeterminate);
        assert!(waited(&Case::new().decide(lost(), Repeatable::Always, LONG)) > Duration::ZERO);
        let given_up = Case::new().decide(lost(), Repeatable::IfNotHappened, LONG);
        assert_eq!(given_up, Decision::GiveUp(lost()));
    }

    #[test]
    fn an_earlier_maybe_is_not_forgotten() {
        let mut case = Case::new();
        case.decide(failure(Code::Indeterminate), Repeatable::Always, LONG);
        match case.decide(failure(Code::NoLeader), Repeatable::Always, Duration::from_millis(1)) {
            Decision::GiveUp(f) => {
                assert_eq!((f.code, f.happened), (Code::DeadlineExceeded, Happened::Maybe));
            }
            other => panic!("{other:?}"),
        }
        match case.decide(failure(Code::PreconditionFailed), Repeatable::Always, LONG) {
            Decision::GiveUp(f) => assert_eq!(f.happened, Happened::Maybe),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_deadline_says_that_nothing_happened_when_that_is_known() {
        let decision =
            Case::new().decide(failure(Code::NoLeader), Repeatable::Always, Duration::ZERO);
        let Decision::GiveUp(f) = decision else { panic!("{decision:?}") };
        assert_eq!((f.code, f.happened), (Code::DeadlineExceeded, Happened::No));
    }

    #[test]
    fn want_of_room_keeps_its_name_unless_something_may_have_happened() {
        for code in [Code::DiskFull, Code::Overloaded] {
            let mut case = Case::new();
            for wanted in [(code, Happened::No), (Code::DeadlineExceeded, Happened::Maybe)] {
                let decision = case.decide(failure(code), Repeatable::Always, Duration::ZERO);
                let Decision::GiveUp(f) = decision else { panic!("{decision:?}") };
                assert_eq!((f.code, f.happened), wanted);
                case.decide(failure(Code::Indeterminate), Repeatable::Always, LONG);
            }
        }
    }

    #[test]
    fn without_budget_retries_are_slow_not_refused() {
        let mut case = Case::new();
        let slow = RetryPolicy::default().backoff_max;
        let waits = |case: &mut Case| {
            case.attempts = Attempts::NONE;
            waited(&case.decide(failure(Code::NoLeader), Repeatable::Always, LONG))
        };
        for _ in 0..RetryBudget::RESERVE {
            assert!(waits(&mut case) < slow);
        }
        assert_eq!(waits(&mut case), slow);
        case.budget.observe(10);
        assert!(waits(&mut case) < slow);
        assert_eq!(waits(&mut case), slow);
    }
}
