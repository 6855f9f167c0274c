//! A few seeds as a smoke test, and one of them twice: a seed has one run.

use std::time::Duration;

use atoll_sim::{Options, run};

fn short(seed: u64) -> Options {
    Options { duration: Some(Duration::from_secs(3)), ..Options::new(seed) }
}

#[test]
fn a_seed_gives_the_same_trace_again() {
    let (first, again) = (run(&short(3)), run(&short(3)));
    assert_eq!((first.trace, first.events), (again.trace, again.events));
    assert_ne!(first.trace, run(&short(4)).trace);
}

#[test]
fn the_first_seeds_are_fine() {
    for seed in 0..15 {
        let outcome = run(&short(seed));
        assert!(outcome.is_ok(), "{outcome}; replay: atoll sim --seed {seed}");
    }
}
