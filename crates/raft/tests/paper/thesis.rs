//! The thesis, by sections.

use super::*;

#[test]
fn thesis_3_4_timeouts_are_spread() {
    let timeouts: Vec<_> = (1..=40).map(|id| group(&[id]).core(n(id)).next_deadline()).collect();
    let mut distinct = timeouts.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert!(distinct.len() > 35, "{} different timeouts of 40", distinct.len());
}

#[test]
fn thesis_3_5_a_reject_skips_a_whole_term_on_either_side() {
    // A follower with two entries of term 1 and eight of term 2.
    let mut w = group(&[1, 2, 3]);
    let log = [1, 1, 2, 2, 2, 2, 2, 2, 2, 2];
    let (first, rest) = log.split_at(3);
    let entries = |terms: &[u64], from: u64| {
        (from..).zip(terms).map(|(index, term)| entry(index, *term)).collect::<Vec<_>>()
    };
    say(&mut w, 2, 3, append((0, 0), 0, entries(first, 1)));
    say(&mut w, 2, 3, append((3, 2), 0, entries(rest, 4)));
    assert_eq!(w.core(n(1)).last_index(), LogIndex(10));
    // A leader that has no entry of term 2 is led past all of them at once.
    let (now, _) = say(&mut w, 3, 4, append((10, 1), 0, vec![]));
    assert_eq!(now, [rejected(10, (2, 1))]);
    // One that has term 3 there learns that only term 2 can match, and skips its own term 3.
    let (now, _) = say(&mut w, 3, 4, append((10, 3), 0, vec![]));
    assert_eq!(now, [rejected(10, (10, 2))]);
    // The leader's side: it goes on after the last entry that can be equal, not one by one.
    let mut w = led(&[1, 2, 3]);
    for _ in 0..4 {
        w.propose(n(1), &["a", "b"]);
    }
    say(&mut w, 2, 1, rejected(9, (1, 1)));
    assert_eq!(in_flight(&w, 2), [], "what is in flight was taken out by the answer");
    assert_eq!(w.core(n(1)).progress()[0].1.next, LogIndex(2));
    assert_eq!(w.core(n(1)).progress()[0].1.state, SendState::Probe { waiting: true });
}

fn rejected(prev: u64, (index, term): (u64, u64)) -> Body {
    Body::AppendReject {
        prev_index: LogIndex(prev),
        conflict_index: LogIndex(index),
        conflict_term: Term(term),
    }
}

#[test]
fn thesis_3_6_1_a_candidate_without_a_committed_entry_is_not_elected() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(3), 0);
    w.propose(n(1), &["committed"]);
    w.settle();
    w.crash(n(1), 0);
    w.start(n(3));
    // It campaigns first, as often as it likes.
    for _ in 0..5 {
        w.now = w.now.max(w.core(n(3)).next_deadline().expect("a timer"));
        w.step(n(3), Input::Tick);
        w.settle();
        assert!(!w.core(n(3)).is_leader());
    }
    assert!(w.until(|w| w.leader() == Some(n(2))));
    assert!(w.until(World::is_even));
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
fn thesis_3_10_the_target_has_the_whole_log_before_it_is_told() {
    let mut w = led(&[1, 2, 3]);
    w.cuts.insert((n(1), n(3)));
    w.propose(n(1), &["a"]);
    w.settle();
    w.cuts.clear();
    let told = |w: &World| w.net.iter().any(|m| m.body == Body::TimeoutNow);
    w.step(n(1), Input::Transfer(n(3)));
    assert!(!told(&w), "it lacks an entry");
    let last = w.core(n(1)).last_index().0;
    w.net.clear();
    let answer = Message { from: n(3), to: n(1), term: Term(1), body: has(last - 1) };
    w.step(n(1), Input::Message(answer));
    assert!(!told(&w), "it lacks an entry still");
    let answer = Message { from: n(3), to: n(1), term: Term(1), body: has(last) };
    // The checker would see that node 3 has nothing of the kind.
    w.checking = false;
    w.step(n(1), Input::Message(answer));
    assert!(told(&w));
}

