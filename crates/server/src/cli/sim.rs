//! `atoll sim`: runs whole clusters under the deterministic simulator.
//!
//! What goes to standard output is a function of the arguments: one line per run, in the order of
//! the seeds, and a summary. Rates and progress, which depend on the machine, go to standard
//! error.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use atoll_sim::{FaultKind, Options, Outcome, Plant, Script};
use clap::Args;
use indicatif::ProgressBar;

use super::exit::{Ended, Problem};

/// Failing runs after which no more are begun.
const FAILURES_MAX: usize = 10;
/// Runs from which on branches that none of them took are told.
const RUNS_TELLING: u64 = 50;
/// Lines of the trace that a failure's report ends with.
const REPORT_LINES: usize = 40;

/// Run clusters in virtual time, with faults, and check what they promise
#[derive(Args)]
pub(crate) struct SimArgs {
    /// Run this seed
    #[arg(long, default_value_t = 1, conflicts_with = "seeds")]
    seed: u64,
    /// Run the seeds from A up to, without, B
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<std::ops::Range<u64>>,
    /// Number of nodes, 1 to 7; the seed decides when it is left out
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7))]
    nodes: Option<u64>,
    /// Kinds of faults, separated by commas, or `none`; all of them when it is left out
    #[arg(long, value_name = "KINDS", value_parser = parse_faults)]
    faults: Option<Faults>,
    /// A script that fixes the shape of the runs and their faults; the rest is the seed's
    #[arg(long, value_name = "FILE", conflicts_with_all = ["nodes", "faults"])]
    script: Option<PathBuf>,
    /// Events after which a run is given up
    #[arg(long, value_name = "STEP", visible_alias = "until", default_value_t = 20_000_000)]
    steps: u64,
    /// Runs at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// A bug to plant, to see that it is caught
    #[arg(long, value_name = "BUG", value_parser = parse_plant)]
    plant: Option<Plant>,
    /// Lines of the trace to print before a failure
    #[arg(long, default_value_t = REPORT_LINES, conflicts_with = "trace")]
    lines: usize,
    /// Print the whole trace of every run, each line with its step
    #[arg(long)]
    trace: bool,
}

/// Kinds of faults as one argument.
#[derive(Clone)]
struct Faults(Vec<FaultKind>);

