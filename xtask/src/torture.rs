//! `cargo x torture`: the torture of real processes, which is a test of the server, made longer.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// Nodes of the clusters that are tortured, and the tests that do it.
const SIZES: [(u64, &str); 2] =
    [(3, "three_processes_are_tortured"), (5, "five_processes_are_tortured")];

/// What the caller may choose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Options {
    /// Faults last so long, over all clusters; healing and judging come on top.
    seconds: u64,
    /// The schedule.
    seed: u64,
    /// Only the cluster of this size.
    nodes: Option<u64>,
}

impl Default for Options {
    /// What the gate runs: the same schedule each time, since a gate must not fail by chance.
    fn default() -> Self {
        Self { seconds: 120, seed: 1, nodes: None }
    }
}

impl Options {
    /// Options as they are written: `--name number` or `--name=number`.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut words = args.iter().flat_map(|arg| arg.splitn(2, '='));
        while let Some(name) = words.next() {
            let text = words.next().with_context(|| format!("{name} is without a number"))?;
            let number = text.parse().with_context(|| format!("{name} {text}: no number"))?;
            match name {
                "--seconds" => options.seconds = number,
                "--seed" => options.seed = number,
                "--nodes" => options.nodes = Some(number),
                _ => bail!("torture takes --seconds, --seed and --nodes, not {name}"),
            }
        }
        if options.nodes.is_some_and(|nodes| SIZES.iter().all(|(size, _)| *size != nodes)) {
            bail!("--nodes is 3 or 5");
        }
        Ok(options)
    }

    fn tests(&self) -> impl Iterator<Item = &'static str> + use<> {
        let nodes = self.nodes;
        SIZES.into_iter().filter(move |(size, _)| nodes.is_none_or(|n| n == *size)).map(|(_, t)| t)
    }
}

/// Tortures; `false` when a promise was broken or a cluster did not heal.
pub(crate) fn run(root: &Path, options: Options) -> Result<bool> {
    let tests: Vec<&str> = options.tests().collect();
    let each = options.seconds.div_ceil(tests.len() as u64);
    // Of the whole workspace, so that nothing is built again with other features after the tests.
    let args = ["test", "--quiet", "--locked", "--workspace", "--test", "processes", "--"];
    let mut command = cargo::command(root, &args);
    command
        .args(["--nocapture", "--test-threads=1", "--exact"])
        .args(tests.iter().map(|test| format!("torture::{test}")))
        .env("ATOLL_TORTURE_SECONDS", each.to_string())
        .env("ATOLL_TORTURE_SEED", options.seed.to_string());
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Options> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        Options::parse(&words)
    }

    #[test]
    fn options_are_read_and_mistakes_refused() {
        let given = parse("--seed 7 --nodes=5 --seconds 30").expect("they are fine");
        assert_eq!(given, Options { seconds: 30, seed: 7, nodes: Some(5) });
        assert_eq!(given.tests().collect::<Vec<_>>(), ["five_processes_are_tortured"]);
        assert_eq!(parse("").expect("none is needed").tests().count(), 2);
        for wrong in ["--seed", "--seed x", "--nodes 4", "--speed 3", "7"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
