//! The random walk, short; `examples/walk.rs` is the long one.
#![allow(missing_docs, reason = "a test")]

mod world;

use world::shrink::shrink;
use world::walk::{replay, walk};

#[test]
fn nothing_breaks_on_random_walks() {
    for seed in 1..=12 {
        if let Err(failure) = walk(seed, 6_000, None) {
            if let Some(shrunk) = shrink(&failure) {
                println!("{}", shrunk.script(&format!("found by the walk of seed {seed}")));
            }
            panic!("seed {seed} step {}: {}\n{}", failure.step, failure.text, replay(&failure));
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_walk() {
    let [a, b] = [5, 5].map(|seed| format!("{:?}", walk(seed, 3_000, None).expect("it is sound")));
    assert_eq!(a, b);
}
