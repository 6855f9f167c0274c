//! Three cores in one thread: what an owner does with an `Output`, in some 120 lines.
//!
//! `cargo run -p atoll-raft --example three_cores`
#![allow(missing_docs, reason = "an example")]
#![allow(clippy::unwrap_used, reason = "an example")]

use atoll_base::{Entry, LogIndex, NodeId, Term, Time};
use atoll_raft::{
    Config, HardState, Input, LogReader, Membership, Message, Output, RaftCore, ReadContext,
    ReadError,
};

/// The owner's log. This one is never cut, and durable by decree.
#[derive(Default)]
struct Log(Vec<Entry>);

impl LogReader for Log {
    fn first_index(&self) -> LogIndex {
        LogIndex(1)
    }
    fn last_index(&self) -> LogIndex {
        LogIndex(self.0.len() as u64)
    }
    fn term(&self, index: LogIndex) -> Result<Term, ReadError> {
        Ok(index.0.checked_sub(1).map_or(Term::ZERO, |at| self.0[at as usize].term))
    }
    fn entries(
        &self,
        from: LogIndex,
        to: LogIndex,
        bytes_max: usize,
        out: &mut Vec<Entry>,
    ) -> Result<(), ReadError> {
        let mut bytes = 0;
        let wanted = &self.0[from.0 as usize - 1..to.0 as usize - 1];
        out.extend(wanted.iter().take_while(|e| (bytes < bytes_max, bytes += e.cost()).0).cloned());
        Ok(())
    }
}

struct Replica {
    core: RaftCore,
    log: Log,
    applied: LogIndex,
}

impl Replica {
    /// One step, and everything that its output asks for, in the order of obligations.
    fn step(&mut self, now: Time, input: Input, net: &mut Vec<Message>) {
        let mut inputs = vec![input];
        let mut out = Output::default();
        while let Some(input) = inputs.pop() {
            self.core.step(now, input, &self.log, &mut out);
            net.append(&mut out.messages);
            if let Some(write) = out.write.take() {
                if let Some(first) = write.entries.first() {
                    self.log.0.truncate(first.index.0 as usize - 1);
                    self.log.0.extend(write.entries);
                }
                // Here a real owner waits for its fsync.
                net.extend(write.after);
                let (write, term, index) = (write.id, write.term, write.index);
                inputs.push(Input::Written { write, term, index });
            }
            if let Some(commit) = out.commit {
                for entry in &self.log.0[self.applied.0 as usize..commit.0 as usize] {
                    println!(
                        "node {} applies {}: {:?}",
                        self.core.id(),
                        entry.index,
                        entry.payload
                    );
                }
                self.applied = commit;
                inputs.push(Input::Applied(commit));
            }
            for (context, index) in &out.reads {
                println!("node {} serves read {} at {index}", self.core.id(), context.0);
            }
            out.clear();
        }
    }
}

fn main() {
    let nodes = [1, 2, 3].map(NodeId);
    let group = Membership::of_voters(nodes);
    let mut now = Time::ZERO;
    let mut replicas = nodes.map(|id| {
        let (log, founding, nothing) = (Log::default(), group.clone(), HardState::default());
        let config = Config::new(id, id.0);
        let core = RaftCore::new(config, now, nothing, founding, LogIndex::ZERO, &log).unwrap();
        Replica { core, log, applied: LogIndex::ZERO }
    });
    let mut net: Vec<Message> = Vec::new();
    let mut asked = false;
    for _ in 0..200 {
        for message in std::mem::take(&mut net) {
            let to = message.to.0 as usize - 1;
            replicas[to].step(now, Input::Message(message), &mut net);
        }
        if net.is_empty() {
            let due = replicas.iter().filter_map(|r| r.core.next_deadline()).min();
            now = now.max(due.unwrap());
        }
        for replica in &mut replicas {
            if replica.core.next_deadline().is_some_and(|d| d <= now) {
                replica.step(now, Input::Tick, &mut net);
            }
            if replica.core.is_leader() && !asked {
                asked = true;
                println!("node {} leads term {}", replica.core.id(), replica.core.term());
                let payloads = ["one", "two", "three"].map(Into::into).to_vec();
                replica.step(now, Input::Propose(payloads), &mut net);
                replica.step(now, Input::Read(ReadContext(7)), &mut net);
            }
        }
    }
}
