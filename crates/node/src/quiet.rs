//! Groups without traffic rest: what a lane adds so that none of them sleeps for ever.
//!
//! The core lets a group rest and says what it needs (`atoll_raft`, module `quiet`): that the news
//! of a node that is gone never fails to come. The node layer knows for all groups at once which
//! peers it talks with. Four things follow:
//!
//! * **Q1** No follower rests for a leader on a node that is not known to be alive: there would be
//!   no news when it goes. Such a notice is refused, and the leader goes on with its heartbeats.
//! * **Q2** Every replica hears every change of every peer, and one that is made later hears who is
//!   gone.
//! * **Q3** A replica that stops working while its node lives says so to its group.
//! * **Q4** A call that finds a resting follower where it needs the leader wakes the group. So
//!   even a group that missed some news is repaired by whoever needs it.

use atoll_base::{Code, Failure, NodeId};
use atoll_raft::{Body, Input, Message};

use crate::replica::Replica;
use crate::turn::Turn;

impl Replica {
    /// Refuses to rest for a leader whose end would not be noticed (Q1). True when it did.
    pub(crate) fn refuses_quiet(&self, message: &Message, turn: &mut Turn) -> bool {
        let is_known = turn.peers.get(&message.from).copied().unwrap_or(false);
        if is_known || !matches!(message.body, Body::Quiet { .. }) {
            return false;
        }
        atoll_base::reached!("a follower does not rest for a leader whose end it would not notice");
        self.send_wake(message.from, turn);
        true
    }

    /// A peer is gone, or there again.
    pub(crate) fn hear_of(&mut self, node: NodeId, alive: bool, turn: &mut Turn) {
        self.step(Input::PeerLiveness { node, alive }, turn);
        self.absorb(turn);
    }

    /// What was told before this replica was made (Q2).
    pub(crate) fn hear_who_is_gone(&mut self, turn: &mut Turn) {
        let gone = turn.peers.iter().filter(|(_, alive)| !**alive).map(|(node, _)| *node);
        for node in gone.collect::<Vec<NodeId>>() {
            self.hear_of(node, false, turn);
        }
    }

    /// Nothing comes from here any more: the others must not wait for it (Q3).
    pub(crate) fn say_goodbye(&self, turn: &mut Turn) {
        for node in self.group.core().membership().nodes() {
            if node != turn.config.node {
                self.send_wake(node, turn);
            }
        }
    }

    /// A call was refused because the leader is elsewhere, or nowhere (Q4).
    pub(crate) fn wake_if_needed(&mut self, failure: &Failure, turn: &mut Turn) {
        let is_for_leader = matches!(failure.code, Code::NotLeader | Code::NoLeader);
        let core = self.group.core();
        if is_for_leader && core.is_quiet() && !core.is_leader() {
            self.step(Input::Wake, turn);
            self.absorb(turn);
        }
    }

    fn send_wake(&self, to: NodeId, turn: &mut Turn) {
        let core = self.group.core();
        let message = Message { from: core.id(), to, term: core.term(), body: Body::Wake };
        let (to, envelope) = self.group.envelope(message);
        turn.sink.send(to, envelope);
    }
}
