//! The rules of the Raft paper's figure 2 and of the thesis's sections, one test each, named by
//! where they stand. Each looks at one core, or a few, from outside: messages in, messages out.
//!
//! Figure 2 is that of "In Search of an Understandable Consensus Algorithm" (Ongaro and Ousterhout
//! 2014); sections are those of Ongaro's thesis (2014).
#![allow(missing_docs, reason = "a test")]

mod world;

use std::time::Duration;

use atoll_base::{Entry, EntryKind, LogIndex, NodeId, Term, Time};
use atoll_raft::{
    Ballot, Body, CoreRole, Input, Membership, Message, ProposalOutcome, ReadContext, Role,
    SendState,
};
use bytes::Bytes;
use world::{Disks, World, config, n};

fn group(nodes: &[u64]) -> World {
    let founding = Membership::of_voters(nodes.iter().map(|id| n(*id)));
    World::new(&founding, Disks::Manual, |id| config(id, 11))
}

/// `nodes`, with 1 elected and everything delivered.
fn led(nodes: &[u64]) -> World {
    let mut w = group(nodes);
    elect(&mut w, n(1));
    w
}

fn elect(w: &mut World, node: NodeId) {
    let due = w.core(node).next_deadline().expect("a timer");
    w.now = w.now.max(due).after(Duration::from_millis(100));
    w.step(node, Input::Tick);
    w.settle();
    assert!(w.core(node).is_leader(), "{node} is elected");
}

/// Gives node 1 a message of `from`; what it answers at once, and what waits for its disk.
fn say(w: &mut World, from: u64, term: u64, body: Body) -> (Vec<Body>, Vec<Body>) {
    w.net.clear();
    w.step(n(1), Input::Message(Message { from: n(from), to: n(1), term: Term(term), body }));
    let now: Vec<Body> = w.net.drain(..).map(|m| m.body).collect();
    w.write_done(n(1), usize::MAX);
    let after: Vec<Body> = w.net.drain(..).map(|m| m.body).collect();
    w.tell_written(n(1));
    (now, after)
}

fn entry(index: u64, term: u64) -> Entry {
    let payload = Bytes::from(format!("{index} of {term}"));
    Entry { term: Term(term), index: LogIndex(index), kind: EntryKind::Commands, payload }
}

fn append(prev: (u64, u64), commit: u64, entries: Vec<Entry>) -> Body {
    let (prev_index, prev_term) = (LogIndex(prev.0), Term(prev.1));
    Body::Append { prev_index, prev_term, commit: LogIndex(commit), entries }
}

fn vote(last: (u64, u64)) -> Body {
    Body::Vote { last_index: LogIndex(last.0), last_term: Term(last.1), transfer: false }
}

fn has(matched: u64) -> Body {
    Body::AppendReply { matched: LogIndex(matched), life: 0 }
}

fn granted(bodies: &[Body]) -> bool {
    bodies.iter().any(|b| matches!(b, Body::VoteReply { ballot: Ballot::Granted }))
}

/// Appends that are in flight to `to`: the entry before, and how many entries.
fn in_flight(w: &World, to: u64) -> Vec<(u64, usize)> {
    let to_it = w.net.iter().filter(|m| m.to == n(to));
    let appends = to_it.filter_map(|m| match &m.body {
        Body::Append { prev_index, entries, .. } => Some((prev_index.0, entries.len())),
        _ => None,
    });
    appends.collect()
}

// Figure 2, state.

#[test]
fn figure_2_state_term_and_vote_survive_a_crash() {
    let mut w = group(&[1, 2, 3]);
    let (_, after) = say(&mut w, 2, 5, vote((0, 0)));
    assert!(granted(&after));
    w.crash(n(1), 0);
    w.start(n(1));
    assert_eq!((w.core(n(1)).term(), w.core(n(1)).vote()), (Term(5), Some(n(2))));
    let (now, after) = say(&mut w, 3, 5, vote((9, 4)));
    assert!(!granted(&now) && !granted(&after), "its vote of term 5 is given");
}

