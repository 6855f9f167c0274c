//! Ports that stay this test's while its processes come and go.

use tokio::net::TcpSocket;

/// Loopback ports, held by bound sockets that don't listen.
///
/// The kernel gives a bound port to nobody else, and with `SO_REUSEADDR` on both sides it still lets
/// the process under test listen there, also after it was killed and started again.
pub(crate) struct Ports {
    held: Vec<TcpSocket>,
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// A port that was free.
    pub(crate) fn reserve(&mut self) -> u16 {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("SO_REUSEADDR");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        self.held.push(socket);
        port
    }
}
