//! Gathering values from their sources.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::table::{Kind, NodeConfig, SETTINGS};
use super::{Bootstrap, Member};

/// Where a value came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// The command line.
    Flag,
    /// The environment.
    Variable,
    /// A file.
    File(PathBuf),
    /// Nowhere else.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "the command line"),
            Self::Variable => write!(f, "the environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => write!(f, "the default"),
        }
    }
}

/// Why a node can't start with these settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("setting {name} refused: {value:?} from {from}: {why} (allowed: {allowed})")]
    Refused { name: &'static str, value: String, from: Source, why: String, allowed: &'static str },
    #[error(
        "setting {name} is missing: give --{flag}, {variable} or {name} in the file (allowed: \
        {allowed})"
    )]
    Missing { name: &'static str, flag: String, variable: String, allowed: &'static str },
    #[error("file {path} refused: {why}")]
    File { path: PathBuf, why: String },
    #[error("settings refused: {0}")]
    Together(String),
}

fn flag(name: &str) -> String {
    name.replace('_', "-")
}

fn variable(name: &str) -> String {
    format!("ATOLL_{}", name.to_uppercase())
}

/// Adds the settings' flags to a command.
pub(crate) fn matches_of(command: Command) -> Command {
    let mut command = command.arg(
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .help("Reads settings from this file [default: atoll.toml where it exists]"),
    );
    for setting in SETTINGS {
        let default = match setting.default {
            Some("") | None => String::new(),
            Some(default) => format!(" [default: {default}]"),
        };
        let arg = Arg::new(setting.name)
            .long(flag(setting.name))
            .help(format!("{} [{}]{default}", setting.about, setting.allowed));
        command = command.arg(match setting.kind {
            Kind::Value => arg.value_name("VALUE"),
            Kind::Switch => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .action(ArgAction::Set),
        });
    }
    command
}

/// The settings that flags, `environment` and the file give together.
///
/// # Errors
/// The first value that is not allowed, a setting that must be given and is not, or settings that
/// contradict each other.
pub(crate) fn load(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<NodeConfig, ConfigError> {
    let named = flags.get_one::<String>("config").cloned().or_else(|| environment("ATOLL_CONFIG"));
    let file = match &named {
        Some(path) => read_file(Path::new(path))?,
        None if Path::new("atoll.toml").exists() => read_file(Path::new("atoll.toml"))?,
        None => BTreeMap::new(),
    };
    let path = PathBuf::from(named.unwrap_or_else(|| "atoll.toml".to_owned()));
    gather(flags, environment, &file, &path)
}

fn gather(
    flags: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
    file: &BTreeMap<String, String>,
    path: &Path,
) -> Result<NodeConfig, ConfigError> {
    let mut config = NodeConfig::default();
    for setting in SETTINGS {
        let name = setting.name;
        let given = flags
            .get_one::<String>(name)
            .map(|v| (v.clone(), Source::Flag))
            .or_else(|| environment(&variable(name)).map(|v| (v, Source::Variable)))
            .or_else(|| file.get(name).map(|v| (v.clone(), Source::File(path.to_owned()))))
            .or_else(|| setting.default.map(|v| (v.to_owned(), Source::Default)));
        let allowed = setting.allowed;
        let Some((value, from)) = given else {
            let (flag, variable) = (flag(name), variable(name));
            return Err(ConfigError::Missing { name, flag, variable, allowed });
        };
        (setting.set)(&mut config, &value).map_err(|why| ConfigError::Refused {
            name,
            value,
            from,
            why,
            allowed,
        })?;
    }
    together(config)
}

/// The settings that flags and defaults give, whatever the environment and files say.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_flags(flags: &ArgMatches) -> Result<NodeConfig, ConfigError> {
    gather(flags, |_| None, &BTreeMap::new(), Path::new(""))
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, ConfigError> {
    let refuse = |why: String| ConfigError::File { path: path.to_owned(), why };
    let text = std::fs::read_to_string(path).map_err(|e| refuse(e.to_string()))?;
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| refuse(e.to_string()))?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        if !SETTINGS.iter().any(|s| s.name == name) {
            return Err(refuse(format!("there is no setting {name:?}")));
        }
        let value = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Boolean(b) => b.to_string(),
            other => {
                let kind = other.type_str();
                return Err(refuse(format!("{name} is a {kind}, not a text, number or boolean")));
            }
        };
        values.insert(name, value);
    }
    Ok(values)
}

/// What no setting can check alone.
fn together(mut config: NodeConfig) -> Result<NodeConfig, ConfigError> {
    if config.heartbeat_interval * 3 > config.election_timeout {
        return Err(ConfigError::Together(format!(
            "heartbeat_interval {:?} is more than a third of election_timeout {:?}",
            config.heartbeat_interval, config.election_timeout
        )));
    }
    if config.one_thread == Some(true) && config.worker_threads > 1 {
        return Err(ConfigError::Together(format!(
            "one_thread is true, and worker_threads is {}: give one of the two",
            config.worker_threads
        )));
    }
    if config.bootstrap.members.is_empty() {
        config.bootstrap = Bootstrap {
            members: vec![Member {
                node: config.node_id,
                client: config.listen.clone(),
                peer: config.peer_listen.clone(),
                http: config.http_listen.clone(),
            }],
        };
    }
    if config.is_joining() && config.bootstrap.members.iter().any(|m| m.node != config.node_id) {
        return Err(ConfigError::Together(format!(
            "join and bootstrap {} are both given: a node founds a cluster or joins one; with \
             join, bootstrap may name only node {}, as the others reach it",
            config.bootstrap, config.node_id
        )));
    }
    if config.bootstrap.member(config.node_id).is_none() {
        return Err(ConfigError::Together(format!(
            "node_id {} is not in bootstrap {}; the list names every first node, this one too",
            config.node_id, config.bootstrap
        )));
    }
    let listens = [
        ("listen", &config.listen),
        ("peer_listen", &config.peer_listen),
        ("http_listen", &config.http_listen),
    ];
    for (name, address) in listens {
        if !config.insecure_listen && !is_loopback(address) {
            return Err(ConfigError::Together(format!(
                "{name} {address} is reachable from other machines, and there is no TLS yet: \
                whoever reaches it can read and change everything; give --insecure-listen if the \
                network is trusted, or listen on 127.0.0.1"
            )));
        }
    }
    Ok(config)
}

fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