#[test]
fn figure_2_state_is_stable_before_an_answer_leaves() {
    let mut w = group(&[1, 2, 3]);
    let (now, after) = say(&mut w, 2, 1, vote((0, 0)));
    assert!(!granted(&now) && granted(&after), "{now:?} {after:?}");
    let (now, after) = say(&mut w, 2, 1, append((0, 0), 0, vec![entry(1, 1)]));
    assert!(!now.contains(&has(1)) && after.contains(&has(1)), "{now:?} {after:?}");
}

// Figure 2, AppendEntries, receiver.

#[test]
fn figure_2_append_1_of_an_earlier_term_is_refused() {
    let mut w = group(&[1, 2, 3]);
    say(&mut w, 2, 3, append((0, 0), 0, vec![entry(1, 3)]));
    let (now, after) = say(&mut w, 3, 2, append((0, 0), 0, vec![entry(1, 2)]));
    assert_eq!(w.core(n(1)).term_at(LogIndex(1)), Some(Term(3)), "nothing is appended");
    assert!(![now, after].concat().contains(&has(1)), "nothing is acknowledged");
}

#[test]
fn figure_2_append_2_without_the_entry_before_is_refused() {
    let mut w = group(&[1, 2, 3]);
    say(&mut w, 2, 1, append((0, 0), 0, vec![entry(1, 1)]));
    for prev in [(2, 1), (1, 2)] {
        let (now, after) = say(&mut w, 2, 2, append(prev, 0, vec![entry(prev.0 + 1, 2)]));
        let bodies = [now, after].concat();
        assert!(bodies.iter().any(|b| matches!(b, Body::AppendReject { .. })), "{bodies:?}");
        assert_eq!(w.core(n(1)).last_index(), LogIndex(1));
    }
}

#[test]
fn figure_2_append_3_a_conflicting_entry_and_all_after_it_go() {
    let mut w = group(&[1, 2, 3]);
    let old = vec![entry(1, 1), entry(2, 1), entry(3, 1)];
    say(&mut w, 2, 1, append((0, 0), 0, old));
    let (_, after) = say(&mut w, 3, 2, append((1, 1), 0, vec![entry(2, 2)]));
    assert!(after.contains(&has(2)), "{after:?}");
    assert_eq!(w.core(n(1)).last_index(), LogIndex(2));
    assert_eq!(w.core(n(1)).term_at(LogIndex(2)), Some(Term(2)));
}

#[test]
fn figure_2_append_3_what_agrees_is_not_cut_by_a_short_or_late_append() {
    let mut w = group(&[1, 2, 3]);
    let all = vec![entry(1, 1), entry(2, 1), entry(3, 1)];
    say(&mut w, 2, 1, append((0, 0), 0, all.clone()));
    say(&mut w, 2, 1, append((0, 0), 0, all[..1].to_vec()));
    assert_eq!(w.core(n(1)).last_index(), LogIndex(3));
}

#[test]
fn figure_2_append_4_entries_not_there_are_appended() {
    let mut w = group(&[1, 2, 3]);
    say(&mut w, 2, 1, append((0, 0), 0, vec![entry(1, 1)]));
    let overlapping = vec![entry(1, 1), entry(2, 1), entry(3, 1)];
    let (_, after) = say(&mut w, 2, 1, append((0, 0), 0, overlapping));
    assert!(after.contains(&has(3)), "{after:?}");
    assert_eq!(w.core(n(1)).last_index(), LogIndex(3));
}

#[test]
fn figure_2_append_5_commits_to_the_lesser_of_the_leaders_and_the_last_new_entry() {
    let mut w = group(&[1, 2, 3]);
    // Entry 2 is of an earlier leader and may not be this one's.
    say(&mut w, 2, 1, append((0, 0), 0, vec![entry(1, 1), entry(2, 1)]));
    say(&mut w, 3, 2, append((0, 0), 9, vec![entry(1, 1)]));
    assert_eq!(w.core(n(1)).commit(), LogIndex(1));
}

// Figure 2, RequestVote, receiver.

#[test]
fn figure_2_vote_1_of_an_earlier_term_is_refused() {
    let mut w = group(&[1, 2, 3]);
    say(&mut w, 2, 4, vote((0, 0)));
    let (now, after) = say(&mut w, 3, 3, vote((9, 3)));
    assert!(!granted(&now) && !granted(&after));
    assert_eq!(w.core(n(1)).term(), Term(4));
}

