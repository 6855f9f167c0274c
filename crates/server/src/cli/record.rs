//! Records in files: JSON Lines, CSV and TSV, read one at a time with their place in the file.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use atoll_client::Bytes;
use clap::ValueEnum;
use serde_json::{Map, Value};

use super::exit::Problem;
use super::text::{Encoding, take_json};

/// The longest record.
const RECORD_BYTES_MAX: u64 = 16 << 20;

/// How a file holds records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum FileFormat {
    /// One JSON object per line
    Jsonl,
    /// Comma separated, with a header
    Csv,
    /// Tab separated, with a header
    Tsv,
}

impl FileFormat {
    /// From the file's name.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "jsonl" | "ndjson" | "json" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            _ => None,
        }
    }

    pub(crate) fn delimiter(self) -> u8 {
        if self == Self::Tsv { b'\t' } else { b',' }
    }
}

/// Which parts of a record are stored.
#[derive(Clone, Debug)]
pub(crate) struct Fields {
    /// Where the key is.
    pub(crate) key: String,
    /// Where the value is; `None`: the whole record as a JSON object.
    pub(crate) value: Option<String>,
    /// How both are written in a CSV or TSV file.
    pub(crate) encoding: Encoding,
}

/// A key and a value, and where the next record begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    /// Bytes of the file up to the end of this record.
    pub(crate) end: u64,
}

/// Reads records one after the other.
pub(crate) struct RecordReader {
    source: Source,
    fields: Fields,
}

enum Source {
    Lines {
        input: BufReader<Box<dyn ReadSeek>>,
        at: u64,
        line: u64,
    },
    Columns {
        input: Box<csv::Reader<Box<dyn ReadSeek>>>,
        header: csv::StringRecord,
        key: usize,
        value: Option<usize>,
    },
}

/// A file, a stream that is read once, or in tests bytes in memory.
pub(crate) trait ReadSeek: Read + Seek + Send {}
impl<T: Read + Seek + Send> ReadSeek for T {}

/// A stream, which stands at its beginning until it is read.
struct Stream<R>(R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R> Seek for Stream<R> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match to {
            SeekFrom::Start(0) => Ok(0),
            _ => Err(std::io::Error::new(std::io::ErrorKind::NotSeekable, "a stream is read once")),
        }
    }
}

impl RecordReader {
    /// Opens a file at the end of the record that ends at `offset`.
    pub(crate) fn open(
        path: &Path,
        format: FileFormat,
        fields: Fields,
        offset: u64,
    ) -> Result<Self, Problem> {
        let failed = |e| Problem::local(format!("read of {}", path.display()), &e);
        Self::new(Box::new(File::open(path).map_err(failed)?), format, fields, offset)
    }

    /// Reads a stream from its beginning.
    pub(crate) fn of_stream(
        input: impl Read + Send + 'static,
        format: FileFormat,
        fields: Fields,
    ) -> Result<Self, Problem> {
        Self::new(Box::new(Stream(input)), format, fields, 0)
    }

    pub(crate) fn new(
        mut input: Box<dyn ReadSeek>,
        format: FileFormat,
        fields: Fields,
        offset: u64,
    ) -> Result<Self, Problem> {
        let failed = |e: &dyn std::error::Error| Problem::local("read of the input", e);
        if format == FileFormat::Jsonl {
            input.seek(SeekFrom::Start(offset)).map_err(|e| failed(&e))?;
            let source = Source::Lines { input: BufReader::new(input), at: offset, line: 0 };
            return Ok(Self { source, fields });
        }
        let mut input = csv::ReaderBuilder::new().delimiter(format.delimiter()).from_reader(input);
        let header = input.headers().map_err(|e| failed(&e))?.clone();
        let column = |name: &str| {
            header.iter().position(|h| h == name).ok_or_else(|| {
                let known: Vec<&str> = header.iter().collect();
                let known = known.join(", ");
                Problem::usage(format!("there is no column \"{name}\"; there are: {known}"))
            })
        };
        let key = column(&fields.key)?;
        let value = fields.value.as_deref().map(column).transpose()?;
        if offset > 0 {
            let mut place = csv::Position::new();
            place.set_byte(offset);
            input.seek(place).map_err(|e| failed(&e))?;
        }
        let source = Source::Columns { input: Box::new(input), header, key, value };
        Ok(Self { source, fields })
    }

    /// The next record; `None` at the end. A record that can't be read ends the import: nothing is
    /// left out in silence.
    pub(crate) fn next(&mut self) -> Result<Option<Pair>, Problem> {
        match &mut self.source {
            Source::Lines { input, at, line } => next_line(input, at, line, &self.fields),
            Source::Columns { input, header, key, value } => {
                let mut row = csv::ByteRecord::new();
                let read = input.read_byte_record(&mut row);
                if !read.map_err(|e| Problem::usage(format!("the input cannot be read: {e}")))? {
                    return Ok(None);
                }
                let decode = |field: &[u8]| match self.fields.encoding {
                    Encoding::Plain => Ok(Bytes::copy_from_slice(field)),
                    other => other.decode(OsStr::from_bytes(field)),
                };
                let pair = Pair {
                    key: decode(&row[*key])?,
                    value: match value {
                        Some(column) => decode(&row[*column])?,
                        None => whole_row(header, &row),
                    },
                    end: input.position().byte(),
                };
                Ok(Some(pair))
            }
        }
    }
}

