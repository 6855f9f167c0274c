//! `watch`.

use std::ffi::OsString;

use atoll_client::{EventKind, Keys, Revision};
use clap::Args;
use serde_json::{Map, Value, json};

use super::connect::DataArgs;
use super::data::RangeArgs;
use super::exit::{Ended, Problem};
use super::output::{Format, Printer};
use super::text::{Encoding, TextArgs};

/// `atoll watch`.
#[derive(Args)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// One key; without it and without a range, every key
    #[arg(conflicts_with_all = ["prefix", "from", "to"])]
    key: Option<OsString>,
    /// Begin at this revision, which may lie in the past
    #[arg(long, value_name = "REVISION")]
    since: Option<u64>,
    /// Also show what was there before
    #[arg(long)]
    previous: bool,
    /// End after so many changes
    #[arg(long, value_name = "CHANGES")]
    count: Option<u64>,
}

impl WatchArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let keys = match &self.key {
            Some(key) => Keys::one(self.text.encoding().decode(key)?),
            None => self.range.keys(self.text)?,
        };
        let mut watch = self.data.keyspace().await?.watch(keys);
        if let Some(since) = self.since {
            watch = watch.from(Revision(since));
        }
        if self.previous {
            watch = watch.with_previous();
        }
        let mut watch = watch.start().await?;
        eprintln!("watching; Ctrl-C ends");
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let next = tokio::select! {
                next = watch.next() => next,
                _ = tokio::signal::ctrl_c() => return Ok(Ended::Well),
            };
            let Some(changes) = next else { return Ok(Ended::Well) };
            let changes = changes?;
            let mut printer = Printer::new();
            for event in changes.events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                left -= 1;
                printer.line(self.show(changes.shard.0, event))?;
            }
            printer.flush()?;
        }
        Ok(Ended::Well)
    }

    fn show(&self, shard: u64, event: &atoll_client::Event) -> String {
        let encoding = self.text.encoding();
        match self.data.format() {
            Format::Json => event_json(shard, event, encoding).to_string(),
            Format::Table => {
                let key = encoding.show(&event.key);
                let before = event.previous.as_ref();
                let before = before
                    .map_or(String::new(), |b| format!("  (before: {})", encoding.show(&b.value)));
                let what = match &event.kind {
                    EventKind::Put(new) => format!("put     {key} = {}", encoding.show(&new.value)),
                    EventKind::Delete => format!("delete  {key}"),
                };
                format!("{:>8}  {what}{before}", event.revision.0)
            }
        }
    }
}

fn event_json(shard: u64, event: &atoll_client::Event, encoding: Encoding) -> Value {
    let mut object = Map::new();
    object.insert("shard".to_owned(), json!(shard));
    object.insert("revision".to_owned(), json!(event.revision.0));
    let kind = if matches!(event.kind, EventKind::Delete) { "delete" } else { "put" };
    object.insert("kind".to_owned(), json!(kind));
    encoding.put_json(&mut object, "key", &event.key);
    if let EventKind::Put(new) = &event.kind {
        encoding.put_json(&mut object, "value", &new.value);
        object.insert("version".to_owned(), json!(new.version));
    }
    if let Some(before) = &event.previous {
        encoding.put_json(&mut object, "previous", &before.value);
    }
    Value::Object(object)
}
