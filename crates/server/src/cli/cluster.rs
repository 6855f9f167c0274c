//! `cluster`.

use std::time::Duration;

use atoll_client::{
    ClusterStatus, Descriptor, Joining, NodeId, ReplicaMember, ReplicaStatus, Role, ShardId,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::connect::ConnectArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, say, table};

/// `atoll cluster`.
#[derive(Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Every node and its replicas
    Status {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// Hand a shard's leadership to one of its voters, which is preferred from then on
    TransferLeader {
        #[command(flatten)]
        connect: ConnectArgs,
        /// The shard
        #[arg(long)]
        shard: u64,
        /// The node that is to lead
        #[arg(long, value_name = "NODE")]
        to: u64,
    },
    /// Give a node that has joined a replica of every shard, or of one
    Add {
        #[command(flatten)]
        change: ChangeArgs,
        /// Stop when it has become a learner: a copy that does not vote
        #[arg(long, conflicts_with = "witness")]
        learner: bool,
        /// A witness: it votes and holds no data
        #[arg(long)]
        witness: bool,
    },
    /// Let a node vote where it is a learner
    Promote(ChangeArgs),
    /// Take a node out of one shard, or out of all of them and of the cluster
    Remove(ChangeArgs),
}

/// Whose membership changes, and how.
#[derive(Args)]
struct ChangeArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The node
    node: u64,
    /// Only this shard
    #[arg(long)]
    shard: Option<u64>,
    /// How long to wait for one shard, in seconds; what was begun goes on afterwards
    #[arg(long, default_value_t = 600, value_name = "SECONDS")]
    wait: u64,
}

impl ClusterArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        match self.command {
            ClusterCommand::Status { connect } => {
                let status = connect.client().await?.cluster_status().await?;
                match connect.output {
                    Format::Json => say(status_json(&status))?,
                    Format::Table => print(&status)?,
                }
            }
            ClusterCommand::TransferLeader { connect, shard, to } => {
                let client = connect.client().await?;
                client.transfer_leader(ShardId(shard), NodeId(to)).await?;
                match connect.output {
                    Format::Json => say(json!({ "shard": shard, "to": to }))?,
                    Format::Table => eprintln!("shard {shard} is led by node {to}"),
                }
            }
            ClusterCommand::Add { change, learner, witness } => {
                let joining = match (learner, witness) {
                    (true, _) => Joining::Learner,
                    (_, true) => Joining::Witness,
                    _ => Joining::Voter,
                };
                change.carry_out(Change::Add(joining)).await?;
            }
            ClusterCommand::Promote(change) => change.carry_out(Change::Promote).await?,
            ClusterCommand::Remove(change) => change.carry_out(Change::Remove).await?,
        }
        Ok(Ended::Well)
    }
}

enum Change {
    Add(Joining),
    Promote,
    Remove,
}

impl ChangeArgs {
    /// Each step is a line on standard error; the members that came of it go to standard output.
    async fn carry_out(self, change: Change) -> Result<(), Problem> {
        let client = self.connect.client().await?;
        let mut told = None;
        let mut changing = client
            .change_members(NodeId(self.node))
            .wait(Duration::from_secs(self.wait))
            .tell(move |progress| {
                if told.as_ref() != Some(&progress) {
                    eprintln!("shard {}: {}", progress.shard, progress.text);
                    told = Some(progress);
                }
            });
        if let Some(shard) = self.shard {
            changing = changing.shard(ShardId(shard));
        }
        let shards = match change {
            Change::Add(joining) => changing.add(joining).await?,
            Change::Promote => changing.promote().await?,
            Change::Remove => changing.remove().await?,
        };
        match self.connect.output {
            Format::Json => say(Value::from_iter(shards.iter().map(members_json))),
            Format::Table => {
                let mut rows = table(["shard", "epoch", "members"]);
                for shard in &shards {
                    let members: Vec<String> = shard.members.iter().map(member_text).collect();
                    let (id, epoch) = (shard.shard.to_string(), shard.epoch.to_string());
                    rows.add_row([id, epoch, members.join(", ")]);
                }
                say(rows)
            }
        }
    }
}

fn role(member: &ReplicaMember) -> &'static str {
    match member.role {
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Witness => "witness",
    }
}

fn member_text(member: &ReplicaMember) -> String {
    match member.role {
        Role::Voter => member.node.to_string(),
        _ => format!("{} ({})", member.node, role(member)),
    }
}

