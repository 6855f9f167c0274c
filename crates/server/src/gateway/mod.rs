//! The ways in: gRPC for clients, HTTP for machines that watch machines. They translate and hand
//! over; they decide nothing.

mod admin;
mod announce;
mod connection;
mod coordination;
mod etcd;
mod flight;
mod grpc;
mod http;
mod kv;
mod port;
mod serving;
mod session;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use self::flight::Flight;
use crate::config::NodeConfig;
use crate::drive::{Hub, described};

/// What this build calls itself.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The servers of one node.
pub(crate) struct Gateways {
    servers: Vec<JoinHandle<()>>,
    flight: Flight,
    stop: watch::Sender<bool>,
}

/// How long connections may take to end once nothing is under way on them: the last answers are on
/// their way, and clients that behave hang up when they are told to.
const FAREWELL: Duration = Duration::from_millis(400);

impl Gateways {
    /// Starts the client and HTTP servers.
    pub(crate) fn start(
        config: &NodeConfig,
        hub: Arc<Hub>,
        registry: Registry,
        client: TcpListener,
        http: TcpListener,
    ) -> Self {
        let stop = watch::Sender::new(false);
        let flight = Flight::default();
        let clients =
            grpc::serve(config.clone(), hub.clone(), client, flight.clone(), stop.subscribe());
        let connections_max = config.http_connections_max;
        let http = http::serve(hub, registry, http, connections_max, stop.subscribe());
        Self { servers: vec![tokio::spawn(clients), tokio::spawn(http)], flight, stop }
    }

    /// Tells everybody that the node stops, waits until what is under way is answered, for at most
    /// `timeout`, and leaves behind those who do not hang up.
    pub(crate) async fn stop(self, timeout: Duration) {
        self.stop.send_replace(true);
        let mut servers = self.servers;
        let ended = async {
            for server in &mut servers {
                let _ = server.await;
            }
        };
        let answered = async {
            self.flight.is_over().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            () = ended => {}
            () = answered => {}
            () = tokio::time::sleep(timeout) => {
                tracing::warn!(?timeout, "calls are left unanswered: shutdown_timeout is over");
            }
        }
        servers.iter().for_each(JoinHandle::abort);
    }
}

/// Ready when `stop` says so, or when nobody can say so any more.
async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Adds to the registry what is looked up when somebody asks.
pub(crate) fn register(registry: &mut Registry, hub: &Arc<Hub>) {
    registry.register_collector(Box::new(HubCollector { hub: Arc::downgrade(hub) }));
}

/// Counters that live elsewhere in the node.
#[derive(Debug)]
struct HubCollector {
    hub: std::sync::Weak<Hub>,
}

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(hub) = self.hub.upgrade() else { return Ok(()) };
        let link = hub.links.stats().totals();
        let counters = [
            ("link_frames_sent", "Frames sent to peers", link.frames_sent),
            ("link_messages_sent", "Messages in them", link.messages_sent),
            ("link_frames_received", "Frames heard from peers", link.frames_received),
            ("link_messages_received", "Messages in them", link.messages_received),
            ("link_dropped_full", "Messages dropped at a full queue", link.dropped_full),
            ("link_dropped_down", "Messages dropped without connection", link.dropped_down),
            ("link_dropped_large", "Messages too large to send", link.dropped_too_large),
            ("link_unreadable", "Messages of peers that can't be read", link.unreadable),
            ("link_connects", "Connections opened to peers", link.connects),
        ];
        let raft = described(&hub.raft_counts.sum());
        for (name, help, value) in counters.into_iter().chain(raft) {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(
                name,
                help,
                None,
                counter.metric_type(),
            )?)?;
        }
        let gauges = [
            (
                "engine_disk_bytes",
                "Bytes of the engine on disk",
                hub.engine.disk_bytes().unwrap_or(0),
            ),
            ("engine_memory_bytes", "Bytes of the engine's caches", hub.engine.memory_bytes()),
            ("process_memory_bytes", "Resident memory", resident_bytes()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value as i64);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}

/// Resident memory of the process; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    pages * 4096
}

/// The header `grpc-timeout`.
fn request_timeout<T>(request: &tonic::Request<T>) -> Option<Duration> {
    timeout_in(request.metadata().get(GRPC_TIMEOUT)?.as_bytes())
}

/// How long a caller waits, in its header's name.
const GRPC_TIMEOUT: &str = "grpc-timeout";

/// Digits and a unit.
fn timeout_in(header: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(header).ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n.saturating_mul(3600)),
        "M" => Duration::from_secs(n.saturating_mul(60)),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}
