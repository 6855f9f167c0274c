use std::collections::BTreeSet;

use atoll_base::EntryKind;
use bytes::Bytes;

use super::*;

const S: ShardId = ShardId(2);

fn entry(index: u64, term: u64, payload: &'static str) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Commands,
        payload: Bytes::from_static(payload.as_bytes()),
    }
}

fn three() -> Logs {
    let mut logs = Logs::default();
    logs.voters(S, [NodeId(1), NodeId(2), NodeId(3)]);
    logs
}

fn put(logs: &mut Logs, node: u64, entry: &Entry) -> Result<(), Violation> {
    logs.append(Stage::Issued, NodeId(node), S, entry)?;
    logs.append(Stage::Durable, NodeId(node), S, entry)
}

fn name(result: Result<(), Violation>) -> &'static str {
    result.expect_err("a violation").checker
}

#[test]
fn an_ordinary_life_is_fine() {
    let mut logs = three();
    logs.led(NodeId(1), S, Term(1)).unwrap();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    put(&mut logs, 2, &entry(1, 1, "a")).unwrap();
    logs.committed(NodeId(1), S, Term(1), LogIndex(1)).unwrap();
    put(&mut logs, 1, &entry(2, 1, "lost")).unwrap();
    logs.led(NodeId(2), S, Term(2)).unwrap();
    put(&mut logs, 2, &entry(2, 2, "b")).unwrap();
    put(&mut logs, 1, &entry(2, 2, "b")).unwrap();
    logs.committed(NodeId(2), S, Term(2), LogIndex(2)).unwrap();
    assert_eq!(logs.last_committed(S), LogIndex(2));
    logs.start(Stage::Issued, NodeId(1), S, LogIndex(2), Kept::Suffix);
    logs.recovered(NodeId(1), S, LogIndex(2), &[entry(2, 2, "b")]).unwrap();
}

#[test]
fn another_entry_at_the_same_place_is_caught() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    assert_eq!(name(put(&mut logs, 2, &entry(1, 1, "b"))), "log matching");
}

#[test]
fn another_past_of_the_same_entry_is_caught() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    put(&mut logs, 1, &entry(2, 3, "b")).unwrap();
    put(&mut logs, 2, &entry(1, 2, "c")).unwrap();
    assert_eq!(name(put(&mut logs, 2, &entry(2, 3, "b"))), "log matching");
}

#[test]
fn a_leader_that_overwrites_itself_is_caught() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    logs.led(NodeId(1), S, Term(2)).unwrap();
    assert_eq!(name(put(&mut logs, 1, &entry(1, 2, "b"))), "leader append-only");
}

#[test]
fn a_commit_without_a_durable_quorum_is_caught() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    logs.append(Stage::Issued, NodeId(2), S, &entry(1, 1, "a")).unwrap();
    let claim = logs.committed(NodeId(1), S, Term(1), LogIndex(1));
    assert_eq!(name(claim), "quorum durability");
}

#[test]
fn a_leader_without_a_committed_entry_and_its_replacement_are_caught() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    put(&mut logs, 2, &entry(1, 1, "a")).unwrap();
    logs.committed(NodeId(1), S, Term(1), LogIndex(1)).unwrap();
    assert_eq!(name(logs.led(NodeId(3), S, Term(2))), "leader completeness");
    assert_eq!(name(put(&mut logs, 2, &entry(1, 2, "b"))), "committed entries stay");
}

#[test]
fn a_commit_beyond_the_leaders_log_is_caught() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    put(&mut logs, 2, &entry(1, 1, "a")).unwrap();
    assert_eq!(name(logs.committed(NodeId(1), S, Term(1), LogIndex(2))), "commit rule");
}

#[test]
fn a_durable_entry_that_recovery_lost_is_caught() {
    let mut logs = three();
    for (index, payload) in [(1, "a"), (2, "b")] {
        put(&mut logs, 1, &entry(index, 1, payload)).unwrap();
    }
    logs.append(Stage::Issued, NodeId(1), S, &entry(3, 1, "not synced")).unwrap();
    logs.recovered(NodeId(1), S, LogIndex(1), &[entry(1, 1, "a"), entry(2, 1, "b")]).unwrap();
    let lost = logs.recovered(NodeId(1), S, LogIndex(1), &[entry(1, 1, "a")]);
    assert_eq!(name(lost), "log durability");
}

