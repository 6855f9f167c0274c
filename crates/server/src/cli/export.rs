//! `export`: writes a range of keys to a file that `import` reads.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use atoll_client::KeyValue;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Map, Value};

use super::connect::DataArgs;
use super::data::RangeArgs;
use super::exit::{Ended, Problem};
use super::record::FileFormat;
use super::text::{Encoding, TextArgs};

/// `atoll export`.
#[derive(Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    text: TextArgs,
    #[command(flatten)]
    range: RangeArgs,
    /// The file; without it standard output. It appears when it is complete
    file: Option<PathBuf>,
    /// How it holds records; without it, as its name says, else JSON Lines
    #[arg(long, value_enum)]
    format: Option<FileFormat>,
}

enum Sink {
    Lines(Box<dyn Write>),
    Columns(Box<csv::Writer<Box<dyn Write>>>),
}

impl ExportArgs {
    pub(crate) async fn run(self) -> Result<Ended, Problem> {
        let named = self.file.as_deref().and_then(FileFormat::of);
        let format = self.format.or(named).unwrap_or(FileFormat::Jsonl);
        let mut scan = self.data.keyspace().await?.scan(self.range.keys(self.text)?);
        let temporary = self.file.as_ref().map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".part");
            PathBuf::from(name)
        });
        let failed = |e: &dyn std::error::Error| Problem::local("write of the export", e);
        let out: Box<dyn Write> = match &temporary {
            Some(path) => Box::new(BufWriter::new(File::create(path).map_err(|e| failed(&e))?)),
            None => Box::new(BufWriter::new(io::stdout())),
        };
        let mut sink = Sink::new(out, format)?;
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} keys  {per_sec}") {
            bar.set_style(style);
        }
        let mut count = 0;
        while let Some(page) = scan.next_page().await? {
            for kv in &page.kvs {
                sink.write(kv, self.text.encoding())?;
            }
            count += page.kvs.len() as u64;
            bar.set_position(count);
        }
        sink.finish()?;
        bar.finish_and_clear();
        if let (Some(from), Some(to)) = (&temporary, &self.file) {
            File::open(from).and_then(|f| f.sync_all()).map_err(|e| failed(&e))?;
            std::fs::rename(from, to).map_err(|e| failed(&e))?;
        }
        eprintln!("{count} keys exported");
        Ok(Ended::Well)
    }
}

impl Sink {
    fn new(out: Box<dyn Write>, format: FileFormat) -> Result<Self, Problem> {
        if format == FileFormat::Jsonl {
            return Ok(Self::Lines(out));
        }
        let mut out = csv::WriterBuilder::new().delimiter(format.delimiter()).from_writer(out);
        out.write_record(["key", "value"])
            .map_err(|e| Problem::local("write of the export", &e))?;
        Ok(Self::Columns(Box::new(out)))
    }

    fn write(&mut self, kv: &KeyValue, encoding: Encoding) -> Result<(), Problem> {
        match self {
            Self::Lines(out) => {
                let mut object = Map::new();
                encoding.put_json(&mut object, "key", &kv.key);
                encoding.put_json(&mut object, "value", &kv.value);
                let written = writeln!(out, "{}", Value::Object(object));
                written.map_err(|e| Problem::local("write of the export", &e))
            }
            Self::Columns(out) => {
                let written = match encoding {
                    Encoding::Plain => out.write_record([&kv.key[..], &kv.value[..]]),
                    other => out.write_record([other.show(&kv.key), other.show(&kv.value)]),
                };
                written.map_err(|e| Problem::local("write of the export", &e))
            }
        }
    }

    fn finish(self) -> Result<(), Problem> {
        let done = match self {
            Self::Lines(mut out) => out.flush(),
            Self::Columns(mut out) => out.flush(),
        };
        done.map_err(|e| Problem::local("write of the export", &e))
    }
}