#[test]
fn figure_2_vote_2_one_a_term_and_the_same_again_if_asked_again() {
    let mut w = group(&[1, 2, 3]);
    let (_, after) = say(&mut w, 2, 1, vote((0, 0)));
    assert!(granted(&after));
    let (now, after) = say(&mut w, 3, 1, vote((0, 0)));
    assert!(!granted(&now) && !granted(&after));
    let (now, after) = say(&mut w, 2, 1, vote((0, 0)));
    assert!(granted(&now) || granted(&after), "the answer may have been lost");
}

#[test]
fn figure_2_vote_2_only_for_a_log_at_least_as_up_to_date() {
    for (last, wins) in [((2, 2), true), ((3, 2), true), ((1, 3), true), ((1, 2), false)] {
        let mut w = group(&[1, 2, 3]);
        say(&mut w, 2, 2, append((0, 0), 0, vec![entry(1, 1), entry(2, 2)]));
        w.now = w.now.after(Duration::from_secs(1));
        let (_, after) = say(&mut w, 3, 5, vote(last));
        assert_eq!(granted(&after), wins, "a log that ends with {last:?}");
    }
    let mut w = group(&[1, 2, 3]);
    say(&mut w, 2, 2, append((0, 0), 0, vec![entry(1, 1), entry(2, 2)]));
    w.now = w.now.after(Duration::from_secs(1));
    let (_, after) = say(&mut w, 3, 5, vote((900, 1)));
    assert!(!granted(&after), "a longer log of an earlier term is behind");
}

// Figure 2, rules for all servers.

#[test]
fn figure_2_all_committed_entries_are_applied_in_order_once() {
    let mut w = led(&[1, 2, 3]);
    for i in 0..20 {
        w.propose(n(1), &[&format!("{i}"), "again"]);
        w.settle();
    }
    w.pass_deadline();
    for id in [1, 2, 3] {
        assert_eq!(w.replica(n(id)).applied, w.core(n(id)).commit());
    }
    // The digest goes over every entry in the order of application.
    assert_eq!(w.replica(n(2)).state, w.replica(n(1)).state);
    assert_eq!(w.replica(n(3)).state, w.replica(n(1)).state);
}

#[test]
fn figure_2_all_a_later_term_makes_a_follower() {
    let mut w = led(&[1, 2, 3]);
    say(&mut w, 2, 9, Body::VoteReply { ballot: Ballot::Refused });
    assert_eq!((w.core(n(1)).role(), w.core(n(1)).term()), (CoreRole::Follower, Term(9)));
    assert_eq!(w.core(n(1)).vote(), None, "the vote was of another term");
}

// Figure 2, rules for followers, candidates, leaders.

#[test]
fn figure_2_follower_campaigns_when_it_hears_nobody() {
    let mut w = group(&[1, 2, 3]);
    let due = w.core(n(1)).next_deadline().expect("a timer");
    let before = w.now;
    w.now = Time(due.0 - 1);
    w.step(n(1), Input::Tick);
    assert_eq!(w.core(n(1)).role(), CoreRole::Follower, "not before its timeout");
    w.now = due;
    w.step(n(1), Input::Tick);
    assert_ne!(w.core(n(1)).role(), CoreRole::Follower);
    assert!(due.since(before) >= Duration::from_millis(100));
}

#[test]
fn figure_2_follower_does_not_campaign_while_it_hears_a_leader_or_gives_its_vote() {
    let mut w = group(&[1, 2, 3]);
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    say(&mut w, 2, 1, Body::Heartbeat { commit: LogIndex(0), round: 1 });
    let later = w.core(n(1)).next_deadline().expect("a timer");
    assert!(later.since(w.now) >= Duration::from_millis(100), "a heartbeat starts it again");
    w.now = later;
    say(&mut w, 3, 2, vote((0, 0)));
    let again = w.core(n(1)).next_deadline().expect("a timer");
    assert!(again.since(w.now) >= Duration::from_millis(100), "and so does a vote");
}

