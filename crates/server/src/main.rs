//! The `atoll` binary.

mod config;
mod dev;
mod drive;
mod gateway;
mod serve;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use clap::Parser;

/// Makes a few machines behave as one dependable store and workplace
#[derive(Parser)]
#[command(name = "atoll", version)]
enum Cli {
    /// Run one node of a cluster
    Serve(serve::ServeArgs),
    /// Run a whole cluster in one process, to try things with
    Dev(dev::DevArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Serve(args) => serve::run(&args),
        Cli::Dev(args) => dev::run(&args),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("atoll: {error:#}");
            ExitCode::FAILURE
        }
    }
}