#[test]
fn a_start_after_a_snapshot_may_survive_unacknowledged() {
    let mut logs = three();
    for (index, payload) in [(1, "a"), (2, "b"), (3, "c")] {
        put(&mut logs, 1, &entry(index, 1, payload)).unwrap();
    }
    logs.start(Stage::Issued, NodeId(1), S, LogIndex(3), Kept::Nothing);
    logs.recovered(NodeId(1), S, LogIndex(3), &[]).expect("the start survived");
    // Once only: what is written after it is held to.
    put(&mut logs, 1, &entry(3, 1, "c")).unwrap();
    assert_eq!(name(logs.recovered(NodeId(1), S, LogIndex(3), &[])), "log durability");
}

#[test]
fn an_unacknowledged_suffix_of_an_earlier_term_may_survive() {
    let mut logs = three();
    put(&mut logs, 1, &entry(1, 1, "a")).unwrap();
    for index in [2, 3] {
        put(&mut logs, 1, &entry(index, 3, "of a leader that lost")).unwrap();
    }
    // The next leader has an entry of term 2 there.
    let later = [entry(1, 1, "a"), entry(2, 2, "b")];
    logs.append(Stage::Issued, NodeId(1), S, &later[1]).unwrap();
    let mut cut = later.clone();
    cut[1].payload = entry(2, 2, "never written").payload;
    logs.recovered(NodeId(1), S, LogIndex(1), &later).expect("the write survived");
    let made_up = logs.recovered(NodeId(1), S, LogIndex(1), &cut);
    assert_eq!(name(made_up), "log durability");
}

#[test]
fn a_late_leader_need_not_have_what_its_successor_committed() {
    let mut logs = three();
    for node in [2, 3] {
        put(&mut logs, node, &entry(1, 1, "a")).unwrap();
    }
    logs.led(NodeId(2), S, Term(3)).unwrap();
    logs.committed(NodeId(2), S, Term(3), LogIndex(1)).unwrap();
    logs.led(NodeId(1), S, Term(2)).expect("it was elected before, and speaks late");
    assert_eq!(name(logs.led(NodeId(1), S, Term(4))), "leader completeness");
}

#[test]
fn a_copy_that_damage_took_counts_until_a_snapshot_replaces_it() {
    let mut logs = three();
    for node in [1, 2] {
        put(&mut logs, node, &entry(1, 1, "a")).unwrap();
        put(&mut logs, node, &entry(2, 1, "b")).unwrap();
    }
    assert_eq!(logs.absent(NodeId(2), &BTreeSet::new()), [S]);
    logs.led(NodeId(1), S, Term(1)).unwrap();
    logs.damaged(NodeId(2), S, LogIndex(1), &[]);
    logs.committed(NodeId(1), S, Term(1), LogIndex(1)).expect("the leader was not told yet");
    logs.start(Stage::Durable, NodeId(2), S, LogIndex(1), Kept::Suffix);
    logs.start(Stage::Durable, NodeId(2), S, LogIndex(2), Kept::Nothing);
    let counted = logs.committed(NodeId(1), S, Term(1), LogIndex(2));
    assert_eq!(name(counted), "quorum durability", "the snapshot does not hold entry 2");
}

#[test]
fn a_configuration_that_was_cut_before_anybody_heard_of_it_still_counts() {
    let mut logs = three();
    let alone = Membership::of_voters([NodeId(1)]);
    let change = Entry { kind: EntryKind::Membership, payload: alone.encode(), ..entry(2, 1, "") };
    for entry in [entry(1, 1, "a"), change, entry(3, 1, "b"), entry(4, 1, "c")] {
        put(&mut logs, 1, &entry).unwrap();
    }
    logs.led(NodeId(1), S, Term(1)).unwrap();
    for stage in [Stage::Issued, Stage::Durable] {
        logs.start(stage, NodeId(1), S, LogIndex(4), Kept::Suffix);
    }
    logs.committed(NodeId(1), S, Term(1), LogIndex(4)).expect("it counts alone");
    // What was cut was committed: nobody may lead without it.
    assert_eq!(name(logs.led(NodeId(2), S, Term(2))), "leader completeness");
}
