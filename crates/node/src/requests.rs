//! Calls from clients: admitted or refused, and started.
//!
//! A call is refused before anything happened (DESIGN 8): wrong epoch, key outside the shard, not
//! the leader, queue full, disk full, replica being rebuilt. What is admitted is answered exactly
//! once.

use std::time::Duration;

use atoll_base::{Code, Epoch, Failure, NodeId};
use atoll_coord::{AnswerBody, Consistency, FollowerStatus, ReplicaStatus, Request, RequestBody};
use atoll_machine::{AcquireOp, KeyEnd, LeaseOp, LockOp, Op, PutOp, TxnOp, TxnStep};
use atoll_raft::progress::SendState;
use atoll_raft::{Input, Member, Message};

use crate::ask::Ask;
use crate::leases::Question;
use crate::reads::{What, read};
use crate::replica::{Condition, Replica, not_leader};
use crate::turn::Turn;

impl Replica {
    /// A message of the group's protocol.
    pub(crate) fn on_raft(&mut self, message: Message, turn: &mut Turn) {
        if self.refuses_quiet(&message, turn) {
            return;
        }
        self.step(Input::Message(message), turn);
        self.absorb(turn);
    }

    /// Takes a call in, or answers it.
    pub(crate) fn on_request(&mut self, request: Request, turn: &mut Turn) {
        let ask = Ask::of(&request);
        if let RequestBody::Status = request.body {
            turn.answer(ask, AnswerBody::Status(self.status(turn.config.node)));
            return;
        }
        if let Err(failure) = self.admit(&request, turn) {
            self.wake_if_needed(&failure, turn);
            turn.refuse(ask, failure);
            return;
        }
        match request.body {
            RequestBody::Command(command) => self.writes.push(ask, command),
            RequestBody::Get { key, at, consistency } => {
                self.start_read(ask, What::Get { key, at }, consistency, turn);
            }
            RequestBody::Range { query, consistency } => {
                self.start_read(ask, What::Range(query), consistency, turn);
            }
            RequestBody::Watch(watch) => self.start_watch(ask, watch, turn),
            RequestBody::CancelWatch { watch } => {
                self.watches.cancel(ask.origin, watch);
                self.leases.claims.cancel(ask.origin, watch);
                turn.answer(ask, AnswerBody::WatchCancelled);
            }
            RequestBody::WatchCredit { watch } => {
                self.watches.credit(ask.origin, watch);
                self.leases.claims.credit(ask.origin, watch, turn);
            }
            RequestBody::KeepAlive { leases } => self.question(ask, Question::KeepAlive(leases)),
            RequestBody::Lease { id, keys } => self.question(ask, Question::Lease { id, keys }),
            RequestBody::Leases { after, limit } => {
                self.question(ask, Question::Leases { after, limit });
            }
            RequestBody::Lock { lock } => self.question(ask, Question::Lock(lock)),
            RequestBody::Observe { lock } => self.question(ask, Question::Observe(lock)),
            RequestBody::Transfer(to) => self.transfer(ask, to, turn),
            RequestBody::Members(members) => self.await_members(ask, &members, turn),
            // The lane deletes replicas; none would be left to answer.
            RequestBody::Retire { .. } => {}
            RequestBody::Status => {}
        }
    }

    /// Answered as linearizable reads are.
    fn question(&mut self, ask: Ask, question: Question) {
        self.reads.push(ask, What::Coordination(question));
    }

    fn admit(&self, request: &Request, turn: &Turn) -> Result<(), Failure> {
        let shard = self.descriptor.shard;
        let epoch = self.descriptor.epoch;
        if request.epoch != Epoch::ZERO && request.epoch != epoch {
            let text = format!("shard {shard} is at epoch {epoch}, request has {}", request.epoch);
            return Err(Failure::new(Code::StaleEpoch, text));
        }
        if let Condition::Rebuilding { reason } | Condition::Quarantined { reason } =
            &self.condition
        {
            let text = format!("this replica of shard {shard} serves nothing: {reason}");
            let leader = self.group.core().leader();
            return Err(Failure::new(Code::Damaged, text).with_leader(leader));
        }
        if let Condition::Witness = self.condition {
            return Err(self.refuse_as_witness(turn.config.node));
        }
        let core = self.group.core();
        let stale = matches!(
            &request.body,
            RequestBody::Get { consistency: Consistency::Stale { .. }, .. }
                | RequestBody::Range { consistency: Consistency::Stale { .. }, .. }
                | RequestBody::Watch(_)
                | RequestBody::CancelWatch { .. }
                | RequestBody::WatchCredit { .. }
        );
        if !stale && !core.is_leader() {
            return Err(not_leader(shard, core.leader()));
        }
        if !core.is_leader() && !self.is_member(turn.config.node) {
            let node = turn.config.node;
            let text = format!("node {node} is no member of shard {shard} any more");
            return Err(Failure::new(Code::NotLeader, text).with_leader(core.leader()));
        }
        self.admit_sizes(request, turn)?;
        let max = turn.config.limits.requests_per_shard_max;
        let waiting = self.writes.len().max(self.reads.len());
        if waiting >= max {
            let text = format!(
                "shard {shard} has {waiting} calls waiting, limit {max} (calls_per_shard_max)"
            );
            return Err(Failure::new(Code::Overloaded, text));
        }
        Ok(())
    }