#[test]
fn thesis_3_10_who_is_told_campaigns_at_once_and_is_heard_beside_a_live_leader() {
    let mut w = led(&[1, 2, 3]);
    let at = w.now;
    w.step(
        n(3),
        Input::Message(Message { from: n(1), to: n(3), term: Term(1), body: Body::TimeoutNow }),
    );
    assert_eq!(w.core(n(3)).role(), CoreRole::Candidate, "without a pre-vote, before its timeout");
    assert_eq!((w.core(n(3)).term(), w.now), (Term(2), at));
    let plain = Body::Vote { last_index: LogIndex(9), last_term: Term(1), transfer: false };
    let told = Body::Vote { last_index: LogIndex(9), last_term: Term(1), transfer: true };
    let ask = |w: &mut World, body| {
        w.net.clear();
        w.step(n(2), Input::Message(Message { from: n(3), to: n(2), term: Term(2), body }));
        w.write_done(n(2), usize::MAX);
        let answers: Vec<Body> = w.net.drain(..).map(|m| m.body).collect();
        w.tell_written(n(2));
        granted(&answers)
    };
    assert!(!ask(&mut w, plain), "node 2 hears its leader");
    assert!(ask(&mut w, told), "whom the leader told is no disturbance");
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
fn thesis_4_1_a_follower_takes_a_configuration_at_once_and_falls_back_when_it_is_cut_off() {
    let mut w = group(&[1, 2, 3]);
    let founding = w.core(n(1)).membership().clone();
    let joint = Membership {
        outgoing: Some(founding.members.clone()),
        ..Membership::of_voters([n(1), n(2)])
    };
    let (term, index, kind) = (Term(1), LogIndex(2), EntryKind::Membership);
    let carrying = Entry { term, index, kind, payload: joint.encode() };
    say(&mut w, 2, 1, append((0, 0), 0, vec![entry(1, 1), carrying]));
    assert_eq!(w.core(n(1)).membership(), &joint);
    assert_eq!((w.core(n(1)).membership_index(), w.core(n(1)).commit()), (index, LogIndex(0)));
    // A later leader never had it.
    say(&mut w, 3, 2, append((1, 1), 0, vec![entry(2, 2)]));
    assert_eq!(w.core(n(1)).membership(), &founding, "trap R8");
    assert_eq!(w.core(n(1)).membership_index(), LogIndex(0));
}

#[test]
fn thesis_4_1_one_change_at_a_time_and_none_before_a_commit_of_the_term() {
    let mut w = group(&[1, 2, 3]);
    candidate(&mut w);
    say(&mut w, 2, 1, Body::VoteReply { ballot: Ballot::Granted });
    assert!(w.core(n(1)).is_leader());
    let change = |w: &mut World, nodes: &[u64]| {
        let target = Membership::of_voters(nodes.iter().map(|id| n(*id)));
        w.outcomes.clear();
        w.step(n(1), Input::ChangeMembership(target));
        w.outcomes.pop().expect("an answer").1
    };
    assert_eq!(change(&mut w, &[1, 2]), ProposalOutcome::Refused, "trap R10");
    let first = w.core(n(1)).last_index();
    assert!(w.until(|w| w.core(n(1)).commit() == first), "its term's first entry commits");
    assert!(matches!(change(&mut w, &[1, 2]), ProposalOutcome::Appended { .. }));
    assert_eq!(change(&mut w, &[1, 3]), ProposalOutcome::Refused, "one is under way");
    w.settle();
    assert!(!w.core(n(1)).membership().is_joint(), "it is over");
    assert!(matches!(change(&mut w, &[1, 2, 3]), ProposalOutcome::Appended { .. }));
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
fn thesis_4_2_2_a_leader_that_is_left_out_does_not_count_itself() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(3), 0);
    let before = w.core(n(1)).commit();
    w.step(n(1), Input::ChangeMembership(Membership::of_voters([n(2), n(3)])));
    w.settle();
    // 1 and 2 are a majority of the old members; of the new ones 2 is one of two.
    assert!(w.core(n(1)).is_leader(), "it leads until the change is committed");
    assert_eq!(w.core(n(1)).commit(), before);
    assert_eq!(w.core(n(2)).last_index(), w.core(n(1)).last_index());
    w.start(n(3));
    assert!(w.until(|w| w.leader().is_some_and(|l| l != n(1)) && w.core(n(2)).commit() > before));
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
fn thesis_4_3_an_election_needs_both_majorities() {
    let mut w = led(&[1, 2, 3]);
    for id in [4, 5] {
        w.add(n(id), Membership::default(), config(n(id), 11));
        w.crash(n(id), 0);
    }
    w.step(n(1), Input::ChangeMembership(Membership::of_voters([n(1), n(4), n(5)])));
    w.settle();
    w.crash(n(1), 0);
    w.start(n(1));
    assert!(w.core(n(1)).membership().is_joint(), "it is in the log");
    let campaign = |w: &mut World| {
        w.now = w.now.max(w.core(n(1)).next_deadline().expect("a timer")).after(timeout());
        w.step(n(1), Input::Tick);
        w.settle();
    };
    campaign(&mut w);
    assert!(!w.core(n(1)).is_leader(), "2 and 3 would do for the old members alone");
    w.start(n(4));
    w.crash(n(2), 0);
    w.crash(n(3), 0);
    campaign(&mut w);
    assert!(!w.core(n(1)).is_leader(), "4 would do for the new members alone");
    w.start(n(2));
    campaign(&mut w);
    assert!(w.until(|w| w.core(n(1)).is_leader()), "1 and 2, and 1 and 4");
}

/// Longer than any election timeout of a group.
fn timeout() -> Duration {
    Duration::from_millis(200)
}

#[test]
fn thesis_4_3_a_later_leader_ends_what_its_predecessor_began() {
    let mut w = led(&[1, 2, 3]);
    w.cuts.extend([(n(2), n(1)), (n(3), n(1))]);
    let target = Membership::of_voters([n(2), n(3)]);
    w.step(n(1), Input::ChangeMembership(target.clone()));
    w.settle();
    assert!(w.core(n(2)).membership().is_joint() && w.core(n(3)).membership().is_joint());
    w.crash(n(1), 0);
    let done = |w: &World| {
        let leader = w.leader().map(|l| w.core(l));
        leader.is_some_and(|c| *c.membership() == target && c.commit() >= c.membership_index())
    };
    assert!(!done(&w));
    w.cuts.clear();
    assert!(w.until(|w| w.leader().is_some_and(|l| w.core(l).membership().is_joint())) || done(&w));
    w.start(n(1));
    assert!(w.until(done), "nobody asked for it again");
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
fn thesis_5_a_snapshot_brings_the_configuration_that_was_cut_with_the_log() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(3), 0);
    let target = w.core(n(1)).membership().clone().with(n(4), Role::Learner);
    w.step(n(1), Input::ChangeMembership(target.clone()));
    w.settle();
    w.propose(n(1), &["a"]);
    w.settle();
    w.compact(n(1), 0);
    assert!(w.core(n(1)).first_index() > w.core(n(1)).membership_index(), "its entry is gone");
    w.start(n(3));
    assert_ne!(w.core(n(3)).membership(), &target);
    w.pass_deadline();
    assert!(w.until(World::is_even));
    assert_eq!(w.core(n(3)).membership(), &target);
}

