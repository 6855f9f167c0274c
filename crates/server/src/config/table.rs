//! The one table of settings.

use std::path::PathBuf;
use std::time::Duration;

use atoll_base::NodeId;

use super::bootstrap::Bootstrap;
use super::value::{self, Bad, within};

/// A node's settings, checked. Field by field what [`SETTINGS`] says.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeConfig {
    pub(crate) node_id: NodeId,
    pub(crate) data: PathBuf,
    pub(crate) listen: String,
    pub(crate) peer_listen: String,
    pub(crate) http_listen: String,
    pub(crate) bootstrap: Bootstrap,
    pub(crate) join: Vec<String>,
    pub(crate) cluster_name: String,
    pub(crate) insecure_listen: bool,
    pub(crate) lanes: u16,
    pub(crate) worker_threads: usize,
    pub(crate) one_thread: Option<bool>,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
    pub(crate) connections_max: usize,
    pub(crate) http_connections_max: usize,
    pub(crate) calls_in_flight_max: usize,
    pub(crate) message_bytes_max: usize,
    pub(crate) key_bytes_max: u64,
    pub(crate) value_bytes_max: u64,
    pub(crate) txn_parts_max: u64,
    pub(crate) calls_per_shard_max: usize,
    pub(crate) lane_queue_max: usize,
    pub(crate) answer_queue_max: usize,
    pub(crate) peer_queue_messages_max: usize,
    pub(crate) peer_queue_bytes_max: usize,
    pub(crate) election_timeout: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) quiet_groups: bool,
    pub(crate) log_segment_bytes: u64,
    pub(crate) engine_cache_bytes: u64,
    pub(crate) engine_write_buffer_bytes: u64,
    pub(crate) persist_bytes: u64,
    pub(crate) persist_interval: Duration,
    pub(crate) log_keep_entries: u64,
    pub(crate) disk_reserve_bytes: u64,
    pub(crate) history_revisions: u64,
    pub(crate) shutdown_timeout: Duration,
    pub(crate) etcd_keyspace: String,
    pub(crate) etcd_request_bytes_max: usize,
    pub(crate) etcd_txn_ops_max: usize,
}

impl NodeConfig {
    /// Threads that serve connections.
    pub(crate) fn network_threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match self.worker_threads {
            0 if self.one_thread == Some(true) => 1,
            0 => (cores() / 2).max(1),
            threads => threads,
        }
    }

    /// The thread that serves connections turns the lanes and may write the log.
    pub(crate) fn has_one_thread(&self) -> bool {
        self.one_thread.unwrap_or(self.network_threads() == 1)
    }

    /// The node joins a cluster that exists.
    pub(crate) fn is_joining(&self) -> bool {
        !self.join.is_empty()
    }
}

/// How log lines are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One setting.
pub(crate) struct Setting {
    /// Its name: the key of the file; the flag has `-` for `_`, the variable capitals.
    pub(crate) name: &'static str,
    /// What it is without being set; `None`: it must be set.
    pub(crate) default: Option<&'static str>,
    /// What it may be.
    pub(crate) allowed: &'static str,
    /// What it does.
    pub(crate) about: &'static str,
    /// Whether the flag may stand without a value (then `true`).
    pub(crate) kind: Kind,
    /// Checks a value and puts it into place.
    pub(super) set: fn(&mut NodeConfig, &str) -> Result<(), Bad>,
}

/// How a setting is given as a flag.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `--name VALUE`
    Value,
    /// `--name`
    Switch,
}

const fn setting(
    name: &'static str,
    default: Option<&'static str>,
    allowed: &'static str,
    about: &'static str,
    set: fn(&mut NodeConfig, &str) -> Result<(), Bad>,
) -> Setting {
    Setting { name, default, allowed, about, kind: Kind::Value, set }
}

fn sized(text: &str, low: u64, high: u64) -> Result<u64, Bad> {
    within(value::bytes(text)?, low, high).map_err(|()| "it is out of bounds".to_owned())
}

fn timed(text: &str, low: Duration, high: Duration) -> Result<Duration, Bad> {
    within(value::duration(text)?, low, high).map_err(|()| "it is out of bounds".to_owned())
}

