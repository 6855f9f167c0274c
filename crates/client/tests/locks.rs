//! Locks, semaphores, elections and leases against a cluster that misbehaves. Time is virtual.

#![allow(clippy::unwrap_used, reason = "a test stops where it is surprised")]

mod fake;

use std::time::Duration;

use atoll_client::{
    Attempt, Client, Code, Failure, Happened, Holding, Keys, Options, PutOp, Standing, Token, Told,
};
use fake::{Fake, Fault};
use tokio::task::JoinHandle;

/// The shard of the keyspace `default`.
const SHARD: u64 = 2;
const TTL: Duration = Duration::from_secs(15);

/// Lets virtual time pass. Every test here has a paused clock, which jumps from one timer to the
/// next while all tasks wait: heartbeats in between happen, and nobody sleeps.
async fn pass(time: Duration) {
    tokio::time::sleep_until(tokio::time::Instant::now() + time).await;
}

/// Lets everything happen that needs next to no time.
async fn settle() {
    pass(Duration::from_millis(50)).await;
}

fn waiter(client: &Client, name: &'static str) -> JoinHandle<Result<Holding, Failure>> {
    let client = client.clone();
    tokio::spawn(async move { client.lock(name).acquire().await })
}

#[tokio::test(start_paused = true)]
async fn the_next_in_the_queue_has_it_when_the_first_lets_go() {
    let fake = Fake::new(3);
    let (one, two) = (fake.client().await, fake.builder(2).connect().await.unwrap());
    let held = one.lock("m").acquire().await.unwrap();
    assert_eq!((held.standing(), &held.name()[..]), (Standing::Held, &b"m"[..]));
    match two.lock("m").try_acquire().await.unwrap() {
        Attempt::Busy(busy) => {
            assert_eq!((busy.held, busy.waiting), (1, 0));
            assert_eq!(busy.holders[0].session, held.session());
        }
        Attempt::Held(other) => panic!("two hold it: {held:?}, {other:?}"),
    }
    let next = waiter(&two, "m");
    settle().await;
    assert_eq!(fake.waiting(SHARD, "m"), 1);
    let first = held.token();
    held.release().await.unwrap();
    let held = next.await.unwrap().unwrap();
    assert!(held.token() > first);
    drop(held);
    settle().await;
    assert_eq!(one.lock("m").info().await.unwrap(), None, "a dropped one is released");
}

#[tokio::test(start_paused = true)]
async fn shared_ones_hold_it_together_and_wait_behind_an_exclusive_one() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let a = client.lock("m").shared().acquire().await.unwrap();
    let b = client.lock("m").shared().acquire().await.unwrap();
    let alone = waiter(&client, "m");
    settle().await;
    assert!(matches!(client.lock("m").shared().try_acquire().await.unwrap(), Attempt::Busy(_)));
    a.release().await.unwrap();
    b.release().await.unwrap();
    alone.await.unwrap().unwrap().release().await.unwrap();
}

/// A silent cluster: held, suspended after a third, lost before the time to live is over, and lost
/// for good (H1).
#[tokio::test(start_paused = true)]
async fn a_holder_believes_no_longer_than_it_may() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let held = client.lock("m").ttl(TTL).acquire().await.unwrap();
    pass(Duration::from_secs(120)).await;
    assert_eq!(held.standing(), Standing::Held);
    fake.deafen();
    let silent = tokio::time::Instant::now();
    assert_eq!(held.changed(Standing::Held).await, Standing::Suspended);
    let after = silent.elapsed();
    assert!(after > TTL / 3 - TTL / 5 && after <= TTL / 3 + TTL / 50, "suspended after {after:?}");
    fake.hear();
    assert_eq!(held.changed(Standing::Suspended).await, Standing::Held, "heard of again");
    fake.deafen();
    let silent = tokio::time::Instant::now();
    held.lost().await;
    let after = silent.elapsed();
    assert!(after > TTL / 2 && after <= TTL / 10 * 9, "lost after {after:?}");
    assert_eq!(held.sure_for(), Duration::ZERO);
    fake.hear();
    pass(Duration::from_secs(60)).await;
    assert_eq!(held.standing(), Standing::Lost);
    // The next one has another session; the old one's lease was not renewed meanwhile.
    fake.expire(SHARD, held.session());
    let again = client.lock("m").acquire().await.unwrap();
    assert_ne!(again.session(), held.session());
    assert!(again.token() > held.token());
    let refused = held.release().await.unwrap_err();
    assert_eq!((refused.code, refused.happened), (Code::PreconditionFailed, Happened::No));
}

