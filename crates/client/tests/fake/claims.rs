//! Callers that wait for locks or observe elections, and what tests do to leases.

use std::time::Duration;

use atoll_base::{Code, Failure, Happened, LeaseId, NodeId, ShardId, Term};
use atoll_coord::{AnswerBody, KeptAlive, LeaseStatus, Origin, RequestBody, Told};
use atoll_machine::{Claim, Command, Effect, LeaseOp, Left, LockOp, LockReply, Op, Place, Reply};
use bytes::Bytes;

use super::{Fake, State};

type Caller = (NodeId, Origin, u64);

#[derive(Default)]
pub(super) struct Claims {
    waiting: Vec<(Claim, Caller)>,
    observers: Vec<(Bytes, Caller)>,
}

impl Claims {
    pub(super) fn forget(&mut self, gone: impl Fn(NodeId, Origin) -> bool) {
        self.waiting.retain(|(_, (node, origin, _))| !gone(*node, *origin));
        self.observers.retain(|(_, (node, origin, _))| !gone(*node, *origin));
    }
}

impl Fake {
    /// Takes heartbeats and answers none, until [`Fake::hear`].
    pub fn deafen(&self) {
        self.lock().is_deaf = true;
    }

    pub fn hear(&self) {
        self.lock().is_deaf = false;
    }

    /// The leases that each heartbeat named.
    pub fn heartbeats(&self) -> Vec<Vec<LeaseId>> {
        self.lock().heartbeats.clone()
    }

    /// The shard's leases.
    pub fn leases(&self, shard: u64) -> Vec<LeaseId> {
        let state = self.lock();
        let machine = &state.shards[&ShardId(shard)].machine;
        machine.leases_after(None, 1000).map(|(id, _)| id).collect()
    }

    /// Ends a lease as if it had not been heard of.
    pub fn expire(&self, shard: u64, id: LeaseId) {
        let mut state = self.lock();
        let birth = state.shards[&ShardId(shard)].machine.lease(id).unwrap().birth;
        let op = Op::Lease(LeaseOp::Expire { id, birth, term: Term(1) });
        let reply = state.apply(ShardId(shard), Command::anonymous(op));
        assert!(matches!(reply, Reply::Lease(_)), "{reply:?}");
    }

    /// Takes whoever waits for a lock as long as it may out of the queue.
    pub fn end_waits(&self, shard: u64) {
        let mut state = self.lock();
        for effect in state.shards[&ShardId(shard)].machine.timed() {
            if let Effect::Waits { claim, place, .. } = effect {
                let op = LockOp::ExpireWait { lock: claim.lock, place, term: Term(1) };
                state.apply(ShardId(shard), Command::anonymous(Op::Lock(op)));
            }
        }
    }

    /// How many wait for a lock.
    pub fn waiting(&self, shard: u64, lock: &str) -> u64 {
        let state = self.lock();
        let machine = &state.shards[&ShardId(shard)].machine;
        machine.lock(lock.as_bytes()).map_or(0, |info| info.busy.waiting)
    }
}

impl State {
    pub(super) fn wait(&mut self, shard: ShardId, claim: Claim, caller: Caller) {
        let at = self.shards.get_mut(&shard).unwrap();
        let body = match at.machine.claim_place(&claim) {
            Place::Waits => {
                at.claims.waiting.push((claim, caller));
                return;
            }
            Place::Holds(token) => {
                Ok(AnswerBody::Command(Reply::Lock(LockReply::Acquired { token })))
            }
            Place::Nowhere => Err(Failure::new(Code::NotFound, "no longer with the lock")),
        };
        self.answer(caller.0, caller.1, caller.2, body);
    }

    /// Forgets a caller, not its request.
    pub(super) fn stop_waiting(&mut self, node: NodeId, origin: Origin, id: u64) {
        for shard in self.shards.values_mut() {
            shard.claims.waiting.retain(|(_, caller)| *caller != (node, origin, id));
        }
    }

