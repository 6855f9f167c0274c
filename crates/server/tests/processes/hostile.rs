//! Strangers at every port: garbage, half a frame, messages beyond every limit, thousands of idle
//! connections. Nobody panics, nothing leaks, others are served meanwhile.

use std::time::Duration;

use atoll_base::Rng;
use atoll_client::{Client, Code, Keyspace};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Cluster, Turn, eventually, http_get, sized, within};

const LONG: Duration = Duration::from_secs(60);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// An HTTP/2 frame with a length of its own choosing.
fn frame(length: u32, kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(content);
    bytes
}

/// A gRPC call of `path` whose one DATA frame has `content`.
fn call(path: &str, content: &[u8], ends: bool) -> Vec<u8> {
    // HPACK, literals without indexing (RFC 7541, 6.2.2): POST, http, path, authority,
    // content-type, te.
    let mut headers = vec![0x83, 0x86, 0x04, path.len() as u8];
    headers.extend(path.bytes());
    headers.extend(b"\x01\x01t\x0f\x10\x10application/grpc\x00\x02te\x08trailers");
    let mut bytes = [PREFACE, SETTINGS].concat();
    bytes.extend(frame(headers.len() as u32, 1, 4, 1, &headers));
    bytes.extend(frame(content.len() as u32, 0, u8::from(ends), 1, content));
    bytes
}

/// What strangers say; `rng` fills in.
fn lines(rng: &mut Rng) -> Vec<Vec<u8>> {
    let mut noise = |n: usize| (0..n).map(|_| rng.below(256) as u8).collect::<Vec<u8>>();
    let mut lines = vec![
        Vec::new(),
        vec![0],
        noise(4096),
        noise(100_000),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"GET /\xff\xfe".to_vec(),
        [b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", &noise(64)[..]]
            .concat(),
        [b"GET /".to_vec(), vec![b'a'; 1 << 20]].concat(),
        PREFACE[..10].to_vec(),
        [PREFACE, &noise(4096)].concat(),
        // A frame that ends early, one beyond every limit, one on no stream.
        [PREFACE, SETTINGS, &frame(10_000, 1, 4, 1, &noise(10))].concat(),
        [PREFACE, SETTINGS, &frame(0xff_ffff, 0, 0, 1, &noise(1000))].concat(),
        [PREFACE, SETTINGS, &frame(8, 0, 0, 77, &noise(8))].concat(),
    ];
    for path in ["/atoll.v1.Session/Open", "/atoll.peer.v1.Peer/Deliver", "/no.such/Thing"] {
        let message =
            |length: u32, content: &[u8]| [&[0][..], &length.to_be_bytes(), content].concat();
        lines.extend([
            call(path, &message(64, &noise(64)), true),
            call(path, &message(64, &noise(64)), false),
            call(path, &message(1000, &noise(10)), true),
            call(path, &message(u32::MAX, &noise(1000)), false),
            call(path, &[&[1][..], &message(64, &noise(64))[1..]].concat(), true),
            call(path, &noise(3), true),
        ]);
    }
    lines
}

/// Says something and hangs up when the other side does, or when it says nothing more for a moment.
async fn intrude(address: &str, line: &[u8]) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    // Hung up on while speaking is as good as afterwards.
    let _ = stream.write_all(line).await;
    let mut answer = [0; 4096];
    let moment = Duration::from_millis(50);
    while let Ok(Ok(1..)) = tokio::time::timeout(moment, stream.read(&mut answer)).await {}
}

async fn served(keyspace: &Keyspace, n: u64) {
    let key = format!("key/{}", n % 7);
    let put = within("a put is served", LONG, keyspace.put(key.clone(), format!("{n}"))).await;
    put.expect("a put");
    let got = within("a get is served", LONG, keyspace.get(key)).await.expect("a get");
    assert_eq!(got.expect("it is there").value, format!("{n}"));
}

