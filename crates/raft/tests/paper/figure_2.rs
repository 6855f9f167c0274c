//! Figure 2 of the paper: state, the two calls, rules for servers.

use super::*;

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
