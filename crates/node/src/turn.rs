//! What the replicas of a lane share during one turn.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_base::{Failure, NodeId, Time, Timestamp};
use atoll_coord::{Answer, AnswerBody};
use atoll_machine::Event;
use atoll_replica::Sink;
use atoll_storage::{Engine, WriteBatch};

use crate::ask::Ask;
use crate::config::LaneConfig;

/// The turn's surroundings and what it leaves behind.
pub(crate) struct Turn {
    pub(crate) config: LaneConfig,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) now: Time,
    pub(crate) wall: Timestamp,
    /// Messages and log records.
    pub(crate) sink: Sink,
    /// One engine batch for everything that the turn applied.
    pub(crate) applied: WriteBatch,
    /// Answers that may leave at once.
    pub(crate) answers: Vec<Answer>,
    /// Answers that wait until `applied` is in the engine.
    pub(crate) held: Vec<Answer>,
    /// How long each of the leader's entries that was applied took from its proposal to that turn.
    pub(crate) replicated: Vec<Duration>,
    /// The catalog's changes, from shard 1.
    pub(crate) catalog: Vec<Event>,
    /// Whether peers' nodes live, as far as was told.
    pub(crate) peers: BTreeMap<NodeId, bool>,
    /// Why new writes are refused, while the disk is (nearly) full.
    pub(crate) disk_full: Option<Failure>,
}

impl Turn {
    pub(crate) fn new(config: LaneConfig, engine: Arc<dyn Engine>) -> Self {
        Self {
            config,
            engine,
            now: Time::ZERO,
            wall: Timestamp::default(),
            sink: Sink::default(),
            applied: WriteBatch::new(),
            answers: Vec::new(),
            held: Vec::new(),
            replicated: Vec::new(),
            catalog: Vec::new(),
            peers: BTreeMap::new(),
            disk_full: None,
        }
    }

    pub(crate) fn answer(&mut self, ask: Ask, body: AnswerBody) {
        self.answers.push(ask.answer(Ok(body)));
    }

    pub(crate) fn refuse(&mut self, ask: Ask, failure: Failure) {
        self.answers.push(ask.answer(Err(failure)));
    }
}
