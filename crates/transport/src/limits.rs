//! Sizes and times that both ends of a connection hold to.

use std::time::Duration;

use tonic::transport::{Endpoint, Server};

/// The header in which a node tells a session how large a message it takes: a larger one would end
/// the session and every other call on it.
pub const MESSAGE_BYTES_MAX: &str = "atoll-message-bytes-max";

/// What a connection may carry and how long it may be silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WireLimits {
    /// The largest message accepted and sent, bytes.
    pub message_bytes_max: usize,
    /// Bytes in flight on one stream and on one connection before the sender must wait.
    pub window_bytes: u32,
    /// A connection that is silent for so long is asked for a sign of life.
    pub keepalive_interval: Duration,
    /// Without an answer for so long it counts as broken.
    pub keepalive_timeout: Duration,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// Calls in flight on one connection.
    pub streams_max: u32,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            message_bytes_max: 16 << 20,
            window_bytes: 8 << 20,
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(4),
            connect_timeout: Duration::from_secs(2),
            streams_max: 1024,
        }
    }
}

impl WireLimits {
    /// A server that holds to these limits.
    #[must_use]
    pub fn server(&self) -> Server {
        Server::builder()
            .tcp_nodelay(true)
            .initial_stream_window_size(self.window_bytes)
            .initial_connection_window_size(self.window_bytes.saturating_mul(2))
            .max_concurrent_streams(self.streams_max)
            .http2_keepalive_interval(Some(self.keepalive_interval))
            .http2_keepalive_timeout(Some(self.keepalive_timeout))
            .http2_max_header_list_size(16 << 10)
    }

    /// A way to `address` (`host:port`, no TLS) that holds to these limits.
    ///
    /// # Errors
    /// When the address is not one; the error says why.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, tonic::transport::Error> {
        Ok(Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .initial_stream_window_size(self.window_bytes)
            .initial_connection_window_size(self.window_bytes.saturating_mul(2))
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true))
    }
}
