//! The benchmark of whole clusters: `cargo run --release -p atoll-bench -- <target>`.
//!
//! Every target is measured the same way. [`plan`] starts three servers, fills them, restarts them,
//! and takes one cell of the table after another; [`load`] is the load of one cell; [`target`] is
//! what a system has to offer to be measured, [`etcd`] the first that does; [`process`] runs the
//! servers and reads what they cost; [`report`] prints.
//!
//! Servers and load share the machine, so the load is kept cheap: one thread, tasks in a closed
//! loop over few connections. What it costs itself is in the report, beside what the servers cost.
//! CPU time per operation is the figure to compare: it hardly moves when the machine is busy with
//! other things, while throughput and latency do.

mod etcd;
mod histogram;
mod load;
mod plan;
mod process;
mod report;
mod target;
mod workload;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures a cluster of three servers on this machine")]
struct Cli {
    #[command(subcommand)]
    target: TargetCommand,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Subcommand)]
enum TargetCommand {
    /// Measures etcd.
    Etcd {
        /// The etcd program.
        #[arg(long, env = "ETCD_BIN", default_value = "etcd")]
        binary: PathBuf,
    },
}

/// What is measured, for how long.
#[derive(clap::Args, Clone)]
pub(crate) struct PlanArgs {
    /// Numbers of clients, each a closed loop.
    #[arg(long, global = true, value_delimiter = ',', default_value = "1,16,64,256,1000")]
    clients: Vec<usize>,
    /// Operations to measure.
    #[arg(long, global = true, value_delimiter = ',', default_value = "put,get,range")]
    operations: Vec<load::Operation>,
    /// Seconds that one cell of the table is measured.
    #[arg(long, global = true, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of load before the measurement begins.
    #[arg(long, global = true, default_value_t = 1.0)]
    warmup: f64,
    /// Keys to fill in before; keys have 16 bytes.
    #[arg(long, global = true, default_value_t = 100_000)]
    keys: u64,
    /// Bytes of a value.
    #[arg(long, global = true, default_value_t = 256)]
    value_bytes: usize,
    /// Connections, shared by the clients.
    #[arg(long, global = true, default_value_t = 6)]
    connections: usize,
    /// Which servers the connections lead to.
    #[arg(long, global = true, value_enum, default_value_t = target::Route::All)]
    route: target::Route,
    /// The folder below which the servers keep their data, on the disk that is to be measured.
    #[arg(long, global = true, default_value = "target")]
    folder: PathBuf,
    /// A file for the report as JSON; without it the JSON follows the table.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

impl PlanArgs {
    fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    // One thread: the load must not take from the servers what it does not need.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        match &cli.target {
            TargetCommand::Etcd { binary } => {
                plan::measure(&mut etcd::Etcd::new(binary)?, &cli.plan).await
            }
        }
    })?;
    println!("{}", report.table());
    let json = serde_json::to_string_pretty(&report)?;
    match &cli.plan.json {
        Some(path) => std::fs::write(path, json)?,
        None => println!("{json}"),
    }
    Ok(())
}
