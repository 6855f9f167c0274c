//! The benchmark of whole clusters: `cargo run --release -p atoll-bench -- <target>`.
//!
//! Every target is measured the same way. [`plan`] starts three servers, fills them, restarts them,
//! and takes one cell of the table after another; [`load`] is the load of one cell; [`target`] is
//! what a system has to offer to be measured, [`mod@etcd`] and [`mod@atoll`] do; [`process`] runs
//! the servers and reads what they cost; [`seen`] counts and [`report`] prints;
//! [`mod@grpc`] is the client of all that is driven over etcd's API. [`versus`] measures
//! one system after the other and shows them side by side; [`fanout`] is the load of watches.
//! [`recovery`] kills servers instead and takes the time until all is well again.
//!
//! Servers and load share the machine, so the load is kept cheap: one thread, tasks in a closed
//! loop over few connections. What it costs itself is in the report, beside what the servers cost
//! and what other programs took meanwhile. On a busy machine CPU time per operation is the figure
//! to compare, and only where operations are many: with few, a server's idle work is shared by few.

mod atoll;
mod etcd;
mod fanout;
mod grpc;
mod histogram;
mod load;
mod plan;
mod process;
mod recovery;
mod report;
mod seen;
mod target;
mod versus;
mod workload;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::report::Report;
use crate::target::Target;

/// As the servers that are measured: the system's took a tenth of what the load takes.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(about = "Measures a cluster of three servers on this machine")]
struct Cli {
    #[command(subcommand)]
    task: Task,
    #[command(flatten)]
    plan: PlanArgs,
}

#[derive(Subcommand)]
enum Task {
    /// Measures Atoll.
    Atoll {
        /// The atoll program; without it the one beside this program.
        #[arg(long, env = "ATOLL_BIN")]
        binary: Option<PathBuf>,
    },
    /// Measures Atoll through etcd's API, with the same client as etcd.
    AtollEtcd {
        /// As for `atoll`.
        #[arg(long, env = "ATOLL_BIN")]
        binary: Option<PathBuf>,
    },
    /// Measures etcd.
    Etcd {
        /// The etcd program.
        #[arg(long, env = "ETCD_BIN", default_value = "etcd")]
        binary: PathBuf,
    },
    /// Kills servers: how long until one is back, how long nobody can write without the leader.
    Recovery {
        /// What is measured; its program is found as for its own task.
        #[arg(value_enum)]
        target: Peer,
    },
    /// Measures etcd and Atoll over etcd's API, one after the other, and shows how many times as
    /// good Atoll is. What is measured is given: numbers of clients and operations are not taken.
    Versus {
        /// Programs of etcd, one for each version.
        #[arg(long, value_delimiter = ',', default_value = "etcd")]
        peers: Vec<PathBuf>,
        /// The atoll program; without it the one beside this program.
        #[arg(long, env = "ATOLL_BIN")]
        binary: Option<PathBuf>,
    },
    /// Shows two JSON reports side by side.
    Compare {
        /// The report that the other one's costs are divided by.
        base: PathBuf,
        /// The other one.
        other: PathBuf,
    },
}

/// A system whose recovery is measured.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Peer {
    /// Atoll; its program is what `ATOLL_BIN` names or the one beside this.
    Atoll,
    /// etcd; its program is what `ETCD_BIN` names or `etcd`.
    Etcd,
}

/// What is measured, for how long.
#[derive(clap::Args, Clone)]
pub(crate) struct PlanArgs {
    /// Numbers of clients, each a closed loop.
    #[arg(long, global = true, value_delimiter = ',', default_value = "1,16,64,256,1000")]
    clients: Vec<usize>,
    /// Operations per second of all clients together, begun on time whatever the answers take: for
    /// latencies at equal load. Not for locks and watches.
    #[arg(long, global = true, value_parser = parse_rate)]
    rate: Option<f64>,
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
    /// Every operation at every number of clients.
    fn cells(&self) -> Vec<(load::Operation, usize)> {
        let of = |operation| self.clients.iter().map(move |clients| (operation, *clients));
        self.operations.iter().copied().flat_map(of).collect()
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.warmup)
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (1.0..=1e7).contains(&rate) => Ok(rate),
        _ => Err("from 1 to 10,000,000 operations per second".to_owned()),
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    match &cli.task {
        Task::Atoll { binary } => measure(&mut atoll::Atoll::new(binary.as_deref())?, &cli.plan),
        Task::AtollEtcd { binary } => {
            measure(&mut atoll::AtollEtcd::new(binary.as_deref())?, &cli.plan)
        }
        Task::Etcd { binary } => measure(&mut etcd::Etcd::new(binary)?, &cli.plan),
        Task::Recovery { target: Peer::Atoll } => {
            let binary = std::env::var_os("ATOLL_BIN").map(PathBuf::from);
            recover(&mut atoll::Atoll::new(binary.as_deref())?, &cli.plan)
        }
        Task::Recovery { target: Peer::Etcd } => {
            let binary = std::env::var_os("ETCD_BIN").unwrap_or_else(|| "etcd".into());
            recover(&mut etcd::Etcd::new(Path::new(&binary))?, &cli.plan)
        }
        Task::Versus { peers, binary } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let reports = runtime.block_on(versus::measure(peers, binary.as_deref(), &cli.plan))?;
            println!("{}", versus::table(&reports));
            if let Some(path) = &cli.plan.json {
                std::fs::write(path, serde_json::to_string_pretty(&reports)?)?;
            }
            Ok(())
        }
        Task::Compare { base, other } => {
            println!("{}", read(base)?.comparison(&read(other)?));
            Ok(())
        }
    }
}

fn measure(target: &mut impl Target, plan: &PlanArgs) -> Result<()> {
    // One thread: the load must not take from the servers what it does not need.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(plan::measure(target, &plan.cells(), plan))?;
    println!("{}", report.table());
    let json = serde_json::to_string_pretty(&report)?;
    match &plan.json {
        Some(path) => std::fs::write(path, json)?,
        None => println!("{json}"),
    }
    Ok(())
}

fn recover(target: &mut impl Target, plan: &PlanArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(recovery::measure(target, plan))?;
    println!("{report}");
    Ok(())
}

fn read(path: &Path) -> Result<Report> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))
}
