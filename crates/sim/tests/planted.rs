//! Every checker catches the bug that it is for: each bug is planted and found within a few seeds.

use atoll_sim::{Options, Plant, run};

/// Seeds after which a planted bug counts as missed.
const SEEDS_MAX: u64 = 100;

/// Plants `plant` until a run fails; the checker that saw it must be one of `checkers`.
fn is_caught(plant: Plant, checkers: &[&str]) {
    for seed in 1..=SEEDS_MAX {
        let options = Options { plant: Some(plant), ..Options::new(seed) };
        let Some(violation) = run(&options).violation else { continue };
        assert!(
            checkers.contains(&violation.checker),
            "{} was to be caught by {checkers:?}, seed {seed} says {violation}",
            plant.name()
        );
        println!("{} caught after {seed} seeds by: {violation:.120}", plant.name());
        return;
    }
    panic!("{} was not caught within {SEEDS_MAX} seeds", plant.name());
}

#[test]
fn acknowledging_before_the_sync_is_caught() {
    is_caught(Plant::AckBeforeSync, &["quorum durability"]);
}

#[test]
fn promising_before_the_sync_is_caught() {
    is_caught(Plant::PromiseEarly, &["quorum durability", "election safety"]);
}

#[test]
fn calling_the_engine_persisted_too_early_is_caught() {
    let checkers = ["log cut", "liveness", "durability", "state machine safety"];
    is_caught(Plant::PersistLie, &checkers);
}

#[test]
fn forgotten_votes_are_caught() {
    is_caught(Plant::VotesForgotten, &["election safety", "leader append-only", "log matching"]);
}

#[test]
fn an_entry_left_out_of_a_log_is_caught() {
    is_caught(Plant::EntryDropped, &["quorum durability", "log durability"]);
}

#[test]
fn a_changed_payload_is_caught() {
    is_caught(Plant::PayloadFlips, &["log matching"]);
}

#[test]
fn committing_ahead_of_the_quorum_is_caught() {
    // A follower does not compare what it takes for committed, so its log may differ there.
    let checkers =
        ["quorum durability", "committed entries stay", "state machine safety", "log matching"];
    is_caught(Plant::CommitAhead, &checkers);
}

#[test]
fn commands_without_ids_are_caught() {
    is_caught(Plant::IdsStripped, &["exactly once", "imports", "lists"]);
}

#[test]
fn stale_reads_are_caught() {
    is_caught(Plant::StaleReads, &["linearizability", "revision order"]);
}

#[test]
fn torn_scans_are_caught() {
    is_caught(Plant::TornScans, &["scan consistency", "reads"]);
}

#[test]
fn skipped_events_are_caught() {
    is_caught(Plant::WatchSkips, &["watch", "durability"]);
}

#[test]
fn repeated_events_are_caught() {
    is_caught(Plant::WatchRepeats, &["watch"]);
}

#[test]
fn effects_of_refused_commands_are_caught() {
    is_caught(Plant::RefusalLies, &["no lies", "linearizability", "mutual exclusion"]);
}

#[test]
fn a_cluster_that_elects_nobody_is_caught() {
    is_caught(Plant::NoElections, &["liveness"]);
}

#[test]
fn a_lane_that_never_turns_is_caught() {
    is_caught(Plant::LaneStuck, &["liveness", "bounded queues"]);
}

#[test]
fn an_import_that_notes_too_much_is_caught() {
    is_caught(Plant::NoteAhead, &["imports"]);
}

#[test]
fn appends_that_overwrite_each_other_are_caught() {
    is_caught(Plant::BlindAppends, &["lists"]);
}
