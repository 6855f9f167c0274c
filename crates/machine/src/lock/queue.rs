//! One lock: who holds it, who waits, and whether the head of the queue may go.

use std::collections::{BTreeMap, BTreeSet};

use atoll_base::LeaseId;
use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

use crate::lock_op::{Busy, Claim, Leadership, LockHolder, LockInfo, Mode, Place, Token, Wait};

const VERSION: u8 = 1;
/// Holders that a refusal names.
const HOLDERS_TOLD: usize = 16;

/// One claim as it stands: waiting, or holding with a token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Standing {
    pub(super) session: LeaseId,
    pub(super) request: u64,
    pub(super) mode: Mode,
    pub(super) wait: Wait,
    pub(super) value: Bytes,
    pub(super) token: Option<Token>,
}

impl Standing {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(self.value.len() + 32);
        // Tokens are never 0.
        w.u8(VERSION).varint(self.token.map_or(0, |token| token.0));
        w.varint(self.session.0).varint(self.request);
        self.mode.encode(&mut w);
        self.wait.encode(&mut w);
        w.raw(&self.value);
        w.finish()
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        check_version(&mut r, "claim version")?;
        let token = Some(r.varint("claim token")?).filter(|token| *token != 0).map(Token);
        let (session, request) = (LeaseId(r.varint("session")?), r.varint("lock request")?);
        let (mode, wait) = (Mode::decode(&mut r)?, Wait::decode(&mut r)?);
        let left = r.remaining();
        Ok(Self { session, request, mode, wait, value: r.raw(left, "claim value")?, token })
    }

    pub(super) fn claim(&self, lock: &Bytes) -> Claim {
        Claim { lock: lock.clone(), session: self.session, request: self.request }
    }

    fn holder(&self, token: Token) -> LockHolder {
        LockHolder { session: self.session, token, mode: self.mode }
    }
}

fn check_version(r: &mut Reader, what: &'static str) -> Result<(), DecodeError> {
    match r.u8(what)? {
        VERSION => Ok(()),
        other => Err(DecodeError::Unknown { what, offset: 0, value: u64::from(other) }),
    }
}

/// A lock that stays closed for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Delay {
    pub(super) number: u64,
    pub(super) delay_ms: u64,
}

/// One lock, semaphore or election.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Lock {
    /// The permits of a semaphore.
    pub(super) limit: Option<u64>,
    pub(super) delay: Option<Delay>,
    /// By place.
    claims: BTreeMap<u64, Standing>,
    held: BTreeMap<Token, u64>,
    queue: BTreeSet<u64>,
    asked: BTreeMap<(LeaseId, u64), u64>,
    permits: u64,
}

impl Lock {
    /// Nothing of it need be kept.
    pub(super) fn is_idle(&self) -> bool {
        self.claims.is_empty() && self.delay.is_none() && self.limit.unwrap_or(0) == 0
    }

    /// The place of a request that holds or waits.
    pub(super) fn find(&self, session: LeaseId, request: u64) -> Option<u64> {
        self.asked.get(&(session, request)).copied()
    }

    pub(super) fn standing(&self, place: u64) -> Option<&Standing> {
        self.claims.get(&place)
    }

    pub(super) fn place_of(&self, session: LeaseId, request: u64) -> Place {
        let standing = self.find(session, request).and_then(|place| self.standing(place));
        match standing {
            Some(Standing { token: Some(token), .. }) => Place::Holds(*token),
            Some(_) => Place::Waits,
            None => Place::Nowhere,
        }
    }

    pub(super) fn holder_with(&self, token: Token) -> Option<(u64, &Standing)> {
        let place = *self.held.get(&token)?;
        Some((place, self.claims.get(&place)?))
    }

    pub(super) fn claims(&self) -> impl Iterator<Item = (u64, &Standing)> {
        self.claims.iter().map(|(place, standing)| (*place, standing))
    }

    pub(super) fn has_claims_of(&self, session: LeaseId) -> bool {
        self.asked.range((session, 0)..=(session, u64::MAX)).next().is_some()
    }

