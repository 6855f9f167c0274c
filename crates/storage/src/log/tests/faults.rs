//! Torn writes, flipped bits, full disks, failing syncs.

use std::collections::BTreeMap;

use super::*;
use crate::disk::{Disk, OpenMode};

const SEGMENT: &str = "/log/0000000000000001.seg";

/// Two durable frames and a third one, and where each starts.
fn three_frames(disk: &MemDisk) -> Vec<usize> {
    let (mut log, _) = open(disk);
    let frames = [
        vec![vote(1, 1, 1, 0), put(1, 1, 1, b"one"), put(2, 1, 1, &[2; 40]), vote(3, 1, 3, 0)],
        vec![put(1, 2, 1, b"two"), put(3, 1, 1, b"x"), put(2, 2, 1, b"q"), vote(1, 2, 2, 1)],
        vec![put(1, 3, 2, b"three"), put(2, 3, 2, &[3; 100]), vote(2, 2, 1, 0), vote(3, 2, 1, 0)],
    ];
    let mut starts = vec![64];
    for records in frames {
        let written = log.write(&batch(&records)).unwrap();
        let header = if starts.len() == 1 { 64 } else { 0 };
        starts.push(starts[starts.len() - 1] + written.bytes as usize - header);
    }
    starts
}

fn contents(recovered: &Recovered) -> BTreeMap<ShardId, Content> {
    recovered.shards.iter().map(|(shard, state)| (*shard, content(state))).collect()
}

#[test]
fn a_write_torn_at_any_byte_is_cut_and_never_comes_back() {
    let whole = MemDisk::new(1);
    let starts = three_frames(&whole);
    let image = whole.contents(Path::new(SEGMENT)).unwrap();
    for cut in starts[2]..starts[3] {
        let disk = whole.fork(cut as u64);
        disk.overwrite(Path::new(SEGMENT), cut as u64, &vec![0; starts[3] - cut]).unwrap();
        check_torn(&disk, &format!("cut at {cut}"));
    }
    // The front of the write is missing and its rest is there, sector order being free.
    for lost in starts[2]..starts[3] {
        let disk = whole.fork(lost as u64);
        let zeros = vec![0; lost + 1 - starts[2]];
        disk.overwrite(Path::new(SEGMENT), starts[2] as u64, &zeros).unwrap();
        check_torn(&disk, &format!("lost up to {lost}"));
    }
    assert_eq!(whole.contents(Path::new(SEGMENT)).unwrap(), image);
}

fn check_torn(disk: &MemDisk, what: &str) {
    let (mut log, recovered) = open(disk);
    assert_eq!(recovered.damaged_stretches, 0, "{what}");
    let one = entries(&recovered.shards[&ShardId(1)].log);
    assert!(one.starts_with(&[entry(1, 1, b"one"), entry(2, 1, b"two")]), "{what}");
    for shard in recovered.shards.values() {
        assert_eq!(shard.damaged, None, "{what}");
    }
    let two = entries(&recovered.shards[&ShardId(2)].log);
    let next = one.len() as u64 + 1;
    // As long as the lost write's first record: what followed that one would follow this one.
    log.write(&batch(&[put(1, next, 5, b"a")])).unwrap();
    let (_, between) = open(&disk.fork(1));
    assert_eq!(entries(&between.shards[&ShardId(2)].log), two, "{what}: nothing came back");
    log.write(&batch(&[put(1, next + 1, 5, b"b")])).unwrap();
    drop(log);
    let (_, again) = open(disk);
    assert_eq!(again.warnings, Vec::<String>::new(), "{what}: scrubbed");
    let mut expected = one;
    expected.extend([entry(next, 5, b"a"), entry(next + 1, 5, b"b")]);
    assert_eq!(entries(&again.shards[&ShardId(1)].log), expected, "{what}");
    assert_eq!(entries(&again.shards[&ShardId(2)].log), two, "{what}");
}

