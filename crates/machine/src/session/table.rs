//! All sessions of a shard.

use std::collections::{BTreeMap, VecDeque};

use atoll_base::codec::{DecodeError, Reader};
use atoll_base::{ClientId, Code, Failure, Timestamp};
use atoll_storage::Tree;
use bytes::Bytes;

use super::replies::Session;
use crate::command::CommandId;
use crate::keys::{self, Scope};
use crate::limits::MachineLimits;
use crate::overlay::Overlay;
use crate::reply::Reply;

/// What is known of a command that has an id.
pub(crate) enum Admission {
    /// It must be done, and its reply kept.
    New,
    /// It was done, or can't be told from one that was: this is the answer.
    Known(Reply),
}

/// The sessions of a shard, in memory and, since the last flush, in the engine.
#[derive(Default, Debug)]
pub(crate) struct SessionTable {
    clients: BTreeMap<ClientId, Session>,
    /// Clients whose record in the engine is old; the session may be gone.
    dirty: Vec<ClientId>,
    forgotten: BTreeMap<ClientId, u64>,
    /// Oldest first.
    forgotten_order: VecDeque<(u64, ClientId)>,
    /// Forgotten clients that came and went since the last flush, in order.
    forgotten_changes: Vec<(u64, Option<ClientId>)>,
    /// The costs of all sessions.
    cost: u64,
}

impl SessionTable {
    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn oldest_use(&self) -> Option<Timestamp> {
        self.clients.values().map(|session| session.last_used).min()
    }

    /// Takes in a record of the engine.
    pub(crate) fn load(&mut self, key: &[u8], value: Bytes) -> Result<(), DecodeError> {
        let malformed = DecodeError::Truncated { what: "session key", offset: 0, needed: 1 };
        let number = keys::parse_number_key(key).ok_or(malformed.clone())?;
        match key.get(8) {
            Some(&keys::SESSION) => {
                let session = Session::decode(value)?;
                self.cost += session.cost();
                self.clients.insert(ClientId(number), session);
            }
            Some(&keys::FORGOTTEN) => {
                let client = ClientId(Reader::new(value).u64_fixed("forgotten client")?);
                self.forgotten.insert(client, number);
                self.forgotten_order.push_back((number, client));
            }
            _ => return Err(malformed),
        }
        Ok(())
    }

    /// What is known of command `id`; makes the session of a new client.
    pub(crate) fn admit(
        &mut self,
        id: &CommandId,
        clock: Timestamp,
        limits: &MachineLimits,
        forgotten_next: &mut u64,
    ) -> Admission {
        if !self.clients.contains_key(&id.client) {
            if self.forgotten.contains_key(&id.client) {
                atoll_base::reached!("a forgotten client came back");
                let message = format!("session of client {} has expired", id.client);
                return refused(message);
            }
            if self.clients.len() as u64 >= limits.clients_max.max(1) {
                let count = (limits.clients_max / 16).max(1);
                self.forget_oldest(count, None, limits, forgotten_next);
            }
        }
        let session = self.clients.entry(id.client).or_default();
        if !session.is_dirty {
            session.is_dirty = true;
            self.dirty.push(id.client);
        }
        let cost = session.cost();
        session.last_used = clock;
        session.acknowledge(id.first_unacknowledged);
        self.cost = self.cost - cost + session.cost();
        if id.sequence < session.floor() {
            let (client, floor) = (id.client, session.floor());
            atoll_base::reached!("a request below the session's floor was refused");
            return refused(format!(
                "request {} of client {client} is below {floor}, its reply is not kept",
                id.sequence
            ));
        }
        match session.find(id.sequence) {
            Some(reply) => {
                atoll_base::reached!("a retry got the first answer");
                Admission::Known(reply)
            }
            None => Admission::New,
        }
    }

    /// Keeps the reply to a command that was admitted as new.
    pub(crate) fn keep(
        &mut self,
        id: &CommandId,
        reply: &Reply,
        limits: &MachineLimits,
        forgotten_next: &mut u64,
    ) {
        // A command that expires sessions may have expired its own: then nobody can retry it.
        let Some(session) = self.clients.get_mut(&id.client) else { return };
        let cost = session.cost();
        session.keep(id.sequence, reply, limits);
        self.cost = self.cost - cost + session.cost();
        while self.cost > limits.replies_bytes_max && self.clients.len() > 1 {
            self.forget_oldest(1, Some(id.client), limits, forgotten_next);
        }
    }

    /// Forgets the sessions last used before `unused_since`; returns how many.
    pub(crate) fn expire(
        &mut self,
        unused_since: Timestamp,
        limits: &MachineLimits,
        forgotten_next: &mut u64,
    ) -> u64 {
        let silent = self.clients.iter().filter(|(_, s)| s.last_used < unused_since);
        let silent: Vec<ClientId> = silent.map(|(client, _)| *client).collect();
        for client in &silent {
            self.forget(*client, limits, forgotten_next);
        }
        silent.len() as u64
    }

    fn forget_oldest(
        &mut self,
        count: u64,
        spare: Option<ClientId>,
        limits: &MachineLimits,
        forgotten_next: &mut u64,
    ) {
        let all = self.clients.iter().filter(|(client, _)| Some(**client) != spare);
        let mut by_use: Vec<_> = all.map(|(client, s)| (s.last_used, *client)).collect();
        by_use.sort_unstable();
        for (_, client) in by_use.into_iter().take(usize::try_from(count).unwrap_or(usize::MAX)) {
            self.forget(client, limits, forgotten_next);
        }
    }

    /// Drops a session and remembers that it was there (S3).
    fn forget(&mut self, client: ClientId, limits: &MachineLimits, next: &mut u64) {
        let Some(session) = self.clients.remove(&client) else { return };
        atoll_base::reached!("a session was forgotten");
        self.cost -= session.cost();
        if !session.is_dirty {
            self.dirty.push(client);
        }
        let number = *next;
        *next += 1;
        self.forgotten.insert(client, number);
        self.forgotten_order.push_back((number, client));
        self.forgotten_changes.push((number, Some(client)));
        while self.forgotten_order.len() as u64 > limits.forgotten_clients_max {
            let Some((number, client)) = self.forgotten_order.pop_front() else { break };
            self.forgotten.remove(&client);
            self.forgotten_changes.push((number, None));
        }
    }

    /// Writes what changed since the last flush.
    pub(crate) fn flush(&mut self, scope: &Scope, overlay: &mut Overlay<'_>) {
        for client in std::mem::take(&mut self.dirty) {
            let key = scope.session_key(client);
            match self.clients.get_mut(&client) {
                Some(session) => {
                    session.is_dirty = false;
                    overlay.put(Tree::Meta, key, session.encode());
                }
                None => overlay.delete(Tree::Meta, key),
            }
        }
        for (number, client) in std::mem::take(&mut self.forgotten_changes) {
            let key = scope.forgotten_key(number);
            match client {
                Some(client) => overlay.put(Tree::Meta, key, client.0.to_le_bytes().to_vec()),
                None => overlay.delete(Tree::Meta, key),
            }
        }
    }

    /// The records that the engine should hold, for checks.
    pub(crate) fn records(&self) -> impl Iterator<Item = (ClientId, Vec<u8>)> {
        self.clients.iter().map(|(client, session)| (*client, session.encode()))
    }
}

fn refused(message: String) -> Admission {
    Admission::Known(Reply::Failed(Failure::new(Code::SessionExpired, message)))
}
