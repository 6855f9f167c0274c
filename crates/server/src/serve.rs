//! `atoll serve`: one node, until it is told to stop.

use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::config::{self, LogFormat, NodeConfig};
use crate::instance::{Instance, Listeners};

/// The flags of `atoll serve`: one per setting.
#[derive(Clone, Debug)]
pub(crate) struct ServeArgs {
    flags: ArgMatches,
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        config::matches_of(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        config::matches_of(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { flags: matches.clone() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.flags = matches.clone();
        Ok(())
    }
}

/// Runs a node until Ctrl-C or SIGTERM.
///
/// # Errors
/// Settings that are not allowed, or a node that can't start.
pub(crate) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = config::load(&args.flags, |name| std::env::var(name).ok())?;
    start_logging(&config)?;
    runtime(config.network_threads())?.block_on(async {
        let node = start(config).await?;
        let doom = tokio::select! {
            signal = stop_signal() => {
                tracing::info!(signal = signal?, "stopping");
                None
            }
            why = node.is_doomed() => Some(why),
        };
        node.stop().await;
        match doom {
            Some(why) => anyhow::bail!(why),
            None => tracing::info!("stopped"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

async fn start(config: NodeConfig) -> anyhow::Result<Instance> {
    if config.insecure_listen {
        tracing::warn!(
            "insecure_listen: whoever reaches this node's ports can read and change everything"
        );
    }
    let listeners = Listeners::bind(&config).await?;
    let (id, data) = (config.node_id, config.data.clone());
    let members = config.bootstrap.to_string();
    let node = Instance::start(&config, listeners)
        .await
        .with_context(|| format!("node {id} can't start"))?;
    let at = node.addresses();
    tracing::info!(node = id.0, client = %at.client, peer = %at.peer, http = %at.http,
        data = %data.display(), bootstrap = members, "node is up");
    Ok(node)
}

/// The runtime of connections, on so many threads.
///
/// A single thread runs its tasks in the order in which they became ready: lanes that it turns take
/// what all connections read before, and the answers of a turn are all written down before their
/// connection sends them, at once. Several threads would run a connection as soon as its first
/// answer is there, and wake each other for the rest.
pub(crate) fn runtime(threads: usize) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    builder.worker_threads(threads).enable_all().thread_name("net").build()
}

/// Sends log lines to standard error.
pub(crate) fn start_logging(config: &NodeConfig) -> anyhow::Result<()> {
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    let mut filter: tracing_subscriber::filter::Targets = config.log.parse()?;
    if !config.log.contains("fjall") {
        // The engine's library tells about every file it finishes.
        let quiet = tracing::level_filters::LevelFilter::WARN;
        filter = filter.with_targets([("fjall", quiet), ("lsm_tree", quiet)]);
    }
    let registry = tracing_subscriber::registry().with(filter);
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let layer =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(is_terminal);
    match config.log_format {
        LogFormat::Text => registry.with(layer).try_init()?,
        LogFormat::Json => registry.with(layer.json()).try_init()?,
    }
    Ok(())
}

/// Waits for the first signal to stop and names it.
pub(crate) async fn stop_signal() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = tokio::signal::ctrl_c() => done.map(|()| "SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}
