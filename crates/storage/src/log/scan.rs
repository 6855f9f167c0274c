//! What one segment's bytes hold: its records, and the stretches that can't be read.
//!
//! The scan walks from record to record. Where the next one is not valid, three things may be the
//! case: the records end here; the last frame was torn here and never acknowledged (L2); or
//! something that was durable is damaged (L1, L3). A valid record of a frame that starts later, or
//! anything in a later segment, proves the third.

use super::record::{self, ALIGN_BYTES, Kind, Place, RecordHeader, aligned};
use super::segment::SEGMENT_HEADER_BYTES;
use atoll_base::ShardId;
use bytes::Bytes;

/// A record that was read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) offset: u32,
    pub(crate) header: RecordHeader,
    /// The payload, for every kind but entries.
    pub(crate) payload: Bytes,
}

/// What a record that can't be read says it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) shard: ShardId,
    pub(crate) sequence: u32,
    pub(crate) kind: Kind,
    pub(crate) index: atoll_base::LogIndex,
}

/// A stretch that was durable and can't be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Hole {
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// What its records say they are, when their headers are sound and fill the stretch exactly.
    pub(crate) claims: Option<Vec<Claim>>,
}

/// One thing that a segment holds, in order.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Record(Found),
    Hole(Hole),
}

/// What the scan knows of a segment's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// The next segment says that records end here.
    At(u32),
    /// There is a later segment, so everything here was durable, but where it ends is not known.
    Durable,
    /// This is the last segment: the last frame may be torn.
    Open,
}

/// The outcome of a scan.
#[derive(Debug)]
pub(crate) struct Scanned {
    pub(crate) items: Vec<Item>,
    /// One past the last record that counts.
    pub(crate) end: u32,
    /// One past what a torn frame left behind, if it left anything.
    pub(crate) remnants_end: Option<u32>,
}

/// Walks through segment `number`, whose whole file is `bytes`.
pub(crate) fn scan(number: u64, bytes: &Bytes, ending: Ending) -> Scanned {
    let limit = match ending {
        Ending::At(end) => (end as usize).min(bytes.len()),
        Ending::Durable | Ending::Open => bytes.len(),
    };
    let walk = Walk { number, bytes: bytes.slice(..limit) };
    let mut items = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES as usize;
    let mut frame = SEGMENT_HEADER_BYTES;
    loop {
        while let Some(header) = walk.valid(at, frame) {
            frame = header.frame;
            items.push(Item::Record(walk.found(at, header)));
            at += header.stored_bytes() as usize;
        }
        if ending == Ending::At(at as u32) {
            break;
        }
        let next = walk.next_valid(at, frame);
        let was_durable = match ending {
            Ending::At(_) => true,
            Ending::Durable => next.is_some() || walk.claimed(at).is_some(),
            Ending::Open => walk.has_later_frame(at, next),
        };
        if !was_durable {
            break;
        }
        let to = match (next, ending) {
            (Some(next), _) => next,
            (None, Ending::At(end)) => end as usize,
            (None, _) => {
                (at + walk.claimed(at).map_or(0, |h| h.stored_bytes() as usize)).min(limit)
            }
        };
        items.push(Item::Hole(walk.hole(at, to)));
        at = to;
        let Some(header) = next.and_then(|next| walk.header(next)) else { break };
        frame = header.frame;
    }
    let remnants_end = match ending {
        Ending::Open => walk.remnants_end(at),
        Ending::At(_) | Ending::Durable => None,
    };
    Scanned { items, end: at as u32, remnants_end }
}

struct Walk {
    number: u64,
    bytes: Bytes,
}

impl Walk {
    fn place(&self, at: usize) -> Place {
        Place { segment: self.number, offset: at as u32 }
    }

    fn header(&self, at: usize) -> Option<RecordHeader> {
        record::valid_header(self.bytes.get(at..)?, self.place(at))
    }

    fn claimed(&self, at: usize) -> Option<RecordHeader> {
        record::claimed_header(self.bytes.get(at..)?, self.place(at))
    }

    fn sound(&self, at: usize) -> Option<RecordHeader> {
        record::sound_header(self.bytes.get(at..)?, self.place(at))
    }

    /// The record at `at`, if it is valid there: it goes on with `frame` or starts a new one.
    fn valid(&self, at: usize, frame: u32) -> Option<RecordHeader> {
        self.header(at).filter(|h| h.frame == frame || h.frame == at as u32)
    }

    /// The first valid record after `at`. Nothing older than `frame` is left in a file (L2), so an
    /// older one would be garbage.
    fn next_valid(&self, at: usize, frame: u32) -> Option<usize> {
        self.places_after(at).find(|p| self.header(*p).is_some_and(|h| h.frame >= frame))
    }

    /// True when some valid record from `next` on is of a frame that starts after `at`.
    fn has_later_frame(&self, at: usize, next: Option<usize>) -> bool {
        let Some(mut place) = next else { return false };
        loop {
            if self.header(place).is_some_and(|h| h.frame > at as u32) {
                return true;
            }
            match self.places_after(place).find(|p| self.header(*p).is_some()) {
                Some(later) => place = later,
                None => return false,
            }
        }
    }

    fn remnants_end(&self, at: usize) -> Option<u32> {
        let claims = std::iter::once(at).chain(self.places_after(at));
        claims.filter_map(|p| Some(p as u32 + self.claimed(p)?.stored_bytes())).max()
    }

    /// The places after `at` where a record may begin: at others there is no tag of this segment.
    fn places_after(&self, at: usize) -> impl Iterator<Item = usize> {
        let mut from = aligned(at + 1);
        std::iter::from_fn(move || {
            let place = self.next_tagged(from)?;
            from = place + ALIGN_BYTES;
            Some(place)
        })
    }

    /// The first aligned place from `from` on that bears this segment's tag. Most of a segment is
    /// empty for most of its life, so many places are looked at together.
    fn next_tagged(&self, from: usize) -> Option<usize> {
        let tag = record::segment_tag(self.number).to_le_bytes();
        let (words, _) = self.bytes.get(from + record::TAG_AT..)?.as_chunks::<ALIGN_BYTES>();
        let is_tag = |word: &[u8; ALIGN_BYTES]| word[..tag.len()] == tag;
        let blocks = words.chunks(64);
        let empty = blocks.take_while(|block| !block.iter().fold(false, |any, w| any | is_tag(w)));
        let skipped = empty.map(<[_]>::len).sum::<usize>();
        let found = skipped + words[skipped..].iter().position(is_tag)?;
        Some(from + found * ALIGN_BYTES)
    }

    fn found(&self, at: usize, header: RecordHeader) -> Found {
        let payload = match header.kind {
            Kind::Entry => Bytes::new(),
            _ => self.bytes.slice(at + record::HEADER_BYTES..at + header.len as usize),
        };
        Found { offset: at as u32, header, payload }
    }

    fn hole(&self, from: usize, to: usize) -> Hole {
        let mut claims = Vec::new();
        let mut at = from;
        while at < to
            && let Some(h) = self.sound(at)
        {
            let claim =
                Claim { shard: h.shard, sequence: h.sequence, kind: h.kind, index: h.index };
            claims.push(claim);
            at += h.stored_bytes() as usize;
        }
        let is_closed = at == to && from < to;
        Hole { from: from as u32, to: to as u32, claims: is_closed.then_some(claims) }
    }
}
