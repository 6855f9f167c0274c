//! From records, in order, to what each shard's log is, and whether it may have lost something.

use std::collections::BTreeMap;

use atoll_base::{EntryKind, LogIndex, ShardId, Term};

use super::record::{
    self, HEADER_BYTES, Kind, LogAmnesia, LogHardState, LogRecord, RecordHeader, StartReason,
};
use super::scan::{Claim, Found, Hole};
use super::{Location, LogReaderHandle, ShardLog};

/// One entry, or the knowledge that there was one.
#[derive(Clone, Copy, Debug)]
enum ReplayedEntry {
    Sound { term: Term, kind: EntryKind, location: Location },
    Damaged,
}

/// What is known of one shard so far.
#[derive(Default)]
pub(crate) struct ShardReplay {
    /// The number of the last record seen or known to be missing.
    pub(crate) sequence: u32,
    pub(crate) hard_state: Option<(LogHardState, u64)>,
    /// First index, the term before it, and the segment that says so.
    pub(crate) start: Option<(LogIndex, Term, u64)>,
    pub(crate) is_removed: bool,
    /// The segment that says that the shard is damaged.
    pub(crate) marked: Option<u64>,
    /// A hard state came after that mark; it says whether votes are missing.
    is_told: bool,
    /// Something was lost since the last hard state.
    votes_in_doubt: bool,
    entries: BTreeMap<LogIndex, ReplayedEntry>,
    /// A hard state that can't be read; cured by a later one.
    hard_state_damage: Option<String>,
    /// Anything may be missing; cured by a new start only.
    damage: Option<String>,
    /// A stretch that may have held a record of this shard; its next record tells.
    suspicion: Option<String>,
}

/// What is known of all shards so far.
#[derive(Default)]
pub(crate) struct Replay {
    pub(crate) shards: BTreeMap<ShardId, ShardReplay>,
    /// An unexplained stretch, which may have held the first records of a shard.
    pub(crate) unexplained: Option<String>,
    /// The highest index of each shard in each segment, sound or not.
    pub(crate) highest: BTreeMap<u64, BTreeMap<ShardId, LogIndex>>,
}

impl Replay {
    /// Takes in the next record.
    pub(crate) fn on_record(&mut self, segment: u64, found: &Found) {
        let RecordHeader { shard, sequence, .. } = found.header;
        let is_new = !self.shards.contains_key(&shard);
        let state = self.shards.entry(shard).or_default();
        if is_new && sequence != 1 {
            state.damage.clone_from(&self.unexplained);
            state.votes_in_doubt = state.damage.is_some();
            state.sequence = sequence.wrapping_sub(1);
        }
        state.on_sequence(sequence, segment, found.offset);
        let Some(decoded) = record::decode(&found.header, found.payload.clone()) else {
            state.damage = Some(format!("unknown record at {segment:x}:{}", found.offset));
            return;
        };
        match &decoded {
            LogRecord::Entry { entry, .. } => {
                let highest = self.highest.entry(segment).or_default().entry(shard).or_default();
                *highest = (*highest).max(entry.index);
            }
            LogRecord::ShardRemoved { .. }
            | LogRecord::LogStart { reason: StartReason::Snapshot, .. } => {
                for highest in self.highest.values_mut() {
                    highest.remove(&shard);
                }
            }
            LogRecord::HardState { .. } | LogRecord::LogStart { .. } => {}
        }
        state.on_record(segment, found, decoded);
    }

    /// Takes in a stretch that can't be read.
    pub(crate) fn on_hole(&mut self, segment: u64, hole: &Hole) {
        let text = format!("segment {segment:x} is damaged at {}..{}", hole.from, hole.to);
        if let Some(claims) = &hole.claims
            && self.explains(claims)
        {
            atoll_base::reached!("damage in the log was laid to whose records it hit");
            for claim in claims {
                let state = self.shards.entry(claim.shard).or_default();
                state.on_claim(claim, &text);
            }
            return;
        }
        atoll_base::reached!("damage in the log could be anybody's");
        for state in self.shards.values_mut() {
            state.suspicion.get_or_insert_with(|| text.clone());
        }
        self.unexplained.get_or_insert(text);
    }

    /// True when each claim is the very next record of its shard, as far as that is known.
    fn explains(&self, claims: &[Claim]) -> bool {
        let mut next: BTreeMap<ShardId, u32> = BTreeMap::new();
        claims.iter().all(|claim| {
            let before = claim.sequence.wrapping_sub(1);
            let known = self.shards.get(&claim.shard).map_or(before, |s| s.sequence);
            let sequence = next.entry(claim.shard).or_insert(known);
            *sequence = sequence.wrapping_add(1);
            *sequence == claim.sequence
        })
    }
}

