//! `import`: loads records from a file, many at a time, and goes on where it was interrupted.
//!
//! Beside the input lies a progress file while the import runs (`<input>.atoll-import`). It holds
//! two places in the input, made durable before they are relied on:
//!
//! ```text
//!   0 ............ done ............ claimed ............ end
//!     acknowledged      perhaps sent          not sent
//! ```
//!
//! - I1 Every record before `done` is acknowledged.
//! - I2 No record behind `claimed` was ever sent: the claim is durable before they are.
//!
//! So an import that is started again skips what lies before `done`, stores what lies behind
//! `claimed` with plain puts, and between them puts a record only where the key does not have that
//! value already. Nothing is lost, and no key is changed twice by one record.
//!
//! What comes from standard input can't be gone back in: there is no progress file, and the whole
//! of it is doubtful. So the same input may be given again after an interruption.
//!
//! Records of one key keep their order: one that is under way makes the next of its key wait.

mod progress;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use atoll_client::{Bytes, Failure, Keyspace, when};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::task::JoinSet;

use self::progress::{Place, ProgressFile};
use super::connect::DataArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, say};
use super::record::{Fields, FileFormat, Pair, RecordReader};
use super::text::TextArgs;

/// Bytes of input that one claim covers, and so at most what is compared after an interruption.
const CLAIM_BYTES: u64 = 8 << 20;
/// How often the progress file is written while records are acknowledged.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// `atoll import`.
#[derive(Args)]
pub(crate) struct ImportArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    /// The file, or - for standard input
    file: PathBuf,
    /// How it holds records; without it, as its name says
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
    /// The field or column that is the key
    #[arg(long, default_value = "key")]
    key: String,
    /// The field or column that is the value
    #[arg(long, default_value = "value", conflicts_with = "whole")]
    value: String,
    /// The value is the whole record, as a JSON object
    #[arg(long)]
    whole: bool,
    /// Put this before every key
    #[arg(long, default_value = "")]
    key_prefix: String,
    /// Records under way at once
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    parallel: u32,
    /// Begin anew even if an earlier import of this file was interrupted
    #[arg(long)]
    restart: bool,
}

/// A record under way.
type Stored = (u64, Bytes, Result<(), Failure>);

struct Import {
    keyspace: Keyspace,
    reader: RecordReader,
    file: ProgressFile,
    parallel: usize,
    key_prefix: Bytes,
    bar: ProgressBar,
    running: JoinSet<Stored>,
    /// Where each record under way begins, by where it ends.
    open: BTreeMap<u64, u64>,
    keys: BTreeSet<Bytes>,
    /// Where the last record that was read ends.
    read: u64,
    /// Up to where records may have been sent by an earlier run.
    doubtful: u64,
    records: u64,
    saved: Instant,
}

impl ImportArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let format = self.format.or_else(|| FileFormat::of(&self.file)).ok_or_else(|| {
            Problem::usage(format!(
                "what {} holds cannot be seen from its name; give --format jsonl, csv or tsv",
                self.file.display()
            ))
        })?;
        let keyspace = self.data.keyspace().await?;
        let (file, from) = match self.is_stream() {
            true => ProgressFile::none(),
            false => ProgressFile::open(&self.file, &self.identity(format), self.restart)?,
        };
        let fields = Fields {
            key: self.key.clone(),
            value: (!self.whole).then(|| self.value.clone()),
            encoding: self.text.encoding(),
        };
        let (reader, bar) = match self.is_stream() {
            true => (RecordReader::of_stream(std::io::stdin(), format, fields)?, spinner()),
            false => {
                let length = std::fs::metadata(&self.file).map_or(0, |m| m.len());
                let reader = RecordReader::open(&self.file, format, fields, from.done)?;
                (reader, progress_bar(length, from.done))
            }
        };
        if from.done > 0 {
            bar.println(format!("going on behind {} records", from.records));
        }
        let started = Instant::now();
        let mut import = Import {
            keyspace,
            reader,
            file,
            parallel: self.parallel as usize,
            key_prefix: Bytes::from(self.key_prefix.clone()),
            bar,
            running: JoinSet::new(),
            open: BTreeMap::new(),
            keys: BTreeSet::new(),
            read: from.done,
            doubtful: from.claimed,
            records: from.records,
            saved: Instant::now(),
        };
        let done = import.run().await;
        import.bar.finish_and_clear();
        done?;
        let (records, seconds) = (import.records, started.elapsed().as_secs_f64());
        import.file.remove()?;
        match self.data.format() {
            Format::Json => say(json!({ "records": records, "seconds": seconds }))?,
            Format::Table => eprintln!("{records} records imported in {seconds:.1} s"),
        }
        Ok(Ended::Well)
    }

    fn is_stream(&self) -> bool {
        self.file.as_os_str() == "-"
    }

    /// What an import must have in common with the one that it continues.
    fn identity(&self, format: FileFormat) -> String {
        let value = if self.whole { "whole record" } else { self.value.as_str() };
        let (keyspace, prefix, encoding) =
            (&self.data.keyspace, &self.key_prefix, self.text.encoding());
        format!("{keyspace} {format:?} {encoding:?} {:?} {value:?} {prefix:?}", self.key)
    }
}

