//! The long random walk: `cargo run --release -p atoll-raft --example walk -- --seed 1 --steps N`.
//!
//! Walks seeds from `--seed` on, 20,000 steps each (or one seed for all steps, if fewer are asked
//! for), and prints what was done. A failure prints its trace and the command that repeats it.
#![allow(missing_docs, reason = "an example")]

#[path = "../tests/world/mod.rs"]
mod world;

use world::walk::{replay, walk};

/// Steps of one seed.
const WALK: u64 = 20_000;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |name: &str, otherwise: u64| {
        let at = arguments.iter().position(|a| a == name);
        at.and_then(|i| arguments.get(i + 1)?.parse().ok()).unwrap_or(otherwise)
    };
    let (first, steps) = (number("--seed", 1), number("--steps", 1_000_000));
    std::panic::set_hook(Box::new(|_| {}));
    let (mut done, mut seed) = (0, first);
    let (mut committed, mut reads, mut terms, mut changes) = (0, 0, 0, 0);
    while done < steps {
        match walk(seed, WALK.min(steps), &|_| {}) {
            Ok(walked) => {
                done += walked.steps;
                committed += walked.committed;
                reads += walked.reads;
                terms += walked.terms;
                changes += walked.changes;
            }
            Err(failure) => {
                for line in &failure.trace {
                    println!("  {line}");
                }
                println!("seed {} step {}: {}", failure.seed, failure.step, failure.text);
                println!("{}", replay(&failure));
                std::process::exit(1);
            }
        }
        seed += 1;
    }
    println!(
        "{done} steps over {} seeds: {committed} entries committed, {reads} reads, {terms} terms, \
         {changes} changes of members asked for",
        seed - first
    );
}