#[test]
fn a_flipped_bit_anywhere_is_seen_or_harmless() {
    let whole = MemDisk::new(1);
    let starts = three_frames(&whole);
    let sound = contents(&open(&whole.fork(1)).1);
    let (mut attributed, mut harmless) = (0, 0);
    for offset in 0..starts[2] {
        for bit in [0, 3, 7] {
            let disk = whole.fork(1);
            disk.flip_bit(Path::new(SEGMENT), offset as u64, bit).unwrap();
            let recovered = open(&disk).1;
            let damaged: Vec<_> =
                recovered.shards.iter().filter(|(_, s)| s.damaged.is_some()).collect();
            for (shard, state) in &recovered.shards {
                if state.damaged.is_none() {
                    assert_eq!(content(state), sound[shard], "shard {shard}, offset {offset}");
                }
            }
            assert_eq!(recovered.shards.len(), 3, "offset {offset}");
            match damaged.len() {
                0 => harmless += 1,
                1 => attributed += 1,
                _ => panic!("offset {offset} bit {bit} blames {damaged:?}"),
            }
            let is_seen = recovered.damaged_stretches > 0;
            assert!(is_seen || damaged.is_empty(), "offset {offset}");
            assert!(offset >= 64 || damaged.is_empty(), "a header holds nobody's records");
        }
    }
    assert!(attributed > 1000 && harmless > 300, "{attributed} {harmless}");
}

#[test]
fn a_lost_sector_blames_who_may_have_lost_something_and_nobody_else() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(1, 1, 1, b"a"), put(2, 1, 1, b"b"), put(3, 1, 1, b"c")])).unwrap();
    let lost = log.write(&batch(&[put(1, 2, 1, b"a"), vote(2, 4, 1, 1)])).unwrap();
    log.write(&batch(&[put(1, 3, 1, b"a"), put(3, 2, 1, b"c")])).unwrap();
    drop(log);
    let from = u64::from(lost.entries[0].location.offset);
    disk.overwrite(Path::new(SEGMENT), from, &[0xee; 64]).unwrap();
    let (mut log, recovered) = open(&disk);
    assert_eq!(recovered.damaged_stretches, 1);
    assert!(recovered.warnings[0].contains("is damaged at"), "{:?}", recovered.warnings);
    let blamed: Vec<_> = recovered.shards.iter().filter(|(_, s)| s.damaged.is_some()).collect();
    let blamed: Vec<_> = blamed.into_iter().map(|(shard, _)| shard.0).collect();
    assert_eq!(blamed, [1, 2], "shard 1 misses a number, shard 2 can't be ruled out, 3 goes on");
    assert_eq!(entries(&recovered.shards[&ShardId(1)].log), [entry(1, 1, b"a")]);
    // A rebuilt shard is sound again.
    let cure = [start(1, 40, 6, StartReason::Snapshot), vote(1, 7, 0, 39), put(1, 40, 7, b"new")];
    log.write(&batch(&cure)).unwrap();
    log.write(&batch(&[LogRecord::ShardRemoved { shard: ShardId(2) }])).unwrap();
    let recovered = open(&disk).1;
    assert!(!recovered.shards.contains_key(&ShardId(2)));
    assert_eq!(recovered.shards[&ShardId(1)].damaged, None);
    assert_eq!(entries(&recovered.shards[&ShardId(1)].log), [entry(40, 7, b"new")]);
}

#[test]
fn what_a_damaged_shard_writes_on_does_not_hide_the_gap() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[vote(1, 1, 1, 0), put(1, 1, 1, b"a"), put(2, 1, 1, b"b")])).unwrap();
    let lost = log.write(&batch(&[put(1, 2, 1, b"lost")])).unwrap();
    log.write(&batch(&[put(2, 2, 1, b"c")])).unwrap();
    drop(log);
    let from = u64::from(lost.entries[0].location.offset);
    disk.overwrite(Path::new(SEGMENT), from, &[0xee; 40]).unwrap();
    // The next record of shard 1 has the number that the lost one had.
    let (mut log, recovered) = open(&disk);
    assert!(recovered.shards[&ShardId(1)].damaged.is_some());
    log.write(&batch(&[vote(1, 5, 0, 0)])).unwrap();
    drop(log);
    let (mut log, recovered) = open(&disk);
    assert!(recovered.shards[&ShardId(1)].damaged.is_some(), "its gap is hidden");
    assert_eq!(recovered.shards[&ShardId(2)].damaged, None);
    // Nor does it go with the segment that shows it.
    for index in 3..=20 {
        log.write(&batch(&[put(2, index, 1, &[0; 900])])).unwrap();
    }
    log.release(ShardId(1), LogIndex(2), Term(1));
    log.release(ShardId(2), LogIndex(20), Term(1));
    log.maintain().unwrap();
    log.maintain().unwrap();
    assert_eq!(log.segment_count(), 1);
    drop(log);
    let (mut log, recovered) = open(&disk);
    assert_eq!(recovered.damaged_stretches, 0, "the segment is gone");
    let state = recovered.shards[&ShardId(1)].hard_state;
    assert_eq!(state.map(|s| s.term), Some(Term(5)));
    assert!(recovered.shards[&ShardId(1)].damaged.is_some(), "the mark went with the segment");
    log.write(&batch(&[start(1, 40, 6, StartReason::Snapshot), vote(1, 7, 0, 39)])).unwrap();
    drop(log);
    assert_eq!(open(&disk).1.shards[&ShardId(1)].damaged, None);
}

