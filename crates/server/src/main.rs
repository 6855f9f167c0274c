//! The `atoll` binary.

mod allocator;
mod cli;
mod config;
mod dev;
mod drive;
mod gateway;
mod instance;
mod outside;
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
    #[command(flatten)]
    Client(cli::Command),
}

fn main() -> ExitCode {
    allocator::give_back_soon();
    let done = match Cli::parse() {
        Cli::Serve(args) => serve::run(&args),
        Cli::Dev(args) => dev::run(&args),
        Cli::Client(command) => return cli::run::<Cli>(command),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("atoll: {}", told(&error));
            // As for the client commands: 2 says that the call makes no sense.
            if error.is::<config::ConfigError>() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// An error with its causes, each said once: some already say what caused them.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
