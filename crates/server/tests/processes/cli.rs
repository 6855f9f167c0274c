//! The command line as people and programs meet it: what goes to which stream, in which form, and
//! with which exit code it ends.

use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Cluster, Turn, command};

/// A command that is over.
struct Ran {
    code: i32,
    out: Vec<u8>,
    err: String,
}

/// Where commands run and whom they ask.
struct Shell<'a> {
    folder: &'a Path,
    endpoint: String,
}

impl Shell<'_> {
    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, b"")
    }

    fn run_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = command(self.folder)
            .args(args)
            .env("ATOLL_ENDPOINTS", &self.endpoint)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        let input = input.to_vec();
        // Whoever does not read its input closes it; that is no news.
        let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
        feeding.join().expect("it is fed");
        let code = status.code().expect("no signal, so a code");
        let err = String::from_utf8(stderr).expect("text");
        assert!(!err.contains("panicked"), "{args:?}: {err}");
        Ran { code, out: stdout, err }
    }

    /// A command that must succeed; what it printed.
    fn text(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        String::from_utf8(ran.out).expect("text")
    }

    /// A command that must succeed; the one JSON value that it printed.
    fn json(&self, args: &[&str]) -> Value {
        let text = self.text(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// A command that must end with this code and say all of these words on standard error.
    fn fails(&self, args: &[&str], code: i32, words: &[&str]) {
        self.fails_with(args, b"", code, words);
    }

    fn fails_with(&self, args: &[&str], input: &[u8], code: i32, words: &[&str]) {
        let ran = self.run_with(args, input);
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        for word in words {
            assert!(ran.err.contains(word), "{args:?}: {word:?} is missing in: {}", ran.err);
        }
    }
}

async fn cluster() -> Cluster {
    let cluster = Cluster::start(1, &[]).await;
    cluster.client(Duration::from_secs(30)).await.ready().await.expect("it is ready");
    cluster
}

fn shell(cluster: &Cluster) -> Shell<'_> {
    Shell { folder: cluster.folder(), endpoint: cluster.client_address(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_go_in_and_come_out_in_every_form() {
    let _turn = Turn::among_others();
    let cluster = cluster().await;
    let sh = shell(&cluster);
    let put = sh.run(&["put", "hello", "world"]);
    assert_eq!((put.code, &put.out[..]), (0, &b""[..]));
    assert!(put.err.starts_with("ok, revision 2 of shard 2"), "{}", put.err);
    assert_eq!(sh.text(&["get", "hello"]), "world\n");
    assert_eq!(sh.text(&["get", "hello", "--raw"]), "world");
    let got = sh.json(&["get", "hello"]);
    let wanted = json!({
        "key": "hello", "value": "world", "version": 1, "create_revision": 2, "mod_revision": 2,
        "shard": 2, "revision": 2, "staleness_ms": 0,
    });
    assert_eq!(got, wanted);
    let put = sh.json(&["put", "hello", "again", "--previous"]);
    assert_eq!((&put["revision"], &put["previous"]["value"]), (&json!(3), &json!("world")));
    assert_eq!(sh.text(&["get", "hello", "--at", "2"]), "world\n");

    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(sh.run_with(&["put", "bytes", "--stdin"], &all).code, 0);
    assert_eq!(sh.run(&["get", "bytes", "--raw"]).out, all);
    let hex: String = all.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(sh.text(&["get", "6279746573", "--hex"]), format!("{hex}\n"));
    assert!(sh.json(&["get", "bytes"])["value_base64"].is_string());
    let base64 = sh.text(&["get", "Ynl0ZXM=", "--base64"]);
    assert!(base64.starts_with("AAECAwQF"), "{base64}");
    std::fs::write(cluster.folder().join("value"), &all).expect("a file");
    sh.text(&["put", "file", "--file", "value"]);
    assert_eq!(sh.run(&["get", "file", "--raw"]).out, all);
    sh.text(&["put", "--hex", "6b76", "7676"]);
    assert_eq!(sh.text(&["get", "kv"]), "vv\n");

    let stale = sh.run(&["get", "hello", "--max-age", "30"]);
    assert_eq!((stale.code, &stale.out[..]), (0, &b"again\n"[..]));
    assert!(stale.err.contains("at most") && stale.err.contains("ms old"), "{}", stale.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_tables_for_people_and_lines_for_programs() {
    let _turn = Turn::among_others();
    let cluster = cluster().await;
    let sh = shell(&cluster);
    for (key, value) in [("a/1", "one"), ("a/2", "two"), ("b/1", "three")] {
        sh.text(&["put", key, value]);
    }
    let wanted = "\
┌──────────────────────────────────┐
│ key   value   version   revision │
╞══════════════════════════════════╡
│ a/1   one     1         2        │
│ a/2   two     1         3        │
└──────────────────────────────────┘
";
    assert_eq!(sh.text(&["scan", "--prefix", "a/"]), wanted);
    let lines = sh.text(&["scan", "-o", "json", "--descending", "-n", "2", "--keys-only"]);
    let keys: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("an object")["key"].clone())
        .collect();
    assert_eq!(keys, ["b/1", "a/2"]);
    assert_eq!(sh.text(&["scan", "--from", "a/2", "--to", "b/1", "--count"]), "1\n");
    assert_eq!(sh.json(&["scan", "--count"]), json!({ "count": 3 }));
    let watched = sh.text(&["watch", "--since", "2", "--count", "2", "-o", "json"]);
    let kinds: Vec<Value> =
        watched.lines().map(|l| serde_json::from_str(l).expect("an object")).collect();
    assert_eq!(kinds.len(), 2, "{watched}");
    assert_eq!((&kinds[0]["key"], &kinds[0]["revision"]), (&json!("a/1"), &json!(2)));

    assert_eq!(sh.json(&["delete", "--prefix", "a/"]), json!({ "deleted": 2 }));
    assert_eq!(sh.run(&["del", "b/1"]).code, 0);
    sh.fails(&["delete", "b/1"], 1, &["0 deleted"]);
    sh.fails(&["get", "b/1"], 1, &["not found"]);
    sh.fails(&["delete"], 2, &["a key, --prefix, --from or --to, or --all"]);
}

const TEXT: &str = r#"
# as in the manual
compare
  exists order/17
  value stock = 3
  mod_revision stock < 120
then
  put stock 2
  put "a b" "x\ty"
  delete prefix hold/
  get order/17
else
  get stock
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_written_as_text_or_json() {
    let _turn = Turn::among_others();
    let cluster = cluster().await;
    let sh = shell(&cluster);
    for (key, value) in [("order/17", "paid"), ("stock", "3"), ("hold/17", "x")] {
        sh.text(&["put", key, value]);
    }
    let held = sh.run_with(&["txn"], TEXT.as_bytes());
    assert_eq!(held.code, 0, "{}", held.err);
    assert_eq!(String::from_utf8_lossy(&held.out), "put\nput\ndeleted 1\norder/17 = paid\n");
    assert!(held.err.contains("conditions held"), "{}", held.err);
    assert_eq!(sh.text(&["get", "a b"]), "x\\ty\n");
    // The same again finds 2 in stock.
    let again = sh.run(&["txn", TEXT]);
    assert_eq!((again.code, &again.out[..]), (3, &b"stock = 2\n"[..]), "{}", again.err);
    std::fs::write(cluster.folder().join("t"), "then\n put k v\n get from a to z\n")
        .expect("a file");
    let done = sh.json(&["txn", "--file", "t"]);
    assert_eq!((&done["succeeded"], &done["results"][0]), (&json!(true), &json!({ "put": {} })));
    let json = r#"{"compare":[{"key":"stock","value":"2"}],
        "then":[{"put":{"key":"stock","value":"1"}}],
        "else":[{"get":{"key":"stock"}}]}"#;
    assert_eq!(sh.json(&["txn", json])["succeeded"], json!(true));
    assert_eq!(sh.run(&["txn", json]).code, 3);

    let mistakes: [(&str, &[&str]); 7] = [
        ("", &["empty"]),
        ("put a b", &["line 1", "begins with compare, then or else"]),
        ("then\n\n put a", &["line 3", "put KEY VALUE"]),
        ("compare\n value k ~ 3", &["line 2", "\"~\"", "=, !=, <, >"]),
        ("compare\n version k = many", &["line 2", "\"many\" is no number"]),
        ("else\nget a\nthen\nget b", &["line 3", "the order is"]),
        ("{\"then\": [{\"fly\": 1}]}", &["cannot be read", "fly"]),
    ];
    for (text, words) in mistakes {
        sh.fails_with(&["txn"], text.as_bytes(), 2, words);
    }
    assert!(sh.text(&["txn", "--help"]).contains("delete prefix hold/17/"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyspaces_and_the_cluster_are_described() {
    let _turn = Turn::among_others();
    let cluster = cluster().await;
    let sh = shell(&cluster);
    let made = sh.json(&["keyspace", "create", "orders", "--split", "m", "--replicas", "1"]);
    assert_eq!(
        (&made["name"], made["shards"].as_array().map(Vec::len)),
        (&json!("orders"), Some(2))
    );
    let described = sh.text(&["keyspace", "describe", "orders"]);
    assert!(
        described.starts_with("keyspace orders (id 3), 1 replicas per shard\n┌"),
        "{described}"
    );
    assert!(sh.text(&["keyspace", "list"]).contains("orders"));
    sh.fails(&["keyspace", "create", "orders"], 3, &["orders", "exists"]);
    sh.fails(&["get", "k", "-k", "nothing"], 1, &["keyspace nothing does not exist"]);
    sh.text(&["put", "z", "1", "-k", "orders"]);
    assert_eq!(sh.json(&["keyspace", "drop", "orders", "--yes"])["dropped"], json!("orders"));
    sh.fails(&["keyspace", "describe", "orders"], 1, &["orders", "does not exist"]);

    // A write is answered by a leader: from here on the default keyspace's shard has one as well.
    sh.text(&["put", "a", "1"]);
    let status = sh.json(&["cluster", "status"]);
    let node = &status["nodes"][0];
    assert_eq!((&node["id"], &node["error"]), (&json!(1), &Value::Null));
    assert_eq!(node["facts"]["version"], json!(env!("CARGO_PKG_VERSION")));
    for fact in ["uptime_ms", "disk_used_bytes", "disk_free_bytes", "memory_bytes"] {
        assert!(node["facts"][fact].as_u64().is_some_and(|n| n > 0), "{fact}: {node}");
    }
    let replicas = node["replicas"].as_array().expect("a list");
    assert_eq!(replicas.len(), 2, "{node}");
    assert!(replicas.iter().all(|r| r["state"] == "leader" && r["lag"] == 0), "{node}");
    let table = sh.text(&["cluster", "status"]);
    for word in ["cluster ", "disk", "free", "memory", "up ", "lag", "applied", "leader", "MiB"] {
        assert!(table.contains(word), "{word:?} is missing in:\n{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_and_exports_go_through_pipes_and_can_be_given_twice() {
    let _turn = Turn::among_others();
    let cluster = cluster().await;
    let sh = shell(&cluster);
    let csv = b"id,state,n\n7,paid,1\n8,\"open, really\",2\n";
    for _ in 0..2 {
        let args = ["import", "-", "--format", "csv", "--key", "id", "--value", "state"];
        let ran = sh.run_with(&args, csv);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.err.contains("2 records imported"), "{}", ran.err);
    }
    let got = sh.json(&["get", "8"]);
    assert_eq!((&got["value"], &got["version"]), (&json!("open, really"), &json!(1)));
    let exported = sh.text(&["export"]);
    assert_eq!(exported.lines().count(), 2, "{exported}");
    let into = ["import", "-", "--format", "jsonl", "--key-prefix", "copy/"];
    assert_eq!(sh.run_with(&into, exported.as_bytes()).code, 0);
    assert_eq!(sh.text(&["get", "copy/7"]), "paid\n");
    sh.text(&["export", "out.tsv", "--prefix", "copy/"]);
    let tsv = std::fs::read_to_string(cluster.folder().join("out.tsv")).expect("it is there");
    assert!(tsv.starts_with("key\tvalue\n") && tsv.contains("copy/8\topen, really"), "{tsv}");

    sh.fails_with(&["import", "-"], b"", 2, &["--format", "jsonl", "csv", "tsv"]);
    sh.fails(&["import", "missing.csv"], 6, &["missing.csv", "No such file"]);
    let args = ["import", "-", "--format", "jsonl"];
    sh.fails_with(&args, b"{\"key\":\"a\",\"value\":\"b\"}\n{oops\n", 2, &["record 2"]);
    sh.fails_with(
        &["import", "-", "--format", "csv"],
        b"a,b\n1,2\n",
        2,
        &["column \"key\"", "a, b"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_named_with_what_is_allowed_and_every_end_has_its_code() {
    let _turn = Turn::among_others();
    let cluster = cluster().await;
    let sh = shell(&cluster);
    let mistakes: [(&[&str], &[&str]); 14] = [
        (&["get"], &["<KEY>"]),
        (&["get", "k", "--nonsense"], &["--nonsense"]),
        (&["get", "k", "-o", "xml"], &["xml", "table", "json"]),
        (&["get", "k", "--timeout", "soon"], &["--timeout", "soon"]),
        (&["get", "k", "--timeout=-1"], &["--timeout", "-1"]),
        (&["get", "k", "--max-age=-1"], &["--max-age", "-1"]),
        (&["get", "k", "--stale", "--max-age", "1"], &["--max-age", "cannot be used"]),
        (&["get", "xyz", "--hex"], &["\"xyz\" is not hexadecimal"]),
        (&["put", "Zm9v", "?", "--base64"], &["\"?\" is not base64"]),
        (&["put", "k"], &["VALUE"]),
        (&["put", "k", "v", "--stdin"], &["--stdin", "cannot be used"]),
        (&["import", "-", "--parallel", "0"], &["--parallel", "0", "1..=4096"]),
        (&["completions", "tcsh"], &["tcsh", "bash", "zsh", "fish"]),
        (&["fly"], &["fly"]),
    ];
    for (args, words) in mistakes {
        sh.fails(args, 2, words);
    }
    sh.fails(&["put", "k", "--file", "missing"], 6, &["missing", "No such file"]);
    let large = vec![0; 9 << 20];
    sh.fails_with(
        &["put", "k", "--stdin"],
        &large,
        3,
        &["9437184 bytes", "limit 8388608", "value_bytes_max"],
    );
    let long = "k".repeat(5000);
    sh.fails(&["put", &long, "v"], 3, &["5000 bytes", "limit 4096 (key_bytes_max)"]);
    sh.fails(&["put", "", "v"], 2, &["key"]);
    sh.fails(&["get", "k", "--at", "99"], 3, &["99"]);
    let nobody = ["get", "k", "--endpoints=127.0.0.1:1", "--timeout=1"];
    sh.fails(&nobody, 4, &["127.0.0.1:1"]);
    sh.fails(&["get", "k", "--endpoints=nowhere", "--timeout=1"], 2, &["nowhere", "host:port"]);
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sh.text(&["completions", shell]);
        for word in ["keyspace", "transfer-leader", "key-prefix"] {
            assert!(script.contains(word), "{shell}: {word} is missing");
        }
    }
}
