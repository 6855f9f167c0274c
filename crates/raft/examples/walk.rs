//! The long random walk: `cargo run --release -p atoll-raft --example walk -- --steps N`.
//!
//! Walks seeds from `--seed` on (default 1), 20,000 steps each, until `--steps` are done or
//! `--seconds` are over, and prints what was reached and how often. A failing walk is shrunk to a
//! golden script, which is printed and written to the file that `--script` names; the seed and the
//! command that repeats it are printed too. `--bug NAME` plants a mistake (with `--features
//! planted-bugs`), to see how that looks. `--play FILE` plays such a script.
#![allow(missing_docs, reason = "an example")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a program of its own")]

#[path = "../tests/world/mod.rs"]
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use world::shrink::{Shrunk, shrink, text_of};
use world::walk::{Failure, Walked, replay, walk};

/// Steps of one seed.
const WALK: u64 = 20_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let text = |name: &str| {
        let at = arguments.iter().position(|a| a == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let number = |name: &str| text(name).map(|v| v.parse::<u64>().expect("a number"));
    if let Some(file) = text("--play") {
        return play(&std::fs::read_to_string(file).expect("the script can be read"));
    }
    let seconds = number("--seconds");
    let steps = number("--steps").unwrap_or(if seconds.is_some() { u64::MAX } else { 1_000_000 });
    let (start, first) = (Instant::now(), number("--seed").unwrap_or(1));
    let over = || seconds.is_some_and(|s| start.elapsed() >= Duration::from_secs(s));
    std::panic::set_hook(Box::new(|_| {}));
    let (mut all, mut seed) = (Walked::default(), first);
    while all.steps < steps && !over() {
        match walk(seed, WALK.min(steps), text("--bug")) {
            Ok(walked) => all.add(walked),
            Err(failure) => {
                report(&failure, text("--script"));
                println!("{} steps before, violations: 1", all.steps);
                return ExitCode::FAILURE;
            }
        }
        seed += 1;
    }
    for (what, count) in &all.reached {
        println!("{count:>12} {what}");
    }
    println!(
        "{} steps over {} seeds from {first}: {} entries committed, {} reads, {} terms; \
         violations: 0",
        all.steps,
        seed - first,
        all.committed,
        all.reads,
        all.terms
    );
    eprintln!("in {:.1} s", start.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}

fn report(failure: &Failure, file: Option<&str>) {
    println!("seed {} step {}: {}", failure.seed, failure.step, failure.text);
    println!("{}", replay(failure));
    let Some(shrunk) = shrink(failure) else {
        println!("the walk's actions alone don't fail: it can't be shrunk");
        return;
    };
    let (from, to) = (failure.actions.len(), shrunk.actions.len());
    println!("shrunk from {from} actions to {to} in {} tries:\n", shrunk.tries);
    let script = shrunk.script(&format!("found by the walk of seed {}", failure.seed));
    println!("{script}");
    if let Some(file) = file {
        std::fs::write(file, &script).expect("the script can be written");
        println!("written to {file}; --play {file} plays it");
    }
}

/// Plays a script's commands; fails where they fail.
fn play(script: &str) -> ExitCode {
    let mut world = None;
    for command in Shrunk::commands(script) {
        println!("> {command}");
        let played = std::panic::AssertUnwindSafe(|| world::script::play(&mut world, &command));
        match std::panic::catch_unwind(played) {
            Ok(lines) => lines.iter().for_each(|line| println!("{line}")),
            Err(panic) => {
                println!("# fails: {}", text_of(panic.as_ref()));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