#[test]
fn thesis_5_a_snapshot_keeps_what_follows_it_in_the_log() {
    // Figure 13 of the paper, step 6: an entry equal to the snapshot's last one is in the log.
    let mut w = group(&[1, 2, 3]);
    say(&mut w, 2, 1, append((0, 0), 0, (1..=5).map(|index| entry(index, 1)).collect()));
    let core = w.core(n(1));
    assert!(!core.snapshot_replaces_log(LogIndex(3), Term(1)), "4 and 5 follow, acknowledged");
    assert!(!core.accepts_snapshot(LogIndex(3), Term(1)), "and there is nothing to fetch");
    // Step 7: a log that differs there goes as a whole.
    assert!(core.snapshot_replaces_log(LogIndex(3), Term(2)));
    assert!(core.snapshot_replaces_log(LogIndex(9), Term(1)));
}

#[test]
fn thesis_6_2_who_does_not_lead_says_who_does() {
    let mut w = led(&[1, 2, 3]);
    w.outcomes.clear();
    w.propose(n(2), &["a"]);
    assert_eq!(w.outcomes, [(n(2), ProposalOutcome::NotLeader { leader: Some(n(1)) })]);
    assert_eq!(w.core(n(2)).last_index(), w.core(n(1)).last_index(), "and appends nothing");
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
fn thesis_6_4_a_follower_asks_its_leader_for_the_index() {
    let mut w = led(&[1, 2, 3]);
    w.propose(n(1), &["a"]);
    w.settle();
    let commit = w.core(n(1)).commit();
    w.read(n(2), 7);
    assert!(w.served.is_empty());
    assert!(w.net.iter().any(|m| m.to == n(1) && matches!(m.body, Body::ReadIndex { .. })));
    w.settle();
    assert_eq!(w.served, [(n(2), ReadContext(7), commit)]);
}

#[test]
fn thesis_6_4_a_leader_that_was_replaced_serves_no_read() {
    let mut w = led(&[1, 2, 3]);
    w.read(n(1), 7);
    // The others have moved on before they confirm anything.
    say(&mut w, 2, 5, append((1, 1), 1, vec![entry(2, 5)]));
    assert!(!w.core(n(1)).is_leader());
    say(&mut w, 3, 1, Body::HeartbeatReply { round: 1 });
    w.settle();
    assert!(w.served.iter().all(|(_, context, _)| *context != ReadContext(7)), "{:?}", w.served);
    assert!(w.failed.iter().any(|(_, context, _)| *context == ReadContext(7)));
}

/// Three replicas of which the first leads and has served a read under its lease.
fn leased() -> World {
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
    w
}

#[test]
fn thesis_6_4_1_a_lease_serves_reads_at_once_and_ends() {
    let mut w = leased();
    w.now = w.now.after(Duration::from_millis(80));
    w.read(n(1), 2);
    assert_eq!(w.served.len(), 1, "after election timeout less margin it takes a round");
}

#[test]
fn thesis_6_4_1_no_lease_serves_once_another_was_told_to_campaign() {
    let mut w = leased();
    w.step(n(1), Input::Transfer(n(2)));
    assert!(w.net.iter().any(|m| m.body == Body::TimeoutNow));
    w.read(n(1), 2);
    assert_eq!(w.served.len(), 1, "node 2 may lead any moment");
}

#[test]
fn thesis_9_6_who_would_not_win_keeps_its_term() {
    let mut w = group(&[1, 2, 3]);
    let due = w.core(n(1)).next_deadline().expect("a timer");
    w.now = due;
    w.step(n(1), Input::Tick);
    assert_eq!((w.core(n(1)).role(), w.core(n(1)).term()), (CoreRole::PreCandidate, Term(0)));
    assert!(w.net.iter().all(|m| matches!(m.body, Body::PreVote { .. })));
    // However long nobody answers.
    for _ in 0..20 {
        w.net.clear();
        w.now = w.core(n(1)).next_deadline().expect("a timer");
        w.step(n(1), Input::Tick);
        assert_eq!(w.core(n(1)).term(), Term(0));
    }
    say(&mut w, 2, 0, Body::PreVoteReply { ballot: Ballot::Refused });
    assert_eq!(w.core(n(1)).role(), CoreRole::PreCandidate);
    say(&mut w, 3, 1, Body::PreVoteReply { ballot: Ballot::Granted });
    assert_eq!((w.core(n(1)).role(), w.core(n(1)).term()), (CoreRole::Candidate, Term(1)));
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

#[test]
fn thesis_10_2_1_a_leader_counts_itself_when_its_write_is_done() {
    let mut w = led(&[1, 2, 3]);
    w.crash(n(3), 0);
    let before = w.core(n(1)).commit();
    w.propose(n(1), &["a"]);
    while !w.net.is_empty() {
        w.deliver(0);
        w.write_done(n(2), usize::MAX);
        w.tell_written(n(2));
    }
    assert_eq!(w.core(n(2)).durable(), before.next());
    assert_eq!(w.core(n(1)).commit(), before, "2 has it, and nobody else durably (R3)");
    w.write_done(n(1), usize::MAX);
    w.tell_written(n(1));
    assert_eq!(w.core(n(1)).commit(), before.next());
}