    pub(super) fn leadership_lost(&mut self, shard: ShardId) {
        let claims = std::mem::take(&mut self.shards.get_mut(&shard).unwrap().claims);
        for (_, (node, origin, id)) in claims.waiting {
            let failure = Failure::new(Code::Indeterminate, "leadership changed");
            self.answer(node, origin, id, Err(failure));
        }
        for (_, (node, origin, id)) in claims.observers {
            let failure = Failure::new(Code::NotLeader, "leadership changed");
            self.answer(node, origin, id, Err(failure));
        }
    }

    pub(super) fn tell(&mut self, shard: ShardId, effects: Vec<Effect>) {
        for effect in effects {
            let (claim, body) = match effect {
                Effect::Granted { claim, token, .. } => {
                    let reply = Reply::Lock(LockReply::Acquired { token });
                    (claim, Ok(AnswerBody::Command(reply)))
                }
                Effect::LeftQueue { claim, why, .. } => {
                    let code = match why {
                        Left::WaitOver => Code::DeadlineExceeded,
                        Left::Cancelled => Code::PreconditionFailed,
                        Left::SessionEnded => Code::NotFound,
                        Left::LimitShrunk => Code::InvalidArgument,
                    };
                    let failure = Failure::new(code, format!("left the queue: {why:?}"));
                    (claim, Err(failure.with_happened(Happened::No)))
                }
                Effect::Leads { lock, leadership } => {
                    let observers = &self.shards[&shard].claims.observers;
                    let told: Vec<Caller> =
                        observers.iter().filter(|(l, _)| *l == lock).map(|(_, c)| *c).collect();
                    for (node, origin, id) in told {
                        let news = AnswerBody::Observed(leadership.clone());
                        self.answer(node, origin, id, Ok(news));
                    }
                    continue;
                }
                _ => continue,
            };
            let waiting = &mut self.shards.get_mut(&shard).unwrap().claims.waiting;
            let told: Vec<(Claim, Caller)> = waiting.extract_if(.., |(c, _)| *c == claim).collect();
            for (_, (node, origin, id)) in told {
                self.answer(node, origin, id, body.clone());
            }
        }
    }

    pub(super) fn question(&mut self, caller: Caller, shard: ShardId, body: RequestBody) {
        let at = self.shards.get_mut(&shard).unwrap();
        let machine = &at.machine;
        let ttl = |id| machine.lease(id).map(|lease| Duration::from_millis(lease.ttl_ms));
        let answer = match body {
            RequestBody::KeepAlive { leases } => {
                self.heartbeats.push(leases.clone());
                if self.is_deaf {
                    return;
                }
                let kept = |id| KeptAlive { id, ttl: ttl(id) };
                Ok(AnswerBody::KeptAlive(leases.into_iter().map(kept).collect()))
            }
            RequestBody::Lease { id, keys } => match machine.lease(id) {
                Some(lease) => {
                    let ttl = Duration::from_millis(lease.ttl_ms);
                    let keys = match keys {
                        Told::Yes => machine.lease_keys(&self.engine, id, None, 100).unwrap(),
                        Told::No => Vec::new(),
                    };
                    let status = LeaseStatus { id, ttl, left: ttl, attached: lease.keys, keys };
                    Ok(AnswerBody::Lease(status))
                }
                None => Err(Failure::new(Code::NotFound, "requested lease not found")),
            },
            RequestBody::Leases { after, limit } => {
                let leases = machine.leases_after(after, limit).map(|(id, _)| id);
                Ok(AnswerBody::Leases(leases.collect()))
            }
            RequestBody::Lock { lock } => Ok(AnswerBody::Lock(machine.lock(&lock))),
            RequestBody::Observe { lock } => {
                let leadership = machine.lock(&lock).and_then(|info| info.leadership);
                at.claims.observers.push((lock, caller));
                Ok(AnswerBody::Observed(leadership))
            }
            other => panic!("no question: {other:?}"),
        };
        self.answer(caller.0, caller.1, caller.2, answer);
    }
}
