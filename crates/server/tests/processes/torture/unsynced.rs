//! Power failures: what a killed process had written and not synced is taken back.
//!
//! A preload (`unsynced.c`) notes in a journal what each write destroys, and each sync. After a
//! kill the notes behind a file's last sync are undone, the newest first: all of them, or only
//! some, since a disk may have written what nobody asked it to. Files made and renamed stay made
//! and renamed. The preload is compiled by the machine's C compiler, which Rust's linker needs
//! anyway; without one nothing is taken back, and the summary says so.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use atoll_base::Rng;

const SOURCE: &str = include_str!("unsynced.c");
const MAGIC: u64 = 0x554e_5359_4e43_4544;
const HEAD_BYTES: usize = 56;

/// The compiled preload.
pub(super) struct Preload {
    library: PathBuf,
}

impl Preload {
    /// Compiles it into `folder`, or says why it can't be.
    pub(super) fn compile(folder: &Path) -> Result<Self, String> {
        let (source, library) = (folder.join("unsynced.c"), folder.join("unsynced.so"));
        std::fs::write(&source, SOURCE).map_err(|e| e.to_string())?;
        let made = Command::new("cc")
            .args(["-std=gnu11", "-O2", "-shared", "-fPIC", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .output()
            .map_err(|e| format!("cc: {e}"))?;
        match made.status.success() {
            true => Ok(Self { library }),
            false => Err(String::from_utf8_lossy(&made.stderr).into_owned()),
        }
    }

    /// Variables for a process whose files are in `data`.
    pub(super) fn variables(&self, data: &Path, writes: Writes) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let mut all = vec![
            ("LD_PRELOAD".to_owned(), text(&self.library)),
            ("UNSYNCED_JOURNAL".to_owned(), text(&journal(data))),
            ("UNSYNCED_FOLDER".to_owned(), text(data)),
        ];
        if writes != Writes::Direct {
            all.push(("UNSYNCED_BUFFERED".to_owned(), "1".to_owned()));
        }
        if writes == Writes::Lying {
            all.push(("UNSYNCED_LIES".to_owned(), text(&data.join("log"))));
        }
        all
    }
}

/// How a process may write its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Writes {
    /// As it likes: past the page cache, where the file system can.
    Direct,
    /// Through the page cache, with syncs.
    Buffered,
    /// The same, but the last few syncs of the log are not done yet when they return: acknowledged
    /// writes are lost with the power.
    Lying,
}

/// What the power failure took.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Lost {
    pub(super) writes: u64,
    pub(super) files: u64,
}

fn journal(data: &Path) -> PathBuf {
    data.with_extension("unsynced")
}

/// Undoes what the dead process of `data` had not synced, and forgets its journal.
pub(super) fn lose_unsynced(data: &Path, rng: &mut Rng) -> io::Result<Lost> {
    let bytes = std::fs::read(journal(data))?;
    let mut lost = Lost::default();
    let unsynced = unsynced(&bytes);
    let paths = files_by_number(data)?;
    let takes_all = rng.chance(1, 2);
    for (inode, changes) in unsynced {
        let Some(path) = paths.get(&inode) else { continue };
        let file = OpenOptions::new().write(true).open(path)?;
        let count = match takes_all {
            true => changes.len(),
            false => rng.range(0, changes.len() as u64 + 1) as usize,
        };
        for change in changes.iter().rev().take(count) {
            undo(&file, change)?;
        }
        lost.writes += count as u64;
        lost.files += u64::from(count > 0);
    }
    forget(data)?;
    Ok(lost)
}

/// Forgets what was noted about the dead process of `data`: its machine lives on.
pub(super) fn forget(data: &Path) -> io::Result<()> {
    std::fs::remove_file(journal(data))
}

fn undo(file: &File, change: &Change<'_>) -> io::Result<()> {
    file.write_all_at(change.bytes, change.offset)?;
    file.set_len(change.length)
}

fn files_by_number(folder: &Path) -> io::Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            found.extend(files_by_number(&entry.path())?);
        } else {
            found.insert(meta.ino(), entry.path());
        }
    }
    Ok(found)
}

