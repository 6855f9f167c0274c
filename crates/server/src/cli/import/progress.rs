//! How far an import came, in a file beside its input.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use atoll_base::checksum::crc32c;
use serde::{Deserialize, Serialize};

use crate::cli::exit::Problem;

/// The format of the progress file.
const VERSION: u32 = 1;
/// Bytes of the input that tell it from another file of the same name.
const SAMPLE_BYTES: u64 = 64 << 10;

/// Places in the input, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Place {
    /// Every record before it is acknowledged.
    pub(super) done: u64,
    /// No record behind it was ever sent.
    pub(super) claimed: u64,
    /// Records acknowledged, for people.
    pub(super) records: u64,
}

#[derive(Serialize, Deserialize)]
struct Contents {
    version: u32,
    /// What the import was told to do.
    identity: String,
    input_bytes: u64,
    /// CRC32C of the input's first 64 KiB.
    input_sample: u32,
    place: Place,
}

/// The progress file of one import, or the knowledge that there can be none.
pub(super) struct ProgressFile {
    /// `None`: the input can't be gone back in.
    path: Option<PathBuf>,
    contents: Contents,
}

impl ProgressFile {
    /// For input that can't be gone back in: any record of it may have been sent before.
    pub(super) fn none() -> (Self, Place) {
        let place = Place { claimed: u64::MAX, ..Place::default() };
        let identity = String::new();
        let contents =
            Contents { version: VERSION, identity, input_bytes: 0, input_sample: 0, place };
        (Self { path: None, contents }, place)
    }

    /// What to say when the import is interrupted.
    pub(super) fn interrupted(&self) -> &'static str {
        match self.path {
            Some(_) => "interrupted; the same command goes on where this one stopped",
            None => "interrupted; given the same input again, it writes only what is missing",
        }
    }

    /// Opens or begins the progress of importing `input`, and says where to go on.
    pub(super) fn open(
        input: &Path,
        identity: &str,
        restart: bool,
    ) -> Result<(Self, Place), Problem> {
        let mut path = input.as_os_str().to_owned();
        path.push(".atoll-import");
        let path = PathBuf::from(path);
        let (input_bytes, input_sample) = sample(input)
            .map_err(|e| Problem::local(format!("read of {}", input.display()), &e))?;
        let identity = identity.to_owned();
        let place = Place::default();
        let new = Contents { version: VERSION, identity, input_bytes, input_sample, place };
        let old = match (restart, fs::read(&path)) {
            (false, Ok(bytes)) => Some(bytes),
            _ => None,
        };
        let Some(bytes) = old else {
            return Ok((Self { path: Some(path), contents: new }, place));
        };
        let refuse = |why: &str| {
            let path = path.display();
            Err(Problem::usage(format!(
                "{path} tells of an interrupted import {why}; --restart begins anew"
            )))
        };
        let Ok(old) = serde_json::from_slice::<Contents>(&bytes) else {
            return refuse("but cannot be read");
        };
        if old.version != VERSION {
            return refuse("by another version of this program");
        }
        if (old.input_bytes, old.input_sample) != (new.input_bytes, new.input_sample) {
            return refuse("of another file, or the file has changed since");
        }
        if old.identity != new.identity {
            return refuse("with other settings (keyspace, format, key, value or prefix)");
        }
        let place = old.place;
        Ok((Self { path: Some(path), contents: old }, place))
    }

    /// No record behind this place was ever sent.
    pub(super) fn claimed(&self) -> u64 {
        self.contents.place.claimed
    }

    /// Makes a place durable, whole or not at all.
    pub(super) fn save(&mut self, place: Place) -> Result<(), Problem> {
        self.contents.place = place;
        let Some(path) = &self.path else { return Ok(()) };
        let saved = self.write(path);
        saved.map_err(|e| Problem::local(format!("write of {}", path.display()), &e))
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let temporary = path.with_extension("atoll-import-new");
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&self.contents)?)?;
        file.sync_data()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// The import is complete.
    pub(super) fn remove(self) -> Result<(), Problem> {
        let Some(path) = &self.path else { return Ok(()) };
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Problem::local(format!("removal of {}", path.display()), &e))
            }
            _ => Ok(()),
        }
    }
}

fn sample(input: &Path) -> std::io::Result<(u64, u32)> {
    let file = File::open(input)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(SAMPLE_BYTES).read_to_end(&mut bytes)?;
    Ok((length, crc32c(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_import_goes_on_only_where_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("in.csv");
        fs::write(&input, "key,value\na,1\n").unwrap();
        let place = Place { done: 10, claimed: 12, records: 1 };
        let (mut file, from) = ProgressFile::open(&input, "x", false).unwrap();
        assert_eq!(from, Place::default());
        file.save(place).unwrap();
        assert_eq!(ProgressFile::open(&input, "x", false).unwrap().1, place);
        let refused = |identity| ProgressFile::open(&input, identity, false).err().unwrap();
        assert!(refused("y").to_string().contains("other settings"));
        assert_eq!(ProgressFile::open(&input, "y", true).unwrap().1, Place::default());
        fs::write(&input, "key,value\na,2\n").unwrap();
        assert!(refused("x").to_string().contains("changed"));
        file.remove().unwrap();
        assert_eq!(ProgressFile::open(&input, "x", false).unwrap().1, Place::default());
    }
}