async fn back_to(cluster: &mut Cluster, files: &[usize], resident: &[u64], growth_max: u64) {
    for node in cluster.all() {
        let before = files[node - 1];
        eventually(&format!("node {node} closes its files"), LONG, async || {
            let now = cluster.node(node).open_files();
            if now <= before + 24 { Ok(()) } else { Err(format!("{now} open, {before} before")) }
        })
        .await;
        let (before, now) = (resident[node - 1], cluster.node(node).resident_bytes());
        let growth = now.saturating_sub(before);
        assert!(growth < growth_max, "node {node} grew from {before} to {now} bytes");
    }
    cluster.check_sound();
}

async fn small_cluster() -> (Cluster, Client, Keyspace) {
    let cluster = Cluster::start(3, &["--message-bytes-max=1MiB"]).await;
    let client = cluster.client(Duration::from_secs(30)).await;
    let (keyspace, _) = cluster.keyspace(&client, "data", &["key/3"]).await;
    served(&keyspace, 0).await;
    (cluster, client, keyspace)
}

fn usage(cluster: &mut Cluster) -> (Vec<usize>, Vec<u64>) {
    let nodes: Vec<usize> = cluster.all().collect();
    let files = nodes.iter().map(|n| cluster.node(*n).open_files()).collect();
    (files, nodes.iter().map(|n| cluster.node(*n).resident_bytes()).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_at_every_port_harms_nobody() {
    let _turn = Turn::alone();
    let (mut cluster, _client, keyspace) = small_cluster().await;
    let (files, _) = usage(&mut cluster);
    let mut rng = Rng::new(4);
    let mut resident = Vec::new();
    for round in 0..sized(3, 40) {
        let mut strangers = tokio::task::JoinSet::new();
        for node in cluster.all() {
            let ports = [
                cluster.client_address(node),
                cluster.peer_address(node),
                cluster.http_address(node),
            ];
            for address in ports {
                for line in lines(&mut rng) {
                    let address = address.clone();
                    strangers.spawn(async move { intrude(&address, &line).await });
                }
            }
        }
        served(&keyspace, round).await;
        within("the strangers are through", LONG, strangers.join_all()).await;
        served(&keyspace, round).await;
        if round == 0 {
            // What the first round takes (buffers, arenas) may stay; more of the same may not add.
            resident = usage(&mut cluster).1;
        }
    }
    for node in cluster.all() {
        assert_eq!(http_get(&cluster.http_address(node), "/health").expect("an answer").0, 200);
    }
    back_to(&mut cluster, &files, &resident, 48 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_beyond_the_limit_is_refused_with_its_limit_and_nothing_else_suffers() {
    let _turn = Turn::among_others();
    let (mut cluster, _client, keyspace) = small_cluster().await;
    // Below a message's limit, above a value's or the other way round: either way it says so.
    for size in [(1 << 20) - 64, 1 << 20, 3 << 20, 12 << 20] {
        let put = within("an answer", LONG, keyspace.put("key/5", vec![7; size])).await;
        match put {
            Ok(_) => assert!(size < 1 << 20, "{size} bytes were taken"),
            Err(failure) => {
                assert_eq!(failure.code, Code::TooLarge, "{size} bytes: {failure}");
                assert!(failure.message.contains("limit"), "{failure}");
            }
        }
        served(&keyspace, size as u64).await;
    }
    let key = vec![b'k'; 60_000];
    let failure = keyspace.put(key, "x").await.expect_err("a key has a limit");
    assert_eq!(failure.code, Code::TooLarge, "{failure}");
    let failure = keyspace.put("", "x").await.expect_err("a key has a byte");
    assert_eq!(failure.code, Code::InvalidArgument, "{failure}");
    served(&keyspace, 1).await;
    cluster.check_sound();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_transactions_and_what_is_a_little_larger_do_no_harm() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(15)).await;
    let (keyspace, _) = cluster.keyspace(&client, "data", &[]).await;
    // Two values of half a message each: from below what a message may have to above it.
    for below in [4 << 20, 1 << 16, 1000, 200, 150, 120, 100, 80, 60, 40, 20, 0] {
        let half = ((16 << 20) - below) / 2;
        let half = half.min(8 << 20);
        let txn = keyspace.txn().put("key/a", vec![1; half]).put("key/b", vec![2; half]);
        match within("an answer", LONG, txn.commit()).await {
            Ok(done) => assert!(done.succeeded),
            Err(failure) => assert_eq!(failure.code, Code::TooLarge, "{below} below: {failure}"),
        }
        served(&keyspace, below as u64).await;
        cluster.check_sound();
    }
}

/// Lets this process and its children have so many files open; panics where the system forbids it.
fn allow_files(wanted: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|now| now >= wanted) {
        return;
    }
    limit.current = Some(wanted);
    let most = limit.maximum;
    setrlimit(Resource::Nofile, limit)
        .unwrap_or_else(|e| panic!("{wanted} open files are needed, {most:?} are allowed: {e}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_idle_connections_cost_little_and_nobody_is_kept_out() {
    let _turn = Turn::alone();
    let count = sized(1_000, 5_000);
    allow_files(2 * count + 1_000);
    let (mut cluster, _client, keyspace) = small_cluster().await;
    let (files, resident) = usage(&mut cluster);
    let mut idle = Vec::new();
    for n in 0..count {
        // Some never say a word, some greet and then say nothing; on every port of the first node.
        let address = match n % 10 {
            0 => cluster.peer_address(1),
            1 => cluster.http_address(1),
            _ => cluster.client_address(1),
        };
        let connected = within("a connection is taken", LONG, TcpStream::connect(&address)).await;
        let mut stream = connected.expect("it is not refused");
        if n % 2 == 0 {
            stream.write_all(&[PREFACE, SETTINGS].concat()).await.expect("a greeting");
        }
        idle.push(stream);
        if n % 100 == 0 {
            served(&keyspace, n).await;
        }
    }
    let newcomer = cluster.client(Duration::from_secs(30)).await;
    served(&newcomer.keyspace("data"), 3).await;
    assert_eq!(http_get(&cluster.http_address(1), "/health").expect("an answer").0, 200);
    let grown = cluster.node(1).resident_bytes().saturating_sub(resident[0]);
    assert!(grown / count < 48 << 10, "{count} idle connections take {grown} bytes");
    drop(idle);
    back_to(&mut cluster, &files, &resident, (48 << 10) * count + (16 << 20)).await;
    served(&keyspace, 4).await;
}

/// Reads until the other side hangs up; what it said.
async fn until_hung_up(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is as good as an end.
    let _ = within("the other side hangs up", LONG, stream.read_to_end(&mut said)).await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_http_port_takes_so_many_connections_and_hangs_up_on_those_who_are_slow() {
    let _turn = Turn::among_others();
    let limit = 16;
    let flag = format!("--http-connections-max={limit}");
    let mut cluster = Cluster::start(1, &[&flag]).await;
    let address = cluster.http_address(1);
    // Slow ones, each in the middle of its request or before it, take all places.
    let mut slow = Vec::new();
    for n in 0..limit {
        let mut stream = TcpStream::connect(&address).await.expect("a connection");
        let says = &b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "[..n * 2];
        stream.write_all(says).await.expect("it is listened to");
        slow.push(stream);
    }
    // One more is hung up on at once; the places come free when the slow ones run out of time.
    let mut refused = TcpStream::connect(&address).await.expect("the system takes it");
    let _ = refused.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(until_hung_up(&mut refused).await, b"", "there was no place for it");
    let began = std::time::Instant::now();
    for stream in &mut slow {
        until_hung_up(stream).await;
    }
    println!("the slow ones were hung up on within {:?}", began.elapsed());
    eventually("places are free again", LONG, async || match http_get(&address, "/health")? {
        (200, _) => Ok(()),
        (code, body) => Err(format!("{code}: {body}")),
    })
    .await;
    // A head that never ends is not gathered.
    let mut endless = TcpStream::connect(&address).await.expect("a connection");
    let before = cluster.node(1).resident_bytes();
    let _ = endless.write_all(b"GET /health HTTP/1.1\r\n").await;
    let line = [&b"X: "[..], &[b'a'; 4000], b"\r\n"].concat();
    for _ in 0..2_000 {
        if endless.write_all(&line).await.is_err() {
            break;
        }
    }
    until_hung_up(&mut endless).await;
    let grown = cluster.node(1).resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "an endless head took {grown} bytes");
    cluster.check_sound();
}
