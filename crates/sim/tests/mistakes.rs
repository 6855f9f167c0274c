//! Mistakes planted inside the crates that ship are caught by the checkers that are for them.
//!
//! Needs a build of its own: `cargo test --profile sim -p atoll-sim --features planted-bugs --test
//! mistakes -- --nocapture`, which prints after how many seeds each was caught.
#![cfg(feature = "planted-bugs")]

use std::path::PathBuf;
use std::sync::Arc;

use atoll_base::planted::Mistake;
use atoll_sim::{FaultKind, Options, Script, run};

/// Seeds after which a mistake counts as missed.
const SEEDS_MAX: u64 = 300;

/// Plants `mistake` until a run fails; the checker that saw it must be one of `checkers`.
fn is_caught(mistake: Mistake, checkers: &[&str]) {
    is_caught_among(&FaultKind::ALL, mistake, checkers);
}

/// The same with only these faults.
fn is_caught_among(faults: &[FaultKind], mistake: Mistake, checkers: &[&str]) {
    let faults = faults.to_vec();
    is_caught_with(Options { faults, ..Options::new(0) }, mistake, checkers);
}

/// The same in runs of a script: what it was written for would be seen if it came back.
fn is_caught_by_script(name: &str, mistake: Mistake, checkers: &[&str]) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let text = std::fs::read_to_string(folder.join(name)).expect("a script");
    let script = Some(Arc::new(Script::read(&text).expect("a script")));
    is_caught_with(Options { script, ..Options::new(0) }, mistake, checkers);
}

fn is_caught_with(options: Options, mistake: Mistake, checkers: &[&str]) {
    for seed in 1..=SEEDS_MAX {
        let options = Options { seed, mistake: Some(mistake), ..options.clone() };
        let Some(violation) = run(&options).violation else { continue };
        println!("{mistake:?} caught after {seed} seeds by: {violation:.140}");
        assert!(
            checkers.contains(&violation.checker),
            "{mistake:?} was to be caught by {checkers:?}, seed {seed} says {violation}",
        );
        return;
    }
    panic!("{mistake:?} was not caught within {SEEDS_MAX} seeds");
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    let checkers = ["quorum durability", "election safety", "durability"];
    is_caught(Mistake::AcknowledgedUnsynced, &checkers);
}

#[test]
fn answering_before_applying_is_caught() {
    is_caught(Mistake::AnsweredUnapplied, &["durability", "revision order", "linearizability"]);
}

#[test]
fn reading_before_applying_is_caught() {
    // Replicas that have much to apply again.
    let faults = [FaultKind::Crash, FaultKind::Blackout, FaultKind::Isolate, FaultKind::Pause];
    let checkers = ["linearizability", "revision order", "reads"];
    is_caught_among(&faults, Mistake::ReadUnapplied, &checkers);
}

#[test]
fn sessions_left_out_of_a_snapshot_are_caught() {
    let checkers = ["exactly once", "state machine safety", "machine invariants"];
    is_caught(Mistake::SessionsNotInSnapshot, &checkers);
}

#[test]
fn an_engine_ahead_of_its_record_is_caught() {
    let checkers = ["machine invariants", "state machine safety", "assertions"];
    is_caught(Mistake::EngineAhead, &checkers);
}

#[test]
fn logs_cut_above_what_is_persisted_are_caught() {
    is_caught(Mistake::LogCutTooFar, &["log cut"]);
}

#[test]
fn torn_records_taken_for_whole_ones_are_caught() {
    let checkers = ["integrity", "log durability", "log matching", "state machine safety"];
    is_caught(Mistake::TornRecordTaken, &[&checkers[..], &["assertions", "recovery"]].concat());
}

#[test]
fn a_watch_that_resumes_late_is_caught() {
    is_caught(Mistake::WatchResumesLate, &["watch", "durability"]);
}

#[test]
fn leases_cut_short_are_caught() {
    let checkers = ["lease length", "mutual exclusion", "lock delay"];
    is_caught(Mistake::LeasesCutShort, &checkers);
}

#[test]
fn leases_kept_alive_too_late_are_caught() {
    is_caught(Mistake::KeptAliveTooLate, &["lease length", "mutual exclusion", "lock delay"]);
}

#[test]
fn writes_without_fencing_are_caught() {
    is_caught(Mistake::FencingIgnored, &["fencing"]);
}

#[test]
fn locks_without_their_delay_are_caught() {
    is_caught(Mistake::DelayIgnored, &["lock delay"]);
}

#[test]
fn a_rebuilt_replica_of_the_catalog_that_asks_nobody_is_caught() {
    let script = "catalog_voter_rebuilt_while_taken_out.txt";
    is_caught_by_script(script, Mistake::CatalogHeardRebuilding, &["liveness"]);
}

#[test]
fn a_forgotten_end_of_a_snapshot_is_caught() {
    let script = "power_lost_between_snapshot_and_log.txt";
    is_caught_by_script(script, Mistake::SnapshotEndForgotten, &["liveness"]);
}

#[test]
fn lives_of_a_log_that_are_not_told_are_caught() {
    is_caught_by_script("log_damaged_twice.txt", Mistake::LivesNotTold, &["liveness"]);
}

#[test]
fn keyspaces_that_go_at_once_are_caught() {
    let checkers = ["log cut", "state machine safety", "assertions", "machine invariants"];
    let script = "keyspace_dropped_and_power_lost.txt";
    is_caught_by_script(script, Mistake::DroppedAtOnce, &checkers);
}

#[test]
fn founders_that_forget_their_founding_are_caught() {
    let script = "founders_lose_power_after_first_change.txt";
    is_caught_by_script(script, Mistake::FoundingForgotten, &["liveness"]);
}
