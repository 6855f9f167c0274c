//! Scenarios that once broke the product, each with a few seeds: all kept, and each still comes to
//! what it was written for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use atoll_sim::{Options, Script, run};

/// Seeds that each script is run with.
const SEEDS: u64 = 5;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testscripts")
}

/// Runs the script of this name with every seed.
fn plays(name: &str) {
    let text = std::fs::read_to_string(folder().join(name)).expect("a script");
    let script = Arc::new(Script::read(&text).unwrap_or_else(|error| panic!("{name}, {error}")));
    assert!(!script.reach.is_empty(), "{name} says nothing of what it is to reach");
    let mut reached = BTreeSet::new();
    for seed in 0..SEEDS {
        let options = Options { script: Some(Arc::clone(&script)), ..Options::new(seed) };
        let outcome = run(&options);
        let replay = format!("atoll sim --script crates/sim/testscripts/{name} --seed {seed}");
        assert!(outcome.is_ok(), "{name}: {outcome}; replay: {replay}");
        reached.extend(outcome.marks.into_keys());
    }
    for mark in &script.reach {
        assert!(reached.contains(mark.as_str()), "{name}: none of {SEEDS} seeds came to: {mark}");
    }
}

/// One test per script, and a list of all of them.
macro_rules! scripts {
    ($($test:ident),* $(,)?) => {
        $(
            #[test]
            fn $test() {
                plays(concat!(stringify!($test), ".txt"));
            }
        )*

        #[test]
        fn every_script_is_played() {
            let files = std::fs::read_dir(folder()).unwrap();
            let found: BTreeSet<String> =
                files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            let played = [$(concat!(stringify!($test), ".txt")),*];
            assert_eq!(found, played.iter().map(ToString::to_string).collect());
        }
    };
}

scripts! {
    catalog_voter_rebuilt_while_taken_out,
    first_snapshot_of_a_founder_with_a_full_disk,
    founders_lose_power_after_first_change,
    keyspace_dropped_and_power_lost,
    log_damaged_twice,
    power_lost_between_snapshot_and_log,
    retired_and_power_lost,
    snapshot_outlives_its_sender,
    taken_out_and_in_again_as_a_witness,
    votes_and_power_loss,
}
