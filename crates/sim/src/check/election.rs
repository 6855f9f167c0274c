//! At most one leader per shard and term, and no node goes back on its word.
//!
//! Source: Raft paper, figure 3 "Election Safety"; thesis 3.4 (one vote per term, durable before
//! answered). Who leads is taken from what nodes send (only a leader appends and beats), votes from
//! what they make durable.

use std::collections::BTreeMap;

use atoll_base::{NodeId, ShardId, Term};

use super::Violation;

/// Leaders and votes seen so far.
#[derive(Default, Debug)]
pub struct Elections {
    leaders: BTreeMap<(ShardId, Term), NodeId>,
    promises: BTreeMap<(ShardId, NodeId), (Term, Option<NodeId>)>,
    votes: BTreeMap<(ShardId, NodeId, Term), NodeId>,
}

impl Elections {
    /// `node` acted as the leader of `shard` in `term`. True the first time that anybody does.
    ///
    /// # Errors
    /// When another node did before.
    pub fn led(&mut self, shard: ShardId, term: Term, node: NodeId) -> Result<bool, Violation> {
        match self.leaders.insert((shard, term), node) {
            None => Ok(true),
            Some(before) if before == node => Ok(false),
            Some(before) => Err(Violation::new(
                "election safety",
                format!("shard {shard} term {term}: node {node} leads, so did node {before}"),
            )),
        }
    }

    /// `node` made durable that it is in `term` and voted for `vote`.
    ///
    /// # Errors
    /// When the term went back, or a vote of this term changed.
    pub fn promised(
        &mut self,
        shard: ShardId,
        node: NodeId,
        term: Term,
        vote: Option<NodeId>,
    ) -> Result<(), Violation> {
        let before = self.promises.insert((shard, node), (term, vote)).unwrap_or_default();
        let kept =
            term > before.0 || (term == before.0 && (before.1.is_none() || before.1 == vote));
        if kept {
            return Ok(());
        }
        let what = format!(
            "shard {shard} node {node}: term {term} vote {vote:?} after term {} vote {:?}",
            before.0, before.1
        );
        Err(Violation::new("election safety", what))
    }

    /// `node` told `candidate` that it has its vote in `term`, or asks for votes for itself.
    ///
    /// # Errors
    /// When it told another candidate so before, whatever happened to it in between.
    pub fn voted(
        &mut self,
        shard: ShardId,
        node: NodeId,
        term: Term,
        candidate: NodeId,
    ) -> Result<(), Violation> {
        match self.votes.insert((shard, node, term), candidate) {
            Some(before) if before != candidate => Err(Violation::new(
                "election safety",
                format!(
                    "shard {shard} term {term}: node {node} votes for node {candidate} after \
                     node {before}"
                ),
            )),
            _ => Ok(()),
        }
    }

    /// Terms that had a leader.
    #[must_use]
    pub fn terms_led(&self) -> usize {
        self.leaders.len()
    }

    /// `node` gave its replica of `shard` up, and with it what it had written down.
    pub fn forgot(&mut self, shard: ShardId, node: NodeId) {
        self.promises.remove(&(shard, node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: ShardId = ShardId(2);

    #[test]
    fn one_leader_per_term_is_fine_and_two_are_not() {
        let mut elections = Elections::default();
        assert_eq!(elections.led(S, Term(1), NodeId(1)), Ok(true));
        assert_eq!(elections.led(S, Term(1), NodeId(1)), Ok(false));
        assert_eq!(elections.led(S, Term(2), NodeId(2)), Ok(true));
        assert_eq!(elections.led(ShardId(3), Term(1), NodeId(3)), Ok(true));
        assert!(elections.led(S, Term(1), NodeId(3)).is_err());
    }

    #[test]
    fn a_second_vote_in_a_term_is_caught() {
        let mut elections = Elections::default();
        elections.voted(S, NodeId(1), Term(1), NodeId(2)).unwrap();
        elections.voted(S, NodeId(1), Term(1), NodeId(2)).unwrap();
        elections.voted(S, NodeId(1), Term(2), NodeId(3)).unwrap();
        assert!(elections.voted(S, NodeId(1), Term(1), NodeId(3)).is_err());
    }

    #[test]
    fn who_voted_for_another_may_not_ask_for_votes_in_that_term() {
        let mut elections = Elections::default();
        elections.voted(S, NodeId(1), Term(1), NodeId(2)).unwrap();
        elections.voted(S, NodeId(1), Term(2), NodeId(1)).unwrap();
        assert!(elections.voted(S, NodeId(1), Term(1), NodeId(1)).is_err());
    }

    #[test]
    fn terms_and_votes_do_not_go_back() {
        let one = Some(NodeId(1));
        let run = |steps: &[(u64, Option<NodeId>)]| {
            let mut elections = Elections::default();
            steps
                .iter()
                .all(|(term, vote)| elections.promised(S, NodeId(1), Term(*term), *vote).is_ok())
        };
        assert!(run(&[(1, None), (1, one), (1, one), (2, None), (2, Some(NodeId(2)))]));
        assert!(!run(&[(1, one), (1, Some(NodeId(2)))]));
        assert!(!run(&[(1, one), (1, None)]));
        assert!(!run(&[(2, None), (1, None)]));
    }
}
