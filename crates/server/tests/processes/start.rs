//! Starting wrongly: every mistake is named, with what to do, and the exit code says that it
//! failed.

use std::path::Path;
use std::time::Duration;

use atoll_client::Keys;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Cluster, Process, Signal, Turn, eventually};

const LONG: Duration = Duration::from_secs(60);

/// Runs a command that must end by itself soon, since it is refused.
async fn refused(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> (i32, String) {
    let _ = std::fs::remove_file(folder.join("refused.log"));
    let owned: Vec<String> = args.iter().map(|&a| a.to_owned()).collect();
    let mut process = Process::start_with(folder, "refused", &owned, variables);
    let code = process.exit_code(LONG).await;
    let said = process.said();
    assert_ne!(code, 0, "{args:?} was accepted: {said}");
    assert!(!said.contains("panicked"), "{said}");
    (code, said)
}

/// What is wrong, how it is given, and words that the error must have.
struct Mistake {
    args: &'static [&'static str],
    variables: &'static [(&'static str, &'static str)],
    file: &'static str,
    words: &'static [&'static str],
}

const NONE: Mistake = Mistake { args: &[], variables: &[], file: "", words: &[] };

const MISTAKES: &[Mistake] = &[
    Mistake { args: &["--nonsense"], words: &["--nonsense"], ..NONE },
    Mistake { args: &["--node-id=0"], words: &["node_id", "\"0\"", "1 or more"], ..NONE },
    Mistake { args: &["--node-id=one"], words: &["node_id", "\"one\"", "command line"], ..NONE },
    Mistake { args: &["--lanes=300"], words: &["lanes", "\"300\"", "0 to 256"], ..NONE },
    Mistake {
        args: &["--persist-bytes=3 MB"],
        words: &["persist_bytes", "3 MB", "MiB", "command line"],
        ..NONE
    },
    Mistake {
        variables: &[("ATOLL_ELECTION_TIMEOUT", "soon")],
        words: &["election_timeout", "soon", "environment", "50ms to 60s"],
        ..NONE
    },
    Mistake {
        args: &["--election-timeout=100ms", "--heartbeat-interval=90ms"],
        words: &["heartbeat_interval", "90ms", "third", "100ms"],
        ..NONE
    },
    Mistake {
        args: &["--listen=0.0.0.0:0"],
        words: &["listen", "0.0.0.0", "no TLS", "--insecure-listen"],
        ..NONE
    },
    Mistake { args: &["--listen=nowhere"], words: &["listen", "nowhere", "no port"], ..NONE },
    Mistake {
        args: &["--bootstrap=2=127.0.0.1:1/2"],
        words: &["node_id 1", "not in bootstrap"],
        ..NONE
    },
    Mistake { args: &["--bootstrap=1=h"], words: &["bootstrap", "1=h", "port"], ..NONE },
    Mistake { args: &["--bootstrap=1=a:1/2,1=b:1/2"], words: &["bootstrap", "twice"], ..NONE },
    Mistake { args: &["--config=missing.toml"], words: &["missing.toml", "No such file"], ..NONE },
    Mistake { file: "lanes = 'many'", words: &["lanes", "many", "atoll.toml"], ..NONE },
    Mistake { file: "lames = 3", words: &["atoll.toml", "lames"], ..NONE },
    Mistake { file: "lanes = [3]", words: &["atoll.toml", "lanes", "array"], ..NONE },
    Mistake { file: "lanes 3", words: &["atoll.toml", "lanes 3"], ..NONE },
];

