//! Exactly once (M3, S1 to S4).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use atoll_base::{Code, Failure, Happened, Revision, Rng, Timestamp};
use atoll_machine::{Command, DeleteOp, KeyEnd, MachineLimits, Op, PutOp, Reply};
use bytes::Bytes;
use support::{Replica, identified, random};

fn put(value: &str) -> Op {
    let value = Bytes::from(value.to_owned());
    Op::Put(PutOp { key: Bytes::from("k"), value, ..PutOp::default() })
}

fn failure(reply: &Reply) -> &Failure {
    match reply {
        Reply::Failed(failure) => failure,
        other => panic!("{other:?} is no failure"),
    }
}

/// Commands are retried at random, out of order, over restarts: each is done once and always gives
/// its first reply.
#[test]
fn retries_get_the_first_reply() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let limits = MachineLimits { collect_per_entry: 3, ..MachineLimits::default() };
        let mut replica = Replica::new(limits);
        // Of each client: what it sent, with the reply once there was one.
        let mut sent: Vec<Vec<(Op, Option<Reply>)>> = vec![Vec::new(); 3];
        let mut acknowledged = [1_u64; 3];
        for turn in 0..150 {
            let client = rng.below(3) as usize;
            let mine = &mut sent[client];
            if mine.is_empty() || rng.chance(1, 2) {
                mine.push((random::op(&mut rng, replica.machine.revision()), None));
            }
            let first = acknowledged[client];
            let sequence = rng.range(first, mine.len() as u64 + 1);
            let (op, known) = &mut mine[sequence as usize - 1];
            let command = identified(client as u64 + 1, sequence, first, op.clone());
            let revision = replica.machine.revision();
            let reply = replica.run(turn, command);
            match known {
                Some(known) => {
                    assert_eq!(&reply, known, "seed {seed}, turn {turn}");
                    assert_eq!(replica.machine.revision(), revision);
                }
                None => *known = Some(reply),
            }
            let has_reply = |sequence: u64| mine[sequence as usize - 1].1.is_some();
            while acknowledged[client] < mine.len() as u64
                && has_reply(acknowledged[client])
                && rng.chance(1, 3)
            {
                acknowledged[client] += 1;
            }
            if rng.chance(1, 10) {
                replica.machine.check(&replica.engine).unwrap();
                replica.reopen();
            }
        }
    }
}

#[test]
fn what_was_acknowledged_is_refused() {
    let mut replica = Replica::new(MachineLimits::default());
    for sequence in 1..=3 {
        replica.run(0, identified(9, sequence, 1, put("1")));
    }
    replica.run(0, identified(9, 4, 3, put("2")));
    let revision = replica.machine.revision();
    let reply = replica.run(0, identified(9, 2, 1, put("1")));
    assert_eq!(failure(&reply).code, Code::SessionExpired);
    assert_eq!(failure(&reply).happened, Happened::Maybe);
    assert_eq!(replica.machine.revision(), revision);
}

#[test]
fn a_reply_that_is_too_big_is_forgotten_but_not_its_effect() {
    let limits = MachineLimits { reply_bytes_max: 64, ..MachineLimits::default() };
    let mut replica = Replica::new(limits);
    replica.run(0, identified(9, 1, 1, put(&"x".repeat(100))));
    let (key, end) = (Bytes::from("k"), KeyEnd::Single);
    let delete = identified(9, 2, 1, Op::Delete(DeleteOp { key, end, prev_kv: true }));
    let first = replica.run(0, delete.clone());
    assert!(matches!(first, Reply::Delete { deleted: 1, .. }), "{first:?}");
    for _ in 0..2 {
        let again = replica.run(0, delete.clone());
        assert_eq!(failure(&again).code, Code::ReplyForgotten);
        assert_eq!(failure(&again).happened, Happened::Yes);
        assert!(failure(&again).message.contains("revision 3"), "{again:?}");
        replica.reopen();
    }
    assert_eq!(replica.machine.revision(), Revision(3));
}

#[test]
fn a_client_with_too_many_replies_loses_the_oldest() {
    let limits = MachineLimits { replies_per_client_max: 4, ..MachineLimits::default() };
    let mut replica = Replica::new(limits);
    let replies: Vec<Reply> =
        (1..=6).map(|sequence| replica.run(0, identified(9, sequence, 1, put("1")))).collect();
    for sequence in 1..=6 {
        let again = replica.run(0, identified(9, sequence, 1, put("1")));
        match sequence {
            1 | 2 => assert_eq!(failure(&again).code, Code::SessionExpired),
            _ => assert_eq!(again, replies[sequence as usize - 1]),
        }
    }
}

/// The longest silent clients go for new ones, and are refused from then on (S3).
#[test]
fn clients_over_the_limit_are_forgotten_oldest_first() {
    let limits =
        MachineLimits { clients_max: 4, forgotten_clients_max: 3, ..MachineLimits::default() };
    let mut replica = Replica::new(limits);
    for client in 1..=4 {
        replica.run(client, identified(client, 1, 1, put("1")));
    }
    replica.run(5, identified(1, 2, 1, put("2")));
    replica.run(6, identified(5, 1, 1, put("1")));
    assert_eq!(replica.machine.session_count(), 4);
    let revision = replica.machine.revision();
    for _ in 0..2 {
        let reply = replica.run(7, identified(2, 1, 1, put("1")));
        assert_eq!(failure(&reply).code, Code::SessionExpired);
        replica.reopen();
    }
    assert_eq!(replica.machine.revision(), revision);
    // Three more are forgotten, so client 2 is not even known as forgotten any more: the stated
    // limit.
    for client in 6..=8 {
        replica.run(client + 2, identified(client, 1, 1, put("1")));
    }
    let reply = replica.run(12, identified(2, 1, 1, put("1")));
    assert!(matches!(reply, Reply::Put { .. }), "{reply:?}");
    replica.machine.check(&replica.engine).unwrap();
}

#[test]
fn silent_sessions_expire_by_log_time() {
    let mut replica = Replica::new(MachineLimits::default());
    replica.run(100, identified(1, 1, 1, put("1")));
    replica.run(200, identified(2, 1, 1, put("1")));
    // A stamp that goes back does not move the clock.
    replica.run(50, identified(3, 1, 1, put("1")));
    assert_eq!(replica.machine.clock(), Timestamp(200));
    assert_eq!(replica.machine.oldest_session_use(), Some(Timestamp(100)));
    let expire = Op::ExpireSessions { unused_since: Timestamp(200) };
    assert_eq!(replica.run(300, Command::anonymous(expire)), Reply::SessionsExpired { count: 1 });
    replica.reopen();
    let reply = replica.run(300, identified(1, 1, 1, put("1")));
    assert_eq!(failure(&reply).code, Code::SessionExpired);
    let reply = replica.run(300, identified(3, 1, 1, put("1")));
    assert_eq!(reply, Reply::Put { revision: Revision(4), previous: None });
    replica.machine.check(&replica.engine).unwrap();
}