#[test]
fn figure_2_candidate_begins_a_term_votes_for_itself_and_asks_all() {
    let mut w = group(&[1, 2, 3]);
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    w.step(n(1), Input::Tick);
    let promise = Message {
        from: n(2),
        to: n(1),
        term: Term(1),
        body: Body::PreVoteReply { ballot: Ballot::Granted },
    };
    w.net.clear();
    w.step(n(1), Input::Message(promise));
    let core = w.core(n(1));
    assert_eq!((core.role(), core.term()), (CoreRole::Candidate, Term(1)));
    assert_eq!(core.vote(), Some(n(1)));
    assert!(core.next_deadline().is_some_and(|d| d > due), "a new timeout runs");
    w.write_done(n(1), usize::MAX);
    let asked: Vec<NodeId> = w.net.iter().map(|m| m.to).collect();
    assert_eq!(asked, [n(2), n(3)]);
}

#[test]
fn figure_2_candidate_leads_with_a_majority_and_not_before() {
    let mut w = group(&[1, 2, 3, 4, 5]);
    candidate(&mut w);
    say(&mut w, 2, 1, Body::VoteReply { ballot: Ballot::Granted });
    assert_eq!(w.core(n(1)).role(), CoreRole::Candidate, "two of five");
    say(&mut w, 2, 1, Body::VoteReply { ballot: Ballot::Granted });
    assert_eq!(w.core(n(1)).role(), CoreRole::Candidate, "the same vote counts once");
    say(&mut w, 3, 1, Body::VoteReply { ballot: Ballot::Granted });
    assert_eq!(w.core(n(1)).role(), CoreRole::Leader);
}

/// Node 1 a candidate of term 1, its own vote durable.
fn candidate(w: &mut World) {
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    w.step(n(1), Input::Tick);
    for from in [2, 3] {
        say(w, from, 1, Body::PreVoteReply { ballot: Ballot::Granted });
    }
    assert_eq!(w.core(n(1)).role(), CoreRole::Candidate);
}

#[test]
fn figure_2_candidate_follows_a_leader_of_its_term() {
    let mut w = group(&[1, 2, 3]);
    candidate(&mut w);
    say(&mut w, 2, 1, append((0, 0), 0, vec![entry(1, 1)]));
    assert_eq!(w.core(n(1)).role(), CoreRole::Follower);
    assert_eq!(w.core(n(1)).leader(), Some(n(2)));
}

#[test]
fn figure_2_candidate_starts_again_when_nobody_wins() {
    let mut w = group(&[1, 2, 3]);
    candidate(&mut w);
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    w.step(n(1), Input::Tick);
    for from in [2, 3] {
        say(&mut w, from, 2, Body::PreVoteReply { ballot: Ballot::Granted });
    }
    assert_eq!((w.core(n(1)).role(), w.core(n(1)).term()), (CoreRole::Candidate, Term(2)));
}

#[test]
fn figure_2_leader_speaks_at_once_and_in_idle_times() {
    let mut w = group(&[1, 2, 3]);
    candidate(&mut w);
    let (now, _) = say(&mut w, 2, 1, Body::VoteReply { ballot: Ballot::Granted });
    assert_eq!(now.len(), 2, "an append each, at once: {now:?}");
    w.settle();
    let due = w.core(n(1)).next_deadline().expect("a timer");
    assert!(due.since(w.now) <= Duration::from_millis(20));
    w.now = due;
    w.step(n(1), Input::Tick);
    let beats = w.net.iter().filter(|m| matches!(m.body, Body::Heartbeat { .. })).count();
    assert_eq!(beats, 2);
}

#[test]
fn figure_2_leader_appends_a_command_and_hands_it_over_when_it_is_committed() {
    let mut w = led(&[1, 2, 3]);
    let before = w.replica(n(1)).applied;
    w.propose(n(1), &["command"]);
    assert_eq!(w.core(n(1)).last_index(), before.next());
    w.write_done(n(1), usize::MAX);
    w.tell_written(n(1));
    assert_eq!(w.replica(n(1)).applied, before, "its own copy is not enough");
    w.settle();
    assert_eq!(w.replica(n(1)).applied, before.next());
}

