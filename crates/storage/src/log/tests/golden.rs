//! The bytes of `docs/formats/log.md`, and the plain life of a log.

use std::fmt::Write as _;

use super::*;
use crate::disk::{Disk, OpenMode};

/// One line per 16 bytes.
fn hex(bytes: &[u8]) -> String {
    let mut out = String::new();
    for line in bytes.chunks(16) {
        for byte in line {
            write!(out, "{byte:02x}").unwrap();
        }
        out.push('\n');
    }
    out
}

const GOLDEN: &str = "\
41544f4c4c4c4f470100000032480a4d\n\
01000000000000000000000000000000\n\
00000000001000000000000000000000\n\
00000000000000000000000000000000\n\
38000000378951444043455240000000\n\
2200454c010000000700000000000000\n\
03000000000000000000000000000000\n\
020000000000000035000000cee5fd76\n\
4043455240000000110138a602000000\n\
07000000000000000300000000000000\n\
010000000000000068656c6c6f000000\n\
300000004a0b68e54043455240000000\n\
44015507010000000900000000000000\n\
02000000000000000b00000000000000\n\
300000002872320140434552e0000000\n\
8800b406020000000900000000000000\n\
00000000000000000000000000000000\n";

#[test]
fn a_segment_has_the_bytes_of_the_format_document() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let records =
        [vote(7, 3, 2, 0), put(7, 1, 3, b"hello"), start(9, 11, 2, StartReason::Snapshot)];
    log.write(&batch(&records)).unwrap();
    log.write(&batch(&[LogRecord::ShardRemoved { shard: ShardId(9) }])).unwrap();
    let file = disk.contents(Path::new("/log/0000000000000001.seg")).unwrap();
    assert_eq!(file.len(), 4096);
    assert!(file[272..].iter().all(|b| *b == 0));
    assert_eq!(hex(&file[..272]), GOLDEN);
}

#[test]
fn what_was_written_is_found_again() {
    let disk = MemDisk::new(1);
    let (mut log, recovered) = open(&disk);
    assert!(recovered.shards.is_empty() && recovered.warnings.is_empty());
    let records = [
        vote(1, 1, 1, 0),
        put(1, 1, 1, b"a"),
        put(2, 1, 1, b""),
        put(1, 2, 1, b"b"),
        put(1, 3, 1, b"c"),
        put(1, 2, 2, b"B"),
        vote(1, 2, 0, 1),
    ];
    let written = log.write(&batch(&records)).unwrap();
    assert_eq!(disk.counts().writes, 1, "one write");
    assert_eq!(disk.counts().syncs, 2, "one sync of the write, one of the prepared segment");
    assert_eq!(written.entries.len(), 5);
    let second = &written.entries[4];
    let read = log.reader().read(second.shard, second.index, second.location).unwrap();
    assert_eq!(read, entry(2, 2, b"B"));
    let wrong = log.reader().read(second.shard, LogIndex(1), second.location);
    assert!(matches!(wrong, Err(LogError::Damaged { .. })));
    drop(log);
    let (_log, recovered) = open(&disk);
    assert_eq!(recovered.warnings, Vec::<String>::new());
    let one = &recovered.shards[&ShardId(1)];
    let state =
        LogHardState { term: Term(2), vote: None, commit: LogIndex(1), ..LogHardState::default() };
    let both = vec![entry(1, 1, b"a"), entry(2, 2, b"B")];
    assert_eq!(content(one), (Some(state), LogIndex(1), Term(0), both));
    assert_eq!(one.damaged, None);
    assert_eq!(entries(&recovered.shards[&ShardId(2)].log), [entry(1, 1, b"")]);
}

#[test]
fn a_hard_state_says_how_often_entries_were_lost() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let two = Some(NodeId(2));
    let states =
        [(None, 3, LogAmnesia::Votes), (two, 3, LogAmnesia::Entries), (two, 4, LogAmnesia::None)];
    for (at, (vote, life, amnesia)) in (1..).zip(states) {
        let state = LogHardState { term: Term(5), vote, commit: LogIndex(0), life, amnesia };
        let record = LogRecord::HardState { shard: ShardId(at), state };
        assert_eq!(record.stored_bytes(), 64);
        log.write(&batch(&[record])).unwrap();
    }
    let file = disk.contents(Path::new("/log/0000000000000001.seg")).unwrap();
    // The second record: kind and detail, then at its end the vote and the life.
    assert_eq!(file[64 + 64 + 16..][..2], [0x22, 1]);
    assert_eq!(file[64 + 64 + 48..][..16], [2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    drop(log);
    let (_log, recovered) = open(&disk);
    for (at, (vote, life, amnesia)) in (1..).zip(states) {
        let state = LogHardState { term: Term(5), vote, commit: LogIndex(0), life, amnesia };
        assert_eq!(recovered.shards[&ShardId(at)].hard_state, Some(state));
    }
}

#[test]
fn a_newer_format_is_refused() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(1, 1, 1, b"a")])).unwrap();
    let path = Path::new("/log/0000000000000001.seg");
    let mut head = disk.contents(path).unwrap()[..64].to_vec();
    head[8] = 2;
    head[12..16].fill(0);
    let crc = atoll_base::checksum::crc32c(&head);
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    disk.open(path, OpenMode::Write).unwrap().write_at(0, &head).unwrap();
    let refused = LogWriter::open(Arc::new(disk), Path::new(DIR), small()).err();
    assert!(matches!(refused, Some(LogError::UnknownVersion { segment: 1, version: 2 })));
}
