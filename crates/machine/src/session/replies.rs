//! One client's session.

use std::collections::VecDeque;

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{Code, Failure, Revision, Sequence, Timestamp};
use bytes::Bytes;

use crate::limits::MachineLimits;
use crate::reply::Reply;

const VERSION: u8 = 1;

/// Never a tag of a reply.
const FORGOTTEN: u8 = 0;
const PLAIN_PUT: u8 = 1;

/// A reply as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// Of a put that did not ask for what was there: its revision says all.
    Put(Revision),
    /// Any other, encoded.
    Encoded(Bytes),
    /// Too big to keep: applied at this revision.
    Forgotten(Revision),
}

impl Kept {
    fn of(reply: &Reply, room: u64, limits: &MachineLimits) -> Self {
        if let Reply::Put { revision, previous: None } = reply {
            return Self::Put(*revision);
        }
        let mut w = Writer::default();
        reply.encode(&mut w);
        let is_small = w.len() as u64 <= limits.reply_bytes_max.min(room);
        match reply.revision() {
            Some(revision) if !is_small => Self::Forgotten(revision),
            // A refusal is as small as its message.
            _ => Self::Encoded(Bytes::from(w.finish())),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Encoded(bytes) => bytes.len() as u64,
            Self::Put(_) | Self::Forgotten(_) => 0,
        }
    }

    fn reply(&self) -> Reply {
        match self {
            Self::Put(revision) => Reply::Put { revision: *revision, previous: None },
            Self::Encoded(bytes) => Reply::decode(&mut Reader::new(bytes.clone()))
                .expect("a kept reply was encoded here or decoded when it was loaded"),
            Self::Forgotten(revision) => {
                let message = format!("applied at revision {revision}, the reply is not kept");
                Reply::Failed(Failure::new(Code::ReplyForgotten, message))
            }
        }
    }
}

/// What one client may still ask for.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Session {
    /// Log time of its last command.
    pub(super) last_used: Timestamp,
    /// Sequences below were answered, or can't be any more.
    floor: Sequence,
    /// By sequence, at or above the floor.
    replies: VecDeque<(Sequence, Kept)>,
    bytes: u64,
    pub(super) is_dirty: bool,
}

impl Session {
    /// Bytes of its encoded replies, plus a fixed share for each.
    pub(super) fn cost(&self) -> u64 {
        self.bytes + 16 * self.replies.len() as u64
    }

    pub(super) fn floor(&self) -> Sequence {
        self.floor
    }

    /// Lets go of replies below `floor` (S2).
    pub(super) fn acknowledge(&mut self, floor: Sequence) {
        while self.replies.front().is_some_and(|(sequence, _)| *sequence < floor) {
            self.pop();
        }
        self.floor = self.floor.max(floor);
    }

    fn pop(&mut self) {
        if let Some((sequence, kept)) = self.replies.pop_front() {
            self.bytes -= kept.bytes();
            self.floor = self.floor.max(sequence.next());
        }
    }

    fn place(&self, sequence: Sequence) -> Result<usize, usize> {
        // Requests mostly come in order.
        match self.replies.back() {
            Some((last, _)) if *last >= sequence => {
                self.replies.binary_search_by_key(&sequence, |(sequence, _)| *sequence)
            }
            _ => Err(self.replies.len()),
        }
    }

    /// The reply to `sequence`, if it was done.
    pub(super) fn find(&self, sequence: Sequence) -> Option<Reply> {
        self.place(sequence).ok().map(|at| self.replies[at].1.reply())
    }

    /// Keeps the reply to `sequence`, which was not done before.
    pub(super) fn keep(&mut self, sequence: Sequence, reply: &Reply, limits: &MachineLimits) {
        let room = limits.replies_bytes_per_client_max.saturating_sub(self.bytes);
        let kept = Kept::of(reply, room, limits);
        self.bytes += kept.bytes();
        let place = self.place(sequence);
        assert!(place.is_err(), "sequence {sequence} is kept already");
        if let Err(at) = place {
            self.replies.insert(at, (sequence, kept));
        }
        while self.replies.len() as u64 > limits.replies_per_client_max.max(1) {
            self.pop();
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(16 + 6 * self.replies.len() + self.bytes as usize);
        w.u8(VERSION).varint(self.last_used.0).varint(self.floor.0);
        let mut before = self.floor.0;
        for (sequence, kept) in &self.replies {
            w.varint(sequence.0 - before);
            before = sequence.0;
            match kept {
                Kept::Put(revision) => w.u8(PLAIN_PUT).varint(revision.0),
                Kept::Encoded(bytes) => w.raw(bytes),
                Kept::Forgotten(revision) => w.u8(FORGOTTEN).varint(revision.0),
            };
        }
        w.finish()
    }

    pub(super) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        let version = r.u8("session version")?;
        if version != VERSION {
            let value = u64::from(version);
            return Err(DecodeError::Unknown { what: "session version", offset: 0, value });
        }
        let last_used = Timestamp(r.varint("session last used")?);
        let floor = Sequence(r.varint("session floor")?);
        let mut session = Self { last_used, floor, ..Self::default() };
        let mut before = floor.0;
        while r.remaining() > 0 {
            let step = r.varint("session sequence")?;
            before = before.checked_add(step).ok_or(DecodeError::Unknown {
                what: "session sequence",
                offset: 0,
                value: step,
            })?;
            let kept = decode_kept(&mut r)?;
            session.bytes += kept.bytes();
            session.replies.push_back((Sequence(before), kept));
        }
        Ok(session)
    }
}

fn decode_kept(r: &mut Reader) -> Result<Kept, DecodeError> {
    let mut ahead = r.clone();
    match ahead.u8("kept reply")? {
        FORGOTTEN => {
            *r = ahead;
            Ok(Kept::Forgotten(Revision(r.varint("kept revision")?)))
        }
        PLAIN_PUT => {
            *r = ahead;
            Ok(Kept::Put(Revision(r.varint("kept revision")?)))
        }
        _ => {
            let mut ahead = r.clone();
            Reply::decode(&mut ahead)?;
            Ok(Kept::Encoded(r.raw(r.remaining() - ahead.remaining(), "kept reply")?))
        }
    }
}