/// Trap T26: the store refuses what a holder writes that does not know yet.
#[tokio::test(start_paused = true)]
async fn a_guard_outlives_no_session() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let held = client.lock("m").acquire().await.unwrap();
    let keys = client.keyspace("default").guarded_by(held.guard());
    keys.put("a", "1").await.unwrap();
    keys.txn().put("b", "1").commit().await.unwrap();
    keys.batch().put("c", "1").commit().await.unwrap();
    fake.expire(SHARD, held.session());
    assert_eq!(held.standing(), Standing::Held, "it has not heard yet");
    let failures = [
        keys.put("a", "2").await.unwrap_err(),
        keys.delete("a").await.unwrap_err(),
        keys.txn().put("b", "2").commit().await.unwrap_err(),
        keys.batch().put("c", "2").commit().await.unwrap_err(),
    ];
    for failure in failures {
        assert_eq!(failure.code, Code::PreconditionFailed);
        assert_eq!(failure.message, "guard refused: lock m, token 1 given, nobody holds it");
    }
    assert_eq!(client.keyspace("default").get("a").await.unwrap().unwrap().value, "1");
    held.lost().await; // the next heartbeat tells
}

/// Whatever happens to connections, nodes and answers, each has its turn in the order of asking.
#[tokio::test(start_paused = true)]
async fn waiters_keep_their_place() {
    let fake = Fake::new(3);
    let first = fake.client().await;
    let held = first.lock("m").acquire().await.unwrap();
    let mut clients = Vec::new();
    let mut waiters = Vec::new();
    for n in 1..=6 {
        let client = fake.builder(n % 3 + 1).connect().await.unwrap();
        waiters.push(waiter(&client, "m"));
        clients.push(client);
        settle().await;
        match n {
            2 => fake.hang_up(),
            3 => fake.move_leader(SHARD, 2),
            4 => fake.move_leader(SHARD, 3),
            5 => fake.hang_up(),
            _ => {}
        }
        pass(Duration::from_secs(1)).await;
        assert_eq!(fake.waiting(SHARD, "m"), n);
    }
    let mut last = held.token();
    held.release().await.unwrap();
    for waiter in waiters {
        let held = waiter.await.unwrap().unwrap();
        assert_eq!(held.token(), Token(last.0 + 1), "one after the other");
        last = held.token();
        held.release().await.unwrap();
    }
}

/// An answer that is lost is told again, and is the same.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_no_second_claim() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    client.lock("warm").acquire().await.unwrap().release().await.unwrap();
    fake.fault(Fault::LoseAnswer);
    let held = client.lock("m").acquire().await.unwrap();
    let info = client.lock("m").info().await.unwrap().unwrap();
    assert_eq!((info.busy.held, info.busy.waiting), (1, 0));
    assert_eq!(info.busy.holders[0].token, held.token());
    fake.fault(Fault::LoseAnswer);
    held.release().await.unwrap();
}

/// H3: who gives up is not in the way.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_leaves_the_queue() {
    let fake = Fake::new(1);
    let (one, two) = (fake.client().await, fake.client().await);
    let held = one.lock("m").acquire().await.unwrap();
    let gone = waiter(&two, "m");
    settle().await;
    let next = waiter(&one, "m");
    settle().await;
    assert_eq!(fake.waiting(SHARD, "m"), 2);
    gone.abort();
    settle().await;
    assert_eq!(fake.waiting(SHARD, "m"), 1);
    held.release().await.unwrap();
    let held = next.await.unwrap().unwrap();
    // The shard says that the wait is over.
    let wait = Duration::from_secs(3);
    let late = tokio::spawn({
        let two = two.clone();
        async move { two.lock("m").wait(wait).acquire().await }
    });
    settle().await;
    fake.end_waits(SHARD);
    let failure = late.await.unwrap().unwrap_err();
    assert_eq!((failure.code, failure.happened), (Code::DeadlineExceeded, Happened::No));
    // The client's own clock does.
    let failure = two.lock("m").wait(wait).acquire().await.unwrap_err();
    assert_eq!(failure.code, Code::DeadlineExceeded);
    settle().await;
    assert_eq!(fake.waiting(SHARD, "m"), 0, "it was called back");
    held.release().await.unwrap();
}