#[test]
fn figure_2_leader_sends_what_a_follower_lacks_and_moves_on_when_it_has_it() {
    let mut w = led(&[1, 2, 3]);
    let last = w.core(n(1)).last_index();
    w.propose(n(1), &["a"]);
    assert_eq!(in_flight(&w, 2), [(last.0, 1)]);
    w.settle();
    let (_, p) = &w.core(n(1)).progress()[0];
    assert_eq!((p.matched, p.next), (last.next(), last.next().next()));
}

#[test]
fn figure_2_leader_goes_back_until_the_logs_meet() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(3), 0);
    for i in 0..5 {
        w.propose(n(1), &[&format!("{i}")]);
        w.settle();
    }
    w.start(n(3));
    elect(&mut w, n(2));
    assert!(w.until(World::is_even), "3 got what it lacked from the new leader");
    assert_eq!(w.core(n(3)).last_index(), w.core(n(2)).last_index());
}

#[test]
fn figure_2_leader_commits_what_a_majority_holds() {
    let mut w = led(&[1, 2, 3, 4, 5]);
    let before = w.core(n(1)).commit();
    w.propose(n(1), &["a"]);
    w.write_done(n(1), usize::MAX);
    w.tell_written(n(1));
    let index = before.next().0;
    say(&mut w, 2, 1, has(index));
    assert_eq!(w.core(n(1)).commit(), before, "two of five");
    // The world's checker wants the copy to be there as well.
    w.propose(n(1), &["b"]);
    w.settle();
    assert!(w.core(n(1)).commit() >= before.next());
}

// The thesis.

#[test]
fn thesis_3_4_timeouts_are_spread() {
    let timeouts: Vec<_> = (1..=40).map(|id| group(&[id]).core(n(id)).next_deadline()).collect();
    let mut distinct = timeouts.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 35, "{} different timeouts of 40", distinct.len());
}

#[test]
fn thesis_3_6_2_an_earlier_terms_entry_is_not_committed_by_counting() {
    // Figure 8 of the paper: 1 leads, its entry reaches 2; 1 leads again in a later term, and the
    // old entry reaches a majority: it may still be overwritten, so it is not committed by that.
    let mut w = led(&[1, 2, 3]);
    let before = w.core(n(1)).commit();
    w.propose(n(1), &["old"]);
    w.write_done(n(1), usize::MAX);
    w.net.clear();
    w.crash(n(1), usize::MAX);
    w.start(n(1));
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due.after(Duration::from_millis(200));
    w.step(n(1), Input::Tick);
    while !w.core(n(1)).is_leader() {
        let at = w.net.iter().position(|m| m.to == n(1) || m.to == n(2)).expect("a message");
        w.deliver(at);
        for id in [1, 2] {
            w.write_done(n(id), usize::MAX);
            w.tell_written(n(id));
        }
    }
    let old = before.next();
    assert_eq!(w.core(n(1)).term_at(old), Some(Term(1)));
    // 2 is said to have the old entry and not yet the new term's first one.
    let held_up = std::mem::take(&mut w.net);
    w.step(n(1), Input::Message(Message { from: n(2), to: n(1), term: Term(2), body: has(old.0) }));
    assert!(w.core(n(1)).commit() < old, "the old entry is on a majority, and waits");
    // Once the new term's first entry is there too, it commits, and the old one with it.
    let first = old.next();
    assert_eq!(w.core(n(1)).term_at(first), Some(Term(2)));
    w.net = held_up;
    w.settle();
    assert_eq!(w.core(n(1)).commit(), first);
}

#[test]
fn thesis_3_8_a_completed_write_makes_a_vote_count() {
    let mut w = group(&[1]);
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    w.step(n(1), Input::Tick);
    assert_eq!(w.core(n(1)).role(), CoreRole::Candidate, "its own vote is not durable");
    w.write_done(n(1), usize::MAX);
    w.tell_written(n(1));
    assert_eq!(w.core(n(1)).role(), CoreRole::Leader);
}

#[test]
fn thesis_3_10_leadership_is_handed_over_and_taken_back_after_a_timeout() {
    let mut w = led(&[1, 2, 3]);
    w.step(n(1), Input::Transfer(n(2)));
    w.propose(n(1), &["refused"]);
    assert!(matches!(w.outcomes.last(), Some((_, ProposalOutcome::Refused))));
    w.settle();
    assert_eq!(w.leader(), Some(n(2)));
    w.crash(n(3), 0);
    w.step(n(2), Input::Transfer(n(3)));
    assert!(w.core(n(2)).is_transferring());
    w.now = w.now.after(Duration::from_millis(100));
    w.step(n(2), Input::Tick);
    assert!(!w.core(n(2)).is_transferring(), "given up after one election timeout");
}

