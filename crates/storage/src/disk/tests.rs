//! Both disks behave alike, and the one in memory fails as it says.

use std::path::Path;

use super::mem::SECTOR_BYTES;
use super::*;

fn conforms(disk: &dyn Disk, dir: &Path) {
    let path = dir.join("a");
    disk.create_dir_all(dir).unwrap();
    assert!(disk.exists(dir).unwrap() && !disk.exists(&path).unwrap());
    assert_eq!(
        disk.open(&path, OpenMode::Write).err().map(|e| e.kind()),
        Some(io::ErrorKind::NotFound)
    );
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    assert!(disk.open(&path, OpenMode::CreateNew).is_err() && file.is_empty().unwrap());
    file.write_at(3, b"xyz").unwrap();
    file.sync().unwrap();
    disk.sync_dir(dir).unwrap();
    let mut buf = [9; 6];
    disk.open(&path, OpenMode::Read).unwrap().read_at(0, &mut buf).unwrap();
    assert_eq!(&buf, b"\0\0\0xyz");
    let past = file.read_at(4, &mut buf).unwrap_err();
    assert_eq!(past.kind(), io::ErrorKind::UnexpectedEof);
    file.allocate_zeroed(3_000_000).unwrap();
    file.read_at(3_000_000 - 6, &mut buf).unwrap();
    assert_eq!((buf, file.len().unwrap()), ([0; 6], 3_000_000));
    file.set_len(10).unwrap();
    assert_eq!(file.len().unwrap(), 10);
    let other = dir.join("b");
    drop(disk.open(&other, OpenMode::CreateNew).unwrap());
    assert_eq!(disk.list(dir).unwrap(), [path.clone(), other.clone()]);
    disk.rename(&path, &other).unwrap();
    assert_eq!(disk.list(dir).unwrap(), std::slice::from_ref(&other));
    assert_eq!(disk.open(&other, OpenMode::Read).unwrap().len().unwrap(), 10);
    disk.remove(&other).unwrap();
    assert!(disk.list(dir).unwrap().is_empty() && disk.remove(&other).is_err());
    assert!(disk.free_bytes(dir).unwrap() > 0);
}

#[test]
fn both_disks_conform() {
    let real = tempfile::tempdir().unwrap();
    conforms(&RealDisk, &real.path().join("x/y"));
    conforms(&MemDisk::new(1), Path::new("/x/y"));
}

/// Appends of all sizes, read back by somebody else after every sync, and by the next writer.
fn appends(disk: &dyn Disk, dir: &Path, seed: u64) {
    const LEN: usize = 1 << 20;
    disk.create_dir_all(dir).unwrap();
    let path = dir.join("a");
    let file = disk.open(&path, OpenMode::CreateNew).unwrap();
    file.allocate_zeroed(LEN as u64).unwrap();
    let reader = disk.open(&path, OpenMode::Read).unwrap();
    let mut rng = atoll_base::Rng::new(seed);
    let mut written = vec![0; 0];
    let mut file = disk.open(&path, OpenMode::Append).unwrap();
    while written.len() < LEN {
        for _ in 0..rng.range(1, 3) {
            let sizes = [8, 64, 504, 4096, 5000, 40_000];
            let len = sizes[rng.below(6) as usize].min(LEN - written.len());
            let bytes = vec![rng.range(1, 255) as u8; len];
            file.write_at(written.len() as u64, &bytes).unwrap();
            written.extend_from_slice(&bytes);
        }
        file.sync().unwrap();
        let mut seen = vec![0; written.len()];
        reader.read_at(0, &mut seen).unwrap();
        assert!(seen == written, "after {} bytes", written.len());
        if rng.below(8) == 0 {
            file = disk.open(&path, OpenMode::Append).unwrap();
        }
        if rng.below(16) == 0 {
            // A writer that goes back writes the bytes behind it again, as the log does.
            written.truncate(written.len() - written.len().min(100));
        }
    }
    assert_eq!(file.len().unwrap(), LEN as u64);
}

