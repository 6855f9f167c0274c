//! Ports that stay this test's while its processes come and go.

use tokio::net::TcpSocket;

/// Loopback ports, held by bound sockets that don't listen.
///
/// The kernel gives a bound port to nobody else, and with `SO_REUSEADDR` on both sides it still
/// lets the process under test listen there, also after it was killed and started again.
pub(crate) struct Ports {
    held: Vec<TcpSocket>,
}

impl Ports {
    pub(crate) fn new() -> Self {
        Self { held: Vec::new() }
    }

    /// A port that was free.
    pub(crate) fn reserve(&mut self) -> u16 {
        let socket = bound(0).expect("a free port");
        let port = socket.local_addr().expect("it is bound").port();
        self.held.push(socket);
        port
    }

    /// The first of `count` neighbouring ports that were free.
    pub(crate) fn reserve_row(&mut self, count: u16) -> u16 {
        for _ in 0..1000 {
            let first = bound(0).expect("a free port");
            let port = first.local_addr().expect("it is bound").port();
            let rest = (1..count).map(|n| bound(port.saturating_add(n)));
            if let Ok(rest) = rest.collect::<Result<Vec<_>, _>>() {
                self.held.push(first);
                self.held.extend(rest);
                return port;
            }
        }
        panic!("no {count} neighbouring ports are free");
    }
}

fn bound(port: u16) -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], port).into())?;
    Ok(socket)
}