/// A waiter whose session ended asks again in a new one.
#[tokio::test(start_paused = true)]
async fn a_waiter_survives_its_session() {
    let fake = Fake::new(1);
    let (one, two) = (fake.client().await, fake.client().await);
    let held = one.lock("m").acquire().await.unwrap();
    let next = waiter(&two, "m");
    settle().await;
    let session = fake.leases(SHARD).into_iter().find(|id| *id != held.session()).unwrap();
    fake.expire(SHARD, session);
    settle().await;
    assert_eq!(fake.waiting(SHARD, "m"), 1);
    held.release().await.unwrap();
    assert_ne!(next.await.unwrap().unwrap().session(), session);
}

/// Those who wait do not keep others from being served.
#[tokio::test(start_paused = true)]
async fn many_may_wait_on_one_connection() {
    let fake = Fake::new(1);
    let options = Options { in_flight_max: 2, waiting_max: 100, ..Options::default() };
    let client = fake.client_with(options).await;
    let held = client.lock("m").acquire().await.unwrap();
    let waiters: Vec<_> = (0..100).map(|_| waiter(&client, "m")).collect();
    settle().await;
    assert_eq!(fake.waiting(SHARD, "m"), 100);
    client.keyspace("default").put("k", "v").await.unwrap();
    pass(Duration::from_secs(60)).await; // over several attempts of each
    assert_eq!(fake.waiting(SHARD, "m"), 100);
    held.release().await.unwrap();
    for waiter in waiters {
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
}

/// All leases of a shard are in one heartbeat, and a session that nobody uses is given up.
#[tokio::test(start_paused = true)]
async fn heartbeats_travel_together() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let leases = client.keyspace("default").leases();
    let a = leases.grant(TTL).await.unwrap();
    let b = leases.grant(TTL).await.unwrap();
    let held = client.lock("m").ttl(TTL).acquire().await.unwrap();
    let before = fake.heartbeats().len();
    pass(Duration::from_secs(60)).await;
    let beats = fake.heartbeats().split_off(before);
    let expected = 60 * 6 / TTL.as_secs();
    assert!((expected - 2..=expected + 2).contains(&(beats.len() as u64)), "{}", beats.len());
    for id in [a.id(), b.id(), held.session()] {
        assert!(beats.iter().all(|beat| beat.contains(&id)));
    }
    let session = held.session();
    held.release().await.unwrap();
    drop(a);
    pass(TTL * 3).await;
    assert_eq!(fake.leases(SHARD), [b.id()], "session {session} is idle, the other one dropped");
    assert_eq!(b.standing(), Standing::Held);
}

