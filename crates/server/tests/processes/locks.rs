//! Locks over real processes: commands that run under them, holders that sleep too long, leaders
//! that die between a grant and its answer, and strangers.

#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

use std::path::PathBuf;
use std::time::Duration;

use atoll_client::{
    AcquireOp, Attempt, Bytes, Claim, Client, Code, Guard, Happened, Holding, LockOp, LockReply,
    Mode, Standing, Token, Wait,
};
use tokio::task::JoinSet;

use crate::harness::{Cluster, Process, Signal, Turn, eventually, leader, sized, within};

const LONG: Duration = Duration::from_secs(60);

/// Commands of the binary, as a user of the cluster types them.
struct Shell {
    folder: PathBuf,
    endpoints: String,
    number: u32,
}

impl Shell {
    fn new(cluster: &Cluster) -> Self {
        Self { folder: cluster.folder().to_owned(), endpoints: cluster.endpoints(), number: 0 }
    }

    fn start(&mut self, args: &[&str]) -> Process {
        self.number += 1;
        let name = format!("typed-{}", self.number);
        let args: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
        let path = format!(
            "{}:{}",
            PathBuf::from(env!("CARGO_BIN_EXE_atoll")).parent().unwrap().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let variables = [("ATOLL_ENDPOINTS", self.endpoints.as_str()), ("PATH", &path)];
        Process::start_with(&self.folder, &name, &args, &variables)
    }

    /// Its exit code and all that it said.
    async fn run(&mut self, args: &[&str]) -> (i32, String) {
        let mut process = self.start(args);
        let code = process.exit_code(LONG).await;
        (code, process.said())
    }

    fn file(&self, name: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.folder.join(name)).ok()?;
        (!text.is_empty()).then_some(text)
    }
}

async fn said(process: &Process, what: &str) {
    eventually(&format!("it says {what:?}"), LONG, async || {
        let said = process.said();
        if said.contains(what) { Ok(()) } else { Err(said) }
    })
    .await;
}

async fn is_free(client: &Client, name: &'static str) -> bool {
    client.lock(name).info().await.expect("the shard answers").is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_under_a_lock_and_ends_with_it() {
    let _turn = Turn::among_others();
    let cluster = Cluster::start(1, &[]).await;
    let client = cluster.client(Duration::from_secs(20)).await;
    let mut shell = Shell::new(&cluster);

    // The command has the token, its writes are guarded, its exit code is passed on.
    let script =
        "echo \"$ATOLL_LOCK $ATOLL_LOCK_TOKEN $ATOLL_GUARD\" > env && atoll put k ok && exit 5";
    let (code, text) = shell.run(&["lock", "m", "--", "sh", "-c", script]).await;
    assert_eq!(code, 5, "{text}");
    assert_eq!(shell.file("env").as_deref(), Some("m 1 m=1@default\n"));
    assert!(is_free(&client, "m").await);
    let (code, text) = shell.run(&["put", "k", "late", "--guard", "m=1"]).await;
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("guard refused: lock m, token 1 given, nobody holds it"), "{text}");
    let txn = r#"{"then": [{"put": {"key": "k", "value": "late"}}]}"#;
    assert_eq!(shell.run(&["txn", txn, "--guard", "m=1"]).await.0, 3);
    assert_eq!(shell.run(&["delete", "k", "--guard", "m=1@default"]).await.0, 3);
    assert_eq!(client.keyspace("default").get("k").await.unwrap().unwrap().value, "ok");

    // A signal reaches the command; its end by one is told as shells do.
    let mut process = shell.start(&["lock", "m", "--", "sleep", "1000"]);
    said(&process, "holding m").await;
    let (code, text) = shell.run(&["lock", "m", "--try", "--", "true"]).await;
    assert_eq!(code, 3, "{text}");
    let (code, text) = shell.run(&["lock", "m", "--wait", "0.2", "--", "true"]).await;
    assert!([4, 5].contains(&code), "{code}: {text}");
    let (_, text) = shell.run(&["lock", "m", "--show", "-o", "json"]).await;
    assert!(text.contains("\"held\":1"), "{text}");
    process.send(Signal::Terminate);
    assert_eq!(process.exit_code(LONG).await, 128 + 15);
    assert!(is_free(&client, "m").await);

    // Who is interrupted while it waits is not in the way.
    let held = client.lock("m").acquire().await.unwrap();
    let mut waits = shell.start(&["lock", "m", "--", "true"]);
    let waiting = async || client.lock("m").info().await.unwrap().unwrap().busy.waiting;
    eventually("it waits", LONG, async || match waiting().await {
        1 => Ok(()),
        n => Err(format!("{n} wait")),
    })
    .await;
    waits.send(Signal::Interrupt);
    assert_eq!(waits.exit_code(LONG).await, 6);
    assert_eq!(waiting().await, 0);
    held.release().await.unwrap();
    sleeper(&client, &mut shell).await;
    others(&mut shell).await;
}