    fn admit_sizes(&self, request: &Request, turn: &Turn) -> Result<(), Failure> {
        match &request.body {
            RequestBody::Command(command) => {
                if let Some(full) = &turn.disk_full
                    && !matches!(
                        command.op,
                        Op::Delete(_)
                            | Op::Compact { .. }
                            | Op::Lease(LeaseOp::Revoke { .. })
                            | Op::Lock(LockOp::Release { .. } | LockOp::Cancel(_))
                    )
                {
                    return Err(full.clone());
                }
                self.check_op(&command.op, turn)
            }
            RequestBody::Get { key, .. } => self.check_range(key, &KeyEnd::Single),
            RequestBody::Range { query, .. } => self.check_range(&query.start, &query.end),
            RequestBody::Watch(watch) => self.check_range(&watch.start, &watch.end),
            RequestBody::Lock { lock } | RequestBody::Observe { lock } => {
                self.check_range(lock, &KeyEnd::Single)
            }
            _ => Ok(()),
        }
    }

    fn check_op(&self, op: &Op, turn: &Turn) -> Result<(), Failure> {
        if names_nobody(op) {
            // It would not be readable in the log.
            let text = "the request names lease 0, which is none";
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        match op {
            Op::Put(put) => {
                self.check_range(&put.key, &KeyEnd::Single)?;
                check_pair(put, turn)
            }
            Op::Delete(delete) => self.check_range(&delete.key, &delete.end),
            Op::Txn(txn) => {
                limit(
                    "transaction",
                    "compares and steps",
                    parts(txn),
                    turn.config.limits.txn_parts_max,
                    "txn_parts_max",
                )?;
                self.check_txn(txn, turn)
            }
            Op::Lease(LeaseOp::Expire { .. })
            | Op::Lock(LockOp::ExpireWait { .. } | LockOp::EndDelay { .. }) => {
                // From anybody but the leader that counted it would end what lives (trap T28).
                let text = "what ran out is said by a shard's leader alone";
                Err(Failure::new(Code::Unsupported, text))
            }
            Op::Lock(LockOp::Acquire(_))
                if self.leases.claims.len() >= turn.config.limits.requests_per_shard_max =>
            {
                let (shard, max) = (self.shard(), turn.config.limits.requests_per_shard_max);
                let text = format!("shard {shard} has {max} calls waiting for locks, the limit");
                Err(Failure::new(Code::Overloaded, text))
            }
            Op::Lock(LockOp::RaiseFence { .. }) => {
                let text = "from where tokens grow is said by a shard's leader alone";
                Err(Failure::new(Code::Unsupported, text))
            }
            Op::Lock(op) => {
                op.lock().map_or(Ok(()), |lock| self.check_range(lock, &KeyEnd::Single))
            }
            Op::Guarded(guarded) => self.check_op(&guarded.op, turn),
            Op::Lease(_) | Op::Compact { .. } | Op::ExpireSessions { .. } => Ok(()),
        }
    }

    fn check_txn(&self, txn: &TxnOp, turn: &Turn) -> Result<(), Failure> {
        for compare in &txn.compares {
            self.check_range(&compare.key, &compare.end)?;
        }
        for step in txn.then.iter().chain(&txn.otherwise) {
            match step {
                TxnStep::Put(put) => {
                    self.check_range(&put.key, &KeyEnd::Single)?;
                    check_pair(put, turn)?;
                }
                TxnStep::Delete(delete) => self.check_range(&delete.key, &delete.end)?,
                TxnStep::Range(query) => self.check_range(&query.start, &query.end)?,
                TxnStep::Txn(inner) => self.check_txn(inner, turn)?,
            }
        }
        Ok(())
    }

    fn check_range(&self, start: &[u8], end: &KeyEnd) -> Result<(), Failure> {
        if self.key_range().covers(start, end) {
            return Ok(());
        }
        let shard = self.descriptor.shard;
        let epoch = self.descriptor.epoch;
        let text = format!("shard {shard} at epoch {epoch} does not hold all keys of the request");
        Err(Failure::new(Code::StaleEpoch, text))
    }

    fn start_read(&mut self, ask: Ask, what: What, consistency: Consistency, turn: &mut Turn) {
        let Consistency::Stale { max } = consistency else {
            self.reads.push(ask, what);
            return;
        };
        let age = self.reads.age(turn.now);
        // A bound of nothing is met by no state that was confirmed before this read came.
        if max.is_some_and(|max| age.is_none_or(|age| age > max || max.is_zero())) {
            atoll_base::reached!("a stale read was too old and asked for a confirmation");
            // Confirmed anew it is as good as a linearizable one, and refused where that can't be.
            self.reads.push(ask, what);
            return;
        }
        if age.is_none_or(|age| age > turn.config.raft.heartbeat_interval) {
            self.reads.want_news();
        }
        if let Condition::Serving(machine) = &self.condition {
            let age = age.unwrap_or(Duration::MAX);
            let body = read(ask, machine, &mut self.leases, what, age, turn);
            turn.answers.push(ask.answer(body));
        }
    }

    /// This replica as its node sees it.
    pub(crate) fn status(&self, node: NodeId) -> ReplicaStatus {
        let core = self.group.core();
        let members = core.membership().members.iter();
        let progress = core.progress().iter().map(|(node, progress)| FollowerStatus {
            node: *node,
            matched: progress.matched,
            state: send_state(progress.state),
        });
        ReplicaStatus {
            node,
            shard: self.shard(),
            epoch: self.descriptor.epoch,
            term: core.term(),
            leader: core.leader(),
            state: self.state_name(node),
            first_index: self.group.first_index(),
            last_index: self.group.last_index(),
            commit_index: core.commit(),
            applied_index: self.applied,
            revision: self.machine().map_or(atoll_base::Revision::ZERO, |m| m.revision()),
            compacted: self.machine().map_or(atoll_base::Revision::ZERO, |m| m.compact_revision()),
            members: members.map(|(node, role)| Member { node: *node, role: *role }).collect(),
            waits_for: self.members.waits_for().to_owned(),
            progress: progress.collect(),
        }
    }
}

fn send_state(state: SendState) -> &'static str {
    match state {
        SendState::Probe { .. } => "probe",
        SendState::Replicate => "replicate",
        SendState::Snapshot => "snapshot",
    }
}

