//! What a node counts and times. Everything is taken per batch, never per call.

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Counters and stage timings of a node.
///
/// A write passes these stages: `queue` (it waits for its lane), `log_write` and `fsync` (the
/// leader's own log) beside `replicate` (until a majority has it), `apply`, `reply`.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// From the first input that waits to the turn that takes it.
    pub(crate) queue: Histogram,
    /// Writing one group commit to the log's file.
    pub(crate) log_write: Histogram,
    /// Making it durable.
    pub(crate) fsync: Histogram,
    /// From an entry's proposal to the turn in which its leader sees it committed.
    pub(crate) replicate: Histogram,
    /// Applying what one turn found committed, engine batch included.
    pub(crate) apply: Histogram,
    /// From an answer leaving its lane to being handed to the network.
    pub(crate) reply: Histogram,
    /// One turn: step, apply, serve.
    pub(crate) lane_turn: Histogram,
    /// Handing a turn's outputs on.
    pub(crate) lane_output: Histogram,
    /// From a lane's write to the log thread taking it.
    pub(crate) log_wait: Histogram,
    /// Lanes' writes in one group commit.
    pub(crate) log_group: Histogram,
    /// Bytes written to the log.
    pub(crate) log_bytes: Counter,
    /// Group commits by the connections' thread.
    pub(crate) log_inline_writes: Counter,
    /// Times that the connections' thread gave the log away because the disk was slow.
    pub(crate) log_inline_pauses: Counter,
    /// 1 while the connections' thread writes the log.
    pub(crate) log_inline: Gauge<i64, AtomicI64>,
    /// Making the engine durable.
    pub(crate) engine_persist: Histogram,
    /// Turns of all lanes.
    pub(crate) turns: Counter,
    /// Calls taken in.
    pub(crate) calls: Counter,
    /// Calls refused at the edge.
    pub(crate) calls_refused: Counter,
    /// Answers given.
    pub(crate) answers: Counter,
    /// Messages of peers that found a lane's queue full.
    pub(crate) peer_dropped: Counter,
    /// Open sessions and in-process callers.
    pub(crate) origins: Gauge<i64, AtomicI64>,
    /// Shards that this node leads.
    pub(crate) leading: Gauge<i64, AtomicI64>,
    /// Free bytes of the disk.
    pub(crate) disk_free: Gauge<u64, AtomicU64>,
    /// Segments of the log in use.
    pub(crate) log_segments: Gauge<i64, AtomicI64>,
}

/// Times from 2 us to 4 s, doubling.
fn times() -> Histogram {
    Histogram::new((0..22).map(|i| 2e-6 * f64::from(1 << i)))
}

/// Counts from 1 to 32768, doubling.
fn counts() -> Histogram {
    Histogram::new((0..16).map(|i| f64::from(1 << i)))
}

impl Metrics {
    /// Metrics and the registry that names them.
    pub(crate) fn new() -> (Self, Registry) {
        let this = Self {
            queue: times(),
            log_write: times(),
            fsync: times(),
            replicate: times(),
            apply: times(),
            reply: times(),
            lane_turn: times(),
            lane_output: times(),
            log_wait: times(),
            log_group: counts(),
            log_bytes: Counter::default(),
            log_inline_writes: Counter::default(),
            log_inline_pauses: Counter::default(),
            log_inline: Gauge::default(),
            engine_persist: times(),
            turns: Counter::default(),
            calls: Counter::default(),
            calls_refused: Counter::default(),
            answers: Counter::default(),
            peer_dropped: Counter::default(),
            origins: Gauge::default(),
            leading: Gauge::default(),
            disk_free: Gauge::default(),
            log_segments: Gauge::default(),
        };
        let mut r = Registry::with_prefix("atoll");
        let seconds = [
            ("stage_queue", "Wait of a lane's oldest input", &this.queue),
            ("stage_log_write", "Writing one group commit to the log's file", &this.log_write),
            ("stage_fsync", "Making one group commit durable", &this.fsync),
            ("stage_replicate", "From proposal to commit, per entry", &this.replicate),
            ("stage_apply", "Applying what a turn found committed", &this.apply),
            ("stage_reply", "Wait of the oldest answer for the network", &this.reply),
            ("lane_turn", "One turn of a lane: step, apply, serve", &this.lane_turn),
            ("lane_output", "Handing on what a turn left", &this.lane_output),
            ("log_wait", "Wait of a lane's write for the log thread", &this.log_wait),
            ("engine_persist", "Making the engine durable", &this.engine_persist),
        ];
        for (name, help, metric) in seconds {
            let unit = prometheus_client::registry::Unit::Seconds;
            r.register_with_unit(name, help, unit, metric.clone());
        }
        r.register("log_group_writes", "Writes in one group commit", this.log_group.clone());
        let counters = [
            ("log_bytes", "Bytes written to the log", &this.log_bytes),
            ("log_inline_writes", "Commits by the connections' thread", &this.log_inline_writes),
            ("log_inline_pauses", "Times the disk was too slow for that", &this.log_inline_pauses),
            ("turns", "Turns of all lanes", &this.turns),
            ("calls", "Calls taken in", &this.calls),
            ("calls_refused", "Calls refused at the edge", &this.calls_refused),
            ("answers", "Answers given", &this.answers),
            ("peer_dropped", "Messages of peers dropped at a full lane", &this.peer_dropped),
        ];
        for (name, help, metric) in counters {
            r.register(name, help, metric.clone());
        }
        r.register("origins", "Open sessions and in-process callers", this.origins.clone());
        r.register("leading", "Shards led by this node", this.leading.clone());
        r.register("disk_free_bytes", "Free bytes of the disk", this.disk_free.clone());
        r.register("log_segments", "Log segments in use", this.log_segments.clone());
        let inline = "1 while the connections' thread writes the log";
        r.register("log_inline", inline, this.log_inline.clone());
        (this, r)
    }
}

/// Observes a duration in seconds.
pub(crate) fn observe(histogram: &Histogram, took: Duration) {
    histogram.observe(took.as_secs_f64());
}