#[test]
fn thesis_4_1_a_configuration_is_in_force_when_it_is_in_the_log() {
    let mut w = led(&[1, 2, 3]);
    let target = Membership::of_voters([n(1), n(2)]);
    w.step(n(1), Input::ChangeMembership(target));
    assert!(w.core(n(1)).membership().is_joint(), "at once, committed or not");
    assert!(w.core(n(1)).membership_index() > w.core(n(1)).commit());
}

#[test]
fn thesis_4_2_1_a_learner_gets_the_log_and_has_no_vote() {
    let mut w = led(&[1, 2, 3]);
    w.add(n(4), Membership::default(), config(n(4), 11));
    let target = w.core(n(1)).membership().clone().with(n(4), Role::Learner);
    w.step(n(1), Input::ChangeMembership(target));
    w.settle();
    w.propose(n(1), &["a"]);
    w.settle();
    assert_eq!(w.core(n(4)).last_index(), w.core(n(1)).last_index());
    // 2 and 3 are gone: the learner's copy commits nothing.
    w.crash(n(2), 0);
    w.crash(n(3), 0);
    let before = w.core(n(1)).commit();
    w.propose(n(1), &["b"]);
    w.settle();
    assert_eq!(w.core(n(4)).last_index(), before.next());
    assert_eq!(w.core(n(1)).commit(), before);
    assert_eq!(w.core(n(4)).next_deadline(), None, "nor does it campaign");
}

#[test]
fn thesis_4_2_2_a_leader_that_is_left_out_commits_that_and_goes() {
    let mut w = led(&[1, 2, 3]);
    let target = Membership::of_voters([n(2), n(3)]);
    w.step(n(1), Input::ChangeMembership(target.clone()));
    w.settle();
    assert!(!w.core(n(1)).is_leader());
    assert!(w.until(|w| w.leader().is_some()));
    let leader = w.leader().expect("just seen");
    assert_eq!(w.core(leader).membership(), &target);
    assert!(w.core(leader).commit() >= w.core(leader).membership_index());
}

#[test]
fn thesis_4_2_3_who_was_removed_disturbs_nobody() {
    let mut w = led(&[1, 2, 3]);
    say(&mut w, 3, 9, vote((99, 8)));
    assert!(w.core(n(1)).is_leader(), "a leader ignores later terms' requests");
    assert_eq!(w.core(n(1)).term(), Term(1));
}

#[test]
fn thesis_4_3_a_joint_configuration_needs_both_majorities() {
    let mut w = led(&[1, 2, 3]);
    for id in [4, 5] {
        w.add(n(id), Membership::default(), config(n(id), 11));
    }
    w.crash(n(2), 0);
    w.crash(n(3), 0);
    let before = w.core(n(1)).commit();
    w.step(n(1), Input::ChangeMembership(Membership::of_voters([n(1), n(4), n(5)])));
    w.settle();
    assert!(w.core(n(4)).last_index() > before, "the new majority has it");
    assert_eq!(w.core(n(1)).commit(), before, "the old one does not");
    w.start(n(2));
    assert!(w.until(|w| !w.core(n(1)).membership().is_joint() && w.core(n(1)).commit() > before));
}

#[test]
fn thesis_5_a_follower_beyond_the_log_gets_a_snapshot_and_then_the_log() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(3), 0);
    for i in 0..5 {
        w.propose(n(1), &[&format!("{i}")]);
        w.settle();
    }
    w.compact(n(1), 0);
    w.start(n(3));
    w.pass_deadline();
    assert!(w.until(World::is_even));
    assert!(w.core(n(3)).first_index() > LogIndex(1), "by snapshot");
    assert_eq!(w.replica(n(3)).state, w.replica(n(1)).state);
}

#[test]
fn thesis_6_2_a_leader_that_hears_no_majority_steps_down() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(2), 0);
    w.crash(n(3), 0);
    for _ in 0..8 {
        w.pass_deadline();
    }
    assert!(!w.core(n(1)).is_leader());
}