/// Whether it names a lease or session that cannot be one.
fn names_nobody(op: &Op) -> bool {
    let id = match op {
        Op::Put(put) => put.lease,
        Op::Lease(LeaseOp::Grant { id, .. }) => *id,
        Op::Lease(LeaseOp::Revoke { id } | LeaseOp::Expire { id, .. }) => Some(*id),
        Op::Lock(LockOp::Acquire(AcquireOp { claim, .. }) | LockOp::Cancel(claim)) => {
            Some(claim.session)
        }
        Op::Lock(LockOp::Release { session, .. } | LockOp::Proclaim { session, .. }) => {
            Some(*session)
        }
        _ => None,
    };
    id.is_some_and(|id| id.0 == 0)
}

fn check_pair(put: &PutOp, turn: &Turn) -> Result<(), Failure> {
    let limits = &turn.config.limits;
    let (key, value) = (put.key.len() as u64, put.value.len() as u64);
    limit("key", "bytes", key, limits.key_bytes_max, "key_bytes_max")?;
    limit("value", "bytes", value, limits.value_bytes_max, "value_bytes_max")
}

/// Compares and steps of a transaction, nested ones included.
fn parts(txn: &TxnOp) -> u64 {
    let steps = txn.then.iter().chain(&txn.otherwise);
    let inner = steps.map(|step| match step {
        TxnStep::Txn(inner) => 1 + parts(inner),
        _ => 1,
    });
    txn.compares.len() as u64 + inner.sum::<u64>()
}

fn limit(what: &str, unit: &str, has: u64, max: u64, setting: &str) -> Result<(), Failure> {
    if has <= max {
        return Ok(());
    }
    let text = format!("{what} has {has} {unit}, limit {max} ({setting})");
    Err(Failure::new(Code::TooLarge, text))
}
