//! `put`, `get`, `delete`, `scan`.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use atoll_client::{
    Bytes, Consistency, Keys, LeaseId, Previous, PutOp, ReadOptions, Revision, Scan,
};
use clap::Args;
use serde_json::json;

use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::guard::GuardArgs;
use super::output::{Format, Printer, kv_json, say, table};
use super::text::TextArgs;

/// `atoll put`.
#[derive(Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    guards: GuardArgs,
    /// Attach the key to this lease, and delete it when that ends
    #[arg(long, value_name = "ID")]
    lease: Option<u64>,
    /// The key
    key: OsString,
    /// The value
    #[arg(required_unless_present_any = ["stdin", "file"], conflicts_with_all = ["stdin", "file"])]
    value: Option<OsString>,
    /// Read the value from standard input, as it is
    #[arg(long, conflicts_with = "file")]
    stdin: bool,
    /// Read the value from a file, as it is
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// Print what was there before
    #[arg(long)]
    previous: bool,
}

impl PutArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let encoding = self.text.encoding();
        let (key, value) = (encoding.decode(&self.key)?, self.value()?);
        let lease = self.lease.map(LeaseId);
        let op = PutOp { key, value, lease, prev_kv: self.previous, ..PutOp::default() };
        let keyspace = self.guards.over(self.data.keyspace().await?).await?;
        let put = keyspace.put_with(op).await?;
        match self.data.format() {
            Format::Json => {
                let previous = put.previous.map(|kv| kv_json(&kv, encoding));
                let (shard, revision) = (put.shard.0, put.revision.0);
                say(json!({ "shard": shard, "revision": revision, "previous": previous }))?;
            }
            Format::Table => match put.previous {
                Some(kv) => say(encoding.show(&kv.value))?,
                None => eprintln!("ok, revision {} of shard {}", put.revision, put.shard),
            },
        }
        Ok(Ended::Well)
    }

    fn value(&self) -> Result<Bytes, Problem> {
        if let Some(text) = &self.value {
            return self.text.encoding().decode(text);
        }
        let mut bytes = Vec::new();
        match &self.file {
            Some(path) => {
                bytes = std::fs::read(path)
                    .map_err(|e| Problem::local(format!("read of {}", path.display()), &e))?;
            }
            None => {
                std::io::stdin()
                    .read_to_end(&mut bytes)
                    .map_err(|e| Problem::local("read of standard input", &e))?;
            }
        }
        Ok(Bytes::from(bytes))
    }
}

/// How fresh a read is.
#[derive(Args, Clone, Copy)]
struct FreshnessArgs {
    /// Read any replica, however old it is
    #[arg(long)]
    stale: bool,
    /// Read any replica that is at most so old, in seconds
    #[arg(long, value_name = "SECONDS", conflicts_with = "stale")]
    max_age: Option<f64>,
    /// Read as of this revision of the shard
    #[arg(long, value_name = "REVISION")]
    at: Option<u64>,
}

impl FreshnessArgs {
    fn consistency(self) -> Result<Consistency, Problem> {
        let Some(age) = self.max_age else {
            return Ok(match self.stale {
                true => Consistency::Stale { max: None },
                false => Consistency::Linearizable,
            });
        };
        let max = Duration::try_from_secs_f64(age)
            .map_err(|error| Problem::usage(format!("--max-age {age} is no age: {error}")))?;
        Ok(Consistency::Stale { max: Some(max) })
    }
}

/// How old an answer may be, in milliseconds; `None` where its node does not know.
fn age_ms(staleness: Duration) -> Option<u64> {
    u64::try_from(staleness.as_millis()).ok().filter(|ms| *ms < u64::MAX)
}

/// `atoll get`.
#[derive(Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    fresh: FreshnessArgs,
    /// The key
    key: OsString,
    /// Print the value's bytes and nothing else, no newline either
    #[arg(long)]
    raw: bool,
}

impl GetArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let encoding = self.text.encoding();
        let at = self.fresh.at.map(Revision);
        let options = ReadOptions { consistency: self.fresh.consistency()?, at };
        let key = encoding.decode(&self.key)?;
        let read = self.data.keyspace().await?.get_with(key, options).await?;
        let Some(kv) = read.kv else {
            eprintln!("not found");
            return Ok(Ended::NotFound);
        };
        if options.consistency != Consistency::Linearizable {
            match age_ms(read.staleness) {
                Some(ms) => eprintln!("at most {ms} ms old"),
                None => eprintln!("of unknown age"),
            }
        }
        let mut printer = Printer::new();
        match (self.raw, self.data.format()) {
            (true, _) => printer.bytes(&kv.value)?,
            (_, Format::Table) => printer.line(encoding.show(&kv.value))?,
            (_, Format::Json) => {
                let mut object = kv_json(&kv, encoding);
                object["shard"] = json!(read.shard.0);
                object["revision"] = json!(read.revision.0);
                object["staleness_ms"] = json!(age_ms(read.staleness));
                printer.line(object)?;
            }
        }
        printer.flush()?;
        Ok(Ended::Well)
    }
}