#[test]
fn a_segment_that_lost_its_end_is_damage_until_a_snapshot_cures_it() {
    let whole = MemDisk::new(1);
    let starts = three_frames(&whole);
    for len in [0, 8, 63, 64, starts[1] - 8, starts[1], starts[2], starts[3], 4088] {
        let disk = whole.fork(len as u64);
        disk.open(Path::new(SEGMENT), OpenMode::Write).unwrap().set_len(len as u64).unwrap();
        for round in 0..3 {
            let (mut log, recovered) = open(&disk);
            assert!(recovered.shards.values().all(|s| s.damaged.is_some()), "cut to {len}");
            if round == 0 {
                assert!(recovered.unexplained.is_some(), "cut to {len}");
                let warnings = recovered.warnings.join("; ");
                assert!(warnings.contains(&format!("was cut to {len} bytes")), "{warnings}");
            }
            // Whoever opens it says what else was here.
            if !recovered.shards.contains_key(&ShardId(1)) {
                log.write(&batch(&[start(1, 1, 0, StartReason::Damaged)])).unwrap();
            }
            // Terms that it hears of are not written behind the cut, and hide nothing.
            log.write(&batch(&[vote(1, 8, 0, 0)])).unwrap();
        }
        let (mut log, _) = open(&disk);
        let cure = [1, 2, 3].map(|shard| start(shard, 40, 6, StartReason::Snapshot));
        log.write(&batch(&cure)).unwrap();
        log.write(&batch(&[1, 2, 3].map(|shard| vote(shard, 9, 0, 39)))).unwrap();
        drop(log);
        let (_, recovered) = open(&disk);
        assert!(recovered.shards.values().all(|s| s.damaged.is_none()), "cut to {len}");
    }
}

#[test]
fn a_snapshot_does_not_bring_a_lost_vote_back() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[vote(1, 2, 0, 0), put(2, 1, 1, b"x")])).unwrap();
    let from = disk.contents(Path::new(SEGMENT)).unwrap().iter().rposition(|b| *b != 0).unwrap();
    log.write(&batch(&[vote(1, 2, 3, 0)])).unwrap();
    // Not a rebuild: whoever installs a snapshot knows its vote, and writes none.
    log.write(&batch(&[start(1, 40, 1, StartReason::Snapshot)])).unwrap();
    drop(log);
    let from = (from as u64 + 1).next_multiple_of(8);
    disk.overwrite(Path::new(SEGMENT), from, &[0xee; 48]).unwrap();
    let recovered = &open(&disk).1.shards[&ShardId(1)];
    assert_eq!(recovered.hard_state.map(|s| (s.term, s.vote)), Some((Term(2), None)));
    assert!(recovered.damaged.is_some());
    assert_eq!(recovered.forgot, LogAmnesia::Votes);
}

