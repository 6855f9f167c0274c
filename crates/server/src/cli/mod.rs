//! What users type: commands that are clients of a cluster. `docs/cli.md` describes them.
//!
//! Every command takes the same connection flags, prints tables for people or JSON for programs,
//! and ends with an exit code that means something ([`exit`]). Data goes to standard output,
//! everything else to standard error.

mod bench;
mod cluster;
mod connect;
mod data;
mod elect;
mod exit;
mod export;
mod guard;
mod import;
mod keyspace;
mod lease;
mod lock;
mod output;
mod record;
mod semaphore;
mod sim;
mod text;
mod txn;
mod txn_text;
mod ward;
mod watch;

use std::process::ExitCode;

use clap::{CommandFactory, Subcommand};

use self::exit::{Ended, Problem};

/// Commands that are clients of a cluster.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Set a key
    Put(data::PutArgs),
    /// Read a key
    Get(data::GetArgs),
    /// Delete a key or a range of keys
    #[command(visible_alias = "del")]
    Delete(data::DeleteArgs),
    /// Read a range of keys in order
    Scan(data::ScanArgs),
    /// Follow the changes of a range of keys
    Watch(watch::WatchArgs),
    /// Compare, then change: all at once or not at all
    Txn(txn::TxnArgs),
    /// Hold a lock, while a command runs
    Lock(lock::LockArgs),
    /// Hold permits of a semaphore, while a command runs
    Semaphore(semaphore::SemaphoreArgs),
    /// Lead an election, or see who does
    Elect(elect::ElectArgs),
    /// Grant, revoke, renew, list and show leases
    Lease(lease::LeaseArgs),
    /// Load records from a file
    Import(import::ImportArgs),
    /// Write records to a file
    Export(export::ExportArgs),
    /// Create, list, describe and drop keyspaces
    Keyspace(keyspace::KeyspaceArgs),
    /// How the cluster is
    Cluster(cluster::ClusterArgs),
    /// Put load on a cluster and measure it
    Bench(bench::BenchArgs),
    /// Run clusters in virtual time, with faults, and check what they promise
    Sim(sim::SimArgs),
    /// Print a script that completes commands in a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Carries a command out.
pub(crate) fn run<C: CommandFactory>(command: Command) -> ExitCode {
    let ended = match command {
        Command::Completions { shell } => completions::<C>(shell),
        Command::Sim(args) => args.run(),
        other => tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| Problem::local("start of the runtime", &error))
            .and_then(|runtime| runtime.block_on(dispatch(other))),
    };
    match ended {
        Ok(ended) => ended.code(),
        Err(problem) => {
            eprintln!("atoll: {problem}");
            problem.code()
        }
    }
}

async fn dispatch(command: Command) -> Result<Ended, Problem> {
    match command {
        Command::Put(args) => args.run().await,
        Command::Get(args) => args.run().await,
        Command::Delete(args) => args.run().await,
        Command::Scan(args) => args.run().await,
        Command::Watch(args) => args.run().await,
        Command::Txn(args) => args.run().await,
        Command::Lock(args) => args.run().await,
        Command::Semaphore(args) => args.run().await,
        Command::Elect(args) => args.run().await,
        Command::Lease(args) => args.run().await,
        Command::Import(args) => args.run().await,
        Command::Export(args) => args.run().await,
        Command::Keyspace(args) => args.run().await,
        Command::Cluster(args) => args.run().await,
        Command::Bench(args) => args.run().await,
        Command::Sim(_) | Command::Completions { .. } => Ok(Ended::Well),
    }
}

fn completions<C: CommandFactory>(shell: clap_complete::Shell) -> Result<Ended, Problem> {
    clap_complete::generate(shell, &mut C::command(), "atoll", &mut std::io::stdout());
    Ok(Ended::Well)
}
