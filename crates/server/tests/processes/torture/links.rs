//! A loopback proxy in front of every node's peer port, which cuts, delays and drops.
//!
//! Each node dials each other for what it sends it, so a connection is one direction of a pair.
//! Who dialled is looked up with the kernel: the socket that holds the other end is among the open
//! files of one of the processes. What a connection carries is bytes of a stream, so nothing can be
//! lost from its middle: a cut holds everything back, a drop ends the connection.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::schedule::Pairs;

/// Chunks of a connection that may wait.
const CHUNKS_MAX: usize = 256;
const CHUNK_BYTES_MAX: usize = 16 << 10;

/// The links of a cluster; they end when dropped.
pub(super) struct Links {
    shared: Arc<Shared>,
    ports: BTreeMap<usize, u16>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    pairs: Mutex<BTreeMap<(usize, usize), watch::Sender<Condition>>>,
    /// The nodes that run, by process id.
    processes: Mutex<BTreeMap<u32, usize>>,
}

/// How a pair fares.
#[derive(Clone, Copy, Default, Debug)]
struct Condition {
    /// How many cuts are in force.
    cuts: u32,
    delay: Duration,
    /// Connections of earlier generations end.
    generation: u64,
}

impl Links {
    /// Opens a proxy before each of these nodes' peer ports.
    pub(super) async fn open(targets: &[(usize, String)]) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (mut ports, mut tasks) = (BTreeMap::new(), JoinSet::new());
        for (node, target) in targets {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
            ports.insert(*node, listener.local_addr()?.port());
            tasks.spawn(serve(shared.clone(), listener, *node, target.clone()));
        }
        Ok(Self { shared, ports, _tasks: tasks })
    }

    /// Where the others reach a node.
    pub(super) fn port(&self, node: usize) -> u16 {
        self.ports[&node]
    }

    /// A node's process was started.
    pub(super) fn started(&self, node: usize, process: u32) {
        let mut processes = self.shared.processes.lock().expect("no code panics with it");
        processes.retain(|_, n| *n != node);
        processes.insert(process, node);
    }

    pub(super) fn cut(&self, pairs: &Pairs) {
        self.change(pairs, |c| c.cuts += 1);
    }

    pub(super) fn mend(&self, pairs: &Pairs) {
        self.change(pairs, |c| c.cuts -= 1);
    }

    pub(super) fn delay(&self, pairs: &Pairs, by: Duration) {
        self.change(pairs, |c| c.delay = by);
    }

    pub(super) fn drop_connections(&self, pairs: &Pairs) {
        self.change(pairs, |c| c.generation += 1);
    }

    fn change(&self, pairs: &Pairs, how: impl Fn(&mut Condition)) {
        for pair in pairs {
            self.shared.pair(*pair).send_modify(&how);
        }
    }
}

impl Shared {
    fn pair(&self, pair: (usize, usize)) -> watch::Sender<Condition> {
        let mut pairs = self.pairs.lock().expect("no code panics with it");
        pairs.entry(pair).or_default().clone()
    }

    /// The node whose process holds the other end of a connection.
    fn dialler(&self, dialler: SocketAddr, proxy: SocketAddr) -> Option<usize> {
        let socket = format!("socket:[{}]", inode(dialler, proxy)?);
        let processes = self.processes.lock().expect("no code panics with it").clone();
        let holds = |process: &u32| {
            let files = std::fs::read_dir(format!("/proc/{process}/fd")).ok()?;
            let mut links = files.flatten().filter_map(|f| std::fs::read_link(f.path()).ok());
            links.any(|link| link.to_string_lossy() == socket).then_some(())
        };
        processes.into_iter().find(|(process, _)| holds(process).is_some()).map(|(_, node)| node)
    }
}

