//! Three cores and what they are for: elect, propose, commit, crash, restart, snapshot, read.
#![allow(missing_docs, reason = "a test")]

mod world;

use atoll_base::LogIndex;
use atoll_raft::{Input, Membership, Role};
use world::{Disks, World, config, n};

fn three(disks: Disks) -> World {
    World::new(&Membership::of_voters([n(1), n(2), n(3)]), disks, |id| config(id, 7))
}

#[test]
fn three_cores_elect_one_leader_and_commit() {
    for disks in [Disks::Sync, Disks::Manual] {
        let mut w = three(disks);
        let leader = w.elect();
        w.propose(leader, &["a", "b", "c"]);
        w.settle();
        assert!(w.is_even());
        assert_eq!(w.core(leader).commit(), LogIndex(4), "an empty entry and three");
    }
}

#[test]
fn a_crashed_follower_catches_up_from_the_log() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    let other = n(leader.0 % 3 + 1);
    w.crash(other, 0);
    for i in 0..50 {
        w.propose(leader, &[&format!("value {i}")]);
        w.settle();
    }
    w.start(other);
    assert!(w.until(World::is_even));
    assert_eq!(w.core(other).commit(), w.core(leader).commit());
}

#[test]
fn a_crashed_leader_is_replaced_and_returns() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    w.propose(leader, &["kept"]);
    w.settle();
    w.propose(leader, &["lost"]);
    w.net.clear();
    w.crash(leader, 0);
    let next = w.elect();
    assert_ne!(next, leader);
    w.start(leader);
    w.propose(next, &["later"]);
    assert!(w.until(World::is_even));
}

#[test]
fn a_follower_beyond_the_log_gets_a_snapshot() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    let other = n(leader.0 % 3 + 1);
    w.crash(other, 0);
    for i in 0..20 {
        w.propose(leader, &[&format!("value {i}")]);
        w.settle();
    }
    w.compact(leader, 2);
    w.start(other);
    assert!(w.until(World::is_even));
    assert!(w.core(other).first_index() > LogIndex(1));
    w.propose(leader, &["after"]);
    assert!(w.until(World::is_even));
}

#[test]
fn reads_are_served_on_leader_and_follower() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    let other = n(leader.0 % 3 + 1);
    w.propose(leader, &["a"]);
    w.settle();
    w.read(leader, 1);
    w.read(other, 2);
    w.settle();
    assert_eq!(w.served.len(), 2);
    assert!(w.served.iter().all(|(_, _, index)| *index == LogIndex(2)));
}

#[test]
fn members_change_through_a_joint_configuration() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    for id in [4, 5] {
        w.add(n(id), Membership::default(), config(n(id), 7));
    }
    let target = Membership::of_voters([n(3), n(4), n(5)]).with(n(2), Role::Learner);
    w.step(leader, Input::ChangeMembership(target.clone()));
    w.settle();
    assert!(w.until(|w| {
        w.leader().is_some_and(|l| {
            *w.core(l).membership() == target && w.core(l).commit() >= w.core(l).membership_index()
        })
    }));
    let leader = w.elect();
    w.propose(leader, &["after"]);
    w.settle();
    assert!(w.until(|w| (3..=5).all(|id| w.core(n(id)).commit() == w.core(leader).last_index())));
}

#[test]
fn leadership_is_handed_over() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    let other = n(leader.0 % 3 + 1);
    w.propose(leader, &["a"]);
    w.step(leader, Input::Transfer(other));
    w.settle();
    assert_eq!(w.leader(), Some(other));
}

#[test]
fn a_single_voter_leads_and_commits_after_its_write() {
    let mut w = World::new(&Membership::of_voters([n(1)]), Disks::Manual, |id| config(id, 7));
    let leader = w.elect();
    w.propose(leader, &["a"]);
    assert_eq!(w.core(leader).commit(), LogIndex(1), "trap R3: not before its write");
    w.settle();
    assert_eq!(w.core(leader).commit(), LogIndex(2));
    w.read(leader, 1);
    assert_eq!(w.served.len(), 1, "nobody else to ask");
}

#[test]
fn a_leader_that_cannot_read_its_log_makes_room_for_another() {
    let mut w = three(Disks::Manual);
    let leader = w.elect();
    let other = n(leader.0 % 3 + 1);
    w.crash(other, 0);
    for i in 0..30 {
        w.propose(leader, &[&format!("value {i}")]);
        w.settle();
    }
    w.replicas.get_mut(&leader).unwrap().log.broken = true;
    w.start(other);
    assert!(w.until(|w| w.core(leader).is_damaged()), "it must read for the one that lags");
    assert!(w.until(|w| w.leader().is_some_and(|l| l != leader)));
}

#[test]
fn a_log_that_ends_before_what_is_applied_is_refused() {
    let members = Membership::of_voters([n(1)]);
    let log = world::mem_log::MemLog::default();
    let refused = atoll_raft::RaftCore::new(
        config(n(1), 1),
        atoll_base::Time::ZERO,
        atoll_raft::HardState::default(),
        members,
        LogIndex(3),
        &log,
    );
    assert!(refused.is_err());
}