/// Trap T26: a holder that is stopped for longer than its time to live, and wakes.
async fn sleeper(client: &Client, shell: &mut Shell) {
    let script = "trap 'echo told > told; exit 0' TERM; while :; do sleep 0.05; done";
    let mut process = shell.start(&["lock", "m", "--ttl", "2", "--", "sh", "-c", script]);
    said(&process, "holding m").await;
    let info = client.lock("m").info().await.unwrap().unwrap();
    let old = info.busy.holders[0].token;
    process.send(Signal::Stop);
    let held = within("the next one has it", LONG, client.lock("m").acquire()).await.unwrap();
    assert!(held.token() > old);
    let orders = client.keyspace("default");
    let guard = |token| Guard { keyspace: held.guard().keyspace, lock: "m".into(), token };
    orders.clone().guarded_by(guard(held.token())).put("order", "new").await.unwrap();
    let refused = orders.clone().guarded_by(guard(old)).put("order", "old").await.unwrap_err();
    assert_eq!((refused.code, refused.happened), (Code::PreconditionFailed, Happened::No));
    assert_eq!(orders.get("order").await.unwrap().unwrap().value, "new");
    process.send(Signal::Continue);
    assert_eq!(process.exit_code(LONG).await, 8, "{}", process.said());
    assert_eq!(shell.file("told").as_deref(), Some("told\n"), "TERM came before KILL");
    assert_eq!(held.standing(), Standing::Held);
    held.release().await.unwrap();
}

/// Semaphores, elections and leases as commands.
async fn others(shell: &mut Shell) {
    assert_eq!(shell.run(&["semaphore", "s", "--show"]).await.0, 1);
    assert_eq!(shell.run(&["semaphore", "s", "--limit", "2"]).await.0, 0);
    let two = shell.start(&["semaphore", "s", "-n", "2"]);
    said(&two, "holding s").await;
    assert_eq!(shell.run(&["semaphore", "s", "--try", "--", "true"]).await.0, 3);
    two.send(Signal::Interrupt);
    let (code, text) = shell.run(&["semaphore", "s", "-n", "2", "--", "true"]).await;
    assert_eq!(code, 0, "{text}");

    assert_eq!(shell.run(&["elect", "e", "--leader"]).await.0, 1);
    let mut first = shell.start(&["elect", "e", "one"]);
    said(&first, "holding e").await;
    let (code, text) = shell.run(&["elect", "e", "--leader", "-o", "json"]).await;
    assert_eq!(code, 0);
    assert!(text.contains("\"value\":\"one\""), "{text}");
    let observer = shell.start(&["elect", "e", "--observe"]);
    said(&observer, "one  (token").await;
    let second = shell.start(&["elect", "e", "two"]);
    first.send(Signal::Interrupt);
    assert_eq!(first.exit_code(LONG).await, 0);
    said(&second, "holding e").await;
    said(&observer, "two  (token").await;

    let (code, text) = shell.run(&["lease", "grant", "60", "-o", "json"]).await;
    assert_eq!(code, 0, "{text}");
    let id: u64 =
        text.split("\"lease\":").nth(1).unwrap().split([',', '}']).next().unwrap().parse().unwrap();
    let id = id.to_string();
    assert_eq!(shell.run(&["put", "leased", "v", "--lease", &id]).await.0, 0);
    let (_, text) = shell.run(&["lease", "show", &id, "--keys"]).await;
    assert!(text.contains("1 keys attached") && text.contains("leased"), "{text}");
    let (_, text) = shell.run(&["lease", "list"]).await;
    assert!(text.lines().any(|line| line == id), "{text}");
    assert_eq!(shell.run(&["lease", "keep-alive", &id, "--once"]).await.0, 0);
    assert_eq!(shell.run(&["lease", "revoke", &id]).await.0, 0);
    assert_eq!(shell.run(&["lease", "revoke", &id]).await.0, 1);
    assert_eq!(shell.run(&["lease", "keep-alive", &id, "--once"]).await.0, 1);
    assert_eq!(shell.run(&["get", "leased"]).await.0, 1);
}