#[test]
fn a_crash_between_the_mark_of_damage_and_what_is_missing_leaves_votes_in_doubt() {
    let forgot = |told: &[LogRecord]| {
        let disk = MemDisk::new(1);
        let (mut log, _) = open(&disk);
        log.write(&batch(&[vote(1, 2, 0, 0), put(1, 1, 1, b"x")])).unwrap();
        log.write(&batch(&[start(1, 2, 1, StartReason::Damaged)])).unwrap();
        if !told.is_empty() {
            log.write(&batch(told)).unwrap();
        }
        drop(log);
        let recovered = &open(&disk).1.shards[&ShardId(1)];
        assert!(recovered.damaged.is_some());
        recovered.forgot
    };
    assert_eq!(forgot(&[]), LogAmnesia::Votes, "nothing says that votes are known");
    assert_eq!(forgot(&[vote(1, 3, 0, 0)]), LogAmnesia::Entries, "it says what is missing");
}

#[test]
fn a_hole_that_could_be_anybodys_is_told() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(1, 1, 1, b"a")])).unwrap();
    let lost = log.write(&batch(&[put(2, 1, 1, b"all of it")])).unwrap();
    log.write(&batch(&[put(1, 2, 1, b"b")])).unwrap();
    drop(log);
    let from = u64::from(lost.entries[0].location.offset);
    disk.overwrite(Path::new(SEGMENT), from, &[0xee; 56]).unwrap();
    let (mut log, recovered) = open(&disk);
    assert!(!recovered.shards.contains_key(&ShardId(2)));
    assert!(recovered.unexplained.is_some());
    // Whoever knows that shard 2 was here says so; it holds as long as nothing replaces it.
    log.write(&batch(&[start(2, 1, 0, StartReason::Damaged), vote(2, 3, 0, 0)])).unwrap();
    drop(log);
    assert!(open(&disk).1.shards[&ShardId(2)].damaged.is_some());
}

#[test]
fn a_damaged_end_of_a_full_segment_is_seen_by_the_next_one() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    for index in 1..=5 {
        log.write(&batch(&[put(1, index, 1, &[7; 900])])).unwrap();
    }
    log.write(&batch(&[put(2, 1, 1, b"later")])).unwrap();
    assert_eq!(log.segment_count(), 2);
    drop(log);
    let at = 64 + 3 * 952;
    disk.overwrite(Path::new(SEGMENT), at, &[0; 952]).unwrap();
    let recovered = open(&disk).1;
    assert!(recovered.shards[&ShardId(1)].damaged.is_some());
    assert_eq!(recovered.shards[&ShardId(1)].log.last_index(), LogIndex(3));
    assert_eq!(recovered.shards[&ShardId(2)].damaged, None, "its first record has number 1");
}

#[test]
fn a_missing_segment_is_damage() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    for index in 1..=12 {
        log.write(&batch(&[put(1, index, 1, &[7; 900]), vote(2, index, 1, 0)])).unwrap();
    }
    drop(log);
    disk.remove(Path::new("/log/0000000000000002.seg")).unwrap();
    let recovered = open(&disk).1;
    assert!(recovered.warnings[0].contains("missing"), "{:?}", recovered.warnings);
    assert!(recovered.shards.values().all(|shard| shard.damaged.is_some()));
}

#[test]
fn a_full_disk_refuses_and_later_takes() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let mut written = 0;
    disk.limit_capacity(3 * 4096);
    let refused = loop {
        match log.write(&batch(&[put(1, written + 1, 1, &[1; 1000]), vote(1, 1, 1, written)])) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, LogError::DiskFull { .. }), "{refused}");
    assert_eq!(written, 9, "three in each segment");
    let recovered = open(&disk.fork(1)).1;
    assert_eq!(recovered.shards[&ShardId(1)].log.last_index(), LogIndex(9));
    disk.limit_capacity(u64::MAX);
    log.write(&batch(&[put(1, 10, 1, b"x")])).unwrap();
    drop(log);
    assert_eq!(open(&disk).1.shards[&ShardId(1)].log.last_index(), LogIndex(10));
}