fn members_json(shard: &Descriptor) -> Value {
    let member = |m: &ReplicaMember| json!({ "node": m.node.0, "role": role(m) });
    let members: Vec<Value> = shard.members.iter().map(member).collect();
    json!({ "shard": shard.shard.0, "epoch": shard.epoch.0, "members": members })
}

fn print(status: &ClusterStatus) -> Result<(), Problem> {
    say(format!("cluster {:016x}", status.cluster_id))?;
    let mut nodes = table([
        "node", "clients", "peers", "state", "leads", "replicas", "disk", "free", "memory", "up",
    ]);
    let mut shards =
        table(["shard", "node", "state", "term", "commit", "applied", "lag", "revision"]);
    for node in &status.nodes {
        let (state, leads, replicas) = match &node.replicas {
            Err(failure) => (failure.message.clone(), String::new(), String::new()),
            Ok(replicas) => {
                let leads = replicas.iter().filter(|r| r.state == "leader").count();
                ("up".to_owned(), leads.to_string(), replicas.len().to_string())
            }
        };
        let facts = node.facts.as_ref().map_or_else(
            |_| ["", "", "", ""].map(str::to_owned),
            |f| {
                let sizes = [f.disk_used_bytes, f.disk_free_bytes, f.memory_bytes].map(size);
                let [used, free, memory] = sizes;
                [used, free, memory, age(f.uptime)]
            },
        );
        let (id, at) = (node.node.id.to_string(), node.node.client_address.clone());
        let own = [id, at, node.node.peer_address.clone(), state, leads, replicas];
        nodes.add_row(own.into_iter().chain(facts));
    }
    let mut replicas: Vec<&ReplicaStatus> =
        status.nodes.iter().filter_map(|n| n.replicas.as_ref().ok()).flatten().collect();
    replicas.sort_by_key(|r| (r.shard, r.node));
    for r in replicas {
        shards.add_row([
            r.shard.to_string(),
            r.node.to_string(),
            r.state.to_owned(),
            r.term.to_string(),
            r.commit_index.to_string(),
            r.applied_index.to_string(),
            status.lag(r).map_or_else(|| "?".to_owned(), |lag| lag.to_string()),
            r.revision.to_string(),
        ]);
    }
    say(nodes)?;
    say(shards)
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..units.len() - 1).find(|u| bytes >> (10 * u) < 1024).unwrap_or(units.len() - 1);
    format!("{} {}", bytes >> (10 * unit), units[unit])
}

/// A time for people: its two largest units.
fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [(seconds / 86_400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m")];
    let all = parts.into_iter().chain([(seconds % 60, "s")]);
    let from_first = all.skip_while(|(n, unit)| *n == 0 && *unit != "s");
    from_first.take(2).map(|(n, unit)| format!("{n}{unit}")).collect::<Vec<_>>().join(" ")
}

fn status_json(status: &ClusterStatus) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|n| {
            let (replicas, error) = match &n.replicas {
                Ok(replicas) => {
                    let replica = |r| replica_json(r, status.lag(r));
                    (replicas.iter().map(replica).collect(), Value::Null)
                }
                Err(failure) => (Vec::new(), json!(failure.message)),
            };
            let facts = n.facts.as_ref().map_or(Value::Null, |f| {
                json!({
                    "version": f.version,
                    "uptime_ms": u64::try_from(f.uptime.as_millis()).unwrap_or(u64::MAX),
                    "disk_used_bytes": f.disk_used_bytes,
                    "disk_free_bytes": f.disk_free_bytes,
                    "memory_bytes": f.memory_bytes,
                })
            });
            json!({
                "id": n.node.id.0,
                "client_address": n.node.client_address,
                "peer_address": n.node.peer_address,
                "http_address": n.node.http_address,
                "facts": facts,
                "replicas": replicas,
                "error": error,
            })
        })
        .collect();
    json!({ "cluster_id": format!("{:016x}", status.cluster_id), "nodes": nodes })
}

fn replica_json(r: &ReplicaStatus, lag: Option<u64>) -> Value {
    json!({
        "shard": r.shard.0,
        "state": r.state,
        "epoch": r.epoch.0,
        "term": r.term.0,
        "leader": r.leader.map(|l| l.0),
        "first_index": r.first_index.0,
        "last_index": r.last_index.0,
        "commit_index": r.commit_index.0,
        "applied_index": r.applied_index.0,
        "lag": lag,
        "revision": r.revision.0,
        "waits_for": r.waits_for,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_short() {
        let sizes = [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (5 << 30, "5 GiB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16777215 TiB");
        let times = [(0, "0s"), (61, "1m 1s"), (7200, "2h 0m"), (200_000, "2d 7h")];
        for (seconds, text) in times {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
