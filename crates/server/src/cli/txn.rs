//! `txn`: a transaction written as text ([`super::txn_text`]) or as JSON. Both forms are
//! described in `docs/cli.md`.

use std::io::Read as _;
use std::path::PathBuf;

use atoll_client::{
    Bytes, Compare, CompareTarget, KeyEnd, Keys, Relation, Revision, Txn, TxnDone, TxnResult,
};
use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::guard::GuardArgs;
use super::output::{Format, kv_json, say};
use super::text::Encoding;
use super::txn_text;

/// `atoll txn`.
#[derive(Args)]
#[command(after_help = txn_text::HELP)]
pub(crate) struct TxnArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    guards: GuardArgs,
    /// The transaction; without it and --file it is read from standard input
    #[arg(conflicts_with = "file")]
    transaction: Option<String>,
    /// Read the transaction from a file
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    #[serde(default)]
    compare: Vec<Condition>,
    #[serde(default)]
    then: Vec<Step>,
    #[serde(default, rename = "else")]
    otherwise: Vec<Step>,
}

/// A key or a value: text, or `{"base64": "..."}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Plain(String),
    Encoded { base64: String },
}

impl Text {
    fn bytes(self) -> Result<Bytes, Problem> {
        match self {
            Self::Plain(text) => Ok(Bytes::from(text)),
            Self::Encoded { base64 } => Encoding::Base64.decode(&base64),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    key: Text,
    #[serde(default)]
    op: Op,
    exists: Option<bool>,
    version: Option<u64>,
    create_revision: Option<u64>,
    mod_revision: Option<u64>,
    value: Option<Text>,
}

#[derive(Deserialize, Default, Clone, Copy)]
enum Op {
    #[default]
    #[serde(rename = "=")]
    Equal,
    #[serde(rename = "!=")]
    NotEqual,
    #[serde(rename = "<")]
    Less,
    #[serde(rename = ">")]
    Greater,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "lowercase")]
enum Step {
    Put { key: Text, value: Text },
    Delete(Range),
    Get(Range),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    key: Option<Text>,
    prefix: Option<Text>,
    from: Option<Text>,
    to: Option<Text>,
}

impl TxnArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let text = self.text()?;
        let is_json = text.trim_start().starts_with('{');
        let keyspace = self.guards.over(self.data.keyspace().await?).await?;
        let txn = match is_json {
            true => {
                let script: Script = serde_json::from_str(&text)
                    .map_err(|e| Problem::usage(format!("the transaction cannot be read: {e}")))?;
                script.build(keyspace.txn())?
            }
            false => txn_text::build(&text, keyspace.txn())?,
        };
        let done = txn.commit().await?;
        match self.data.format() {
            Format::Json => say(done_json(&done))?,
            Format::Table => print(&done)?,
        }
        Ok(if done.succeeded { Ended::Well } else { Ended::ConditionsFailed })
    }

    fn text(&self) -> Result<String, Problem> {
        match (&self.transaction, &self.file) {
            (Some(text), _) => Ok(text.clone()),
            (None, Some(path)) => std::fs::read_to_string(path)
                .map_err(|e| Problem::local(format!("read of {}", path.display()), &e)),
            (None, None) => {
                let mut text = String::new();
                std::io::stdin()
                    .read_to_string(&mut text)
                    .map_err(|e| Problem::local("read of standard input", &e))?;
                Ok(text)
            }
        }
    }
}

impl Script {
    fn build(self, mut txn: Txn) -> Result<Txn, Problem> {
        for condition in self.compare {
            txn = txn.when(condition.build()?);
        }
        for step in self.then {
            txn = step.build(txn)?;
        }
        txn = txn.otherwise();
        for step in self.otherwise {
            txn = step.build(txn)?;
        }
        Ok(txn)
    }
}

impl Condition {
    fn build(self) -> Result<Compare, Problem> {
        let key = self.key.bytes()?;
        let mut relation = match self.op {
            Op::Equal => Relation::Equal,
            Op::NotEqual => Relation::NotEqual,
            Op::Less => Relation::Less,
            Op::Greater => Relation::Greater,
        };
        let mut targets = Vec::new();
        if let Some(exists) = self.exists {
            relation = if exists { Relation::Greater } else { Relation::Equal };
            targets.push(CompareTarget::Version(0));
        }
        targets.extend(self.version.map(CompareTarget::Version));
        targets.extend(self.create_revision.map(|r| CompareTarget::Create(Revision(r))));
        targets.extend(self.mod_revision.map(|r| CompareTarget::Mod(Revision(r))));
        if let Some(value) = self.value {
            targets.push(CompareTarget::Value(value.bytes()?));
        }
        match <[CompareTarget; 1]>::try_from(targets) {
            Ok([target]) => Ok(Compare { key, end: KeyEnd::Single, target, relation }),
            Err(targets) => Err(Problem::usage(format!(
                "a comparison needs exactly one of exists, version, create_revision, mod_revision, \
                 value; this one has {}",
                targets.len()
            ))),
        }
    }
}

impl Step {
    fn build(self, txn: Txn) -> Result<Txn, Problem> {
        Ok(match self {
            Self::Put { key, value } => txn.put(key.bytes()?, value.bytes()?),
            Self::Delete(range) => txn.delete(range.keys()?),
            Self::Get(range) => txn.range(range.keys()?),
        })
    }
}

impl Range {
    fn keys(self) -> Result<Keys, Problem> {
        match self {
            Self { key: Some(key), prefix: None, from: None, to: None } => {
                Ok(Keys::one(key.bytes()?))
            }
            Self { key: None, prefix: Some(prefix), from: None, to: None } => {
                Ok(Keys::prefix(prefix.bytes()?))
            }
            Self { key: None, prefix: None, from: Some(from), to: Some(to) } => {
                Ok(Keys::between(from.bytes()?, to.bytes()?))
            }
            _ => Err(Problem::usage("a step needs key, or prefix, or from and to")),
        }
    }
}

fn print(done: &TxnDone) -> Result<(), Problem> {
    let held = if done.succeeded { "held" } else { "did not hold" };
    eprintln!("conditions {held}; revision {} of shard {}", done.revision, done.shard);
    for result in &done.results {
        match result {
            TxnResult::Put { .. } => say("put")?,
            TxnResult::Delete { deleted, .. } => say(format!("deleted {deleted}"))?,
            TxnResult::Range(page) => {
                for kv in &page.kvs {
                    let show = |bytes: &[u8]| Encoding::Plain.show(bytes);
                    say(format!("{} = {}", show(&kv.key), show(&kv.value)))?;
                }
            }
            TxnResult::Txn { .. } => {}
        }
    }
    Ok(())
}

fn done_json(done: &TxnDone) -> Value {
    let result = |r: &TxnResult| match r {
        TxnResult::Put { .. } => json!({ "put": {} }),
        TxnResult::Delete { deleted, .. } => json!({ "delete": { "deleted": deleted } }),
        TxnResult::Range(page) => {
            let kvs: Vec<Value> = page.kvs.iter().map(|kv| kv_json(kv, Encoding::Plain)).collect();
            json!({ "get": { "kvs": kvs } })
        }
        TxnResult::Txn { succeeded, .. } => json!({ "txn": { "succeeded": succeeded } }),
    };
    json!({
        "succeeded": done.succeeded,
        "shard": done.shard.0,
        "revision": done.revision.0,
        "results": done.results.iter().map(result).collect::<Vec<_>>(),
    })
}
