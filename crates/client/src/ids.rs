//! Names for mutating requests, so that a retry is known wherever it arrives (RIFL 3).
//!
//! A shard keeps the replies that a client may still ask for. What it must keep is bounded by the
//! span between the oldest request that is still open and the newest, so a client that has many
//! requests in flight uses several identities, each with a window of [`WINDOW`] sequences. A stuck
//! request blocks its own identity only.
//!
//! Identities belong to one shard: a shard that comes into being by a split takes over the replies
//! of its parent, and new requests to it carry new identities, so that the numbers never clash.
//!
//! An id is given back when its call ends, also when its caller drops the call: from then on nobody
//! will ask again.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, PoisonError};

use atoll_base::{ClientId, Code, Failure, Sequence};
use atoll_machine::CommandId;

/// Sequences of one identity that may be open or wait for an older one.
pub(crate) const WINDOW: u32 = 128;
/// Identities per shard; beyond, callers are refused.
const IDENTITIES_MAX: usize = 64;

/// The identities of one shard.
#[derive(Debug, Default)]
pub(crate) struct CommandIds {
    identities: Mutex<Vec<Identity>>,
}

#[derive(Debug)]
struct Identity {
    client: ClientId,
    /// The oldest sequence that is open; all below are answered.
    first: u64,
    /// The next one to give out.
    next: u64,
    /// Bit i: `first + i` is answered.
    answered: u128,
}

impl Identity {
    fn new() -> Self {
        Self { client: random_client(), first: 1, next: 1, answered: 0 }
    }

    fn take(&mut self) -> Option<CommandId> {
        if self.next - self.first >= u64::from(WINDOW) {
            return None;
        }
        let sequence = Sequence(self.next);
        self.next += 1;
        let first_unacknowledged = Sequence(self.first);
        Some(CommandId { client: self.client, sequence, first_unacknowledged })
    }

    fn acknowledge(&mut self, sequence: Sequence) {
        let place = sequence.0 - self.first;
        assert!(place < u64::from(WINDOW), "sequence {sequence} lies {place} above the first");
        self.answered |= 1 << place;
        let done = self.answered.trailing_ones();
        self.answered = self.answered.checked_shr(done).unwrap_or(0);
        self.first += u64::from(done);
    }
}

impl CommandIds {
    /// The next id.
    ///
    /// # Errors
    /// `Overloaded` when every window is full.
    pub(crate) fn take(&self) -> Result<CommandId, Failure> {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = identities.iter_mut().find_map(Identity::take) {
            return Ok(id);
        }
        if identities.len() >= IDENTITIES_MAX {
            let open = IDENTITIES_MAX * WINDOW as usize;
            return Err(Failure::new(
                Code::Overloaded,
                format!(
                    "this client has {open} changes of one shard open, at most so many are allowed"
                ),
            ));
        }
        let mut identity = Identity::new();
        let id = identity.take().expect("a new window is empty");
        identities.push(identity);
        Ok(id)
    }

    /// The id will not be asked about again.
    pub(crate) fn acknowledge(&self, id: CommandId) {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(identity) = identities.iter_mut().find(|i| i.client == id.client) {
            identity.acknowledge(id.sequence);
        }
    }

    /// The shard has forgotten this identity: use it no more.
    pub(crate) fn retire(&self, id: CommandId) {
        let mut identities = self.identities.lock().unwrap_or_else(PoisonError::into_inner);
        identities.retain(|i| i.client != id.client);
    }
}

/// 64 bits that no other client has drawn: hashed with the process' random keys.
fn random_client() -> ClientId {
    loop {
        let id = random();
        if id != 0 {
            return ClientId(id);
        }
    }
}

/// Random bits from the operating system, by way of the standard library's hash keys.
pub(crate) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_sequence_follows_the_answers() {
        let ids = CommandIds::default();
        let taken: Vec<CommandId> = (0..5).map(|_| ids.take().unwrap()).collect();
        assert!(taken.iter().all(|id| id.first_unacknowledged == Sequence(1)));
        for i in [1, 2, 0] {
            ids.acknowledge(taken[i]);
        }
        let next = ids.take().unwrap();
        assert_eq!((next.sequence, next.first_unacknowledged), (Sequence(6), Sequence(4)));
    }

    #[test]
    fn a_stuck_request_moves_the_others_to_another_identity() {
        let ids = CommandIds::default();
        let stuck = ids.take().unwrap();
        let others: Vec<CommandId> = (0..300)
            .map(|_| {
                let id = ids.take().unwrap();
                ids.acknowledge(id);
                id
            })
            .collect();
        for id in &others {
            assert!(id.sequence.0 - id.first_unacknowledged.0 < u64::from(WINDOW), "{id:?}");
        }
        assert_ne!(others[299].client, stuck.client);
        ids.acknowledge(stuck);
        let next = ids.take().unwrap();
        assert_eq!(next.client, stuck.client);
        assert_eq!(next.sequence, next.first_unacknowledged);
    }

    #[test]
    fn windows_end_somewhere() {
        let ids = CommandIds::default();
        let taken: Vec<CommandId> = std::iter::from_fn(|| ids.take().ok()).collect();
        assert_eq!(taken.len(), IDENTITIES_MAX * WINDOW as usize);
        assert_eq!(ids.take().unwrap_err().code, Code::Overloaded);
        for id in &taken {
            ids.acknowledge(*id);
        }
        ids.retire(taken[0]);
        ids.acknowledge(taken[0]);
        assert_ne!(ids.take().unwrap().client, taken[0].client);
    }
}
