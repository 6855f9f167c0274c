//! The order of one run: start, fill, restart, then each operation at each number of clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::PlanArgs;
use crate::load::{self, Operation};
use crate::process::{self, Server};
use crate::report::{CellReport, Memory, Report};
use crate::seen::Window;
use crate::target::Target;
use crate::workload::Workload;

/// Measures a target. Its data is removed afterwards.
pub(crate) async fn measure<T: Target>(
    target: &mut T,
    list: &[(Operation, usize)],
    args: &PlanArgs,
) -> Result<Report> {
    std::fs::create_dir_all(&args.folder)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&args.folder)?;
    let workload = Workload::new(args.keys, args.value_bytes);
    let mut memory = Memory::default();

    let name = target.name();
    eprintln!("{name}: starting");
    target.start(folder.path()).await?;
    eprintln!("{name}: filling {} keys", args.keys);
    let begin = Instant::now();
    let connections = target.connect(args.connections, args.route).await?;
    load::fill(&connections, args.keys, &workload).await.context("cannot fill")?;
    let fill_seconds = begin.elapsed().as_secs_f64();
    memory.filled = memory_of(target.servers())?;

    drop(connections);
    eprintln!("{name}: stopping");
    target.stop().await?;
    eprintln!("{name}: restarting");
    let begin = Instant::now();
    target.start(folder.path()).await?;
    let restart_seconds = begin.elapsed().as_secs_f64();
    memory.restarted = memory_of(target.servers())?;

    let connections = target.connect(args.connections, args.route).await?;
    let mut cells = Vec::new();
    for (operation, clients) in list {
        eprintln!("{name}: {operation} with {clients} clients");
        let cell = cell(target, &connections, *operation, *clients, &workload, args).await;
        cells.push(cell.with_context(|| format!("{operation} with {clients} clients"))?);
    }
    memory.end = memory_of(target.servers())?;
    drop(connections);
    eprintln!("{name}: stopping");
    target.stop().await?;
    Ok(Report {
        target: name,
        route: args.route,
        connections: args.connections,
        keys: args.keys,
        value_bytes: args.value_bytes,
        rate: args.rate,
        cores: std::thread::available_parallelism()?.get(),
        fill_seconds,
        restart_seconds,
        cells,
        memory,
        disk_bytes: process::disk_bytes(folder.path())?,
    })
}

async fn cell<T: Target>(
    target: &T,
    connections: &[T::Client],
    operation: Operation,
    clients: usize,
    workload: &Workload,
    args: &PlanArgs,
) -> Result<CellReport> {
    let from = Instant::now() + args.warmup();
    let window = Window { from, to: from + args.seconds(), rate: args.rate };
    let servers = target.servers();
    let load = load::run(connections, clients, operation, workload, window);
    let (seen, cost) = tokio::join!(load, cost(servers, window));
    let (seen, cost) = (seen?, cost?);
    let count = seen.latencies.total();
    let per_operation = |cpu: Duration| cpu.as_secs_f64() * 1e6 / count.max(1) as f64;
    Ok(CellReport {
        operation,
        clients,
        operations: count,
        errors: seen.errors,
        first_error: seen.first_error,
        seconds: args.seconds,
        per_second: count as f64 / args.seconds,
        p50_us: seen.latencies.quantile(500),
        p99_us: seen.latencies.quantile(990),
        server_cpu_us: per_operation(cost.servers),
        load_cpu_us: per_operation(cost.load),
        other_cores: cost.others(args.seconds),
        memory_bytes: memory_of(servers)?.into_iter().max().unwrap_or(0),
    })
}

/// CPU times within a window, or up to a moment.
#[derive(Clone, Copy)]
struct Cost {
    servers: Duration,
    load: Duration,
    machine: Duration,
}

impl Cost {
    fn until_now(servers: &[Server]) -> Result<Self> {
        let mut sum = Duration::ZERO;
        for server in servers {
            sum += server.cpu()?;
        }
        Ok(Self { servers: sum, load: process::own_cpu()?, machine: process::machine_cpu()? })
    }

    /// Cores that neither the servers nor the load kept busy, over `seconds`.
    fn others(&self, seconds: f64) -> f64 {
        let others = self.machine.saturating_sub(self.servers + self.load);
        others.as_secs_f64() / seconds
    }
}

async fn cost(servers: &[Server], window: Window) -> Result<Cost> {
    tokio::time::sleep_until(window.from.into()).await;
    let before = Cost::until_now(servers)?;
    tokio::time::sleep_until(window.to.into()).await;
    let after = Cost::until_now(servers)?;
    Ok(Cost {
        servers: after.servers - before.servers,
        load: after.load - before.load,
        machine: after.machine - before.machine,
    })
}

fn memory_of(servers: &[Server]) -> Result<Vec<u64>> {
    servers.iter().map(Server::memory_bytes).collect()
}
