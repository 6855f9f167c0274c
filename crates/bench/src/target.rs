//! What a system offers to be measured: three servers that can be started and stopped, and clients.

use std::future::Future;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::sync::oneshot;

use crate::process::Server;

/// How long servers may take until they answer.
const START_MAX: Duration = Duration::from_secs(60);
/// How often starting servers are asked.
const START_POLL: Duration = Duration::from_millis(50);

/// Which servers the connections lead to.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Route {
    /// All of them in turn, as clients that know nothing do.
    All,
    /// The leader only.
    Leader,
}

/// A cluster of three servers on this machine.
pub(crate) trait Target {
    /// How its clients speak to it.
    type Client: Client;

    /// Name and version, for the report.
    fn name(&self) -> String;

    /// Starts the servers on data below `folder` and waits until they answer; also after a
    /// [`stop`](Self::stop), on the same data.
    fn start(&mut self, folder: &Path) -> impl Future<Output = Result<()>>;

    /// Stops the servers in good order.
    fn stop(&mut self) -> impl Future<Output = Result<()>>;

    /// Which server leads.
    fn leader(&self) -> impl Future<Output = Result<usize>>;

    /// Ends a server as `kill -9` does.
    fn kill(&mut self, server: usize) -> Result<()>;

    /// Starts a killed server again and waits until it answers by itself.
    fn revive(&mut self, server: usize, folder: &Path) -> impl Future<Output = Result<()>>;

    /// The running servers, for what they cost.
    fn servers(&self) -> &[Server];

    /// Opens connections: one client for each, to be cloned as often as is wanted.
    fn connect(
        &self,
        count: usize,
        route: Route,
    ) -> impl Future<Output = Result<Vec<Self::Client>>>;
}

/// One connection. Clones share it.
pub(crate) trait Client: Clone + 'static {
    /// Writes a key; returns when that is durable on a majority.
    fn put(&mut self, key: Bytes, value: Bytes) -> impl Future<Output = Result<()>>;

    /// Writes several keys at once, for filling.
    fn put_all(&mut self, pairs: Vec<(Bytes, Bytes)>) -> impl Future<Output = Result<()>>;

    /// Reads a key, linearizable; whether it was there.
    fn get(&mut self, key: Bytes) -> impl Future<Output = Result<bool>>;

    /// Reads a range of keys, linearizable; how many it held.
    fn range(&mut self, keys: Range<Bytes>) -> impl Future<Output = Result<usize>>;

    /// Reads the first `count` keys from `from` on, as a listing without an end, linearizable; how
    /// many came.
    fn page(&mut self, from: Bytes, count: u64) -> impl Future<Output = Result<usize>>;

    /// Writes a key if `expected` is the revision of its last change; 0 for a key that never was.
    fn cas(
        &mut self,
        key: Bytes,
        expected: u64,
        value: Bytes,
    ) -> impl Future<Output = Result<Swap>>;

    /// A lock that is held.
    type Held;

    /// A client that takes locks for itself, on the same connection.
    fn contender(&mut self) -> impl Future<Output = Result<Self>>;

    /// Waits until a lock is had.
    fn lock(&mut self, name: &'static str) -> impl Future<Output = Result<Self::Held>>;

    /// Gives it back.
    fn unlock(&mut self, held: Self::Held) -> impl Future<Output = Result<()>>;

    /// Ends a contender: whatever it still holds or waits for is for others to have.
    fn leave(&mut self) -> impl Future<Output = Result<()>>;

    /// Watches a key `count` times, on one stream, until it is dropped: `stood` is told when all
    /// watches stand, `seen` of the value of every change that one of them tells.
    fn watch(
        &mut self,
        key: Bytes,
        count: usize,
        stood: oneshot::Sender<()>,
        seen: impl FnMut(&[u8]),
    ) -> impl Future<Output = Result<()>>;
}

/// What came of a conditional write.
#[derive(Debug)]
pub(crate) struct Swap {
    /// Whether the key is written.
    pub(crate) is_done: bool,
    /// The revision of the key's last change.
    pub(crate) revision: u64,
}

/// How watches are spread over streams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Streams {
    /// Each has one of its own.
    Own,
    /// Those of a connection share one.
    Shared,
}

/// Starts a server per command, each with its log in `folder`, and asks until the answer is good.
/// Fails when a server ends or all take too long.
pub(crate) async fn start_all(
    commands: Vec<Command>,
    folder: &Path,
    ask: impl AsyncFn() -> Result<()>,
) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for (number, mut command) in commands.into_iter().enumerate() {
        servers.push(Server::start(&mut command, &log_file(folder, number))?);
    }
    wait_until_ready(&mut servers, ask).await?;
    Ok(servers)
}

/// Where a server's output goes.
pub(crate) fn log_file(folder: &Path, server: usize) -> PathBuf {
    folder.join(format!("server-{server}.log"))
}

/// Asks until the answer is good; fails when a server ends or all take too long.
pub(crate) async fn wait_until_ready(
    servers: &mut [Server],
    ask: impl AsyncFn() -> Result<()>,
) -> Result<()> {
    let deadline = Instant::now() + START_MAX;
    loop {
        for server in &mut *servers {
            server.check()?;
        }
        let Err(error) = ask().await else { return Ok(()) };
        if Instant::now() > deadline {
            bail!("the servers did not answer within {} s: {error:#}", START_MAX.as_secs());
        }
        tokio::time::sleep(START_POLL).await;
    }
}

/// Reads something, whether it is there or not.
pub(crate) async fn probe(mut client: impl Client) -> Result<()> {
    client.get(Bytes::from_static(b"probe")).await?;
    Ok(())
}
