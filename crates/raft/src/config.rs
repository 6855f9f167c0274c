//! What a core is told once, when it is made.

use std::time::Duration;

use atoll_base::NodeId;

/// Settings of one core. Start from [`Config::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct Config {
    /// This replica's node.
    pub id: NodeId,
    /// Shortest election timeout; the real one is drawn from `min..2 * min` (thesis 3.4). Also how
    /// long a leader stays one that hears no quorum (thesis 6.2), and a transfer may take (3.10).
    pub election_timeout_min: Duration,
    /// Time between heartbeats of a leader; at most a third of `election_timeout_min`.
    pub heartbeat_interval: Duration,
    /// Entries' bytes in one append message, at most (one entry may exceed it alone).
    pub append_bytes_max: usize,
    /// Append messages in flight to one follower (thesis 10.2); at least 1.
    pub inflight_messages_max: usize,
    /// Bytes of appends in flight to one follower (the message that reaches it is still sent).
    pub inflight_bytes_max: usize,
    /// Bytes proposed and not committed; proposals beyond are refused.
    pub uncommitted_bytes_max: usize,
    /// Bytes of recent entries that the core keeps in memory for appends; a quarter of it, of those
    /// that every follower has.
    pub tail_bytes_max: usize,
    /// Serve reads under a leader lease instead of a heartbeat round (thesis 6.4.1). Trusts that
    /// clocks drift apart by less than `lease_margin` within `election_timeout_min`. Must be the
    /// same for all members.
    pub lease_reads: bool,
    /// How much shorter a lease is than `election_timeout_min`, and so how far apart clocks may
    /// drift within one.
    pub lease_margin: Duration,
    /// Let a group without traffic go quiet: no heartbeats, no election timers. Only where the node
    /// layer supplies [`Input::PeerLiveness`](crate::Input::PeerLiveness) and refuses
    /// [`Body::Quiet`](crate::Body::Quiet) from nodes that it would not hear of.
    pub quiesce: bool,
    /// Seed of the election jitter and of read contexts. Must differ between the replicas of a
    /// group and between the lives of one replica.
    pub seed: u64,
    /// A mistake to make on purpose, to prove that the tests see it.
    #[cfg(feature = "planted-bugs")]
    pub bug: Option<crate::planted::Bug>,
}

/// Why settings don't work together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("raft settings rejected: {name} is {value}, {rule}")]
pub struct ConfigError {
    /// The setting.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub rule: &'static str,
}

impl Config {
    /// Settings for a local network: elections after 1 to 2 s, heartbeats every 200 ms.
    #[must_use]
    pub fn new(id: NodeId, seed: u64) -> Self {
        Self {
            id,
            election_timeout_min: Duration::from_millis(1_000),
            heartbeat_interval: Duration::from_millis(200),
            append_bytes_max: 512 << 10,
            inflight_messages_max: 64,
            inflight_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            tail_bytes_max: 16 << 20,
            lease_reads: false,
            lease_margin: Duration::from_millis(200),
            quiesce: false,
            seed,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        }
    }

    /// Checks that the settings work together.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that doesn't.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |name, value: String, rule| Err(ConfigError { name, value, rule });
        if self.id.0 == 0 {
            return refuse("id", self.id.to_string(), "must not be 0");
        }
        if self.heartbeat_interval.is_zero() {
            return refuse("heartbeat_interval", "0".into(), "must not be 0");
        }
        if self.heartbeat_interval * 3 > self.election_timeout_min {
            let value = format!("{:?}", self.heartbeat_interval);
            return refuse("heartbeat_interval", value, "must fit 3 times in the election timeout");
        }
        if self.inflight_messages_max == 0 {
            return refuse("inflight_messages_max", "0".into(), "must not be 0");
        }
        if self.append_bytes_max == 0 {
            return refuse("append_bytes_max", "0".into(), "must not be 0");
        }
        if self.lease_reads && self.lease_margin >= self.election_timeout_min {
            let value = format!("{:?}", self.lease_margin);
            return refuse("lease_margin", value, "must be below the election timeout");
        }
        Ok(())
    }
}

/// True when the named mistake was planted; `false` at compile time without `planted-bugs`.
#[cfg(feature = "planted-bugs")]
macro_rules! planted {
    ($config:expr, $bug:ident) => {
        $config.bug == Some($crate::planted::Bug::$bug)
    };
}
/// True when the named mistake was planted; `false` at compile time without `planted-bugs`.
#[cfg(not(feature = "planted-bugs"))]
macro_rules! planted {
    ($config:expr, $bug:ident) => {
        false
    };
}
pub(crate) use planted;
