//! Guards in shards that do not hold the lock: they can't know who holds it, so they remember what
//! they saw (F7).
//!
//! A key written under a guard remembers, per lock, the largest token: its *mark*. When the key is
//! deleted its marks go, and the lock's *floor* in this shard rises to them, so that a stale holder
//! can't make the key again. Floors refuse a little more than marks would (keys that never were),
//! and keep what is remembered within the keys that exist.

use atoll_base::codec::{DecodeError, Reader, Writer};
use atoll_base::{Code, Failure};
use atoll_storage::{Direction, Tree};
use bytes::Bytes;

use crate::counters::Counters;
use crate::error::MachineError;
use crate::keys::{Scope, borrowed, parse_mark_key};
use crate::limits::MachineLimits;
use crate::lock_op::{Guard, Token};
use crate::overlay::{Overlay, Reads};
use crate::query::KeyEnd;

/// What a guarded command may write.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Touched<'t> {
    Put(&'t Bytes),
    Delete(&'t Bytes, &'t KeyEnd),
}

/// The tokens that a shard remembers of locks that it does not hold.
pub(crate) struct Marks<'m, 'e> {
    pub(crate) scope: &'m Scope,
    pub(crate) limits: &'m MachineLimits,
    pub(crate) counters: &'m mut Counters,
    pub(crate) overlay: &'m mut Overlay<'e>,
}

impl Marks<'_, '_> {
    fn token(&self, key: &[u8]) -> Result<Option<Token>, MachineError> {
        let found = self.overlay.get(Tree::Meta, key).map_err(|e| self.scope.engine(e))?;
        let Some(bytes) = found else { return Ok(None) };
        decode(bytes).map(Some).map_err(|e| self.scope.record("token mark", e))
    }

    /// Why `guard` does not let the command touch what it touches, if it does not.
    pub(crate) fn refusal(
        &self,
        guard: &Guard,
        touched: &[Touched<'_>],
    ) -> Result<Option<Failure>, MachineError> {
        let (marks, max) = (self.counters.marks, self.limits.marks_max);
        if marks + touched.len() as u64 > max {
            let shard = self.scope.shard;
            let text = format!("shard {shard} remembers {marks} fencing tokens, limit is {max}");
            return Ok(Some(Failure::new(Code::Overloaded, text)));
        }
        let floor = self.token(&self.scope.floor_key(guard))?;
        for one in touched {
            let seen = match one {
                Touched::Put(key) => match self.token(&self.scope.mark_key(key, guard))? {
                    Some(mark) => Some(mark),
                    None => floor,
                },
                Touched::Delete(start, end) => floor.max(self.largest(guard, start, end)?),
            };
            if let Some(seen) = seen.filter(|seen| *seen > guard.token) {
                return Ok(Some(stale(guard, &format!("shard {} saw {seen}", self.scope.shard))));
            }
        }
        Ok(None)
    }

    /// The largest mark of the guard's lock in a range.
    fn largest(
        &self,
        guard: &Guard,
        start: &Bytes,
        end: &KeyEnd,
    ) -> Result<Option<Token>, MachineError> {
        let mut largest = None;
        if self.counters.marks == 0 {
            return Ok(largest);
        }
        let span = self.scope.mark_span(start, end);
        for pair in self.overlay.scan(Tree::Meta, borrowed(&span), Direction::Forward) {
            let (key, value) = pair.map_err(|e| self.scope.engine(e))?;
            if self.parse(&key)? == (guard.keyspace.0, &guard.lock[..]) {
                let token = decode(value).map_err(|e| self.scope.record("token mark", e))?;
                largest = largest.max(Some(token));
            }
        }
        Ok(largest)
    }

    fn parse<'k>(&self, key: &'k [u8]) -> Result<(u32, &'k [u8]), MachineError> {
        let broken = || self.scope.inconsistent("token mark has a key of another form");
        parse_mark_key(key).ok_or_else(broken)
    }

    /// `key` was written under `guard`.
    pub(crate) fn remember(&mut self, guard: &Guard, key: &[u8]) -> Result<(), MachineError> {
        self.raise(self.scope.mark_key(key, guard), guard.token)
    }

    /// Something was deleted under `guard`.
    pub(crate) fn raise_floor(&mut self, guard: &Guard) -> Result<(), MachineError> {
        self.raise(self.scope.floor_key(guard), guard.token)
    }

    fn raise(&mut self, key: Vec<u8>, token: Token) -> Result<(), MachineError> {
        let seen = self.token(&key)?;
        if seen.is_none() {
            self.counters.marks += 1;
        }
        if seen.is_none_or(|seen| seen < token) {
            let mut w = Writer::default();
            w.varint(token.0);
            self.overlay.put(Tree::Meta, key, w.finish());
        }
        Ok(())
    }

    /// `key` is deleted: its marks go, floors rise to them.
    pub(crate) fn forget(&mut self, key: &Bytes) -> Result<(), MachineError> {
        if self.counters.marks == 0 {
            return Ok(());
        }
        let span = self.scope.mark_span(key, &KeyEnd::Single);
        let scan = self.overlay.scan(Tree::Meta, borrowed(&span), Direction::Forward);
        let found: Result<Vec<_>, _> = scan.collect();
        for (mark, value) in found.map_err(|e| self.scope.engine(e))? {
            let token = decode(value).map_err(|e| self.scope.record("token mark", e))?;
            let (keyspace, lock) = self.parse(&mark)?;
            let (keyspace, lock) = (atoll_base::KeyspaceId(keyspace), Bytes::copy_from_slice(lock));
            self.overlay.delete(Tree::Meta, mark);
            self.counters.marks -= 1;
            self.raise_floor(&Guard { keyspace, lock, token })?;
        }
        Ok(())
    }
}

fn decode(bytes: Bytes) -> Result<Token, DecodeError> {
    let mut r = Reader::new(bytes);
    let token = Token(r.varint("token mark")?);
    r.finish("token mark")?;
    Ok(token)
}

/// The refusal of a guard: which lock, the token given, what is known.
pub(crate) fn stale(guard: &Guard, known: &str) -> Failure {
    let (lock, token) = (guard.lock.escape_ascii(), guard.token);
    let text = format!("guard refused: lock {lock}, token {token} given, {known}");
    Failure::new(Code::PreconditionFailed, text)
}
