//! `cluster`.

use atoll_client::{ClusterStatus, NodeId, ReplicaStatus, ShardId};
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
    /// Hand a shard's leadership to one of its members
    TransferLeader {
        #[command(flatten)]
        connect: ConnectArgs,
        /// The shard
        shard: u64,
        /// The node that is to lead
        node: u64,
    },
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
            ClusterCommand::TransferLeader { connect, shard, node } => {
                let client = connect.client().await?;
                client.transfer_leader(ShardId(shard), NodeId(node)).await?;
                match connect.output {
                    Format::Json => say(json!({ "shard": shard, "to": node }))?,
                    Format::Table => {
                        eprintln!("leadership of shard {shard} is on its way to node {node}")
                    }
                }
            }
        }
        Ok(Ended::Well)
    }
}

fn print(status: &ClusterStatus) -> Result<(), Problem> {
    say(format!("cluster {:016x}", status.cluster_id))?;
    let mut nodes = table(["node", "clients", "peers", "state", "leads", "replicas"]);
    let mut shards = table(["shard", "node", "state", "term", "commit", "applied", "revision"]);
    for node in &status.nodes {
        let (state, leads, replicas) = match &node.replicas {
            Err(failure) => (failure.message.clone(), String::new(), String::new()),
            Ok(replicas) => {
                let leads = replicas.iter().filter(|r| r.state == "leader").count();
                ("up".to_owned(), leads.to_string(), replicas.len().to_string())
            }
        };
        let (id, at) = (node.node.id.to_string(), node.node.client_address.clone());
        nodes.add_row([id, at, node.node.peer_address.clone(), state, leads, replicas]);
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
            r.revision.to_string(),
        ]);
    }
    say(nodes)?;
    say(shards)
}

fn status_json(status: &ClusterStatus) -> Value {
    let nodes: Vec<Value> = status
        .nodes
        .iter()
        .map(|n| {
            let (replicas, error) = match &n.replicas {
                Ok(replicas) => (replicas.iter().map(replica_json).collect(), Value::Null),
                Err(failure) => (Vec::new(), json!(failure.message)),
            };
            json!({
                "id": n.node.id.0,
                "client_address": n.node.client_address,
                "peer_address": n.node.peer_address,
                "http_address": n.node.http_address,
                "replicas": replicas,
                "error": error,
            })
        })
        .collect();
    json!({ "cluster_id": format!("{:016x}", status.cluster_id), "nodes": nodes })
}

fn replica_json(r: &ReplicaStatus) -> Value {
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
        "revision": r.revision.0,
    })
}
