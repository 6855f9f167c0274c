//! Cluster, Maintenance, Auth, endpoints.

use etcd_client::{AlarmAction, AlarmType, Client, DowngradeOptions, Error};

use crate::is_refused;

pub async fn members(client: &mut Client, count: usize) -> Result<(), Error> {
    let list = client.member_list().await?;
    assert_eq!(list.members().len(), count);
    let member = &list.members()[0];
    assert!(member.id() != 0 && !member.is_learner() && !member.client_urls().is_empty());
    client.member_update(member.id(), member.peer_urls()).await?;
    let stranger = client.member_remove(99).await;
    is_refused("a stranger removed", stranger, "NotFound: etcdserver: member not found");
    let stranger = client.member_promote(99).await;
    is_refused("a stranger promoted", stranger, "NotFound: etcdserver: member not found");
    let absent = client.member_add(["http://127.0.0.1:1"], None).await;
    assert!(absent.is_err(), "a node that does not run can't be added");
    println!("members: as expected; one that does not run is not added");
    Ok(())
}

pub async fn maintenance(client: &mut Client, endpoints: &[String]) -> Result<(), Error> {
    let status = client.status().await?;
    assert!(status.version().starts_with("3.5"), "{}", status.version());
    assert!(status.leader() != 0 && status.db_size() > 0 && status.raft_term() > 0);
    assert!(status.raft_index() > 0 && status.errors().is_empty() && !status.is_learner());
    let none = client.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    assert!(none.alarms().is_empty());
    client.defragment().await?;
    let revision = client.get("c", None).await?.header().expect("a header").revision();
    let mut hashes = Vec::new();
    for endpoint in endpoints {
        let mut one = Client::connect([endpoint], None).await?;
        hashes.push(one.hash_kv(revision).await?.hash());
    }
    assert!(hashes.windows(2).all(|two| two[0] == two[1]), "{hashes:?}");
    client.hash().await?;
    let mut snapshot = client.snapshot().await?;
    let mut bytes = 0;
    while let Some(part) = snapshot.message().await? {
        bytes += part.blob().len();
    }
    assert!(bytes > 0);
    let leader = client.status().await?.leader();
    for endpoint in endpoints {
        let mut one = Client::connect([endpoint], None).await?;
        let id = one.status().await?.header().expect("a header").member_id();
        if id == leader {
            let other = client.member_list().await?;
            let other = other.members().iter().find(|m| m.id() != leader).expect("another").id();
            one.move_leader(other).await?;
        }
    }
    let lowered = client.maintenance_client().downgrade(DowngradeOptions::Cancel).await;
    is_refused("a downgrade", lowered, "Unimplemented");
    println!("maintenance: as expected; there is no downgrade");
    Ok(())
}

/// There are no users: what would make some is refused.
pub async fn users(client: &mut Client) {
    is_refused("auth_enable", client.auth_enable().await, "Unimplemented");
    is_refused("auth_disable", client.auth_disable().await, "Unimplemented");
    is_refused("user_add", client.user_add("u", "p", None).await, "Unimplemented");
    is_refused("user_list", client.user_list().await, "Unimplemented");
    is_refused("role_add", client.role_add("r").await, "Unimplemented");
    is_refused("role_list", client.role_list().await, "Unimplemented");
    println!("users and roles: refused");
}

/// Endpoints may come and go.
pub async fn endpoints(endpoints: &[String]) -> Result<(), Error> {
    let mut client = Client::connect(&endpoints[..1], None).await?;
    for endpoint in &endpoints[1..] {
        client.add_endpoint(endpoint).await?;
    }
    for _ in 0..10 {
        client.get("c", None).await?;
    }
    for endpoint in &endpoints[1..] {
        client.remove_endpoint(endpoint).await?;
    }
    client.get("c", None).await?;
    println!("endpoints: as expected");
    Ok(())
}