fn progress_bar(length: u64, done: u64) -> ProgressBar {
    let bar = ProgressBar::new(length).with_position(done);
    let template =
        "{bar:30} {percent:>3}%  {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left  {msg}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.reset_eta();
    bar
}

/// For input whose length nobody knows.
fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bytes}  {bytes_per_sec}  {msg}") {
        bar.set_style(style);
    }
    bar
}

impl Import {
    /// Stores every record; on Ctrl-C waits for those under way and notes how far it came.
    async fn run(&mut self) -> Result<(), Problem> {
        let stored = tokio::select! {
            stored = self.store_all() => stored,
            _ = tokio::signal::ctrl_c() => Err(Problem::Local(self.file.interrupted().to_owned())),
        };
        while let Some(done) = self.running.join_next().await {
            // The first problem is the one that is told; here it only matters how far it came.
            let _ = self.finished(done);
        }
        self.save()?;
        stored
    }

    async fn store_all(&mut self) -> Result<(), Problem> {
        while let Some(mut pair) = self.reader.next()? {
            if !self.key_prefix.is_empty() {
                pair.key = [&self.key_prefix[..], &pair.key[..]].concat().into();
            }
            while self.running.len() >= self.parallel || self.keys.contains(&pair.key) {
                self.one_finished().await?;
            }
            if pair.end > self.file.claimed() {
                self.file.save(Place {
                    done: self.done(),
                    claimed: pair.end.saturating_add(CLAIM_BYTES),
                    records: self.records,
                })?;
            }
            self.start(pair);
            if self.saved.elapsed() >= SAVE_INTERVAL {
                self.save()?;
            }
        }
        while !self.running.is_empty() {
            self.one_finished().await?;
        }
        Ok(())
    }

    fn start(&mut self, pair: Pair) {
        let (keyspace, doubtful) = (self.keyspace.clone(), self.read < self.doubtful);
        self.open.insert(pair.end, self.read);
        self.read = pair.end;
        self.keys.insert(pair.key.clone());
        self.running.spawn(async move {
            let Pair { key, value, end } = pair;
            let stored = match doubtful {
                false => keyspace.put(key.clone(), value).await.map(drop),
                true => {
                    let same = when::value_is(key.clone(), value.clone());
                    let txn = keyspace.txn().when(same).otherwise().put(key.clone(), value);
                    txn.commit().await.map(drop)
                }
            };
            (end, key, stored)
        });
    }

    async fn one_finished(&mut self) -> Result<(), Problem> {
        match self.running.join_next().await {
            Some(done) => self.finished(done),
            None => Ok(()),
        }
    }

    fn finished(&mut self, done: Result<Stored, tokio::task::JoinError>) -> Result<(), Problem> {
        let (end, key, stored) = done.map_err(|e| Problem::local("a record's task", &e))?;
        self.keys.remove(&key);
        // A record that failed stays open, so that the place never moves behind it (I1).
        stored?;
        self.open.remove(&end);
        self.records += 1;
        self.bar.set_position(self.done());
        if self.records.is_multiple_of(1000) {
            self.bar.set_message(format!("{} records", self.records));
        }
        Ok(())
    }

    /// Every record before this place is acknowledged.
    fn done(&self) -> u64 {
        self.open.values().next().copied().unwrap_or(self.read)
    }

    fn save(&mut self) -> Result<(), Problem> {
        self.saved = Instant::now();
        let (done, claimed) = (self.done(), self.file.claimed());
        self.file.save(Place { done, claimed, records: self.records })
    }
}