const MS: fn(u64) -> Duration = Duration::from_millis;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Every setting of a node, in the order of the documentation.
pub(crate) const SETTINGS: &[Setting] = &[
    setting(
        "node_id",
        None,
        "1 or more, unique in the cluster for ever",
        "Who this node is.",
        |c, v| {
            c.node_id = NodeId(value::number(v, 1, u64::MAX)?);
            Ok(())
        },
    ),
    setting("data", None, "a folder", "Where everything is kept.", |c, v| {
        c.data = PathBuf::from(v);
        if v.is_empty() { Err("it is empty".to_owned()) } else { Ok(()) }
    }),
    setting(
        "listen",
        Some("127.0.0.1:7400"),
        "host:port, or :port for loopback",
        "Where clients connect (gRPC).",
        |c, v| {
            c.listen = value::address(v)?;
            Ok(())
        },
    ),
    setting(
        "peer_listen",
        Some("127.0.0.1:7401"),
        "host:port, or :port for loopback",
        "Where the other nodes connect.",
        |c, v| {
            c.peer_listen = value::address(v)?;
            Ok(())
        },
    ),
    setting(
        "http_listen",
        Some("127.0.0.1:7402"),
        "host:port, or :port for loopback",
        "Where `/health`, `/ready`, `/metrics` and `/version` are.",
        |c, v| {
            c.http_listen = value::address(v)?;
            Ok(())
        },
    ),
    setting(
        "bootstrap",
        Some(""),
        "ID=HOST:CLIENT_PORT/PEER_PORT[/HTTP_PORT], separated by commas",
        "The nodes that the cluster begins with, as the others reach them; the same list on every \
         node. Empty: this node alone.",
        |c, v| {
            c.bootstrap = v.parse()?;
            Ok(())
        },
    ),
    setting(
        "join",
        Some(""),
        "HOST:CLIENT_PORT of nodes that run, separated by commas",
        "Joins a cluster that exists instead of founding one; then bootstrap may name only this \
         node, as the others reach it. The node holds nothing until `atoll cluster add` gives it \
         shards.",
        |c, v| {
            let addresses = v.split(',').map(str::trim).filter(|a| !a.is_empty());
            c.join = addresses.map(value::address).collect::<Result<_, _>>()?;
            Ok(())
        },
    ),
    setting(
        "cluster_name",
        Some("atoll"),
        "any text",
        "Keeps clusters apart: nodes whose name or list of nodes differ refuse each other.",
        |c, v| {
            v.clone_into(&mut c.cluster_name);
            Ok(())
        },
    ),
    Setting {
        name: "insecure_listen",
        default: Some("false"),
        allowed: "true or false",
        about: "Allows to listen beyond loopback without encryption or users. There is no TLS yet: \
                whoever reaches the ports can read and change everything.",
        kind: Kind::Switch,
        set: |c, v| {
            c.insecure_listen = value::switch(v)?;
            Ok(())
        },
    },
    setting(
        "lanes",
        Some("0"),
        "0 to 256",
        "Lanes that own shards, each a thread or a task; 0: one per core.",
        |c, v| {
            c.lanes = value::number(v, 0, 256)? as u16;
            Ok(())
        },
    ),
    setting(
        "worker_threads",
        Some("0"),
        "0 to 1024",
        "Threads that serve connections; 0: one for two cores.",
        |c, v| {
            c.worker_threads = value::number(v, 0, 1024)? as usize;
            Ok(())
        },
    ),
    setting(
        "one_thread",
        Some("false"),
        "auto, true or false",
        "Whether the thread that serves connections turns the lanes, too, and writes the log while \
         the disk is fast. auto: where that is a single thread by `worker_threads`.",
        |c, v| {
            c.one_thread = match v {
                "auto" => None,
                v => Some(value::switch(v)?),
            };
            Ok(())
        },
    ),
    setting(
        "log",
        Some("info"),
        "error, warn, info, debug, trace, or a filter such as atoll_node=debug,info",
        "What is logged.",
        |c, v| {
            v.parse::<tracing_subscriber::filter::Targets>().map_err(|e| e.to_string())?;
            v.clone_into(&mut c.log);
            Ok(())
        },
    ),
    setting("log_format", Some("text"), "text or json", "How log lines look.", |c, v| {
        c.log_format = match v {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            _ => return Err("it is neither text nor json".to_owned()),
        };
        Ok(())
    }),
    setting(
        "connections_max",
        Some("10000"),
        "16 to 1000000",
        "Client connections; more are closed at once.",
        |c, v| {
            c.connections_max = value::number(v, 16, 1_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "http_connections_max",
        Some("1024"),
        "16 to 1000000",
        "Connections to the HTTP port; more are closed at once.",
        |c, v| {
            c.http_connections_max = value::number(v, 16, 1_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "calls_in_flight_max",
        Some("16384"),
        "1 to 1000000",
        "Calls that one connection may have unanswered; more are refused as overloaded.",
        |c, v| {
            c.calls_in_flight_max = value::number(v, 1, 1_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "message_bytes_max",
        Some("16MiB"),
        "64KiB to 1GiB",
        "The largest message from or to a client.",
        |c, v| {
            c.message_bytes_max = sized(v, 64 * KIB, GIB)? as usize;
            Ok(())
        },
    ),
    setting(
        "key_bytes_max",
        Some("4KiB"),
        "1B to 16KiB",
        "The longest key that clients may write through this node.",
        |c, v| {
            c.key_bytes_max = sized(v, 1, 16 * KIB)?;
            Ok(())
        },
    ),
    setting(
        "value_bytes_max",
        Some("8MiB"),
        "1B to 8MiB",
        "The largest value that clients may write through this node.",
        |c, v| {
            c.value_bytes_max = sized(v, 1, 8 * MIB)?;
            Ok(())
        },
    ),
    setting(
        "txn_parts_max",
        Some("1024"),
        "1 to 1024",
        "Comparisons and steps, nested ones included, of one transaction or batch.",
        |c, v| {
            c.txn_parts_max = value::number(v, 1, 1024)?;
            Ok(())
        },
    ),
    setting(
        "calls_per_shard_max",
        Some("16384"),
        "16 to 1000000",
        "Calls that may wait in one shard, reads and writes each; more are refused as overloaded.",
        |c, v| {
            c.calls_per_shard_max = value::number(v, 16, 1_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "lane_queue_max",
        Some("65536"),
        "64 to 10000000",
        "Inputs that wait for one lane; more calls are refused as overloaded, more messages of \
         peers dropped (they resend).",
        |c, v| {
            c.lane_queue_max = value::number(v, 64, 10_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "answer_queue_max",
        Some("16384"),
        "16 to 1000000",
        "Batches of answers that wait for one connection; a client that does not read them is hung \
         up on.",
        |c, v| {
            c.answer_queue_max = value::number(v, 16, 1_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "peer_queue_messages_max",
        Some("65536"),
        "64 to 10000000",
        "Messages that wait for one peer; more are dropped (they are resent).",
        |c, v| {
            c.peer_queue_messages_max = value::number(v, 64, 10_000_000)? as usize;
            Ok(())
        },
    ),
    setting(
        "peer_queue_bytes_max",
        Some("64MiB"),
        "1MiB to 16GiB",
        "Bytes that wait for one peer, snapshots apart.",
        |c, v| {
            c.peer_queue_bytes_max = sized(v, MIB, 16 * GIB)? as usize;
            Ok(())
        },
    ),
    setting(
        "election_timeout",
        Some("500ms"),
        "50ms to 60s",
        "How long followers wait for a silent leader before they elect another (up to twice that).",
        |c, v| {
            c.election_timeout = timed(v, MS(50), MS(60_000))?;
            Ok(())
        },
    ),
    setting(
        "heartbeat_interval",
        Some("100ms"),
        "5ms to 10s, at most a third of election_timeout",
        "How often a leader speaks up.",
        |c, v| {
            c.heartbeat_interval = timed(v, MS(5), MS(10_000))?;
            Ok(())
        },
    ),
    setting(
        "quiet_groups",
        Some("false"),
        "true or false",
        "Shards without traffic rest: no heartbeats, no timers. Links between nodes notice within \
         election_timeout when a node is gone and wake them.",
        |c, v| {
            c.quiet_groups = value::switch(v)?;
            Ok(())
        },
    ),
    setting(
        "log_segment_bytes",
        Some("64MiB"),
        "32MiB to 1GiB",
        "Size of one file of the write-ahead log; a few are prepared ahead.",
        |c, v| {
            c.log_segment_bytes = sized(v, 32 * MIB, GIB)?;
            Ok(())
        },
    ),
    setting(
        "engine_cache_bytes",
        Some("256MiB"),
        "1MiB to 1TiB",
        "Memory for blocks, rows and ranges read from disk.",
        |c, v| {
            c.engine_cache_bytes = sized(v, MIB, 1024 * GIB)?;
            Ok(())
        },
    ),
    setting(
        "engine_write_buffer_bytes",
        Some("32MiB"),
        "1MiB to 64GiB",
        "Memory for recent writes before they become files; up to three times as much is held \
         while files are written.",
        |c, v| {
            c.engine_write_buffer_bytes = sized(v, MIB, 64 * GIB)?;
            Ok(())
        },
    ),
    setting(
        "persist_bytes",
        Some("64MiB"),
        "1MiB to 16GiB",
        "Makes applied changes durable in the engine after so many bytes; the log is cut behind.",
        |c, v| {
            c.persist_bytes = sized(v, MIB, 16 * GIB)?;
            Ok(())
        },
    ),
    setting(
        "persist_interval",
        Some("10s"),
        "100ms to 1h",
        "Makes applied changes durable in the engine after so long, if there are any; a megabyte \
         of them or more sooner, once nothing was changed for half a second.",
        |c, v| {
            c.persist_interval = timed(v, MS(100), MS(3_600_000))?;
            Ok(())
        },
    ),
    setting(
        "log_keep_entries",
        Some("10000"),
        "0 or more",
        "Entries kept in a shard's log behind what is durable in the engine, for followers that \
         lag a little; one further behind gets a snapshot.",
        |c, v| {
            c.log_keep_entries = value::number(v, 0, u64::MAX)?;
            Ok(())
        },
    ),
    setting(
        "disk_reserve_bytes",
        Some("256MiB"),
        "0 to 1TiB",
        "Space kept in a file of the data folder. When the disk is nearly full the file is given \
         up, so that what is under way can be finished, and new data is refused until there is \
         room for the file again; reads and deletes go on.",
        |c, v| {
            c.disk_reserve_bytes = sized(v, 0, 1024 * GIB)?;
            Ok(())
        },
    ),
    setting(
        "history_revisions",
        Some("100000"),
        "1 or more",
        "Revisions of history kept per shard where its keyspace does not say.",
        |c, v| {
            c.history_revisions = value::number(v, 1, u64::MAX)?;
            Ok(())
        },
    ),
    setting(
        "etcd_keyspace",
        Some("etcd"),
        "a keyspace's name",
        "What clients of etcd read and write that name no other keyspace. It is made when it is \
         first used, with one shard.",
        |c, v| {
            atoll_coord::plan::validate_name(v).map_err(|f| f.message)?;
            v.clone_into(&mut c.etcd_keyspace);
            Ok(())
        },
    ),
    setting(
        "etcd_request_bytes_max",
        Some("1536KiB"),
        "64KiB to 8MiB",
        "The largest change that a client of etcd may ask for.",
        |c, v| {
            c.etcd_request_bytes_max = sized(v, 64 * KIB, 8 * MIB)? as usize;
            Ok(())
        },
    ),
    setting(
        "etcd_txn_ops_max",
        Some("128"),
        "1 to 1024",
        "Conditions, or operations of one side, that a transaction of a client of etcd may have.",
        |c, v| {
            c.etcd_txn_ops_max = value::number(v, 1, 1024)? as usize;
            Ok(())
        },
    ),
    setting(
        "shutdown_timeout",
        Some("10s"),
        "100ms to 10m",
        "How long a stopping node waits at most for what is under way to be answered; idle \
         connections do not keep it.",
        |c, v| {
            c.shutdown_timeout = timed(v, MS(100), MS(600_000))?;
            Ok(())
        },
    ),
];
