//! The walk sees the mistakes that it is for: each is planted and must be caught.
//!
//! `cargo test --release -p atoll-raft --features planted-bugs --test planted -- --nocapture`
#![cfg(feature = "planted-bugs")]
#![allow(missing_docs, reason = "a test")]

mod world;

use atoll_raft::planted::Bug;
use world::walk::walk;

/// Every mistake that breaks a promise. `NoPreVote` and `NoCheckQuorum` only cost availability, and
/// `ChangeBeforeCommit` is harmless as long as every change of voters is joint.
const BUGS: [Bug; 14] = [
    Bug::VoteTwice,
    Bug::VoteBeforeDurable,
    Bug::VoteForStaleLog,
    Bug::CountUnwritten,
    Bug::HalfQuorum,
    Bug::CommitEarlierTerm,
    Bug::HeartbeatCommitsUnmatched,
    Bug::NoPrevCheck,
    Bug::TruncateOnShortAppend,
    Bug::AckUnwritten,
    Bug::ReadBeforeCommit,
    Bug::ReadWithoutRound,
    Bug::ReuseRound,
    Bug::NoJoint,
];

#[test]
fn the_walk_catches_every_planted_mistake() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in BUGS {
        let (mut steps, mut caught) = (0, None);
        for seed in 1..=1_500 {
            match walk(seed, 6_000, &|c| c.bug = Some(bug)) {
                Ok(walked) => steps += walked.steps,
                Err(failure) => {
                    steps += failure.step;
                    caught = Some(failure);
                    break;
                }
            }
        }
        match caught {
            Some(f) => println!("{bug:?}: {steps} steps, seed {}: {}", f.seed, first_line(&f.text)),
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
