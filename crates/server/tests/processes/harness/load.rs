//! Clients that read and write without pause, what they were told, and whether it can be true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use atoll_base::{Rng, Time};
use atoll_client::{
    Client, EventKind, Failure, Happened, Keys, Keyspace, KeyspaceInfo, Revision, ShardId, when,
};
use atoll_sim::check::effects::{Aftermath, Effect};
use atoll_sim::check::{effects, linear, order};
use atoll_sim::history::{
    Call, Found, History, KeyNumber, Operation, OperationNumber, Outcome, Return,
};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::cluster::Cluster;
use super::wait::{eventually, within};

/// Where the shards of a load's keyspace begin, the first one apart.
const SPLITS: [&str; 3] = ["k2", "k4", "k6"];
/// Keys that are read and written.
const REGISTERS: u64 = 160;
/// Keys from this number on are counters: one per client, only ever put to.
const COUNTERS_FROM: u32 = 1_000;
/// Clients that share connections.
const TASKS_PER_CLIENT: u32 = 16;
/// Search steps spent on one key before the checker gives up.
const STEPS_MAX: u64 = 20_000_000;

/// A load that runs until it is finished.
pub(crate) struct Load {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

struct Shared {
    keyspace: Keyspace,
    info: KeyspaceInfo,
    history: Mutex<History>,
    writes: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Load {
    /// Makes a keyspace `load` of four shards and starts `clients` clients on it. Every fourth
    /// gives up soon when it gets no answer, so that some outcomes stay unknown.
    pub(crate) async fn start(cluster: &Cluster, clients: u32) -> Self {
        let client = cluster.client(Duration::from_secs(20)).await;
        let (keyspace, info) = cluster.keyspace(&client, "load", &SPLITS).await;
        let shared = Arc::new(Shared {
            keyspace,
            info,
            history: Mutex::default(),
            writes: AtomicU64::new(0),
            acknowledged: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        let mut keyspace = shared.keyspace.clone();
        for number in 0..clients {
            if number % TASKS_PER_CLIENT == 0 {
                keyspace = cluster.client(Duration::from_secs(20)).await.keyspace("load");
            }
            let keyspace = match number % 4 {
                0 => keyspace.clone().with_timeout(Duration::from_millis(700)),
                _ => keyspace.clone(),
            };
            let worker = Worker {
                shared: shared.clone(),
                keyspace,
                number,
                rng: Rng::new(u64::from(number) + 1),
                seen: BTreeMap::new(),
            };
            tasks.spawn(worker.run());
        }
        let this = Self { shared, tasks };
        this.advances(u64::from(clients)).await;
        this
    }

    pub(crate) fn shards(&self) -> Vec<ShardId> {
        self.shared.info.shards.iter().map(|s| s.shard).collect()
    }

    /// Acknowledged writes so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) async fn advances(&self, by: u64) {
        let goal = self.acknowledged() + by;
        eventually(&format!("{by} more writes are acknowledged"), PATIENCE, async || {
            let now = self.acknowledged();
            if now >= goal { Ok(()) } else { Err(format!("{} are missing", goal - now)) }
        })
        .await;
    }

    /// Stops the clients and checks everything that they were told against each other and against
    /// what the cluster holds: linearizable, nothing acknowledged lost, nothing done twice.
    pub(crate) async fn finish(mut self, client: &Client) {
        self.shared.stop.store(true, Ordering::SeqCst);
        within("the clients end", PATIENCE, async {
            while let Some(done) = self.tasks.join_next().await {
                done.expect("a client does not panic");
            }
        })
        .await;
        let history = std::mem::take(&mut *self.shared.history.lock().expect("no panic"));
        let operations = history.operations();
        let keyspace = client.keyspace("load");
        let (after, versions) = aftermath(&keyspace, &self.shared.info).await;
        let report = linear::check(&settled(operations, &after), STEPS_MAX);
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        assert_eq!(report.undecided, 0, "keys whose history is too long to decide");
        order::check(&with_revisions(operations), &[]).unwrap_or_else(|e| panic!("{e}"));
        for (shard, after) in &after {
            effects::check(*shard, operations, after).unwrap_or_else(|e| panic!("{e}"));
        }
        for ((shard, key), version) in versions {
            if key.0 >= COUNTERS_FROM {
                let checked = effects::check_counter(shard, key, operations, version);
                checked.unwrap_or_else(|e| panic!("{e}"));
            }
        }
        let count = |ok: fn(&Operation) -> bool| operations.iter().filter(|o| ok(o)).count();
        let unknown = count(|o| matches!(o.outcome, Outcome::Unknown));
        println!(
            "{} operations checked, {} changes, {unknown} of unknown outcome",
            operations.len(),
            count(Operation::changed),
        );
    }
}

const PATIENCE: Duration = Duration::from_secs(90);

/// The operations, those of unknown outcome that left no trace in the shards' whole histories
/// without effect: each possible effect doubles the orders that must be tried. A reader who saw
/// such a value after all has no explanation.
fn settled(operations: &[Operation], after: &BTreeMap<ShardId, Aftermath>) -> Vec<Operation> {
    let effects = after.iter().flat_map(|(shard, after)| {
        after.effects.iter().filter_map(|e| e.value.map(|value| (*shard, value)))
    });
    let left: BTreeSet<(ShardId, u64)> = effects.collect();
    let settle = |op: &Operation| match (op.outcome, op.call) {
        (Outcome::Unknown, Call::Put(value) | Call::Swap { value, .. })
            if !left.contains(&(op.shard, value)) =>
        {
            Operation { outcome: Outcome::Refused { stamp: op.called }, ..op.clone() }
        }
        _ => op.clone(),
    };
    operations.iter().map(settle).collect()
}

/// Those that were told a revision; who deletes what is not there is told none.
fn with_revisions(operations: &[Operation]) -> Vec<Operation> {
    let told = |op: &&Operation| match op.outcome {
        Outcome::Done { revision, .. } => revision > Revision::ZERO,
        Outcome::Refused { .. } | Outcome::Unknown => false,
    };
    operations.iter().filter(told).cloned().collect()
}

impl Shared {
    fn shard_of(&self, key: &[u8]) -> ShardId {
        let holds = self.info.shards.iter().find(|s| s.contains(key));
        holds.expect("the shards cover all keys").shard
    }

    fn call(&self, client: u32, key: KeyNumber, call: Call) -> OperationNumber {
        let shard = self.shard_of(&encode_key(key));
        let mut history = self.history.lock().expect("no panic");
        history.call(Time::ZERO, client, (shard, key), call)
    }

    fn ended(&self, number: OperationNumber, result: Result<(Return, Revision), Failure>) {
        let mut history = self.history.lock().expect("no panic");
        match result {
            Ok((returned, revision)) => {
                history.done(number, returned, revision);
                if !matches!(returned, Return::Got(_)) {
                    self.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            }
            Err(failure) if failure.happened == Happened::No => history.refused(number),
            Err(_) => {}
        }
    }
}

/// One client: one operation at a time.
struct Worker {
    shared: Arc<Shared>,
    keyspace: Keyspace,
    number: u32,
    rng: Rng,
    /// What it last saw of each key.
    seen: BTreeMap<KeyNumber, Option<u64>>,
}

impl Worker {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let key = KeyNumber(self.rng.below(REGISTERS) as u32);
            let value = self.shared.writes.fetch_add(1, Ordering::SeqCst) + 1;
            let (key, call) = match self.rng.below(100) {
                0..30 => (key, Call::Put(value)),
                30..40 => (KeyNumber(COUNTERS_FROM + self.number), Call::Put(value)),
                40..50 => (key, Call::Delete(value)),
                50..65 => {
                    let expect = self.seen.get(&key).copied().flatten();
                    (key, Call::Swap { expect, value })
                }
                _ => (key, Call::Get),
            };
            let number = self.shared.call(self.number, key, call);
            let result = self.carry_out(key, call).await;
            self.shared.ended(number, result);
        }
    }

    async fn carry_out(
        &mut self,
        key: KeyNumber,
        call: Call,
    ) -> Result<(Return, Revision), Failure> {
        let name = encode_key(key);
        let keyspace = &self.keyspace;
        match call {
            Call::Put(value) => {
                let put = keyspace.put(name, encode_value(value)).await?;
                Ok((Return::Put, put.revision))
            }
            Call::Delete(_) => {
                let deleted = keyspace.delete_with(name, atoll_client::Previous::Drop).await?;
                let revision = deleted.revisions.first().map_or(Revision::ZERO, |r| r.1);
                Ok((Return::Deleted(found(deleted.count > 0)), revision))
            }
            Call::Swap { expect, value } => {
                let condition = match expect {
                    Some(there) => when::value_is(name.clone(), encode_value(there)),
                    None => when::missing(name.clone()),
                };
                let txn = keyspace.txn().when(condition).put(name, encode_value(value));
                let done = txn.commit().await?;
                Ok((Return::Swapped(found(done.succeeded)), done.revision))
            }
            Call::Get => {
                let read = keyspace.get_with(name, atoll_client::ReadOptions::default()).await?;
                let value = read.kv.map(|kv| decode_value(&kv.value));
                self.seen.insert(key, value);
                Ok((Return::Got(value), read.revision))
            }
        }
    }
}

fn found(yes: bool) -> Found {
    if yes { Found::Yes } else { Found::No }
}

fn encode_key(key: KeyNumber) -> Bytes {
    Bytes::from(format!("k{}/{:05}", key.0 % 8, key.0))
}

fn decode_key(key: &[u8]) -> KeyNumber {
    let number = std::str::from_utf8(&key[3..]).ok().and_then(|n| n.parse().ok());
    KeyNumber(number.unwrap_or_else(|| panic!("a foreign key: {}", key.escape_ascii())))
}

/// The write's number and padding that follows from it, so that a changed byte shows.
fn encode_value(number: u64) -> Bytes {
    let mut text = format!("{number}:");
    text.extend(std::iter::repeat_n(char::from(b'a' + (number % 26) as u8), number as usize % 200));
    Bytes::from(text)
}

fn decode_value(value: &Bytes) -> u64 {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let number = text.split_once(':').and_then(|(n, _)| n.parse().ok()).unwrap_or(0);
    assert_eq!(encode_value(number), value, "a value that nobody wrote");
    number
}

type Versions = BTreeMap<(ShardId, KeyNumber), u64>;

/// Everything that the shards tell: all their changes in order, and the newest version of every
/// key.
async fn aftermath(
    keyspace: &Keyspace,
    info: &KeyspaceInfo,
) -> (BTreeMap<ShardId, Aftermath>, Versions) {
    let mut after: BTreeMap<ShardId, Aftermath> = BTreeMap::new();
    let mut ends: BTreeMap<ShardId, Revision> = BTreeMap::new();
    let mut versions = Versions::new();
    for shard in &info.shards {
        after.insert(shard.shard, Aftermath::default());
    }
    let mut scan = keyspace.scan(Keys::all());
    while let Some(page) = scan.next_page().await.expect("the scan goes on") {
        ends.insert(page.shard, page.revision);
        let aftermath = after.get_mut(&page.shard).expect("a known shard");
        for kv in page.kvs {
            let key = decode_key(&kv.key);
            aftermath.newest.insert(key, (decode_value(&kv.value), kv.mod_revision));
            versions.insert((page.shard, key), kv.version);
        }
    }
    let watch = keyspace.watch(Keys::all()).from(Revision(1)).start().await;
    let mut watch = watch.expect("the whole history is kept");
    while !ends.is_empty() {
        let next = within("the history comes", PATIENCE, watch.next()).await;
        let changes = next.expect("the watch goes on").expect("nothing was compacted");
        let aftermath = after.get_mut(&changes.shard).expect("a known shard");
        for event in changes.events {
            let value = match event.kind {
                EventKind::Put(record) => Some(decode_value(&record.value)),
                EventKind::Delete => None,
            };
            let effect = Effect { revision: event.revision, key: decode_key(&event.key), value };
            aftermath.effects.push(effect);
        }
        let end = ends.get(&changes.shard).copied();
        if end.is_some_and(|end| changes.through >= end) {
            ends.remove(&changes.shard);
        }
    }
    (after, versions)
}
