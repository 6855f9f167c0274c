//! Everybody who calls nodes: clients, the closers that look at shards at the end, watchers,
//! holders of locks, the operator, the import, the clients of a
//! list. Each has a number, and events find it by that.

use std::collections::BTreeMap;

use atoll_base::{NodeId, Revision, Rng, ShardId};
use atoll_coord::{Answer, Origin};

use crate::client::agent::Agent;
use crate::client::appender::Appender;
use crate::client::holder::Holder;
use crate::client::importer::Importer;
use crate::client::operator::Operator;
use crate::client::watcher::SimWatcher;
use crate::client::{Around, Client};
use crate::fabric::Token;
use crate::script::Script;
use crate::shape::Shape;
use crate::value::KEYS_END;

/// All agents, in the order of their numbers.
pub(super) struct Agents {
    pub(super) clients: Vec<Client>,
    /// One client per shard that probes and closes, and does nothing else.
    pub(super) closers: BTreeMap<ShardId, Client>,
    pub(super) watchers: Vec<SimWatcher>,
    pub(super) holders: Vec<Holder>,
    pub(super) operator: Option<Operator>,
    pub(super) importer: Option<Importer>,
    pub(super) appender: Option<Appender>,
}

impl Agents {
    pub(super) fn new(
        shape: &Shape,
        shards: &[ShardId],
        script: Option<&Script>,
        rng: &mut Rng,
    ) -> Self {
        let mut numbers = 0_u32..;
        let mut number = || numbers.next().expect("numbers don't end");
        let clients =
            (0..shape.clients).map(|_| Client::new(number(), shape.slots, rng.fork())).collect();
        let closers =
            shards.iter().map(|shard| (*shard, Client::new(number(), 1, rng.fork()))).collect();
        let mut watchers = Vec::new();
        let all = Some(Revision(2));
        for shard in shards {
            for _ in 0..2 {
                watchers.push(SimWatcher::new(number(), *shard, 0..KEYS_END, all, rng.fork()));
            }
            for _ in 0..shape.watchers {
                let (a, b) = (rng.below(8) as u32, rng.below(8) as u32);
                let keys = a.min(b)..a.max(b) + 1;
                let start = rng.chance(1, 2).then(|| Revision(rng.range(1, 60)));
                watchers.push(SimWatcher::new(number(), *shard, keys, start, rng.fork()));
            }
        }
        // On few shards, so that they meet.
        let homes = &shards[..shards.len().min(rng.range(1, 3) as usize)];
        let locks = rng.range(1, 3);
        let holders = (0..shape.holders)
            .map(|n| Holder::new(number(), homes[n % homes.len()], locks, rng.fork()))
            .collect();
        let operator = shape.changes.then(|| Operator::new(number(), script, rng.fork()));
        let records = (shape.imported > 0).then_some(shape.imported);
        let importer = records.map(|records| Importer::new(number(), records, rng.fork()));
        let listed = shape.has_list.then(|| *rng.pick(shards).expect("a run has user shards"));
        let appender = listed.map(|shard| Appender::new(number(), shard, rng.fork()));
        Self { clients, closers, watchers, holders, operator, importer, appender }
    }

    pub(super) fn start(&mut self, around: &mut Around<'_>) {
        self.clients.iter_mut().for_each(|client| client.start(around));
        self.watchers.iter_mut().for_each(|watcher| watcher.ask(around));
        self.holders.iter_mut().for_each(|holder| holder.start(around));
        self.operator.iter_mut().for_each(|operator| operator.start(around));
        self.importer.iter_mut().for_each(|importer| importer.start(around));
        self.appender.iter_mut().for_each(|appender| appender.start(around));
    }

    pub(super) fn count(&self) -> u32 {
        let listed = self.clients.len() + self.closers.len() + self.watchers.len();
        let single = [self.operator.is_some(), self.importer.is_some(), self.appender.is_some()];
        let single = single.into_iter().filter(|is_there| *is_there).count();
        (listed + self.holders.len() + single) as u32
    }

    /// No new work from now on.
    pub(super) fn close(&mut self) {
        self.clients.iter_mut().for_each(Client::close);
        self.holders.iter_mut().for_each(Holder::close);
        self.operator.iter_mut().for_each(Operator::close);
        self.importer.iter_mut().for_each(Importer::close);
        self.appender.iter_mut().for_each(Appender::close);
    }

    /// What is not yet done of what was begun.
    pub(super) fn debt(&self) -> Option<String> {
        let busy = self.clients.iter().any(|client| !client.is_idle());
        let busy = busy.then(|| "clients do not finish".to_owned());
        let holders = self.holders.iter().find_map(Holder::debt);
        let operator = || self.operator.as_ref().and_then(Operator::debt);
        let importer = || self.importer.as_ref().and_then(Importer::debt);
        let appender = || self.appender.as_ref().and_then(Appender::debt);
        busy.or(holders).or_else(operator).or_else(importer).or_else(appender)
    }

    fn who(&mut self, number: u32) -> Option<&mut dyn Agent> {
        let Self { clients, closers, watchers, holders, operator, importer, appender } = self;
        fn listed<A: Agent>(agent: &mut A) -> &mut dyn Agent {
            agent
        }
        let all = clients.iter_mut().map(listed);
        let all = all.chain(closers.values_mut().map(listed));
        let all = all.chain(watchers.iter_mut().map(listed));
        let all = all.chain(holders.iter_mut().map(listed));
        let all = all.chain(operator.iter_mut().map(listed));
        let all = all.chain(importer.iter_mut().map(listed));
        all.chain(appender.iter_mut().map(listed)).nth(number as usize)
    }

    pub(super) fn on_timer(&mut self, number: u32, token: Token, around: &mut Around<'_>) {
        if let Some(agent) = self.who(number) {
            agent.on_timer(token, around);
        }
    }

    pub(super) fn on_broken(
        &mut self,
        number: u32,
        node: NodeId,
        origin: Origin,
        around: &mut Around<'_>,
    ) {
        if let Some(agent) = self.who(number) {
            agent.on_broken(node, origin, around);
        }
    }

    pub(super) fn on_answer(&mut self, number: u32, answer: Answer, around: &mut Around<'_>) {
        if let Some(agent) = self.who(number) {
            agent.on_answer(answer, around);
        }
    }
}
