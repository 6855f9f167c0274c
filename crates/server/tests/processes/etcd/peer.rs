//! etcd itself, one member, as a process.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::{Ports, eventually, http_get, sized};

/// The program of this name, or the one that `variable` names. Where there is none the test says
/// so, and the full form of the tests fails.
pub(super) fn program(name: &str, variable: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file())
    });
    if found.is_none() {
        let text = format!(
            "NOT CHECKED against {name}: it is neither on the path nor named by {variable} \
             (apt-get install etcd-server etcd-client)"
        );
        assert!(!sized(false, true), "{text}");
        eprintln!("{text}");
    }
    found
}

/// A running etcd; killed and awaited when dropped.
pub(super) struct Peer {
    child: Child,
    pub(super) address: String,
    _folder: TempDir,
    _ports: Ports,
}

impl Peer {
    pub(super) async fn start(binary: &PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut ports = Ports::new();
        let (client, peer) = (ports.reserve(), ports.reserve());
        let client_url = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let child = Command::new(binary)
            .arg(format!("--data-dir={}", folder.path().join("data").display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster=default={peer_url}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let address = format!("127.0.0.1:{client}");
        let peer = Self { child, address, _folder: folder, _ports: ports };
        eventually("etcd is healthy", Duration::from_secs(60), async || {
            match http_get(&peer.address, "/health")? {
                (200, body) if body.contains("true") => Ok(()),
                (code, body) => Err(format!("{code}: {body}")),
            }
        })
        .await;
        peer
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