/// Takes the lock again and again, and counts under its guard in a way that loses counts when two
/// do it at once.
async fn counter(client: Client, rounds: u64) {
    for _ in 0..rounds {
        let held = client.lock("m").acquire().await.expect("it is had at last");
        let keys = client.keyspace("default").guarded_by(held.guard());
        let count = keys.get("count").await.expect("a count");
        let count: u64 = count.map_or(0, |kv| text(&kv.value).parse().expect("a number"));
        keys.put("count", (count + 1).to_string()).await.expect("nobody else has the lock");
        held.release().await.expect("it is held");
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Leaders die while locks are asked for, granted and released; nobody has one twice, everybody
/// has a turn, and those who wait keep their order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_survive_their_leaders() {
    let _turn = Turn::alone();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(30)).await;
    let shard = client.describe_keyspace("default").await.unwrap().shards[0].shard;
    strangers(&cluster, &client).await;

    // Waiters, each on a connection of its own, queue behind a holder.
    let held = client.lock("queue").acquire().await.unwrap();
    let mut queue: Vec<tokio::task::JoinHandle<Holding>> = Vec::new();
    for n in 1..=5 {
        let waiter = cluster.client(Duration::from_secs(30)).await;
        queue.push(tokio::spawn(async move {
            waiter.lock("queue").acquire().await.expect("its turn comes")
        }));
        eventually("it waits", LONG, async || {
            let info = client.lock("queue").info().await.map_err(|f| f.to_string())?;
            let waiting = info.map_or(0, |info| info.busy.waiting);
            if waiting == n { Ok(()) } else { Err(format!("{waiting} of {n} wait")) }
        })
        .await;
    }

    let (tasks, rounds) = (4, sized(10, 100));
    let mut counters = JoinSet::new();
    for _ in 0..tasks {
        counters.spawn(counter(cluster.client(Duration::from_secs(60)).await, rounds));
    }
    for _ in 0..sized(2, 6) {
        let killed = leader(&client, shard).await;
        cluster.kill_node(killed);
        eventually("another one leads", LONG, async || {
            let now = leader(&client, shard).await;
            if now == killed { Err(format!("node {now} leads")) } else { Ok(()) }
        })
        .await;
        cluster.start_node(killed);
        cluster.node_ready(killed).await;
    }
    within("all have counted", LONG * 2, async {
        while let Some(done) = counters.join_next().await {
            done.expect("a counter does not panic");
        }
    })
    .await;
    let count = client.keyspace("default").get("count").await.unwrap().unwrap();
    assert_eq!(text(&count.value), (tasks * rounds).to_string());

    let mut last = held.token();
    assert_eq!(held.standing(), Standing::Held, "its session outlived the leaders");
    held.release().await.unwrap();
    for waiter in queue {
        let held = within("the next in the queue has it", LONG, waiter).await.unwrap();
        assert!(held.token() > last, "in the order in which they came");
        last = held.token();
        let busy = client.lock("queue").info().await.unwrap().unwrap().busy;
        assert_eq!((busy.held, busy.holders[0].token), (1, last));
        held.release().await.unwrap();
    }
    cluster.check_sound();
}

/// Trap T30: only the holder releases; and two clients with one name are one.
async fn strangers(cluster: &Cluster, client: &Client) {
    let held = client.lock("mine").acquire().await.unwrap();
    let other = cluster.client(Duration::from_secs(20)).await;
    let keys = other.keyspace("default");
    let stranger = other.lock("theirs").acquire().await.unwrap();
    let lock = Bytes::from("mine");
    for (session, token) in [
        (stranger.session(), held.token()),
        (held.session(), stranger.token()),
        (held.session(), Token(held.token().0 + 100)),
    ] {
        let op = LockOp::Release { lock: lock.clone(), session, token };
        let refused = keys.lock_command(op).await.unwrap_err();
        assert_eq!((refused.code, refused.happened), (Code::PreconditionFailed, Happened::No));
    }
    assert!(matches!(other.lock("mine").try_acquire().await.unwrap(), Attempt::Busy(_)));

    let (session, request) = (stranger.session(), 77);
    let op = AcquireOp {
        claim: Claim { lock: "twins".into(), session, request },
        mode: Mode::Exclusive,
        wait: Wait::No,
        value: Bytes::new(),
    };
    let patience = Duration::from_secs(10);
    let first = keys.claim(&op, patience).await.unwrap();
    let second = client.keyspace("default").claim(&op, patience).await.unwrap();
    let LockReply::Acquired { token } = first else { panic!("{first:?}") };
    assert_eq!(second, first, "the same request has the same answer, whoever makes it");
    let release = || LockOp::Release { lock: "twins".into(), session, token };
    keys.lock_command(release()).await.unwrap();
    let refused = client.keyspace("default").lock_command(release()).await.unwrap_err();
    assert_eq!(refused.code, Code::PreconditionFailed);
}
