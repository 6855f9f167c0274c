//! The gate: named steps, cheapest first, each printed with its time; the first failure stops it.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::cargo::command;
use crate::tidy;
use crate::torture;
use crate::tree::Tree;

/// One step of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// `cargo fmt --check`.
    Format,
    /// The house rules.
    Tidy,
    /// Clippy on every target, warnings denied.
    Clippy,
    /// Unit and integration tests.
    Test,
    /// Doc tests, which nextest does not run.
    DocTest,
    /// Rustdoc, warnings denied.
    Doc,
    /// One minute of the consensus core's random walk.
    Walk,
    /// One simulator seed, twice.
    Simulate,
    /// Two minutes of real processes under faults.
    Torture,
    /// Clients that are installed from their registries; no part of the gate, which needs none.
    Clients,
}

/// The gate, in its order.
pub(crate) const ALL: &[Step] = &[
    Step::Format,
    Step::Tidy,
    Step::Clippy,
    Step::Test,
    Step::DocTest,
    Step::Doc,
    Step::Walk,
    Step::Simulate,
    Step::Torture,
];

/// How long the random walk takes.
const WALK_SECONDS: &str = "60";
/// And how many steps it takes at most.
const WALK_STEPS: &str = "80000000";

/// The tests that install something: ignored, so that the gate needs no registry but cargo's.
const CLIENTS: &[&str] = &[
    "test",
    "--locked",
    "--workspace",
    "--test",
    "processes",
    "--",
    "--ignored",
    "--nocapture",
    "--test-threads=1",
];

/// How a step ended.
enum Outcome {
    Passed,
    Skipped(String),
    Failed(String),
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Format => "format",
            Self::Tidy => "tidy",
            Self::Clippy => "clippy",
            Self::Test => "test",
            Self::DocTest => "doc tests",
            Self::Doc => "docs",
            Self::Walk => "random walk of the consensus core",
            Self::Simulate => "simulator smoke run",
            Self::Torture => "torture of real processes",
            Self::Clients => "etcd's clients",
        }
    }

    fn run(self, root: &Path) -> Result<Outcome> {
        match self {
            Self::Format => cargo(root, &["fmt", "--all", "--check"]),
            Self::Tidy => check_tidy(root),
            Self::Clippy => cargo(
                root,
                &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
            ),
            Self::Test if has_nextest(root) => {
                cargo(root, &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"])
            }
            Self::Test => {
                cargo(root, &["test", "--workspace", "--locked", "--all-targets", "--no-fail-fast"])
            }
            Self::DocTest => cargo(root, &["test", "--workspace", "--locked", "--doc", "--quiet"]),
            Self::Doc => {
                let mut doc = command(root, &["doc", "--workspace", "--locked", "--no-deps"]);
                status(doc.env("RUSTDOCFLAGS", "-D warnings"))
            }
            Self::Walk => walk(root),
            Self::Simulate => simulate(root),
            Self::Clients => cargo(root, CLIENTS),
            Self::Torture => Ok(match torture::run(root, torture::Options::default())? {
                true => Outcome::Passed,
                false => Outcome::Failed("see above".into()),
            }),
        }
    }
}

/// Runs the steps; `false` when one of them failed, after naming it.
pub(crate) fn run(root: &Path, steps: &[Step]) -> Result<bool> {
    let begin = Instant::now();
    for (at, step) in steps.iter().enumerate() {
        let name = step.name();
        println!("== {name} ({}/{})", at + 1, steps.len());
        let start = Instant::now();
        let outcome = step.run(root).with_context(|| format!("step `{name}` could not run"))?;
        let seconds = start.elapsed().as_secs_f64();
        match outcome {
            Outcome::Passed => println!("== {name}: ok in {seconds:.1} s\n"),
            Outcome::Skipped(why) => println!("== {name}: skipped: {why}\n"),
            Outcome::Failed(why) => {
                println!("== {name}: FAILED after {seconds:.1} s: {why}");
                return Ok(false);
            }
        }
    }
    let is_tested = steps.contains(&Step::Test);
    for program in PEERS.iter().filter(|program| is_tested && !is_on_path(program)) {
        println!("== NOT CHECKED against {program}, which is not on the path");
    }
    println!("== all steps passed in {:.1} s", begin.elapsed().as_secs_f64());
    Ok(true)
}

/// Programs that tests hold Atoll against, where there are any.
const PEERS: [&str; 2] = ["etcd", "etcdctl"];

fn is_on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn check_tidy(root: &Path) -> Result<Outcome> {
    let tree = Tree::load(root)?;
    let findings = tidy::check(&tree);
    for finding in &findings {
        println!("{finding}");
    }
    Ok(match findings.len() {
        0 => Outcome::Passed,
        1 => Outcome::Failed("1 finding".into()),
        n => Outcome::Failed(format!("{n} findings")),
    })
}

/// Walks for a minute or [`WALK_STEPS`], the same seeds each time: a gate must not fail by chance.
/// New seeds are walked by hand. What fails is printed as a script, with the command that repeats
/// it.
fn walk(root: &Path) -> Result<Outcome> {
    let run = ["run", "--quiet", "--locked", "--profile", "sim", "-p", "atoll-raft"];
    let walk = ["--example", "walk", "--", "--seconds", WALK_SECONDS, "--steps", WALK_STEPS];
    cargo(root, &[run.as_slice(), &walk].concat())
}

/// Runs one seed twice. What `atoll sim` prints on its standard output is a function of the seed
/// and the build, so the two outputs are equal byte for byte; anything timed belongs on standard
/// error.
fn simulate(root: &Path) -> Result<Outcome> {
    let build = cargo(root, &["build", "--quiet", "--locked", "--bin", "atoll"])?;
    if matches!(build, Outcome::Failed(_)) {
        return Ok(build);
    }
    let atoll = |args: &[&str]| {
        let mut run = command(root, &["run", "--quiet", "--locked", "--bin", "atoll", "--"]);
        run.args(args).stderr(Stdio::inherit()).output().context("cannot start atoll")
    };
    let help = atoll(&["help"])?;
    let has_sim = String::from_utf8_lossy(&help.stdout)
        .lines()
        .any(|line| line.split_whitespace().next() == Some("sim"));
    if !has_sim {
        return Ok(Outcome::Skipped("this build of atoll has no `sim` command yet".into()));
    }
    let (first, second) = (atoll(&["sim", "--seed", "1"])?, atoll(&["sim", "--seed", "1"])?);
    print!("{}", String::from_utf8_lossy(&first.stdout));
    Ok(if !first.status.success() {
        Outcome::Failed(format!("`atoll sim --seed 1` ended with {}", first.status))
    } else if first.stdout != second.stdout {
        Outcome::Failed("two runs of seed 1 printed different traces".into())
    } else {
        Outcome::Passed
    })
}

fn has_nextest(root: &Path) -> bool {
    let mut probe = command(root, &["nextest", "--version"]);
    probe.stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

fn cargo(root: &Path, args: &[&str]) -> Result<Outcome> {
    status(&mut command(root, args))
}

fn status(command: &mut Command) -> Result<Outcome> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(if status.success() {
        Outcome::Passed
    } else {
        let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        Outcome::Failed(format!("`cargo {}` ended with {status}", args.join(" ")))
    })
}
