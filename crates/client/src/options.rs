//! Settings of a client.

use std::time::Duration;

use atoll_coord::retry::RetryPolicy;

use crate::session::SessionLimits;

/// Settings of a client. All have defaults; every queue and wait is bounded by one of them.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call may take, retries included, unless it says otherwise.
    pub timeout: Duration,
    /// How long a connection attempt may take.
    pub connect_timeout: Duration,
    /// Connections per node, 1 to 4. One carries several hundred thousand small calls a second and
    /// batches best; more spread the work over threads.
    pub connections_per_node: usize,
    /// Calls open at once on one connection; more wait for their turn.
    pub in_flight_max: usize,
    /// Requests that wait for locks, open at once on one connection, beside the other calls.
    pub waiting_max: usize,
    /// Bytes of events that one watch holds for a slow consumer before it starts over behind them.
    pub watch_bytes_max: usize,
    /// Bytes of one message to a node.
    pub message_bytes_max: usize,
    /// Pauses between attempts.
    pub retry: RetryPolicy,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(2),
            connections_per_node: 1,
            in_flight_max: 4096,
            waiting_max: 16_384,
            watch_bytes_max: 4 << 20,
            message_bytes_max: 16 << 20,
            retry: RetryPolicy::default(),
        }
    }
}

impl Options {
    pub(crate) fn session(&self) -> SessionLimits {
        SessionLimits {
            in_flight_max: self.in_flight_max.max(1),
            waiting_max: self.waiting_max.max(1),
            watch_bytes_max: self.watch_bytes_max,
            connect_timeout: self.connect_timeout,
            reconnect_max: Duration::from_secs(1),
        }
    }
}
