//! The log against its format document, against faults, and against a model.

mod faults;
mod golden;
mod model;
mod recycling;

use std::path::Path;
use std::sync::Arc;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, ShardId, Term};
use bytes::Bytes;

use super::*;
use crate::disk::MemDisk;

const DIR: &str = "/log";

fn small() -> LogOptions {
    LogOptions {
        segment_bytes: 4096,
        spare_segments: 1,
        record_bytes_max: 2048,
        shard_payload_bytes_max: 0,
    }
}

fn open(disk: &MemDisk) -> (LogWriter, Recovered) {
    LogWriter::open(Arc::new(disk.clone()), Path::new(DIR), small()).unwrap()
}

fn entry(index: u64, term: u64, payload: &[u8]) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Commands,
        payload: Bytes::copy_from_slice(payload),
    }
}

fn put(shard: u64, index: u64, term: u64, payload: &[u8]) -> LogRecord {
    LogRecord::Entry { shard: ShardId(shard), entry: entry(index, term, payload) }
}

fn vote(shard: u64, term: u64, node: u64, commit: u64) -> LogRecord {
    let vote = (node > 0).then_some(NodeId(node));
    let state = LogHardState {
        term: Term(term),
        vote,
        commit: LogIndex(commit),
        ..LogHardState::default()
    };
    LogRecord::HardState { shard: ShardId(shard), state }
}

fn start(shard: u64, first: u64, prev_term: u64, reason: StartReason) -> LogRecord {
    let (first, prev_term) = (LogIndex(first), Term(prev_term));
    LogRecord::LogStart { shard: ShardId(shard), first, prev_term, reason }
}

fn batch(records: &[LogRecord]) -> [LogBatch; 1] {
    [LogBatch { records: records.to_vec() }]
}

fn entries(log: &ShardLog) -> Vec<Entry> {
    let mut out = Vec::new();
    log.validate();
    log.entries(log.first_index(), log.last_index().next(), usize::MAX, &mut out).unwrap();
    out
}

/// What a recovered shard holds, to be compared.
type Content = (Option<LogHardState>, LogIndex, Term, Vec<Entry>);

fn content(shard: &RecoveredShard) -> Content {
    let log = &shard.log;
    let prev_term = log.term(log.first_index().prev()).unwrap();
    (shard.hard_state, log.first_index(), prev_term, entries(log))
}