/// A range of keys.
#[derive(Args, Clone)]
pub(crate) struct RangeArgs {
    /// Keys that begin with this
    #[arg(long, conflicts_with_all = ["from", "to"])]
    prefix: Option<OsString>,
    /// The first key
    #[arg(long)]
    from: Option<OsString>,
    /// The first key that is not meant any more
    #[arg(long)]
    to: Option<OsString>,
}

impl RangeArgs {
    pub(crate) fn is_given(&self) -> bool {
        self.prefix.is_some() || self.from.is_some() || self.to.is_some()
    }

    pub(crate) fn keys(&self, text: TextArgs) -> Result<Keys, Problem> {
        let decode = |t: &OsString| text.encoding().decode(t);
        if let Some(prefix) = &self.prefix {
            return Ok(Keys::prefix(decode(prefix)?));
        }
        let from = self.from.as_ref().map(decode).transpose()?.unwrap_or_default();
        Ok(match self.to.as_ref().map(decode).transpose()? {
            Some(to) => Keys::between(from, to),
            None => Keys::from(from),
        })
    }
}

/// `atoll delete`.
#[derive(Args)]
pub(crate) struct DeleteArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    guards: GuardArgs,
    /// Delete every key of the keyspace
    #[arg(long, conflicts_with_all = ["key", "prefix", "from", "to"])]
    all: bool,
    /// The key
    #[arg(conflicts_with_all = ["prefix", "from", "to"])]
    key: Option<OsString>,
}

impl DeleteArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let keys = match &self.key {
            Some(key) => Keys::one(self.text.encoding().decode(key)?),
            None if self.all => Keys::all(),
            None if self.range.is_given() => self.range.keys(self.text)?,
            None => {
                return Err(Problem::usage(
                    "delete needs a key, --prefix, --from or --to, or --all",
                ));
            }
        };
        let keyspace = self.guards.over(self.data.keyspace().await?).await?;
        let deleted = keyspace.delete_range(keys, Previous::Drop).await?;
        match self.data.format() {
            Format::Json => say(json!({ "deleted": deleted.count }))?,
            Format::Table => eprintln!("{} deleted", deleted.count),
        }
        match (deleted.count, &self.key) {
            (0, Some(_)) => Ok(Ended::NotFound),
            _ => Ok(Ended::Well),
        }
    }
}

/// `atoll scan`.
#[derive(Args)]
pub(crate) struct ScanArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    fresh: FreshnessArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// At most so many keys
    #[arg(long, short = 'n', value_name = "KEYS")]
    limit: Option<u64>,
    /// From the last key to the first
    #[arg(long)]
    descending: bool,
    /// Keys without values
    #[arg(long, conflicts_with = "count")]
    keys_only: bool,
    /// Only how many there are
    #[arg(long, conflicts_with_all = ["limit", "descending"])]
    count: bool,
}

impl ScanArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let keyspace = self.data.keyspace().await?;
        let scan = self.scan(keyspace.scan(self.range.keys(self.text)?))?;
        if self.count {
            let count = scan.count().await?;
            match self.data.format() {
                Format::Json => say(json!({ "count": count }))?,
                Format::Table => say(count)?,
            }
            return Ok(Ended::Well);
        }
        match self.data.format() {
            Format::Json => self.print_json(scan).await?,
            Format::Table => self.print_table(scan).await?,
        }
        Ok(Ended::Well)
    }

    fn scan(&self, mut scan: Scan) -> Result<Scan, Problem> {
        if let Consistency::Stale { max } = self.fresh.consistency()? {
            scan = scan.stale(max);
        }
        if let Some(at) = self.fresh.at {
            scan = scan.at(Revision(at));
        }
        if let Some(limit) = self.limit {
            scan = scan.limit(limit);
        }
        if self.descending {
            scan = scan.descending();
        }
        if self.keys_only {
            scan = scan.keys_only();
        }
        Ok(scan)
    }

    async fn print_json(&self, mut scan: Scan) -> Result<(), Problem> {
        let mut printer = Printer::new();
        while let Some(page) = scan.next_page().await? {
            for kv in &page.kvs {
                printer.line(kv_json(kv, self.text.encoding()))?;
            }
            printer.flush()?;
        }
        Ok(())
    }

    /// One table per page, so that the memory it takes doesn't grow with the range.
    async fn print_table(&self, mut scan: Scan) -> Result<(), Problem> {
        let encoding = self.text.encoding();
        let mut count = 0;
        while let Some(page) = scan.next_page().await? {
            if page.kvs.is_empty() {
                continue;
            }
            count += page.kvs.len();
            let mut rows = table(["key", "value", "version", "revision"]);
            for kv in &page.kvs {
                rows.add_row([
                    encoding.show(&kv.key),
                    encoding.show(&kv.value),
                    kv.version.to_string(),
                    kv.mod_revision.to_string(),
                ]);
            }
            say(rows)?;
        }
        eprintln!("{count} keys");
        Ok(())
    }
}
