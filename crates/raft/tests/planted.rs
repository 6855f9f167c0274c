//! The walk sees the mistakes that it is for: each is planted and must be caught.
//!
//! `cargo test --release -p atoll-raft --features planted-bugs --test planted -- --nocapture`
#![cfg(feature = "planted-bugs")]
#![allow(missing_docs, reason = "a test")]

mod world;

use atoll_raft::planted::Bug;
use world::shrink::{Shrunk, run, shrink};
use world::walk::walk;

/// Every mistake that breaks a promise. `NoPreVote` and `NoCheckQuorum` only cost availability, and
/// `ChangeBeforeCommit` is harmless as long as every change of voters is joint; `OldLifeCounts`
/// has a test of its own.
const BUGS: [Bug; 17] = [
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
    Bug::VoteInAmnesia,
    Bug::WholeTooEarly,
    Bug::KeepCutMembers,
];

#[test]
fn the_walk_catches_every_planted_mistake() {
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in BUGS {
        let (mut steps, mut caught) = (0, None);
        for seed in 1..=1_500 {
            match walk(seed, 6_000, Some(&format!("{bug:?}"))) {
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

/// A failing walk of thousands of actions becomes a script of few lines, which fails when it is
/// played, and not without the mistake.
#[test]
fn a_failing_walk_shrinks_to_a_short_script() {
    for (bug, lines_max) in [(Bug::VoteTwice, 40), (Bug::ReadWithoutRound, 60)] {
        let name = format!("{bug:?}");
        let failed = (1..=200).find_map(|seed| walk(seed, 6_000, Some(&name)).err());
        let failure = failed.expect("the walk catches it");
        let shrunk = shrink(&failure).expect("its actions fail");
        let (long, short) = (failure.actions.len(), shrunk.actions.len());
        let script = shrunk.script(&format!("{name}, seed {}", failure.seed));
        println!("{name}: {long} actions, {short} after {} tries\n{script}", shrunk.tries);
        assert!(short <= lines_max, "{short} actions are left of {long}");
        assert!(script.contains("# fails: "), "{script}");
        // Read back from its own text, it fails the same way.
        let mut world = None;
        let commands = Shrunk::commands(&script);
        let (last, before) = commands.split_last().expect("it has commands");
        for command in before {
            world::script::play(&mut world, command);
        }
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let end = std::panic::AssertUnwindSafe(|| world::script::play(&mut world, last));
        let played = std::panic::catch_unwind(end);
        let mut setup = shrunk.setup.clone();
        setup.bug = None;
        let sound = run(&setup, &shrunk.actions);
        std::panic::set_hook(hook);
        assert!(played.is_err(), "the script fails when it is played");
        assert_eq!(sound, None, "without the mistake it doesn't");
    }
}

/// Counting an acknowledgement of an earlier life breaks no promise, since what it speaks of is
/// owed;
/// but its entries are then never sent again. Walks meet that too seldom, so a golden script is
/// played with the mistake.
#[test]
fn an_old_acknowledgement_that_counts_keeps_a_follower_behind() {
    let scripts = include_str!("testscripts/amnesia.txt");
    let title = "## an acknowledgement from an earlier life of the log counts no more (T20)\n";
    let (_, rest) = scripts.split_once(title).expect("the script is there");
    let (script, _) = rest.split_once("\n## ").expect("another one follows");
    let remembers = |bug: Option<Bug>| {
        let mut world = None;
        for command in script.lines().filter_map(|line| line.strip_prefix("> ")) {
            let nodes = command.starts_with("nodes");
            let planted = bug.filter(|_| nodes).map_or(String::new(), |b| format!(" bug={b:?}"));
            world::script::play(&mut world, &format!("{command}{planted}"));
        }
        world.expect("the script makes one").replica(world::n(2)).remembers()
    };
    assert!(remembers(None));
    assert!(!remembers(Some(Bug::OldLifeCounts)));
}