#[tokio::test]
async fn wrong_settings_are_named_with_their_source_and_what_is_allowed() {
    let _turn = Turn::among_others();
    for mistake in MISTAKES {
        let folder = tempfile::tempdir().expect("a temporary folder");
        if !mistake.file.is_empty() {
            std::fs::write(folder.path().join("atoll.toml"), mistake.file).expect("a file");
        }
        let mut args = vec!["serve", "--data=d", "--listen=:0", "--peer-listen=:0"];
        args.push("--http-listen=:0");
        let named = |flag: &str| {
            let flag = flag.split('=').next().unwrap_or_default();
            mistake.args.iter().any(|a| a.starts_with(flag))
        };
        args.retain(|a| *a == "serve" || !named(a));
        if !named("--node-id") {
            args.push("--node-id=1");
        }
        args.extend(mistake.args);
        let (code, said) = refused(folder.path(), &args, mistake.variables).await;
        assert_eq!(code, 2, "a mistake in the call has exit code 2: {args:?}: {said}");
        for word in mistake.words {
            assert!(said.contains(word), "{args:?}: {word:?} is missing in: {said}");
        }
        assert!(!folder.path().join("d").exists(), "{args:?} left a folder behind");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (code, said) = refused(folder.path(), &["serve", "--node-id=1"], &[]).await;
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("data is missing") && said.contains("ATOLL_DATA"), "{said}");
    let (code, _) = refused(folder.path(), &["fly"], &[]).await;
    assert_eq!(code, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_belongs_to_one_process_one_node_and_one_format() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(1, &[]).await;
    let client = cluster.client(LONG).await;
    client.keyspace("default").put("key", "value").await.expect("a put");
    let folder = cluster.folder().to_owned();
    let data = cluster.data(1);
    let with = |replaced: &[(&str, &str)]| {
        let mut args = cluster.args(1);
        args.retain(|a| !a.starts_with("--bootstrap"));
        for (flag, value) in replaced {
            args.retain(|a| !a.starts_with(&format!("{flag}=")));
            args.push(format!("{flag}={value}"));
        }
        args
    };
    let free = [("--listen", ":0"), ("--peer-listen", ":0"), ("--http-listen", ":0")];
    let check = async |args: Vec<String>, words: &[&str]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let (code, said) = refused(&folder, &args, &[]).await;
        assert_eq!(code, 1, "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is missing in: {said}");
        }
    };
    let name = data.display().to_string();
    check(with(&free), &["in use by another process", &name, "of its own"]).await;
    let address = cluster.client_address(1);
    let elsewhere = folder.join("other").display().to_string();
    check(with(&[("--data", &elsewhere)]), &["listen", &address, "in use"]).await;
    assert!(!folder.join("other").exists(), "it was refused before it touched the folder");

    let free_other: Vec<(&str, &str)> = [&free[..], &[("--node-id", "2")]].concat();
    let (as_other, again) = (with(&free_other), with(&free));
    let identity = data.join("IDENTITY");
    cluster.kill_node(1);
    check(as_other, &["belongs to node 1, this is node 2", "--node-id"]).await;
    let good = std::fs::read_to_string(&identity).expect("it is there");
    std::fs::write(&identity, good.replace("format 1", "format 9")).expect("a file");
    check(again.clone(), &["format 9", "up to 1", "version of atoll"]).await;
    std::fs::write(&identity, "").expect("a file");
    check(again, &["IDENTITY", "can't be read", "restore"]).await;
    std::fs::write(&identity, good).expect("a file");
    cluster.start_node(1);
    cluster.ready().await;
    let kv = client.keyspace("default").get("key").await.expect("a get").expect("it is there");
    assert_eq!(kv.value, "value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_and_sigint_end_a_node_cleanly_and_its_data_stays() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(1, &[]).await;
    for (round, signal) in [Signal::Terminate, Signal::Interrupt].into_iter().enumerate() {
        let client = cluster.client(LONG).await;
        let put = client.keyspace("default").put(format!("key/{round}"), "value").await;
        put.expect("a put");
        cluster.send(1, signal);
        assert_eq!(cluster.node(1).exit_code(LONG).await, 0);
        let said = cluster.node(1).said();
        assert!(said.contains("stopped"), "{said}");
        cluster.kill_node(1);
        cluster.start_node(1);
        cluster.ready().await;
        for before in 0..=round {
            let kv = client.keyspace("default").get(format!("key/{before}")).await;
            assert!(kv.expect("a get").is_some(), "key {before} is lost after {signal:?}");
        }
    }
}

/// Somebody who keeps a connection open and does nothing with it.
async fn idler(address: &str, says: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("a connection is taken");
    stream.write_all(says).await.expect("a greeting");
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_and_watches_do_not_keep_a_node_from_stopping() {
    const PROMPT: Duration = Duration::from_secs(3);
    let _turn = Turn::among_others();
    let mut cluster = Cluster::start(1, &["--shutdown-timeout=5m"]).await;
    let client = cluster.client(LONG).await;
    let keyspace = client.keyspace("default");
    keyspace.put("key", "value").await.expect("a put");
    let watch = keyspace.watch(Keys::all()).start().await.expect("a watch");
    let http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let http1 = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
    let (clients, peers) = (cluster.client_address(1), cluster.peer_address(1));
    let http = cluster.http_address(1);
    let cases: [(&str, &[u8]); 8] = [
        (&clients, b""),
        (&clients, &http2[..12]),
        (&clients, http2),
        (&peers, b""),
        (&peers, http2),
        (&http, b""),
        (&http, &http1[..10]),
        (&http, http1),
    ];
    let mut idlers = Vec::new();
    for (address, says) in cases {
        idlers.push(idler(address, says).await);
    }
    // The last one has its answer and keeps its connection.
    let mut answer = [0; 12];
    let last = idlers.last_mut().expect("there are some");
    last.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let told = std::time::Instant::now();
    cluster.send(1, Signal::Terminate);
    assert_eq!(cluster.node(1).exit_code(LONG).await, 0);
    let took = told.elapsed();
    println!("it took {took:?} to stop");
    assert!(took < PROMPT, "nothing was under way, and it took {took:?} to stop");
    drop((watch, idlers));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused_and_both_say_why() {
    let _turn = Turn::among_others();
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.start_node(1);
    cluster.start_node(2);
    cluster.ready().await;
    // The third believes in another cluster: same list, another name.
    let mut args = cluster.args(3);
    args.push("--cluster-name=foreign".to_owned());
    let stranger = Process::start(cluster.folder(), "stranger", &args);
    eventually("the stranger says why", LONG, async || {
        let said = stranger.said();
        if said.contains("belongs to cluster") { Ok(()) } else { Err(said) }
    })
    .await;
    let client = cluster.client(LONG).await;
    let (keyspace, _) = cluster.keyspace(&client, "data", &[]).await;
    keyspace.put("key", "value").await.expect("the two go on");
    cluster.check_sound();
}
