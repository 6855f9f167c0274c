//! Watch, Lease, Lock, Election.

use std::time::Duration;

use etcd_client::{
    Client, Error, EventType, LeaseGrantOptions, LeaseTimeToLiveOptions, LockOptions,
    ProclaimOptions, PutOptions, ResignOptions, WatchFilterType, WatchOptions, WatchResponse,
};

use crate::is_refused;

const SOON: Duration = Duration::from_secs(30);

async fn soon<T>(
    what: &str,
    waited_for: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(SOON, waited_for).await {
        Ok(done) => done,
        Err(_) => panic!("{what} did not come"),
    }
}

fn told(answer: Option<WatchResponse>) -> WatchResponse {
    answer.expect("the stream goes on")
}

pub async fn watches(client: &mut Client) -> Result<(), Error> {
    let first = client.put("w/1", "1", None).await?.header().expect("a header").revision();
    let options = WatchOptions::new().with_prefix().with_start_revision(first).with_prev_key();
    let mut watch = client.watch("w/", Some(options.with_progress_notify())).await?;
    client.put("w/1", "2", None).await?;
    client.delete("w/1", None).await?;
    let mut events = Vec::new();
    while events.len() < 3 {
        let answer = told(soon("a change", watch.message()).await?);
        assert!(!answer.canceled(), "{answer:?}");
        events.extend(answer.events().to_vec());
    }
    let kinds: Vec<EventType> = events.iter().map(|e| e.event_type()).collect();
    assert_eq!(kinds, [EventType::Put, EventType::Put, EventType::Delete]);
    assert_eq!(events[1].prev_kv().expect("what was there").value(), b"1");
    assert_eq!(events[2].prev_kv().expect("what was there").value(), b"2");

    // A second watch on the stream, under a number of its own, that hears deletions only.
    let options = WatchOptions::new().with_watch_id(77).with_filters([WatchFilterType::NoPut]);
    watch.watch("v", Some(options.with_fragment())).await?;
    let created = told(soon("created", watch.message()).await?);
    assert!(created.created() && created.watch_id() == 77, "{created:?}");
    client.put("v", "1", None).await?;
    client.delete("v", None).await?;
    let only = told(soon("a deletion", watch.message()).await?);
    assert_eq!((only.watch_id(), only.events().len()), (77, 1));
    assert_eq!(only.events()[0].event_type(), EventType::Delete);
    watch.request_progress().await?;
    let progress = told(soon("progress", watch.message()).await?);
    assert!(progress.events().is_empty());
    assert!(progress.header().expect("a header").revision() > first);
    watch.cancel(77).await?;
    let cancelled = told(soon("cancelled", watch.message()).await?);
    assert!(cancelled.canceled() && cancelled.watch_id() == 77, "{cancelled:?}");

    let (mut asks, mut answers) = client.watch("u", None).await?.split();
    asks.watch("u2", None).await?;
    assert!(told(soon("created", answers.message()).await?).created());
    asks.request_progress().await?;
    soon("progress", answers.message()).await?;

    let now = client.put("u", "1", None).await?.header().expect("a header").revision();
    client.compact(now, None).await?;
    let mut past =
        client.watch("u", Some(WatchOptions::new().with_start_revision(now - 1))).await?;
    loop {
        let answer = told(soon("cancelled", past.message()).await?);
        if answer.canceled() {
            assert_eq!(answer.compact_revision(), now);
            break;
        }
        assert!(answer.created(), "{answer:?}");
    }
    println!("watch: as expected");
    Ok(())
}

pub async fn leases(client: &mut Client) -> Result<(), Error> {
    let granted = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(4242))).await?;
    assert_eq!((granted.id(), granted.ttl(), granted.error()), (4242, 60, ""));
    let again = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(4242))).await;
    is_refused("an id twice", again, "FailedPrecondition: etcdserver: lease already exists");
    client.put("leased", "v", Some(PutOptions::new().with_lease(4242))).await?;
    let (mut keeper, mut kept) = client.lease_keep_alive(4242).await?;
    assert_eq!(keeper.id(), 4242);
    keeper.keep_alive().await?;
    let answer = soon("kept alive", kept.message()).await?.expect("the stream goes on");
    assert_eq!((answer.id(), answer.ttl()), (4242, 60));
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(4242, Some(options)).await?;
    assert_eq!((left.id(), left.granted_ttl(), left.keys()), (4242, 60, &[b"leased".to_vec()][..]));
    assert!((1..=60).contains(&left.ttl()));
    let all = client.leases().await?;
    assert!(all.leases().iter().any(|lease| lease.id() == 4242));
    client.lease_revoke(4242).await?;
    assert_eq!(client.get("leased", None).await?.count(), 0);
    let gone = client.lease_revoke(4242).await;
    is_refused("a lease that is gone", gone, "NotFound: etcdserver: requested lease not found");
    assert_eq!(client.lease_time_to_live(4242, None).await?.ttl(), -1);
    let dead = client.lease_keep_alive(4242).await.map(|_| ());
    assert!(matches!(dead, Err(Error::LeaseKeepAliveError(_))), "{dead:?}");
    println!("lease: as expected");
    Ok(())
}

pub async fn locks(client: &mut Client) -> Result<(), Error> {
    let one = client.lease_grant(60, None).await?.id();
    let two = client.lease_grant(60, None).await?.id();
    let held = client.lock("door", Some(LockOptions::new().with_lease(one))).await?;
    let key = held.key().to_vec();
    assert_eq!(key, format!("door/{one:x}").into_bytes());
    let mut other = client.clone();
    let next =
        tokio::spawn(
            async move { other.lock("door", Some(LockOptions::new().with_lease(two))).await },
        );
    while client.get("door/", Some(etcd_client::GetOptions::new().with_prefix())).await?.count() < 2
    {
        tokio::task::yield_now().await;
    }
    assert!(!next.is_finished(), "one at a time");
    client.unlock(key).await?;
    let next = soon("the lock", async { next.await.expect("no panic") }).await?;
    assert_eq!(next.key(), format!("door/{two:x}").into_bytes());
    client.unlock(next.key()).await?;
    let none = client.lock("door", None).await;
    is_refused("a lock without a lease", none, "NotFound: etcdserver: requested lease not found");
    println!("lock: as expected, but that it wants a lease");
    Ok(())
}

pub async fn elections(client: &mut Client) -> Result<(), Error> {
    let lease = client.lease_grant(60, None).await?.id();
    let won = client.campaign("chair", "one", lease).await?;
    let leader = won.leader().expect("a key").clone();
    assert_eq!((leader.name(), leader.lease()), (&b"chair"[..], lease));
    let mut observed = client.observe("chair").await?;
    let mut next = async || -> Result<Vec<u8>, Error> {
        let told = soon("a leader", observed.message()).await?.expect("the stream goes on");
        Ok(told.kv().expect("a leader").value().to_vec())
    };
    assert_eq!(next().await?, b"one");
    client.proclaim("uno", Some(ProclaimOptions::new().with_leader(leader.clone()))).await?;
    assert_eq!(next().await?, b"uno");
    let leads = client.leader("chair").await?;
    assert_eq!(leads.kv().expect("a leader").value(), b"uno");
    client.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await?;
    is_refused("nobody leads", client.leader("chair").await, "election: no leader");
    let late = client.proclaim("late", Some(ProclaimOptions::new().with_leader(leader))).await;
    is_refused("who does not lead", late, "election: not leader");
    println!("election: as expected");
    Ok(())
}
