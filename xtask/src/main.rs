//! `cargo x`: the project's own tasks.
//!
//! [`gate`] runs what a change must pass, one named and timed step after another. [`tidy`] holds
//! the house rules that the compiler and clippy cannot see; it reads the tree as [`tree`] lists it
//! and the sources as [`source`] masks them, so every rule is a function that a test can feed.

mod cargo;
mod dist;
mod gate;
mod source;
mod tidy;
mod torture;
mod tree;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

const HELP: &str = "\
usage: cargo x <task>

tasks:
  check   the gate: everything up to `torture`, cheapest first; stops at the first failure
  tidy    house rules: floors, sizes, names, lint parity, forbidden words
  lint    formatting and clippy, warnings denied
  test    unit and integration tests (cargo nextest when it is installed), then doc tests
  doc     rustdoc of the workspace, warnings denied
  walk    one minute of the consensus core's random walk
  sim     simulator smoke run: one seed twice, the two traces compared
  torture real processes under load that are killed, lose power, stand still and are cut off from
          each other: [--seconds 120] [--seed 1] [--nodes 3 or 5; without it 3, then 5]
  dist    the program as it is handed out, optimized by a profile of itself; some minutes
  clients etcd's clients in Python and Rust, installed from their registries, against Atoll
  help    this text";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(args.first().map(String::as_str), args.get(1..).unwrap_or_default()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo x: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one task; `false` means that it ran and something failed.
fn run(task: Option<&str>, options: &[String]) -> Result<bool> {
    let root = root()?;
    if let Some(option) = options.first().filter(|_| task != Some("torture")) {
        bail!("this task takes no options, but was given {option}");
    }
    match task {
        Some("check") => gate::run(&root, gate::ALL),
        Some("tidy") => gate::run(&root, &[gate::Step::Tidy]),
        Some("lint") => gate::run(&root, &[gate::Step::Format, gate::Step::Clippy]),
        Some("test") => gate::run(&root, &[gate::Step::Test, gate::Step::DocTest]),
        Some("doc") => gate::run(&root, &[gate::Step::Doc]),
        Some("walk") => gate::run(&root, &[gate::Step::Walk]),
        Some("sim") => gate::run(&root, &[gate::Step::Simulate]),
        Some("clients") => gate::run(&root, &[gate::Step::Clients]),
        Some("torture") => torture::run(&root, torture::Options::parse(options)?),
        Some("dist") => dist::run(&root),
        Some("help" | "--help" | "-h") => {
            println!("{HELP}");
            Ok(true)
        }
        Some(other) => {
            eprintln!("cargo x: there is no task `{other}`\n\n{HELP}");
            Ok(false)
        }
        None => {
            eprintln!("{HELP}");
            Ok(false)
        }
    }
}

/// The workspace's root: the folder above this crate's.
fn root() -> Result<PathBuf> {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .context("run this through `cargo x`, not by hand")?;
    Ok(Path::new(&manifest).parent().context("xtask has no parent folder")?.to_path_buf())
}
