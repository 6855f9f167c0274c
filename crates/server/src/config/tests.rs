use std::fmt::Write as _;
use std::path::Path;

use clap::Command;

use super::*;

fn load_with(args: &[&str], environment: &[(&str, &str)]) -> Result<NodeConfig, String> {
    let command = matches_of(Command::new("serve").no_binary_name(true));
    let flags = command.try_get_matches_from(args).map_err(|e| e.to_string())?;
    let find =
        |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    load(&flags, find).map_err(|e| e.to_string())
}

const NEEDED: [&str; 4] = ["--node-id", "1", "--data", "d"];

#[test]
fn flags_go_before_variables_before_the_file_before_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.toml");
    std::fs::write(&file, "lanes = 3\npersist_bytes = \"2MiB\"\nlog = \"debug\"").unwrap();
    let file = file.to_str().unwrap();
    let args = [&NEEDED[..], &["--config", file, "--log", "warn"]].concat();
    let config = load_with(&args, &[("ATOLL_LANES", "4"), ("ATOLL_LOG", "error")]).unwrap();
    assert_eq!((config.lanes, config.persist_bytes, config.log.as_str()), (4, 2 << 20, "warn"));
    assert_eq!(config.connections_max, 10_000);
}

#[test]
fn errors_name_the_setting_the_value_its_source_and_what_is_allowed() {
    let error = load_with(&NEEDED, &[("ATOLL_PERSIST_BYTES", "3 MB")]).unwrap_err();
    assert_eq!(
        error,
        "setting persist_bytes refused: \"3 MB\" from the environment: unit \"MB\" is not one of \
        B, KiB, MiB, GiB, TiB (allowed: 1MiB to 16GiB)"
    );
    let error = load_with(&["--node-id", "1"], &[]).unwrap_err();
    assert!(
        error.starts_with("setting data is missing: give --data, ATOLL_DATA or data"),
        "{error}"
    );
    let error = load_with(&[&NEEDED[..], &["--listen", "0.0.0.0:1"]].concat(), &[]).unwrap_err();
    assert!(error.contains("listen 0.0.0.0:1 is reachable from other machines"), "{error}");
    let args = [&NEEDED[..], &["--listen", "0.0.0.0:1", "--insecure-listen"]].concat();
    assert!(load_with(&args, &[]).unwrap().insecure_listen);
    let args = [&NEEDED[..], &["--bootstrap", "2=h:1/2"]].concat();
    assert!(load_with(&args, &[]).unwrap_err().contains("node_id 1 is not in bootstrap"));
    let args = [&NEEDED[..], &["--one-thread", "true", "--worker-threads", "2"]].concat();
    assert!(load_with(&args, &[]).unwrap_err().contains("worker_threads is 2"));
}

#[test]
fn every_setting_refuses_nonsense_with_its_name_the_value_and_what_is_allowed() {
    const NONSENSE: [&str; 6] =
        ["", "-1", "no such thing", "99999999999999999999", "1=1=1", "64 parsecs"];
    for setting in SETTINGS {
        let mut config = NodeConfig::default();
        let refused: Vec<&str> =
            NONSENSE.into_iter().filter(|v| (setting.set)(&mut config, v).is_err()).collect();
        if setting.allowed == "any text" {
            assert!(refused.is_empty(), "{} refuses {refused:?}", setting.name);
            continue;
        }
        assert!(!refused.is_empty(), "{} takes anything", setting.name);
        let flag = format!("--{}", setting.name.replace('_', "-"));
        let needed: Vec<&str> =
            NEEDED.chunks(2).filter(|pair| pair[0] != flag).flatten().copied().collect();
        let variable = format!("ATOLL_{}", setting.name.to_uppercase());
        for value in refused {
            let error = load_with(&needed, &[(&variable, value)]).unwrap_err();
            for words in
                [setting.name, &format!("{value:?}"), "from the environment", setting.allowed]
            {
                assert!(error.contains(words), "{}: {words} is missing in: {error}", setting.name);
            }
        }
    }
}

#[test]
fn one_thread_does_everything_where_that_is_wanted() {
    for (args, threads, has_one) in [
        (&["--worker-threads", "1"][..], 1, false),
        (&["--worker-threads", "1", "--one-thread", "auto"], 1, true),
        (&["--worker-threads", "2", "--one-thread", "auto"], 2, false),
        (&["--one-thread", "true"], 1, true),
    ] {
        let config = load_with(&[&NEEDED[..], args].concat(), &[]).unwrap();
        assert_eq!((config.network_threads(), config.has_one_thread()), (threads, has_one));
    }
    let config = load_with(&[&NEEDED[..], &["--one-thread", "auto"]].concat(), &[]).unwrap();
    assert_eq!(config.has_one_thread(), config.network_threads() == 1);
}

#[test]
fn a_bootstrap_list_is_the_same_in_any_order() {
    let a: Bootstrap = "2=b:7400/7401, 1=a:7400/7401/7402,3=[::1]:1/2".parse().unwrap();
    let b: Bootstrap = "1=a:7400/7401/7402,3=[::1]:1/2,2=b:7400/7401".parse().unwrap();
    assert_eq!(a, b);
    assert_eq!(a.to_string(), "1=a:7400/7401/7402,2=b:7400/7401,3=[::1]:1/2");
    assert_eq!(a.cluster_id("atoll"), b.cluster_id("atoll"));
    assert_ne!(a.cluster_id("atoll"), a.cluster_id("other"));
    assert_eq!(a.members[2].peer, "[::1]:2");
    for bad in ["1", "1=a", "1=a:1", "0=a:1/2", "1=a:1/2,1=b:1/2", "1=a:1/x", "1=a:1/2/3/4"] {
        assert!(bad.parse::<Bootstrap>().is_err(), "{bad} was accepted");
    }
}

/// `docs/configuration.md` as the table says it. `ATOLL_GOLDEN=write` writes it.
#[test]
fn the_document_says_what_the_table_says() {
    let mut text = String::from(
        "# Configuration of a node\n\n\
         Written from the table in `crates/server/src/config/table.rs`; change it there and run\n\
         `ATOLL_GOLDEN=write cargo test -p atoll-server config`.\n\n\
         A setting comes from, in this order: its flag (`--peer-listen`), its variable\n\
         (`ATOLL_PEER_LISTEN`), its key in `atoll.toml` or the file named by `--config` or\n\
         `ATOLL_CONFIG` (`peer_listen = \"...\"`), its default. Sizes are written as `64MiB`, \
         times as\n\
         `200ms`, `10s`, `5m`.\n\n\
         | setting | default | allowed | what it does |\n|---|---|---|---|\n",
    );
    for s in SETTINGS {
        let default = match s.default {
            None => "must be set".to_owned(),
            Some("") => "empty".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        writeln!(text, "| `{}` | {default} | {} | {} |", s.name, s.allowed, s.about).unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    if std::env::var("ATOLL_GOLDEN").is_ok_and(|v| v == "write") {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}