/// The number of the socket that is bound to `from` and connected to `to`.
fn inode(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let hex = |at: SocketAddr| match at.ip() {
        std::net::IpAddr::V4(ip) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), at.port())
        }
        std::net::IpAddr::V6(_) => String::new(),
    };
    let (from, to) = (hex(from), hex(to));
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let mut lines = table.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    let line = lines.find(|l| l.len() > 9 && l[1] == from && l[2] == to)?;
    line[9].parse().ok()
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, to: usize, target: String) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, dialler)) = listener.accept().await else { continue };
        let proxy = listener.local_addr().expect("it is bound");
        let shared = shared.clone();
        let target = target.clone();
        connections.spawn(async move {
            // A process that is gone by now does not need the connection.
            let Some(from) = shared.dialler(dialler, proxy) else { return };
            carry(shared.pair((from, to)).subscribe(), stream, &target).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries bytes both ways until an end closes or the connection is dropped.
async fn carry(mut condition: watch::Receiver<Condition>, near: TcpStream, target: &str) {
    let generation = condition.borrow_and_update().generation;
    let is_dropped = async {
        let mut condition = condition.clone();
        let _ = condition.wait_for(|c| c.generation != generation).await;
    };
    let both = async {
        // A connection is not made through a cut.
        if condition.clone().wait_for(|c| c.cuts == 0).await.is_err() {
            return;
        }
        let Ok(far) = TcpStream::connect(target).await else { return };
        let (_, _) = (near.set_nodelay(true), far.set_nodelay(true));
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        tokio::select! {
            () = pump(condition.clone(), near_in, far_out) => {}
            () = pump(condition.clone(), far_in, near_out) => {}
        }
    };
    tokio::select! {
        () = is_dropped => {}
        () = both => {}
    }
}

/// One way of a connection, until it ends.
async fn pump(condition: watch::Receiver<Condition>, from: OwnedReadHalf, to: OwnedWriteHalf) {
    let (sender, receiver) = mpsc::channel(CHUNKS_MAX);
    tokio::join!(read(condition.clone(), from, sender), write(condition, to, receiver));
}

type Chunk = (Instant, Vec<u8>);

async fn read(
    condition: watch::Receiver<Condition>,
    mut from: OwnedReadHalf,
    sender: mpsc::Sender<Chunk>,
) {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let due = Instant::now() + condition.borrow().delay;
        if sender.send((due, buffer[..count].to_vec())).await.is_err() {
            return;
        }
    }
}

async fn write(
    mut condition: watch::Receiver<Condition>,
    mut to: OwnedWriteHalf,
    mut receiver: mpsc::Receiver<Chunk>,
) {
    while let Some((due, bytes)) = receiver.recv().await {
        // The delay that this link is to have: it is the fault, nothing is waited for.
        tokio::time::sleep_until(due).await;
        if condition.wait_for(|c| c.cuts == 0).await.is_err() {
            return;
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::within;

    const SOON: Duration = Duration::from_secs(30);

    /// A connection through a proxy, from a "node" that is this very process.
    struct Line {
        links: Links,
        near: TcpStream,
        far: TcpStream,
    }

    async fn line() -> Line {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let target = listener.local_addr().expect("it is bound").to_string();
        let links = Links::open(&[(2, target)]).await.expect("a free port");
        links.started(1, std::process::id());
        let near = TcpStream::connect(("127.0.0.1", links.port(2))).await.expect("it listens");
        let accepted = within("it is passed on", SOON, listener.accept()).await;
        Line { links, near, far: accepted.expect("a connection").0 }
    }

    #[tokio::test]
    async fn what_was_cut_arrives_late_and_other_pairs_are_as_before() {
        let Line { links, mut near, mut far } = line().await;
        let mut byte = [0];
        links.cut(&vec![(2, 1)]);
        near.write_all(b"a").await.expect("it is open");
        within("the other way is open", SOON, far.read_exact(&mut byte)).await.expect("a byte");
        links.cut(&vec![(1, 2)]);
        near.write_all(b"b").await.expect("it is open");
        let early = tokio::time::timeout(Duration::from_millis(50), far.read_exact(&mut byte));
        assert!(early.await.is_err(), "it came through a cut");
        links.mend(&vec![(1, 2)]);
        within("it comes late", SOON, far.read_exact(&mut byte)).await.expect("a byte");
        assert_eq!(&byte, b"b");
    }

    #[tokio::test]
    async fn delays_delay_and_drops_end_the_connection() {
        let Line { links, mut near, mut far } = line().await;
        let delay = Duration::from_millis(80);
        links.delay(&vec![(1, 2)], delay);
        let begin = Instant::now();
        near.write_all(b"a").await.expect("it is open");
        let mut byte = [0];
        within("it arrives", SOON, far.read_exact(&mut byte)).await.expect("a byte");
        assert!(begin.elapsed() >= delay);
        links.drop_connections(&vec![(1, 2)]);
        let end = within("it ends", SOON, near.read(&mut byte)).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
}