#[test]
fn a_write_that_stopped_half_way_leaves_nothing_behind() {
    for seed in 0..100 {
        let disk = MemDisk::new(seed);
        let (mut log, _) = open(&disk);
        log.write(&batch(&[put(1, 1, 1, b"a")])).unwrap();
        // The second record of the failed write would follow the first of the next one exactly.
        disk.cut_writes_short(1);
        let refused = log.write(&batch(&[put(1, 2, 1, b"b"), vote(1, 1, 1, 1)])).unwrap_err();
        assert!(matches!(refused, LogError::DiskFull { .. }), "{refused}");
        log.write(&batch(&[put(1, 2, 2, b"B")])).unwrap();
        drop(log);
        let recovered = open(&disk).1;
        assert_eq!(recovered.warnings, Vec::<String>::new(), "seed {seed}");
        let found = content(&recovered.shards[&ShardId(1)]);
        let both = vec![entry(1, 1, b"a"), entry(2, 2, b"B")];
        assert_eq!(found, (None, LogIndex(1), Term(0), both), "seed {seed}");
    }
}

#[test]
fn a_failed_sync_ends_the_writer() {
    let disk = MemDisk::new(3);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(1, 1, 1, b"a")])).unwrap();
    disk.fail_syncs(1);
    let failed = log.write(&batch(&[put(1, 2, 1, b"b")])).unwrap_err();
    assert!(matches!(failed, LogError::SyncFailed { .. }), "{failed}");
    let refused = log.write(&batch(&[put(1, 2, 1, b"b")])).unwrap_err();
    assert!(matches!(refused, LogError::Poisoned), "{refused}");
    disk.crash();
    assert!(entries(&open(&disk).1.shards[&ShardId(1)].log).starts_with(&[entry(1, 1, b"a")]));
}

#[test]
fn what_a_killed_process_left_unsynced_is_durable_once_it_was_recovered() {
    let disk = MemDisk::new(3);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(1, 1, 1, b"a")])).unwrap();
    disk.fail_syncs(1);
    assert!(log.write(&batch(&[put(1, 2, 1, b"b"), vote(1, 3, 2, 0)])).is_err());
    disk.kill();
    let before = content(&open(&disk).1.shards[&ShardId(1)]);
    assert_eq!(before.3.len(), 2, "the system's cache had it all");
    disk.crash_to_synced();
    assert_eq!(content(&open(&disk).1.shards[&ShardId(1)]), before);
}

#[test]
fn too_large_a_record_is_refused_before_anything_is_written() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let records = [put(1, 1, 1, b"a"), put(1, 2, 1, &[0; 2001])];
    let refused = log.write(&batch(&records)).unwrap_err();
    assert!(matches!(refused, LogError::RecordTooLarge { bytes: 2056, limit: 2048, .. }));
    assert_eq!(disk.counts().writes, 0);
    log.write(&batch(&[put(1, 1, 1, &[0; 2000])])).unwrap();
}

#[test]
fn a_torn_first_write_leaves_an_empty_segment_that_is_used() {
    for seed in 0..50 {
        let disk = MemDisk::new(seed);
        let (mut log, _) = open(&disk);
        disk.fail_syncs(0);
        log.maintain().unwrap();
        disk.fail_syncs(1);
        assert!(log.write(&batch(&[put(1, 1, 1, &[1; 1500]), put(1, 2, 1, b"z")])).is_err());
        disk.crash();
        let (mut log, recovered) = open(&disk);
        assert_eq!(recovered.damaged_stretches, 0, "seed {seed}");
        let last = recovered.shards.get(&ShardId(1)).map_or(0, |s| s.log.last_index().0);
        log.write(&batch(&[put(1, last + 1, 1, b"after")])).unwrap();
        drop(log);
        let recovered = open(&disk).1;
        assert_eq!(recovered.shards[&ShardId(1)].log.last_index().0, last + 1, "seed {seed}");
        assert_eq!(recovered.shards[&ShardId(1)].damaged, None, "seed {seed}");
    }
}

#[test]
fn an_entry_damaged_after_it_was_written_is_an_error_not_a_wrong_entry() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let written = log.write(&batch(&[put(1, 1, 1, b"abc")])).unwrap();
    let at = written.entries[0].location;
    disk.flip_bit(Path::new(SEGMENT), u64::from(at.offset) + 48, 0).unwrap();
    let read = log.reader().read(ShardId(1), LogIndex(1), at);
    assert!(matches!(read, Err(LogError::Damaged { .. })));
    let path = Path::new(SEGMENT);
    assert!(disk.open(path, OpenMode::Read).is_ok());
}
