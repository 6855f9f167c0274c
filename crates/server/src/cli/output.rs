//! What commands print: tables for people, JSON for programs.

use std::io::{self, BufWriter, StdoutLock, Write};

use atoll_client::KeyValue;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::exit::Problem;
use super::text::Encoding;

/// For whom.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Tables and plain values
    Table,
    /// JSON; lists are one object per line
    Json,
}

/// A table for people.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY).set_header(header);
    table
}

/// Standard output, buffered.
pub(crate) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
}

impl Printer {
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::new(io::stdout().lock()) }
    }

    pub(crate) fn line(&mut self, text: impl std::fmt::Display) -> Result<(), Problem> {
        writeln!(self.out, "{text}").map_err(|e| Problem::local("write to standard output", &e))
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.out.write_all(bytes).map_err(|e| Problem::local("write to standard output", &e))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Problem> {
        self.out.flush().map_err(|e| Problem::local("write to standard output", &e))
    }
}

/// Prints one line.
pub(crate) fn say(text: impl std::fmt::Display) -> Result<(), Problem> {
    let mut printer = Printer::new();
    printer.line(text)?;
    printer.flush()
}

/// A key and its value as JSON.
pub(crate) fn kv_json(kv: &KeyValue, encoding: Encoding) -> Value {
    let mut object = Map::new();
    encoding.put_json(&mut object, "key", &kv.key);
    encoding.put_json(&mut object, "value", &kv.value);
    object.insert("version".to_owned(), json!(kv.version));
    object.insert("create_revision".to_owned(), json!(kv.create_revision.0));
    object.insert("mod_revision".to_owned(), json!(kv.mod_revision.0));
    if let Some(lease) = kv.lease {
        object.insert("lease".to_owned(), json!(lease.0));
    }
    Value::Object(object)
}