fn next_line(
    input: &mut BufReader<Box<dyn ReadSeek>>,
    at: &mut u64,
    line: &mut u64,
    fields: &Fields,
) -> Result<Option<Pair>, Problem> {
    loop {
        let mut text = Vec::new();
        let read = input.take(RECORD_BYTES_MAX + 1).read_until(b'\n', &mut text);
        let bytes = read.map_err(|e| Problem::local("read of the input", &e))? as u64;
        if bytes == 0 {
            return Ok(None);
        }
        *at += bytes;
        *line += 1;
        let wrong = |why: &dyn std::fmt::Display| {
            Problem::usage(format!("record {line} (ends at byte {at}): {why}"))
        };
        if bytes > RECORD_BYTES_MAX {
            return Err(wrong(&format!("longer than {RECORD_BYTES_MAX} bytes")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_slice(&text).map_err(|e| wrong(&e))?;
        let missing = |name: &str| wrong(&format!("it has no field \"{name}\""));
        let key = take_json(&object, &fields.key)?.ok_or_else(|| missing(&fields.key))?;
        let value = match &fields.value {
            Some(name) => take_json(&object, name)?.ok_or_else(|| missing(name))?,
            None => Bytes::copy_from_slice(text.trim_ascii()),
        };
        return Ok(Some(Pair { key, value, end: *at }));
    }
}

/// A row as a JSON object, columns in the file's order.
fn whole_row(header: &csv::StringRecord, row: &csv::ByteRecord) -> Bytes {
    let mut object = Map::new();
    for (name, field) in header.iter().zip(row) {
        Encoding::Plain.put_json(&mut object, name, field);
    }
    Bytes::from(Value::Object(object).to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn fields(value: Option<&str>) -> Fields {
        let value = value.map(str::to_owned);
        Fields { key: "key".to_owned(), value, encoding: Encoding::Plain }
    }

    fn reader(
        text: &'static [u8],
        format: FileFormat,
        value: Option<&str>,
        at: u64,
    ) -> RecordReader {
        RecordReader::new(Box::new(Cursor::new(text)), format, fields(value), at).unwrap()
    }

    fn all(mut reader: RecordReader) -> Vec<Pair> {
        std::iter::from_fn(|| reader.next().unwrap()).collect()
    }

    #[test]
    fn every_format_goes_on_where_it_stopped() {
        let json =
            b"{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key_base64\":\"/w==\",\"value\":{\"x\":2}}\n";
        let csv = b"key,value\na,1\n\"b\n\",\"2,\"\xff\nc,3\n";
        let tsv = b"value\tkey\n1\ta\n2\tb\n";
        let files: [(&'static [u8], _); 3] =
            [(json, FileFormat::Jsonl), (csv, FileFormat::Csv), (tsv, FileFormat::Tsv)];
        for (text, format) in files {
            let pairs = all(reader(text, format, Some("value"), 0));
            assert!(pairs.len() >= 2, "{format:?}");
            for (i, pair) in pairs.iter().enumerate() {
                let rest = all(reader(text, format, Some("value"), pair.end));
                assert_eq!(rest, pairs[i + 1..], "{format:?} from {}", pair.end);
            }
        }
        let pairs = all(reader(json, FileFormat::Jsonl, Some("value"), 0));
        assert_eq!((&pairs[1].key[..], &pairs[1].value[..]), (&[0xff][..], &b"{\"x\":2}"[..]));
    }

    #[test]
    fn a_whole_record_is_a_value_too() {
        let csv = all(reader(b"key,n\na,1\n", FileFormat::Csv, None, 0));
        assert_eq!(csv[0].value, "{\"key\":\"a\",\"n\":\"1\"}");
        let json = all(reader(b" {\"key\":\"a\", \"n\":1} \n", FileFormat::Jsonl, None, 0));
        assert_eq!(json[0].value, "{\"key\":\"a\", \"n\":1}");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let mut broken = reader(b"{\"key\":1}\n{\n", FileFormat::Jsonl, Some("value"), 0);
        assert!(broken.next().unwrap_err().to_string().contains("no field \"value\""));
        assert!(broken.next().unwrap_err().to_string().contains("record 2"));
        let input = Box::new(Cursor::new(&b"id,value\n"[..]));
        let refused = RecordReader::new(input, FileFormat::Csv, fields(None), 0).err().unwrap();
        assert!(refused.to_string().contains("no column \"key\""), "{refused}");
    }
}
