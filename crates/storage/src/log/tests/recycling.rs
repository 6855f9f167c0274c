//! Segments go when nobody needs them, and come back as others.

use super::*;

fn names(disk: &MemDisk) -> Vec<String> {
    use crate::disk::Disk;
    let paths = disk.list(Path::new(DIR)).unwrap();
    paths.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn a_released_segment_is_used_again_and_its_old_records_never_count() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[vote(1, 1, 1, 0), vote(2, 5, 2, 0)])).unwrap();
    for index in 1..=40 {
        log.write(&batch(&[put(1, index, 1, &[index as u8; 500])])).unwrap();
        if index % 5 == 0 {
            log.release(ShardId(1), LogIndex(index), Term(1));
        }
        assert!(log.segment_count() <= 3, "at index {index}: {}", log.segment_count());
    }
    let (_, recovered) = open(&disk.fork(1));
    assert_eq!(recovered.warnings, Vec::<String>::new());
    let one = &recovered.shards[&ShardId(1)];
    assert_eq!((one.log.first_index(), one.log.last_index()), (LogIndex(35), LogIndex(40)));
    assert_eq!(one.log.term(LogIndex(34)), Some(Term(1)));
    assert_eq!(one.hard_state.unwrap().vote, Some(NodeId(1)), "carried from segment to segment");
    assert_eq!(recovered.shards[&ShardId(2)].hard_state.unwrap().term, Term(5));
    assert!(entries(&one.log).iter().all(|e| e.payload[..] == [e.index.0 as u8; 500]));
    log.maintain().unwrap();
    assert!(names(&disk).len() <= 4, "{:?}", names(&disk));
}

#[test]
fn a_log_on_the_machines_disk_recycles_and_recovers() {
    use crate::disk::RealDisk;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let options = LogOptions { segment_bytes: 32 << 10, ..small() };
    for life in 0..3 {
        let opened = LogWriter::open(Arc::new(RealDisk), &path, options.clone());
        let (mut log, mut recovered) = opened.unwrap();
        assert_eq!(recovered.warnings, Vec::<String>::new());
        let shard = recovered.shards.remove(&ShardId(1));
        let last = shard.map_or(0, |shard| entries(&shard.log).last().unwrap().index.0);
        assert_eq!(last, life * 100);
        for index in last + 1..=last + 100 {
            log.write(&batch(&[put(1, index, 1, &[3; 1000]), vote(1, 1, 1, index)])).unwrap();
            log.release(ShardId(1), LogIndex(index), Term(1));
        }
        assert!(log.segment_count() <= 2);
    }
}

#[test]
fn an_idle_shard_pins_the_oldest_segment_and_is_named() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(9, 1, 1, b"idle")])).unwrap();
    for index in 1..=20 {
        log.write(&batch(&[put(1, index, 1, &[0; 900])])).unwrap();
    }
    log.release(ShardId(1), LogIndex(20), Term(1));
    log.maintain().unwrap();
    assert_eq!(log.pinned_by().collect::<Vec<_>>(), [ShardId(9)]);
    assert_eq!(log.segment_count(), 5);
    log.release(ShardId(9), LogIndex(2), Term(1));
    log.maintain().unwrap();
    log.maintain().unwrap();
    assert_eq!(log.segment_count(), 1, "the tail holds entry 20");
    drop(log);
    let recovered = open(&disk).1;
    let idle = content(&recovered.shards[&ShardId(9)]);
    assert_eq!(idle, (None, LogIndex(2), Term(1), vec![]));
    assert_eq!(recovered.shards[&ShardId(1)].damaged, None);
}

#[test]
fn a_removed_shard_pins_nothing_and_may_come_again() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    for index in 1..=10 {
        log.write(&batch(&[put(1, index, 1, &[0; 900]), vote(1, 1, 1, index)])).unwrap();
    }
    log.write(&batch(&[LogRecord::ShardRemoved { shard: ShardId(1) }])).unwrap();
    assert_eq!(log.segment_count(), 1);
    log.write(&batch(&[start(1, 7, 3, StartReason::Snapshot), put(1, 7, 4, b"x")])).unwrap();
    drop(log);
    let recovered = open(&disk).1;
    let again = content(&recovered.shards[&ShardId(1)]);
    assert_eq!(again, (None, LogIndex(7), Term(3), vec![entry(7, 4, b"x")]));
    assert_eq!(recovered.shards[&ShardId(1)].damaged, None);
}

