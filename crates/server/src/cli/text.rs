//! Keys and values as text: as they are, hexadecimal, or base64.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use atoll_client::Bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value};

use super::exit::Problem;

/// How keys and values are written on the command line and in what is printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct TextArgs {
    /// Keys and values are hexadecimal
    #[arg(long, conflicts_with = "base64")]
    hex: bool,
    /// Keys and values are base64
    #[arg(long)]
    base64: bool,
}

/// How bytes are written as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Encoding {
    /// As they are.
    Plain,
    /// Hexadecimal.
    Hex,
    /// Base64 with padding.
    Base64,
}

impl TextArgs {
    pub(crate) fn encoding(self) -> Encoding {
        match (self.hex, self.base64) {
            (true, _) => Encoding::Hex,
            (_, true) => Encoding::Base64,
            _ => Encoding::Plain,
        }
    }
}

impl Encoding {
    /// Reads what was given; what is written as it is need not be text.
    pub(crate) fn decode(self, given: impl AsRef<OsStr>) -> Result<Bytes, Problem> {
        let given = given.as_ref();
        let text = given.to_string_lossy();
        let text = &*text;
        let bad = |why: String| Problem::usage(format!("\"{}\" {why}", text.escape_debug()));
        match self {
            Self::Plain => Ok(Bytes::copy_from_slice(given.as_bytes())),
            Self::Base64 => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Bytes::from(bytes)),
                Err(error) => Err(bad(format!("is not base64: {error}"))),
            },
            Self::Hex => {
                let digits: Option<Vec<u8>> =
                    text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
                match digits {
                    Some(d) if d.len() % 2 == 0 => {
                        Ok(d.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
                    }
                    _ => {
                        Err(bad("is not hexadecimal: two digits per byte are expected".to_owned()))
                    }
                }
            }
        }
    }

    /// Writes text for people: what is no text is escaped.
    pub(crate) fn show(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => bytes.iter().map(|b| format!("{b:02x}")).collect(),
            Self::Base64 => STANDARD.encode(bytes),
            Self::Plain => match std::str::from_utf8(bytes) {
                Ok(text) if !text.contains(char::is_control) => text.to_owned(),
                _ => bytes.escape_ascii().to_string(),
            },
        }
    }

    /// Puts bytes into a JSON object under `name`; what is no text under `name_base64`.
    pub(crate) fn put_json(self, object: &mut Map<String, Value>, name: &str, bytes: &[u8]) {
        match (self, std::str::from_utf8(bytes)) {
            (Self::Plain, Ok(text)) => object.insert(name.to_owned(), Value::from(text)),
            (Self::Hex, _) => object.insert(format!("{name}_hex"), Value::from(self.show(bytes))),
            _ => object.insert(format!("{name}_base64"), Value::from(STANDARD.encode(bytes))),
        };
    }
}

/// Takes bytes out of a JSON object: text under `name`, or base64 under `name_base64`. Other kinds
/// of values are taken as the JSON they are.
pub(crate) fn take_json(object: &Map<String, Value>, name: &str) -> Result<Option<Bytes>, Problem> {
    match object.get(name) {
        Some(Value::String(text)) => return Ok(Some(Bytes::from(text.clone()))),
        Some(other) => return Ok(Some(Bytes::from(other.to_string()))),
        None => {}
    }
    match object.get(&format!("{name}_base64")) {
        Some(Value::String(text)) => Encoding::Base64.decode(text).map(Some),
        Some(_) => Err(Problem::usage(format!("{name}_base64 is not a string"))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_every_encoding() {
        let all: Vec<u8> = (0..=255).collect();
        for encoding in [Encoding::Hex, Encoding::Base64] {
            assert_eq!(encoding.decode(encoding.show(&all)).unwrap(), all);
        }
        assert_eq!(Encoding::Plain.decode(OsStr::from_bytes(&all)).unwrap(), all);
        for (text, bytes) in [("", vec![]), ("Zg==", b"f".to_vec()), ("Zm9v", b"foo".to_vec())] {
            assert_eq!(Encoding::Base64.decode(text).unwrap(), bytes);
        }
        let mut object = Map::new();
        Encoding::Plain.put_json(&mut object, "key", &all);
        Encoding::Plain.put_json(&mut object, "value", b"text");
        assert_eq!(take_json(&object, "key").unwrap().unwrap(), all);
        assert_eq!(take_json(&object, "value").unwrap().unwrap(), "text");
        assert_eq!(take_json(&object, "other").unwrap(), None);
    }

    #[test]
    fn what_is_no_encoding_is_refused() {
        for text in ["a", "zz", "0g"] {
            assert!(Encoding::Hex.decode(text).is_err());
        }
        assert!(Encoding::Base64.decode("*").is_err());
        assert!(Encoding::Hex.decode(OsStr::from_bytes(b"0\xff")).is_err());
        assert_eq!(Encoding::Plain.show(b"a\n\xff"), "a\\n\\xff");
    }
}