#[test]
fn both_disks_append() {
    for seed in 0..20 {
        let real = tempfile::tempdir().unwrap();
        appends(&RealDisk, &real.path().join("x"), seed);
        appends(&MemDisk::new(seed), Path::new("/x"), seed);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn appends_keep_to_the_files_length_and_odd_files_are_appended_to_in_the_ordinary_way() {
    let real = tempfile::tempdir().unwrap();
    let path = real.path().join("a");
    for len in [8192, 8200] {
        std::fs::write(&path, vec![0; len]).unwrap();
        let file = RealDisk.open(&path, OpenMode::Append).unwrap();
        file.write_at(4090, &[1; 20]).unwrap();
        file.sync().unwrap();
        let content = std::fs::read(&path).unwrap();
        assert_eq!((content.len(), content.iter().filter(|b| **b == 1).count()), (len, 20));
        if append::AppendFile::open(&path).unwrap().is_some() {
            let text = file.write_at(8190, &[1; 3]).unwrap_err().to_string();
            assert_eq!(text, "3 bytes at 8190 don't fit into a file of 8192 bytes");
        }
    }
}

fn disk_with(seed: u64, content: &[u8]) -> (MemDisk, Box<dyn DiskFile>) {
    let disk = MemDisk::new(seed);
    disk.create_dir_all(Path::new("/d")).unwrap();
    let file = disk.open(Path::new("/d/f"), OpenMode::CreateNew).unwrap();
    file.write_at(0, content).unwrap();
    file.sync().unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    (disk, file)
}

#[test]
fn a_crash_keeps_the_synced_and_decides_the_rest_by_sectors() {
    let path = Path::new("/d/f");
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let (disk, file) = disk_with(seed, &[1; 2048]);
        file.write_at(100, &[2; 1500]).unwrap();
        let again = disk.fork(seed);
        disk.crash();
        assert!(file.len().is_err(), "a file of the earlier life is dead");
        let content = disk.contents(path).unwrap();
        assert_eq!((content.len(), again.contents(path).unwrap().len()), (2048, 2048));
        assert!(content[..100].iter().chain(&content[1600..]).all(|b| *b == 1));
        for start in (0..2048).step_by(SECTOR_BYTES) {
            let middle = &content[start.max(100)..(start + SECTOR_BYTES).min(1600)];
            assert!(middle.windows(2).all(|w| w[0] == w[1]), "a sector survives whole");
        }
        match content[100..1600].iter().filter(|b| **b == 2).count() {
            0 => lost += 1,
            1500 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 40 && lost > 40 && torn > 40, "kept {kept}, lost {lost}, torn {torn}");
}

#[test]
fn names_survive_as_a_prefix_of_their_changes() {
    let mut seen = [0; 3];
    for seed in 0..100 {
        let (disk, _file) = disk_with(seed, b"x");
        disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
        drop(disk.open(Path::new("/d/h"), OpenMode::CreateNew).unwrap());
        disk.crash();
        let names = disk.list(Path::new("/d")).unwrap();
        let names: Vec<_> = names.iter().map(|p| p.to_str().unwrap()).collect();
        match names[..] {
            ["/d/f"] => seen[0] += 1,
            ["/d/g"] => seen[1] += 1,
            ["/d/g", "/d/h"] => seen[2] += 1,
            _ => panic!("{names:?}"),
        }
    }
    assert!(seen.iter().all(|n| *n > 10), "{seen:?}");
}

#[test]
fn a_disk_fills_up_and_empties() {
    let (disk, file) = disk_with(1, &[0; 100]);
    disk.limit_capacity(150);
    assert_eq!(file.write_at(100, &[1; 51]).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_at(100, &[1; 50]).unwrap();
    file.write_at(0, &[1; 150]).unwrap();
    assert_eq!(disk.free_bytes(Path::new("/d")).unwrap(), 0);
    disk.limit_capacity(151);
    file.write_at(150, &[1]).unwrap();
}

#[test]
fn a_failed_sync_leaves_the_bytes_in_doubt() {
    let (disk, file) = disk_with(1, &[0; 4]);
    file.write_at(0, &[1; 4]).unwrap();
    disk.fail_syncs(1);
    assert!(file.sync().is_err());
    disk.crash_to_synced();
    assert_eq!(disk.contents(Path::new("/d/f")).unwrap(), [0; 4]);
}
