//! `cargo x dist`: the program as it is handed out, optimized by a profile of itself.
//!
//! The server is built with counters in it, three of them are driven by the benchmark for a minute
//! or so, and it is built once more by what they counted: which branches are taken and which
//! functions are called is no guess then. What a load does that the training lacks is laid out as
//! rarely used, so the training has some of everything: both protocols, few clients and many, a
//! restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cargo;

/// What is driven, over each protocol.
const OPERATIONS: &str = "put,get,range,page,cas,watch,watch-shared,lock";
const PROTOCOLS: [&str; 2] = ["atoll-etcd", "atoll"];
const SERVER: &str = "atoll-server";
/// How the environment names flags of the compiler, and what is between them.
const FLAGS: &str = "CARGO_ENCODED_RUSTFLAGS";
const FLAGS_BETWEEN: &str = "\u{1f}";

/// Where things are.
struct Places {
    root: PathBuf,
    /// Of the toolchain; build scripts and macros are built without flags where it is named.
    host: String,
    merger: PathBuf,
    target: PathBuf,
}

/// Builds it; `false` when a build or the training failed.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let places = Places::find(root)?;
    let counts = places.target.join("dist-counts");
    if counts.exists() {
        fs::remove_dir_all(&counts)
            .with_context(|| format!("cannot empty {}", counts.display()))?;
    }
    let profile = places.target.join("dist.profdata");
    let counting = places.target.join("dist-counting");
    println!("== a build that counts");
    let flag = format!("-Cprofile-generate={}", counts.display());
    if !places.build(&counting, &flag)? {
        return Ok(false);
    }
    println!("== the load generator");
    let load = ["build", "--release", "--locked", "--package", "atoll-bench"];
    if !succeeded(&mut cargo::command(root, &load))? {
        return Ok(false);
    }
    for protocol in PROTOCOLS {
        println!("== training: {protocol}");
        if !places.train(protocol, &places.built(&counting), &counts)? {
            return Ok(false);
        }
    }
    places.merge(&counts, &profile)?;
    println!("== the program");
    if !places.build(&places.target, &format!("-Cprofile-use={}", profile.display()))? {
        return Ok(false);
    }
    println!("{}", places.built(&places.target).display());
    Ok(true)
}

impl Places {
    fn find(root: &Path) -> Result<Self> {
        let version = said(Command::new("rustc").arg("-vV").current_dir(root))?;
        let host = host_in(&version).context("rustc -vV names no host")?.to_owned();
        let sysroot = said(Command::new("rustc").args(["--print", "sysroot"]).current_dir(root))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib");
        let merger = library.join(&host).join("bin/llvm-profdata");
        if !merger.exists() {
            let path = merger.display();
            bail!("there is no {path}: `rustup component add llvm-tools` brings it");
        }
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        Ok(Self { root: root.to_owned(), host, merger, target: root.join(target) })
    }

    /// Builds the server below a target folder.
    fn build(&self, target: &Path, flag: &str) -> Result<bool> {
        let args = ["build", "--profile", "dist", "--locked", "--package", SERVER];
        let mut command = cargo::command(&self.root, &args);
        command.args(["--target", &self.host]).arg("--target-dir").arg(target);
        let given = std::env::var("RUSTFLAGS").unwrap_or_default();
        let flags: Vec<&str> = given.split_whitespace().chain([flag]).collect();
        succeeded(command.env_remove("RUSTFLAGS").env(FLAGS, flags.join(FLAGS_BETWEEN)))
    }

    /// What such a build makes.
    fn built(&self, target: &Path) -> PathBuf {
        target.join(&self.host).join("dist/atoll")
    }

    /// Drives a build that counts; it writes what it counted when it stops.
    fn train(&self, protocol: &str, server: &Path, counts: &Path) -> Result<bool> {
        let mut command = Command::new(self.target.join("release/atoll-bench"));
        command
            .current_dir(&self.root)
            .env("LLVM_PROFILE_FILE", counts.join("%p-%m.profraw"))
            .args(["--keys", "20000", "--seconds", "1", "--clients", "16,256"])
            .args(["--operations", OPERATIONS, "--folder"])
            .arg(&self.target)
            .arg("--json")
            .arg(self.target.join("dist-training.json"))
            .args([protocol, "--binary"])
            .arg(server);
        succeeded(&mut command)
    }

    fn merge(&self, counts: &Path, profile: &Path) -> Result<()> {
        let mut command = Command::new(&self.merger);
        command.args(["merge", "--sparse", "--output"]).arg(profile).arg(counts);
        if !succeeded(&mut command)? {
            bail!("{} can't be merged", counts.display());
        }
        Ok(())
    }
}

fn host_in(version: &str) -> Option<&str> {
    version.lines().find_map(|line| line.strip_prefix("host: "))
}

fn said(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    Ok(String::from_utf8(output.stdout)?)
}

fn succeeded(command: &mut Command) -> Result<bool> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_found() {
        let version = "rustc 1.95.0\nbinary: rustc\nhost: x86_64-unknown-linux-gnu\n";
        assert_eq!(host_in(version), Some("x86_64-unknown-linux-gnu"));
        assert_eq!(host_in("rustc"), None);
    }
}
