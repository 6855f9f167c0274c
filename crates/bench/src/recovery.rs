//! What kills cost: the time until a killed server is back, and how long nobody can write after the
//! leader was killed.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use atoll_base::Rng;
use tokio::task::LocalSet;

use crate::PlanArgs;
use crate::load;
use crate::process::Server;
use crate::target::{Client, Target};
use crate::workload::Workload;

/// Leaders killed, one after the other.
const ROUNDS: usize = 5;
/// Clients that write meanwhile, each a closed loop.
const WRITERS: usize = 16;
/// How long they write before and after each kill.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(6);
/// How long a writer waits after a failure.
const PAUSE: Duration = Duration::from_millis(5);

/// What was seen.
pub(crate) struct Recovery {
    target: String,
    keys: u64,
    /// Resident bytes of each server after filling.
    filled: Vec<u64>,
    /// From the start of a killed follower to its first answer.
    back: Duration,
    /// Of each round, the longest time without a successful write.
    gaps: Vec<Duration>,
    errors: u64,
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let memory: Vec<_> = self.filled.iter().map(|b| (b >> 20).to_string()).collect();
        writeln!(f, "{}: {} keys, resident MiB {}", self.target, self.keys, memory.join(" + "))?;
        writeln!(f, "one follower back after a kill: {:.2} s", self.back.as_secs_f64())?;
        let gaps: Vec<_> = self.gaps.iter().map(|g| format!("{:.2}", g.as_secs_f64())).collect();
        let (gaps, errors) = (gaps.join(", "), self.errors);
        write!(f, "longest time without a write after a kill of the leader, s: {gaps}; ")?;
        write!(f, "{errors} writes failed of {WRITERS} clients")
    }
}

/// Fills a target, then kills its servers. Its data is removed afterwards.
pub(crate) async fn measure<T: Target>(target: &mut T, args: &PlanArgs) -> Result<Recovery> {
    std::fs::create_dir_all(&args.folder)?;
    let folder = tempfile::Builder::new().prefix("bench-").tempdir_in(&args.folder)?;
    let folder = folder.path();
    let workload = Workload::new(args.keys, args.value_bytes);
    eprintln!("{}: filling {} keys", target.name(), args.keys);
    target.start(folder).await?;
    let connections = target.connect(args.connections, args.route).await?;
    load::fill(&connections, args.keys, &workload).await.context("cannot fill")?;
    drop(connections);
    let filled = target.servers().iter().map(Server::memory_bytes).collect::<Result<_>>()?;

    eprintln!("{}: killing a follower", target.name());
    let follower = (target.leader().await? + 1) % target.servers().len();
    target.kill(follower)?;
    let begin = Instant::now();
    target.revive(follower, folder).await?;
    let back = begin.elapsed();

    let (mut gaps, mut errors) = (Vec::new(), 0);
    for round in 1..=ROUNDS {
        eprintln!("{}: killing the leader, {round} of {ROUNDS}", target.name());
        let (gap, failed) = kill_leader(target, folder, &workload, args).await?;
        gaps.push(gap);
        errors += failed;
    }
    target.stop().await?;
    Ok(Recovery { target: target.name(), keys: args.keys, filled, back, gaps, errors })
}

/// What the writers of one round saw.
#[derive(Default)]
struct Written {
    last: Option<Instant>,
    longest: Duration,
    errors: u64,
}

/// The longest time between two successful writes of any client, and how many failed.
async fn kill_leader<T: Target>(
    target: &mut T,
    folder: &Path,
    workload: &Workload,
    args: &PlanArgs,
) -> Result<(Duration, u64)> {
    let connections = target.connect(args.connections, args.route).await?;
    let leader = target.leader().await?;
    let written = Rc::new(RefCell::new(Written::default()));
    let end = Instant::now() + BEFORE + AFTER;
    let local = LocalSet::new();
    for number in 0..WRITERS {
        let client = connections[number % connections.len()].clone();
        let rng = Rng::new(number as u64);
        local.spawn_local(write(client, rng, workload.clone(), Rc::clone(&written), end));
    }
    local
        .run_until(async {
            tokio::time::sleep(BEFORE).await;
            target.kill(leader)
        })
        .await?;
    local.await;
    target.revive(leader, folder).await?;
    let written = written.borrow();
    let last = written.last.context("no write succeeded")?;
    Ok((written.longest.max(end.saturating_duration_since(last)), written.errors))
}

async fn write<C: Client>(
    mut client: C,
    mut rng: Rng,
    workload: Workload,
    written: Rc<RefCell<Written>>,
    end: Instant,
) {
    while Instant::now() < end {
        let put = client.put(workload.any_key(&mut rng), workload.any_value(&mut rng));
        match tokio::time::timeout_at(end.into(), put).await {
            Ok(Ok(())) => {
                let now = Instant::now();
                let mut written = written.borrow_mut();
                let gap = written.last.map_or(Duration::ZERO, |last| now - last);
                written.longest = written.longest.max(gap);
                written.last = Some(now);
            }
            Ok(Err(_)) => {
                written.borrow_mut().errors += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => return,
        }
    }
}