impl ShardReplay {
    fn on_sequence(&mut self, sequence: u32, segment: u64, offset: u32) {
        let suspicion = self.suspicion.take();
        if sequence != self.sequence.wrapping_add(1) {
            let text = suspicion.unwrap_or_else(|| {
                let expected = self.sequence.wrapping_add(1);
                format!("record {sequence} at {segment:x}:{offset} follows a gap from {expected}")
            });
            self.damage.get_or_insert(text);
            self.votes_in_doubt = true;
        }
        self.sequence = sequence;
    }

    fn on_record(&mut self, segment: u64, found: &Found, decoded: LogRecord) {
        match decoded {
            LogRecord::Entry { entry, .. } => {
                let location = Location { segment, offset: found.offset, len: found.header.len };
                let (term, kind) = (entry.term, entry.kind);
                self.set_entry(entry.index, ReplayedEntry::Sound { term, kind, location });
            }
            LogRecord::HardState { state, .. } => {
                self.hard_state = Some((state, segment));
                self.hard_state_damage = None;
                self.is_told = true;
                self.votes_in_doubt = false;
            }
            LogRecord::LogStart { first, prev_term, reason, .. } => {
                self.start = Some((first, prev_term, segment));
                self.entries = self.entries.split_off(&first);
                match reason {
                    StartReason::Cut => {}
                    StartReason::Snapshot => {
                        self.entries.clear();
                        // A snapshot stands for entries. A vote that was lost before it is known
                        // again only by a hard state after the loss.
                        let damage = self.damage.take();
                        if self.votes_in_doubt {
                            self.hard_state_damage = self.hard_state_damage.take().or(damage);
                        }
                        self.marked = None;
                        self.is_told = false;
                    }
                    StartReason::Damaged => {
                        self.marked = Some(segment);
                        self.is_told = false;
                    }
                }
            }
            LogRecord::ShardRemoved { .. } => {
                *self = Self { is_removed: true, ..Self::default() };
                return;
            }
        }
        self.is_removed = false;
    }

    fn on_claim(&mut self, claim: &Claim, text: &str) {
        self.sequence = claim.sequence;
        self.is_removed = false;
        match claim.kind {
            Kind::Entry => self.set_entry(claim.index, ReplayedEntry::Damaged),
            Kind::HardState => self.hard_state_damage = Some(text.to_owned()),
            Kind::LogStart | Kind::ShardRemoved => self.damage = Some(text.to_owned()),
        }
    }

    fn set_entry(&mut self, index: LogIndex, entry: ReplayedEntry) {
        self.entries.split_off(&index);
        self.entries.insert(index, entry);
    }

    /// The first entry that counts and the term before it.
    pub(crate) fn beginning(&self) -> (LogIndex, Term) {
        self.start.map_or((LogIndex(1), Term::ZERO), |(first, prev_term, _)| (first, prev_term))
    }

    /// The shard's log up to the first entry that is missing, and what is wrong, if anything is,
    /// and
    /// how much of the replica's promises that may cost.
    pub(crate) fn finish(
        self,
        shard: ShardId,
        payload_bytes_max: usize,
        reader: LogReaderHandle,
    ) -> (ShardLog, Option<(LogAmnesia, String)>) {
        let (first, prev_term) = self.beginning();
        let mut log = ShardLog::new(shard, payload_bytes_max, Some(reader));
        log.reset(first.prev(), prev_term);
        let mut missing = None;
        for (index, entry) in self.entries {
            match entry {
                ReplayedEntry::Sound { term, kind, location }
                    if index == log.last_index().next() =>
                {
                    let payload_len = location.len - HEADER_BYTES as u32;
                    log.push_located(term, kind, payload_len, location);
                }
                _ => {
                    missing = Some(format!("entry {} can't be read", log.last_index().next()));
                    break;
                }
            }
        }
        // Only where the lost records are known to be entries are the votes what they were. A shard
        // that calls itself damaged has said in a hard state since whether they are.
        let votes = self.damage.or(self.hard_state_damage).or(self.suspicion);
        let votes = votes.map(|text| (LogAmnesia::Votes, text));
        let marked = self.marked.map(|segment| format!("it was found damaged before {segment:x}"));
        let untold = marked.clone().filter(|_| !self.is_told);
        let untold = untold.map(|text| (LogAmnesia::Votes, text));
        let entries = missing.or(marked).map(|text| (LogAmnesia::Entries, text));
        (log, votes.or(untold).or(entries))
    }
}