    pub(super) fn places_of(&self, session: LeaseId) -> Vec<u64> {
        self.asked.range((session, 0)..=(session, u64::MAX)).map(|(_, place)| *place).collect()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = (u64, &Standing)> {
        self.queue.iter().filter_map(|place| Some((*place, self.claims.get(place)?)))
    }

    pub(super) fn has_claims(&self) -> bool {
        !self.claims.is_empty()
    }

    pub(super) fn has_queue(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether a claim in this mode fits beside those that hold (F2).
    pub(super) fn fits(&self, mode: Mode) -> bool {
        if self.delay.is_some() {
            return false;
        }
        let is_exclusive = |place: &u64| {
            self.claims.get(place).is_some_and(|standing| standing.mode == Mode::Exclusive)
        };
        match mode {
            Mode::Exclusive => self.held.is_empty(),
            Mode::Shared => !self.held.values().next().is_some_and(is_exclusive),
            Mode::Permits(permits) => {
                let sum = self.permits.checked_add(permits);
                sum.is_some_and(|sum| sum <= self.limit.unwrap_or(0))
            }
        }
    }

    /// The head of the queue, if it may go (F3).
    pub(super) fn ready(&self) -> Option<u64> {
        let place = *self.queue.first()?;
        let standing = self.claims.get(&place)?;
        self.fits(standing.mode).then_some(place)
    }

    /// Takes a claim in at its place.
    pub(super) fn insert(&mut self, place: u64, standing: Standing) {
        self.asked.insert((standing.session, standing.request), place);
        match standing.token {
            Some(token) => self.hold(place, token, standing.mode),
            None => drop(self.queue.insert(place)),
        }
        self.claims.insert(place, standing);
    }

    fn hold(&mut self, place: u64, token: Token, mode: Mode) {
        self.held.insert(token, place);
        if let Mode::Permits(permits) = mode {
            self.permits += permits;
        }
    }

    /// Gives a waiting claim its token.
    pub(super) fn grant(&mut self, place: u64, token: Token) -> Option<&Standing> {
        let standing = self.claims.get_mut(&place)?;
        standing.token = Some(token);
        let mode = standing.mode;
        self.queue.remove(&place);
        self.hold(place, token, mode);
        self.claims.get(&place)
    }

    /// Takes a claim out.
    pub(super) fn remove(&mut self, place: u64) -> Option<Standing> {
        let standing = self.claims.remove(&place)?;
        self.asked.remove(&(standing.session, standing.request));
        self.queue.remove(&place);
        if let Some(token) = standing.token {
            self.held.remove(&token);
            if let Mode::Permits(permits) = standing.mode {
                self.permits -= permits;
            }
        }
        Some(standing)
    }

    pub(super) fn set_value(&mut self, place: u64, value: Bytes) -> Option<&Standing> {
        let standing = self.claims.get_mut(&place)?;
        standing.value = value;
        Some(standing)
    }

    /// Who holds it, who waits.
    pub(super) fn busy(&self) -> Busy {
        let told = self.held.iter().take(HOLDERS_TOLD);
        let holders =
            told.filter_map(|(token, place)| Some(self.claims.get(place)?.holder(*token)));
        Busy {
            holders: holders.collect(),
            held: self.held.len() as u64,
            waiting: self.queue.len() as u64,
        }
    }

    pub(super) fn leadership(&self) -> Option<Leadership> {
        let (token, place) = self.held.first_key_value()?;
        let standing = self.claims.get(place)?;
        let leads = standing.mode == Mode::Exclusive;
        leads.then(|| Leadership {
            session: standing.session,
            token: *token,
            value: standing.value.clone(),
        })
    }

    pub(super) fn info(&self) -> LockInfo {
        LockInfo {
            busy: self.busy(),
            leadership: self.leadership(),
            limit: self.limit,
            delay_ms: self.delay.map(|delay| delay.delay_ms),
        }
    }

    /// What of it stands in its own record; `None` when that need not be kept.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        if self.limit.is_none() && self.delay.is_none() {
            return None;
        }
        let mut w = Writer::default();
        w.u8(VERSION);
        match self.limit {
            None => w.u8(0),
            Some(limit) => w.u8(1).varint(limit),
        };
        let delay = self.delay.unwrap_or(Delay { number: 0, delay_ms: 0 });
        w.varint(delay.number).varint(delay.delay_ms);
        Some(w.finish())
    }

    /// Takes in its own record.
    pub(super) fn load(&mut self, bytes: Bytes) -> Result<(), DecodeError> {
        let mut r = Reader::new(bytes);
        check_version(&mut r, "lock version")?;
        self.limit = match r.u8("lock kind")? {
            0 => None,
            1 => Some(r.varint("semaphore limit")?),
            other => {
                let value = u64::from(other);
                return Err(DecodeError::Unknown { what: "lock kind", offset: 0, value });
            }
        };
        let (number, delay_ms) = (r.varint("lock delay")?, r.varint("lock delay")?);
        self.delay = (number != 0).then_some(Delay { number, delay_ms });
        r.finish("lock")
    }

    /// Takes in the record of one claim.
    pub(super) fn load_claim(&mut self, place: u64, bytes: Bytes) -> Result<LeaseId, DecodeError> {
        let standing = Standing::decode(bytes)?;
        let session = standing.session;
        self.insert(place, standing);
        Ok(session)
    }

    /// What does not hold of it, if something does not.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let of = |place: &u64| self.claims.get(place);
        let exclusive =
            self.held.values().filter_map(of).filter(|s| s.mode == Mode::Exclusive).count();
        let permits = self.held.values().filter_map(of).map(|standing| match standing.mode {
            Mode::Permits(permits) => permits,
            Mode::Exclusive | Mode::Shared => 0,
        });
        if exclusive > 0 && self.held.len() > 1 {
            return Some("is held exclusively and by another (F2)");
        }
        if permits.sum::<u64>() != self.permits {
            return Some("counts its permits wrongly (F2)");
        }
        if self.held.len() + self.queue.len() != self.claims.len()
            || self.asked.len() != self.claims.len()
        {
            return Some("has claims that neither hold nor wait, or two of one request (F6)");
        }
        self.ready().is_some().then_some("has a head that could be granted (F3)")
    }
}
