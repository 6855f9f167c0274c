//! A small file that counts persists, so that an engine that lost one shows.
//!
//! Two slots of 512 bytes, used in turn, so that a torn write spares the one before: `ATOLLPER`,
//! the count (8 bytes, little endian), CRC32C of the 16 bytes before (4), zeros.

use std::io;
use std::path::Path;

use atoll_base::checksum::crc32c;

use crate::disk::{Disk, DiskFile, OpenMode};

const FILE_NAME: &str = "persisted";
const MAGIC: &[u8; 8] = b"ATOLLPER";
const SLOT_BYTES: usize = 512;

/// The open file and its newest count.
pub(crate) struct PersistedMark {
    file: Box<dyn DiskFile>,
    count: u64,
}

impl PersistedMark {
    pub(crate) fn open(disk: &dyn Disk, dir: &Path) -> io::Result<Self> {
        let path = dir.join(FILE_NAME);
        if !disk.exists(&path)? {
            let file = disk.open(&path, OpenMode::CreateNew)?;
            file.allocate_zeroed(2 * SLOT_BYTES as u64)?;
            disk.sync_dir(dir)?;
            return Ok(Self { file, count: 0 });
        }
        let file = disk.open(&path, OpenMode::Write)?;
        if file.len()? != 2 * SLOT_BYTES as u64 {
            // A crash came between making the file and filling it: nothing was counted yet.
            file.allocate_zeroed(2 * SLOT_BYTES as u64)?;
        }
        let mut slots = [0; 2 * SLOT_BYTES];
        file.read_at(0, &mut slots)?;
        let count = slots.chunks(SLOT_BYTES).filter_map(decode).max().unwrap_or(0);
        Ok(Self { file, count })
    }

    /// How many persists were acknowledged, at least.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Notes, durably, that persist `count` is done.
    pub(crate) fn record(&mut self, count: u64) -> io::Result<()> {
        let mut slot = [0; SLOT_BYTES];
        slot[..8].copy_from_slice(MAGIC);
        slot[8..16].copy_from_slice(&count.to_le_bytes());
        let crc = crc32c(&slot[..16]);
        slot[16..20].copy_from_slice(&crc.to_le_bytes());
        self.file.write_at(count % 2 * SLOT_BYTES as u64, &slot)?;
        self.file.sync()?;
        self.count = count;
        Ok(())
    }
}

fn decode(slot: &[u8]) -> Option<u64> {
    let count = u64::from_le_bytes(*slot[8..].first_chunk()?);
    let crc = u32::from_le_bytes(*slot[16..].first_chunk()?);
    (&slot[..8] == MAGIC && crc == crc32c(&slot[..16])).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::MemDisk;

    #[test]
    fn a_torn_count_leaves_the_one_before() {
        let dir = Path::new("/e");
        for seed in 0..20 {
            let disk = MemDisk::new(seed);
            disk.create_dir_all(dir).unwrap();
            let mut mark = PersistedMark::open(&disk, dir).unwrap();
            assert_eq!(mark.count(), 0);
            for count in 1..=5 {
                mark.record(count).unwrap();
            }
            assert_eq!(PersistedMark::open(&disk, dir).unwrap().count(), 5);
            disk.overwrite(&dir.join(FILE_NAME), 0, &[0xaa; 20]).unwrap();
            assert_eq!(PersistedMark::open(&disk, dir).unwrap().count(), 5);
            disk.overwrite(&dir.join(FILE_NAME), 512, &[0xaa; 20]).unwrap();
            assert_eq!(PersistedMark::open(&disk, dir).unwrap().count(), 0);
        }
    }
}
