//! Groups that rest: none of their cores has a deadline, so none of them costs a step.
#![allow(missing_docs, reason = "a test")]

mod world;

use std::time::Duration;

use atoll_base::Time;
use atoll_raft::{Config, Input, Membership, Output, Role};
use world::mem_log::MemLog;
use world::{Disks, World, config, n};

/// The benchmark asserts the same of ten thousand.
const GROUPS: u64 = 1_000;

fn group(seed: u64) -> World {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let quiet = |id| Config { quiesce: true, ..config(id, seed) };
    let mut w = World::new(&founding, Disks::Sync, quiet);
    w.checking = false;
    w.elect();
    w
}

fn rests(w: &World) -> bool {
    w.up().iter().all(|id| w.core(*id).is_quiet())
}

/// Cores that ask to be stepped at some time.
fn awake(w: &World) -> usize {
    w.up().iter().filter(|id| w.core(**id).next_deadline().is_some()).count()
}

#[test]
fn groups_that_rest_cost_no_step() {
    let mut steps_wanted = 0;
    let mut last = None;
    for seed in 0..GROUPS {
        let mut w = group(seed);
        assert!(awake(&w) > 0, "one that has just elected a leader keeps time");
        assert!(w.until(rests), "group {seed} comes to rest");
        steps_wanted += awake(&w);
        assert!(w.net.is_empty(), "nothing is under way in group {seed}");
        last = Some(w);
    }
    assert_eq!(steps_wanted, 0, "of {} cores none has a deadline", 3 * GROUPS);
    // It is there at once after an hour in which nobody called it.
    let mut w = last.expect("there are groups");
    let (leader, term) = (w.leader().expect("it rests and leads"), w.core(n(1)).term());
    w.now = w.now.after(Duration::from_secs(3_600));
    let before = w.core(leader).commit();
    w.propose(leader, &["a"]);
    w.settle();
    assert_eq!(w.core(leader).commit(), before.next());
    assert_eq!((w.leader(), w.core(leader).term()), (Some(leader), term), "without an election");
    assert!(awake(&w) > 0);
    assert!(w.until(rests), "and it comes to rest again");
    assert_eq!(awake(&w), 0);
}

#[test]
fn a_tick_that_nobody_asked_for_changes_nothing_in_a_group_that_rests() {
    let mut w = group(1);
    assert!(w.until(rests));
    w.now = w.now.after(Duration::from_secs(3_600));
    for id in w.up() {
        let before = (w.core(id).role(), w.core(id).term());
        w.step(id, Input::Tick);
        assert_eq!((w.core(id).role(), w.core(id).term()), before);
        assert!(w.core(id).is_quiet() && w.core(id).next_deadline().is_none(), "{id} still rests");
    }
    assert!(w.net.is_empty());
}

#[test]
fn without_the_setting_a_group_keeps_its_timers() {
    let founding = Membership::of_voters([n(1), n(2), n(3)]);
    let mut w = World::new(&founding, Disks::Sync, |id| config(id, 1));
    w.elect();
    for _ in 0..100 {
        w.pass_deadline();
        assert_eq!(awake(&w), 3);
    }
}

#[test]
fn a_replica_that_only_holds_a_copy_has_no_deadline_either() {
    let founding = Membership::of_voters([n(1)]).with(n(2), Role::Learner);
    let (hard, log) = (Default::default(), MemLog::default());
    let settings = config(n(2), 1);
    let made =
        atoll_raft::RaftCore::new(settings, Time::ZERO, hard, founding, Default::default(), &log);
    let mut core = made.expect("an empty log");
    assert_eq!(core.next_deadline(), None);
    let mut out = Output::default();
    core.step(Time::from_millis(3_600_000), Input::Tick, &log, &mut out);
    assert!(out.is_empty() && core.next_deadline().is_none());
}