#[tokio::test(start_paused = true)]
async fn permits_are_counted() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let semaphore = client.semaphore("s");
    assert_eq!(semaphore.acquire(1).await.unwrap_err().code, Code::NotFound);
    semaphore.set_limit(3).await.unwrap();
    let two = semaphore.acquire(2).await.unwrap();
    assert!(matches!(semaphore.try_acquire(2).await.unwrap(), Attempt::Busy(_)));
    let one = semaphore.acquire(1).await.unwrap();
    let info = semaphore.info().await.unwrap().unwrap();
    assert_eq!((info.limit, info.busy.held), (Some(3), 2));
    two.release().await.unwrap();
    one.release().await.unwrap();
    assert_eq!(semaphore.acquire(4).await.unwrap_err().code, Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn an_election_is_observed_over_changes_of_leaders() {
    let fake = Fake::new(3);
    let client = fake.client().await;
    let election = client.election("e");
    let mut observation = election.observe();
    assert_eq!(observation.next().await.unwrap(), None);
    let first = election.campaign("one").await.unwrap();
    let news = observation.next().await.unwrap().unwrap();
    assert_eq!((&news.value[..], news.token), (&b"one"[..], first.holding().token()));
    fake.move_leader(SHARD, 2);
    settle().await;
    first.proclaim("here").await.unwrap();
    assert_eq!(observation.next().await.unwrap().unwrap().value, "here");
    let other = fake.client().await;
    let next = tokio::spawn(async move { other.election("e").campaign("two").await });
    settle().await;
    fake.hang_up();
    first.resign().await.unwrap();
    let second = next.await.unwrap().unwrap();
    let told = loop {
        // Between the two there was nobody, which may or may not have been told.
        if let Some(news) = observation.next().await.unwrap() {
            break news;
        }
    };
    assert_eq!((&told.value[..], told.token), (&b"two"[..], second.holding().token()));
    assert_eq!(election.leader().await.unwrap(), Some(told));
}

#[tokio::test(start_paused = true)]
async fn a_lease_takes_its_keys_along() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let keys = client.keyspace("default");
    let lease = keys.leases_for("a").grant(TTL).await.unwrap();
    let put = |key: &'static str| PutOp {
        key: key.into(),
        value: "v".into(),
        lease: Some(lease.id()),
        ..PutOp::default()
    };
    keys.put_with(put("a")).await.unwrap();
    keys.put_with(put("b")).await.unwrap();
    let status = keys.leases().status(lease.id(), Told::Yes).await.unwrap();
    assert_eq!((status.attached, status.keys.len()), (2, 2));
    let (id, ttl) = keys.leases().grant_only(None, Duration::from_millis(5)).await.unwrap();
    assert_eq!(ttl, Duration::from_secs(2), "raised to the least");
    assert_eq!(keys.leases().renew(id).await.unwrap(), Some(ttl));
    assert_eq!(keys.leases().list().await.unwrap().len(), 2);
    let kept = keys.leases().keep(id).await.unwrap();
    pass(Duration::from_secs(10)).await;
    assert_eq!(kept.standing(), Standing::Held);
    drop(kept);
    settle().await;
    assert_eq!(keys.leases().revoke(id).await.unwrap(), 0, "it was left alone");
    assert_eq!(keys.leases().renew(id).await.unwrap(), None);
    assert_eq!(keys.leases().keep(id).await.map(drop).unwrap_err().code, Code::NotFound);
    drop(lease);
    settle().await;
    assert_eq!(keys.get("a").await.unwrap(), None);
}

/// Three parties meet twice; one that is gone does not count.
#[tokio::test(start_paused = true)]
async fn a_barrier_opens_for_as_many_as_it_is_for() {
    let fake = Fake::new(1);
    let clients = [fake.client().await, fake.client().await, fake.client().await];
    let arrive = |n: usize| {
        let barrier = clients[n].barrier("b", 3);
        tokio::spawn(async move { barrier.arrive().await })
    };
    let gone = arrive(0);
    settle().await;
    gone.abort();
    settle().await;
    for generation in 1..=2 {
        let (one, two) = (arrive(0), arrive(1));
        settle().await;
        assert!(!one.is_finished() && !two.is_finished(), "two are not three");
        fake.hang_up();
        let three = arrive(2);
        for arrived in [one, two, three] {
            assert_eq!(arrived.await.unwrap().unwrap(), generation);
        }
    }
    settle().await;
    let keys = clients[0].keyspace("default").scan(Keys::prefix("b/")).collect().await.unwrap();
    assert!(keys.is_empty(), "{keys:?}");
    assert!(fake.leases(SHARD).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_latch_opens_at_zero_and_stays_open() {
    let fake = Fake::new(1);
    let client = fake.client().await;
    let latch = client.latch("l");
    assert_eq!(latch.opened().await.unwrap_err().code, Code::NotFound);
    assert!(latch.set(2).await.unwrap());
    assert!(!latch.set(5).await.unwrap(), "it is set");
    let waits = tokio::spawn({
        let latch = latch.clone();
        async move { latch.opened().await }
    });
    settle().await;
    fake.fault(Fault::LoseAnswer);
    assert_eq!(latch.count_down().await.unwrap(), 1, "counted once");
    settle().await;
    assert!(!waits.is_finished());
    assert_eq!(latch.count_down().await.unwrap(), 0);
    waits.await.unwrap().unwrap();
    assert_eq!(latch.count_down().await.unwrap(), 0);
    latch.opened().await.unwrap();
}