#[test]
fn spares_are_prepared_ahead_and_survive_a_restart() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&batch(&[put(1, 1, 1, b"a")])).unwrap();
    log.maintain().unwrap();
    assert_eq!(names(&disk), ["0000000000000001.seg", "0000000000000002.spare"]);
    drop(log);
    let (mut log, _) = open(&disk);
    let before = disk.counts().syncs;
    for index in 2..=5 {
        log.write(&batch(&[put(1, index, 1, &[0; 1000])])).unwrap();
    }
    assert_eq!(disk.counts().syncs - before, 4, "the spare was ready");
    assert_eq!(names(&disk), ["0000000000000001.seg", "0000000000000002.seg"]);
}

#[test]
fn the_lane_reads_back_what_it_evicted() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let mut lane = ShardLog::new(ShardId(1), 2000, Some(log.reader()));
    let all: Vec<Entry> = (1..=30).map(|i| entry(i, 1 + i / 10, &[i as u8; 300])).collect();
    for some in all.chunks(3) {
        lane.append(some);
        let records = some.iter().map(|e| put(1, e.index.0, e.term.0, &e.payload));
        let written = log.write(&[LogBatch { records: records.collect() }]).unwrap();
        for w in written.entries {
            lane.located(w.index, w.term, w.location);
        }
        lane.validate();
        assert!(lane.memory_bytes() < 2000 + 100 * all.len(), "{}", lane.memory_bytes());
    }
    assert_eq!(entries(&lane), all);
    // Six of 300 bytes are in memory; of those that are applied 500 bytes may be.
    let before = lane.memory_bytes();
    for (applied, gone) in [(20, 0), (27, 900), (30, 1500)] {
        lane.settle(LogIndex(applied));
        lane.validate();
        assert_eq!(before - lane.memory_bytes(), gone, "{applied} are applied");
    }
    assert_eq!(entries(&lane), all);
    let mut some = Vec::new();
    lane.entries(LogIndex(5), LogIndex(31), 700, &mut some).unwrap();
    assert_eq!(some, all[4..7], "332 a piece: the third brings it to 700");
    assert!(matches!(
        lane.entries(LogIndex(31), LogIndex(32), 1, &mut some),
        Err(LogError::OutOfRange { .. })
    ));
    lane.compact(LogIndex(12));
    assert_eq!((lane.term(LogIndex(11)), lane.term(LogIndex(10))), (Some(Term(2)), None));
    lane.append(&[entry(20, 9, b"new")]);
    let stale = Location { segment: 1, offset: 64, len: 48 };
    lane.located(LogIndex(20), Term(3), stale);
    assert_eq!((lane.last_index(), lane.last_term()), (LogIndex(20), Term(9)));
    assert_eq!(entries(&lane)[8], entry(20, 9, b"new"));
    lane.reset(LogIndex(50), Term(10));
    assert_eq!((lane.first_index(), lane.last_index()), (LogIndex(51), LogIndex(50)));
    assert_eq!(lane.last_term(), Term(10));
}

#[test]
fn a_plain_write_is_one_write_and_one_sync_of_the_open_file() {
    let disk = MemDisk::new(1);
    let (mut log, _) = open(&disk);
    let mut plain = [0, 0];
    let mut write = |log: &mut LogWriter, batches: &[LogBatch]| {
        let (is_plain, before, named) = (log.is_plain(batches), disk.counts(), names(&disk));
        log.write(batches).unwrap();
        let after = disk.counts();
        let did = (after.writes - before.writes, after.syncs - before.syncs);
        let was_plain = did == (1, 1) && names(&disk) == named;
        assert!(was_plain || !is_plain, "{did:?}: {batches:?}");
        plain[usize::from(is_plain)] += 1;
        is_plain
    };
    for index in 1..=45 {
        write(&mut log, &batch(&[put(1, index, 1, &[0; 500]), vote(1, 1, 1, index)]));
        if index % 8 == 0 {
            log.release(ShardId(1), LogIndex(index), Term(1));
            assert!(!log.is_plain(&[]), "a cut waits");
        }
    }
    assert!(log.segment_count() > 1 && log.is_plain(&[]));
    assert!(!write(&mut log, &batch(&[start(2, 7, 3, StartReason::Snapshot)])));
    assert!(!write(&mut log, &batch(&[LogRecord::ShardRemoved { shard: ShardId(2) }])));
    assert!(plain[0] >= 8 && plain[1] >= 15, "{plain:?}");
}