/// What a write or a cut was about to destroy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Change<'a> {
    offset: u64,
    /// The file's length before.
    length: u64,
    bytes: &'a [u8],
}

/// The changes of each file that no sync covers, in order. A last record that is not whole was
/// never acted upon.
fn unsynced(journal: &[u8]) -> BTreeMap<u64, Vec<Change<'_>>> {
    let mut files: BTreeMap<u64, Vec<(u64, Change<'_>)>> = BTreeMap::new();
    let mut rest = journal;
    let mut number = 0;
    while let Some((head, after)) = rest.split_at_checked(HEAD_BYTES) {
        let words = head.chunks_exact(8).map(|w| w.try_into().map(u64::from_ne_bytes));
        let words: Vec<u64> = words.map(|w| w.expect("eight bytes")).collect();
        let &[magic, kind, inode, offset, length, count, covers] = words.as_slice() else {
            unreachable!("a head has seven words")
        };
        assert_eq!(magic, MAGIC, "record {number} of the journal");
        let Some((bytes, after)) = after.split_at_checked(count as usize) else { break };
        rest = after;
        let changes = files.entry(inode).or_default();
        match kind {
            1 => changes.push((number, Change { offset, length, bytes })),
            2 => changes.retain(|(at, _)| *at >= covers),
            3 => changes.clear(),
            other => panic!("record {number} of the journal is of kind {other}"),
        }
        number += 1;
    }
    let strip = |changes: Vec<(u64, _)>| changes.into_iter().map(|(_, change)| change).collect();
    let files = files.into_iter().map(|(inode, changes)| (inode, strip(changes)));
    files.filter(|(_, changes): &(u64, Vec<_>)| !changes.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use super::*;

    /// In the process under the preload: everything that a file can suffer.
    fn suffer() {
        let open = |name: &str| {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).open(name).expect("a file")
        };
        let mut synced = open("synced");
        synced.write_all(b"kept").expect("room");
        synced.sync_data().expect("a sync");
        synced.write_all(b" lost").expect("room");
        synced.rewind().expect("a file has positions");
        synced.write_all(b"LOST").expect("room");
        let cut = open("cut");
        cut.write_all_at(b"0123456789", 0).expect("room");
        cut.sync_all().expect("a sync");
        cut.set_len(3).expect("it can be cut");
        cut.write_all_at(b"x", 5).expect("room");
        std::fs::rename("cut", "renamed").expect("a new name");
        open("never-synced").write_all(b"lost").expect("room");
        let mut appended = OpenOptions::new().append(true).open("before").expect("it was there");
        appended.write_all(b" and after").expect("room");
        std::fs::write("replaced", "lost").expect("room");
        std::fs::remove_file("never-synced").expect("it is there");
        open("born-later").write_all(b"lost").expect("room");
    }

    #[test]
    fn only_what_was_synced_survives_a_power_failure() {
        const NAME: &str =
            "torture::unsynced::tests::only_what_was_synced_survives_a_power_failure";
        if std::env::var_os("UNSYNCED_FOLDER").is_some() {
            return suffer();
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let preload = Preload::compile(folder.path()).expect("there is a C compiler");
        let data = folder.path().join("data");
        std::fs::create_dir(&data).expect("a folder");
        std::fs::write(data.join("before"), "before").expect("room");
        std::fs::write(data.join("replaced"), "older").expect("room");
        let status = Command::new(std::env::current_exe().expect("it runs"))
            .args(["--exact", NAME])
            .current_dir(&data)
            .envs(preload.variables(&data, Writes::Direct))
            .status();
        assert!(status.expect("it starts").success());
        let mut rng = (0..).map(Rng::new).find(|r| r.clone().chance(1, 2)).expect("one of two");
        let lost = lose_unsynced(&data, &mut rng).expect("the files can be written");
        let wanted = [
            ("synced", "kept"),
            ("renamed", "0123456789"),
            ("before", "before"),
            ("replaced", "older"),
            ("born-later", ""),
        ];
        for (name, text) in wanted {
            assert_eq!(std::fs::read_to_string(data.join(name)).expect(name), text, "{name}");
        }
        assert!(!data.join("never-synced").exists());
        assert_eq!((lost.files, lost.writes), (5, 8));
    }
}