#[test]
fn thesis_6_4_a_read_waits_for_a_round_of_heartbeats_that_began_after_it() {
    let mut w = led(&[1, 2, 3]);
    let commit = w.core(n(1)).commit();
    w.read(n(1), 7);
    assert!(w.served.is_empty(), "not before the others confirm");
    let (round, before) = w
        .net
        .iter()
        .find_map(|m| match m.body {
            Body::Heartbeat { round, .. } => Some((round, round - 1)),
            _ => None,
        })
        .expect("a heartbeat");
    say(&mut w, 2, 1, Body::HeartbeatReply { round: before });
    assert!(w.served.is_empty(), "an earlier round's answer confirms nothing (R1)");
    say(&mut w, 2, 1, Body::HeartbeatReply { round });
    assert_eq!(w.served, [(n(1), ReadContext(7), commit)]);
}

#[test]
fn thesis_6_4_a_read_waits_for_the_terms_first_commit() {
    let mut w = group(&[1, 2, 3]);
    candidate(&mut w);
    say(&mut w, 2, 1, Body::VoteReply { ballot: Ballot::Granted });
    w.read(n(1), 7);
    say(&mut w, 2, 1, Body::HeartbeatReply { round: 99 });
    assert!(w.served.is_empty(), "nothing is committed in its term (R2)");
}

#[test]
fn thesis_6_4_1_a_lease_serves_reads_at_once_and_ends() {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let mut w = World::new(&founding, Disks::Manual, |id| {
        let mut c = config(id, 11);
        c.lease_reads = true;
        c
    });
    w.now = w.now.after(Duration::from_millis(200));
    elect(&mut w, n(1));
    w.pass_deadline();
    w.read(n(1), 1);
    assert_eq!(w.served.len(), 1, "under the lease");
    w.now = w.now.after(Duration::from_millis(80));
    w.read(n(1), 2);
    assert_eq!(w.served.len(), 1, "after election timeout less margin it takes a round");
}

#[test]
fn thesis_9_6_a_pre_vote_changes_nobodys_term() {
    let mut w = led(&[1, 2, 3]);
    let body = Body::PreVote { last_index: LogIndex(9), last_term: Term(9) };
    let (now, _) = say(&mut w, 3, 10, body.clone());
    assert_eq!(now, [Body::PreVoteReply { ballot: Ballot::Refused }], "a leader is there");
    assert_eq!(w.core(n(1)).term(), Term(1));
    let mut w = group(&[1, 2, 3]);
    let (now, _) = say(&mut w, 3, 10, body);
    assert_eq!(now, [Body::PreVoteReply { ballot: Ballot::Granted }]);
    assert_eq!((w.core(n(1)).term(), w.core(n(1)).vote()), (Term(0), None));
}

#[test]
fn thesis_10_2_appends_are_pipelined_within_the_window() {
    let mut w = led(&[1, 2, 3]);
    for i in 0..9 {
        w.propose(n(1), &[&format!("{i}")]);
    }
    let (_, p) = &w.core(n(1)).progress()[0];
    assert_eq!(p.state, SendState::Replicate);
    assert_eq!(p.inflight(), 4, "as many as the window allows, none answered");
    assert_eq!(in_flight(&w, 2).len(), 4);
    w.settle();
    assert!(w.until(World::is_even));
}

#[test]
fn thesis_10_2_1_appends_leave_before_the_leaders_own_write() {
    let mut w = led(&[1, 2, 3]);
    let before = w.core(n(1)).commit();
    w.propose(n(1), &["a"]);
    assert_eq!(w.core(n(1)).durable(), before, "its disk is not done");
    assert_eq!(in_flight(&w, 2).len() + in_flight(&w, 3).len(), 2);
    // Both followers are a majority without the leader's disk.
    while !w.net.is_empty() {
        w.deliver(0);
        for id in [2, 3] {
            w.write_done(n(id), usize::MAX);
            w.tell_written(n(id));
        }
    }
    assert_eq!(w.core(n(1)).commit(), before.next());
    assert_eq!(w.replica(n(1)).applied, before, "applied when it is durable here too (I5)");
}
