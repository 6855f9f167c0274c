//! `keyspace`.

use atoll_client::{KeyspaceInfo, KeyspaceSpec, ShardOptions};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::connect::ConnectArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, say, table};
use super::text::{Encoding, TextArgs};

/// `atoll keyspace`.
#[derive(Args)]
pub(crate) struct KeyspaceArgs {
    #[command(subcommand)]
    command: KeyspaceCommand,
}

#[derive(Subcommand)]
enum KeyspaceCommand {
    /// Create a keyspace
    Create(CreateArgs),
    /// Every keyspace
    List {
        #[command(flatten)]
        connect: ConnectArgs,
    },
    /// One keyspace and its shards
    Describe {
        #[command(flatten)]
        connect: ConnectArgs,
        /// Its name
        name: String,
    },
    /// Drop a keyspace with all its data
    Drop {
        #[command(flatten)]
        connect: ConnectArgs,
        /// Its name
        name: String,
        /// Really drop it
        #[arg(long, required = true)]
        yes: bool,
    },
}

#[derive(Args)]
struct CreateArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    text: TextArgs,
    /// Its name: 1 to 64 of a-z 0-9 . _ -
    name: String,
    /// Copies of each shard, an odd number; without it 3, or 1 on fewer than three nodes
    #[arg(long)]
    replicas: Option<u32>,
    /// Shards, 1 to 256
    #[arg(long)]
    shards: Option<u32>,
    /// Where shards begin, ascending, separated by commas; without it they are spaced evenly over
    /// the first bytes of keys
    #[arg(long, value_delimiter = ',', value_name = "KEYS")]
    split: Vec<String>,
    /// Serve reads under a leader lease: faster, trusts a bounded clock drift
    #[arg(long)]
    lease_reads: bool,
    /// Revisions of history to keep per shard; 0: as many as the nodes' setting says
    #[arg(long, default_value_t = 0)]
    history: u64,
}

impl KeyspaceArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        match self.command {
            KeyspaceCommand::Create(args) => {
                let created = args.connect.client().await?.create_keyspace(&args.spec()?).await?;
                print(&created, args.connect.output)?;
            }
            KeyspaceCommand::List { connect } => {
                let all = connect.client().await?.keyspaces().await?;
                match connect.output {
                    Format::Json => all.iter().try_for_each(|k| say(info_json(k)))?,
                    Format::Table => {
                        let mut rows = table(["name", "id", "shards", "replicas"]);
                        for info in &all {
                            rows.add_row([
                                info.keyspace.name.clone(),
                                info.keyspace.id.to_string(),
                                info.shards.len().to_string(),
                                info.keyspace.replicas.to_string(),
                            ]);
                        }
                        say(rows)?;
                    }
                }
            }
            KeyspaceCommand::Describe { connect, name } => {
                print(&connect.client().await?.describe_keyspace(&name).await?, connect.output)?;
            }
            KeyspaceCommand::Drop { connect, name, yes: _ } => {
                connect.client().await?.drop_keyspace(&name).await?;
                match connect.output {
                    Format::Json => say(json!({ "dropped": name }))?,
                    Format::Table => eprintln!("keyspace {name} dropped"),
                }
            }
        }
        Ok(Ended::Well)
    }
}

impl CreateArgs {
    fn spec(&self) -> Result<KeyspaceSpec, Problem> {
        let decode = |key: &String| self.text.encoding().decode(key);
        let mut spec = KeyspaceSpec::new(&self.name);
        spec.replicas = self.replicas;
        spec.shards = self.shards;
        spec.split_keys = self.split.iter().map(decode).collect::<Result<_, _>>()?;
        spec.options =
            ShardOptions { lease_reads: self.lease_reads, history_revisions: self.history };
        Ok(spec)
    }
}

fn members(info: &KeyspaceInfo, shard: usize) -> Vec<u64> {
    info.shards[shard].members.iter().map(|m| m.node.0).collect()
}

fn print(info: &KeyspaceInfo, format: Format) -> Result<(), Problem> {
    if format == Format::Json {
        return say(info_json(info));
    }
    let k = &info.keyspace;
    say(format!("keyspace {} (id {}), {} replicas per shard", k.name, k.id, k.replicas))?;
    let mut rows = table(["shard", "from", "to", "epoch", "nodes"]);
    for (i, shard) in info.shards.iter().enumerate() {
        let nodes: Vec<String> = members(info, i).iter().map(u64::to_string).collect();
        let show = |key: &[u8]| Encoding::Plain.show(key);
        rows.add_row([
            shard.shard.to_string(),
            show(&shard.start),
            shard.end.as_ref().map_or(String::new(), |end| show(end)),
            shard.epoch.to_string(),
            nodes.join(" "),
        ]);
    }
    say(rows)
}

fn info_json(info: &KeyspaceInfo) -> Value {
    let shard = |(i, d): (usize, &atoll_client::Descriptor)| {
        let mut object = Map::new();
        object.insert("id".to_owned(), json!(d.shard.0));
        object.insert("epoch".to_owned(), json!(d.epoch.0));
        Encoding::Plain.put_json(&mut object, "start", &d.start);
        if let Some(end) = &d.end {
            Encoding::Plain.put_json(&mut object, "end", end);
        }
        object.insert("nodes".to_owned(), json!(members(info, i)));
        Value::Object(object)
    };
    let shards: Vec<Value> = info.shards.iter().enumerate().map(shard).collect();
    let k = &info.keyspace;
    json!({ "name": k.name, "id": k.id.0, "replicas": k.replicas, "shards": shards })
}