fn parse_seeds(text: &str) -> Result<std::ops::Range<u64>, String> {
    let (from, to) = text.split_once("..").ok_or("expected A..B, for example 0..1000")?;
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}`: {error}"));
    let seeds = number(from)?..number(to)?;
    if seeds.is_empty() { Err(format!("{text} holds no seed")) } else { Ok(seeds) }
}

fn parse_faults(text: &str) -> Result<Faults, String> {
    if text == "none" {
        return Ok(Faults(Vec::new()));
    }
    let kinds = text.split(',').map(|name| {
        FaultKind::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = FaultKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("`{name}` is no kind of fault; known: {}", known.join(", "))
        })
    });
    kinds.collect::<Result<_, _>>().map(Faults)
}

fn parse_plant(text: &str) -> Result<Plant, String> {
    Plant::from_name(text).ok_or_else(|| {
        let known: Vec<&str> = Plant::ALL.iter().map(|plant| plant.name()).collect();
        format!("`{text}` is no bug to plant; known: {}", known.join(", "))
    })
}

impl SimArgs {
    pub(crate) fn run(self) -> Result<Ended, Problem> {
        let seeds = self.seeds.clone().unwrap_or(self.seed..self.seed + 1);
        let options = self.options()?;
        let begun = Instant::now();
        let outcomes = run_all(&options, &seeds, self.jobs);
        let took = begun.elapsed();
        let mut failures = 0;
        for outcome in outcomes.values() {
            println!("{outcome}, trace {:016x}", outcome.trace);
            if !outcome.is_ok() {
                failures += 1;
            }
            if self.trace || !outcome.is_ok() {
                self.report(outcome, &options);
            }
        }
        summarize(outcomes.values());
        report_speed(outcomes.values(), took);
        Ok(if failures == 0 { Ended::Well } else { Ended::Defect })
    }

    /// What all runs have in common.
    fn options(&self) -> Result<Options, Problem> {
        let mut options = Options::new(self.seed);
        options.nodes = self.nodes.map(|nodes| nodes as usize);
        if let Some(Faults(kinds)) = &self.faults {
            options.faults.clone_from(kinds);
        }
        options.steps_max = self.steps;
        options.plant = self.plant;
        if let Some(path) = &self.script {
            let shown = path.display();
            let text = std::fs::read_to_string(path)
                .map_err(|error| Problem::local(format!("reading {shown}"), &error))?;
            let script =
                Script::read(&text).map_err(|error| Problem::usage(format!("{shown}, {error}")))?;
            options.script = Some(Arc::new(script));
        }
        Ok(options)
    }

    /// Runs a seed again to print how it ended, and says how to see it again.
    fn report(&self, outcome: &Outcome, options: &Options) {
        let mut options = Options { seed: outcome.seed, ..options.clone() };
        options.lines_max = if self.trace { usize::MAX } else { self.lines };
        if options.lines_max > 0 {
            for line in atoll_sim::run(&options).lines {
                println!("  {line}");
            }
        }
        let mut again = format!("atoll sim --seed {}", outcome.seed);
        if let Some(nodes) = self.nodes {
            again.push_str(&format!(" --nodes {nodes}"));
        }
        if let Some(Faults(kinds)) = &self.faults {
            let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(",") };
            again.push_str(&format!(" --faults {names}"));
        }
        if let Some(path) = &self.script {
            again.push_str(&format!(" --script {}", path.display()));
        }
        if let Some(plant) = self.plant {
            again.push_str(&format!(" --plant {}", plant.name()));
        }
        println!("replay: {again} --trace --until {}", outcome.steps);
    }
}

/// Runs the seeds on as many threads as wanted; by seed. Ends early after many failures.
fn run_all(options: &Options, seeds: &std::ops::Range<u64>, jobs: u64) -> BTreeMap<u64, Outcome> {
    let next = AtomicU64::new(seeds.start);
    let (sender, receiver) = mpsc::sync_channel::<Outcome>(1024);
    let total = seeds.end - seeds.start;
    let progress = ProgressBar::new(total);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (next, sender) = (&next, sender.clone());
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let wanted = seed < seeds.end;
                    let options = Options { seed, ..options.clone() };
                    if !wanted || sender.send(atoll_sim::run(&options)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        let mut outcomes = BTreeMap::new();
        let mut failures = 0;
        for outcome in receiver {
            progress.inc(1);
            failures += usize::from(!outcome.is_ok());
            outcomes.insert(outcome.seed, outcome);
            if failures >= FAILURES_MAX {
                next.store(seeds.end, Ordering::Relaxed);
            }
        }
        progress.finish_and_clear();
        outcomes
    })
}

fn summarize<'a>(outcomes: impl Iterator<Item = &'a Outcome> + Clone) {
    let (mut faults, mut marks) = (BTreeMap::new(), BTreeMap::new());
    let mut checkers: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut operations, mut answered, mut crashes, mut undecided) = (0, 0, 0, 0);
    let mut runs = 0_u64;
    for outcome in outcomes {
        runs += 1;
        operations += outcome.counts.operations;
        answered += outcome.counts.answered;
        crashes += outcome.counts.crashes;
        undecided += outcome.counts.undecided;
        for (kind, count) in &outcome.faults {
            *faults.entry(kind.name()).or_insert(0) += count;
        }
        for (mark, count) in &outcome.marks {
            *marks.entry(*mark).or_insert(0_u64) += count;
        }
        if let Some(violation) = &outcome.violation {
            *checkers.entry(violation.checker).or_default() += 1;
        }
    }
    println!("runs {runs}, calls {operations}, answered {answered}, power losses {crashes}");
    println!("faults: {}", list(&faults));
    println!("rare branches: {}", list(&marks));
    if runs >= RUNS_TELLING {
        let never: Vec<&str> =
            atoll_sim::marks::ALL.iter().copied().filter(|m| !marks.contains_key(m)).collect();
        let (missed, all) = (never.len(), atoll_sim::marks::ALL.len());
        println!("never reached, {missed} of {all}: {}", or_none(&never));
    }
    if undecided > 0 {
        println!("linearizability undecided for {undecided} keys");
    }
    if !checkers.is_empty() {
        println!("violations: {}", list(&checkers));
    }
}

fn or_none(items: &[&str]) -> String {
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn list(counts: &BTreeMap<&str, u64>) -> String {
    let items: Vec<String> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn report_speed<'a>(outcomes: impl Iterator<Item = &'a Outcome>, took: Duration) {
    let (mut runs, mut simulated, mut operations) = (0_u64, Duration::ZERO, 0_u64);
    for outcome in outcomes {
        runs += 1;
        simulated += outcome.simulated;
        operations += outcome.counts.operations;
    }
    let seconds = took.as_secs_f64().max(1e-9);
    eprintln!(
        "{:.1} runs/s, {:.0} operations/min, {:.0} simulated seconds in {seconds:.1} s: {:.0} \
         times real time",
        runs as f64 / seconds,
        60.0 * operations as f64 / seconds,
        simulated.as_secs_f64(),
        simulated.as_secs_f64() / seconds
    );
}
