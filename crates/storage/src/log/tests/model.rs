//! Random lives of a log, with crashes inside writes, against a model that is a map.

use std::collections::BTreeMap;

use atoll_base::Rng;

use super::*;

#[derive(Clone, Default, PartialEq, Debug)]
struct ModelShard {
    hard_state: Option<LogHardState>,
    first: u64,
    prev_term: u64,
    entries: BTreeMap<u64, Entry>,
}

type Model = BTreeMap<u64, ModelShard>;

fn apply(model: &mut Model, record: &LogRecord) {
    let shard = record.shard().0;
    let fresh = ModelShard { first: 1, ..ModelShard::default() };
    let state = model.entry(shard).or_insert(fresh);
    match record {
        LogRecord::Entry { entry, .. } => {
            state.entries.split_off(&entry.index.0);
            state.entries.insert(entry.index.0, entry.clone());
        }
        LogRecord::HardState { state: hard_state, .. } => state.hard_state = Some(*hard_state),
        LogRecord::LogStart { first, prev_term, reason, .. } => {
            state.first = first.0;
            state.prev_term = prev_term.0;
            state.entries = state.entries.split_off(&first.0);
            if *reason == StartReason::Snapshot {
                state.entries.clear();
            }
        }
        LogRecord::ShardRemoved { .. } => {
            model.remove(&shard);
        }
    }
}

fn seen(recovered: &Recovered) -> Model {
    let mut model = Model::new();
    for (shard, state) in &recovered.shards {
        assert_eq!(state.damaged, None, "shard {shard}");
        let (hard_state, first, prev_term, entries) = content(state);
        let entries = entries.into_iter().map(|e| (e.index.0, e)).collect();
        let state = ModelShard { hard_state, first: first.0, prev_term: prev_term.0, entries };
        model.insert(shard.0, state);
    }
    model
}

/// Records that a replica might write next, given what it has.
fn next_records(model: &Model, rng: &mut Rng) -> Vec<LogRecord> {
    let mut ahead = model.clone();
    let mut records = Vec::new();
    for _ in 0..rng.range(1, 8) {
        let shard = rng.range(1, 5);
        let fresh = ModelShard { first: 1, ..ModelShard::default() };
        let state = ahead.get(&shard).cloned().unwrap_or(fresh);
        let last = state.entries.keys().next_back().copied().unwrap_or(state.first - 1);
        let term = state.entries.values().next_back().map_or(state.prev_term, |e| e.term.0);
        let record = match rng.below(40) {
            0 => LogRecord::ShardRemoved { shard: ShardId(shard) },
            1 => start(shard, last + rng.range(2, 9), term + 1, StartReason::Snapshot),
            2..=8 if !state.entries.is_empty() => {
                let first = rng.range(state.first, last + 1) + 1;
                let prev = state.entries[&(first - 1)].term.0;
                start(shard, first, prev, StartReason::Cut)
            }
            9..=14 => vote(shard, term + 1, rng.below(4), last),
            15..=18 if !state.entries.is_empty() => {
                let index = rng.range(state.first, last + 1);
                put(shard, index, term + 1, &vec![9; rng.below(50) as usize])
            }
            _ => {
                let len = if rng.chance(1, 8) { rng.below(1500) } else { rng.below(60) };
                put(shard, last + 1, term.max(1), &vec![rng.below(256) as u8; len as usize])
            }
        };
        apply(&mut ahead, &record);
        records.push(record);
    }
    records
}

fn live(seed: u64, steps: usize) {
    let mut rng = Rng::new(seed);
    let disk = MemDisk::new(seed);
    let mut log = open(&disk).0;
    let mut model = Model::new();
    for step in 0..steps {
        let records = next_records(&model, &mut rng);
        let fate = rng.below(10);
        if fate == 0 {
            // Power goes while the write is under way: some prefix of it is there, or nothing.
            disk.fail_syncs(1);
            let result = log.write(&batch(&records));
            if result.is_ok() {
                disk.fail_syncs(0);
                records.iter().for_each(|r| apply(&mut model, r));
            }
            disk.crash();
            let (next, recovered) = open(&disk);
            let found = seen(&recovered);
            assert_eq!(recovered.damaged_stretches, 0, "seed {seed} step {step}");
            if result.is_err() {
                let mut matched = found == model;
                for record in &records {
                    if matched {
                        break;
                    }
                    apply(&mut model, record);
                    matched = found == model;
                }
            }
            assert_eq!(found, model, "seed {seed} step {step}: {:?}", recovered.warnings);
            log = next;
            continue;
        }
        if fate == 3 {
            // The write stops half way; one of a single frame then never happened (L6).
            let small = &records[..1];
            disk.cut_writes_short(rng.range(1, 3));
            let refused = log.write(&batch(small)).unwrap_err();
            assert!(matches!(refused, LogError::DiskFull { .. }), "seed {seed} step {step}");
            if rng.chance(1, 2) {
                let refused = log.write(&batch(small));
                if refused.is_ok() {
                    apply(&mut model, &small[0]);
                }
                continue;
            }
            disk.cut_writes_short(0);
        }
        log.write(&batch(&records)).unwrap();
        records.iter().for_each(|r| apply(&mut model, r));
        match fate {
            1 => log.maintain().unwrap(),
            2 => {
                disk.crash_to_synced();
                let (next, recovered) = open(&disk);
                assert_eq!(seen(&recovered), model, "seed {seed} step {step}");
                log = next;
            }
            _ => {}
        }
    }
}

#[test]
fn random_lives_match_the_model() {
    for seed in 0..60 {
        live(seed, 120);
    }
}
