//! The gRPC server of clients: sessions, health and reflection on one port.

use std::sync::Arc;
use std::time::Duration;

use atoll_client::Client;
use atoll_client::link::LocalLink;
use atoll_transport::limits::WireLimits;
use atoll_transport::stub::v1::admin_server::AdminServer;
use atoll_transport::stub::v1::coordination_server::CoordinationServer;
use atoll_transport::stub::v1::kv_server::KvServer;
use atoll_transport::stub::v1::session_server::SessionServer;
use atoll_transport::{AcceptLimits, Spoken, accept};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admin::Admin;
use super::announce::announce;
use super::coordination::Coordination;
use super::etcd::Etcd;
use super::etcd::direct::Direct;
use super::flight::Flight;
use super::kv::Kv;
use super::port::NodePort;
use super::session::Sessions;
use crate::config::NodeConfig;
use crate::drive::Hub;

/// The services whose health is told by name; the empty name is the node.
const SERVICES: [&str; 5] =
    ["", "atoll.v1.Kv", "atoll.v1.Session", "atoll.v1.Coordination", "atoll.v1.Admin"];

/// Serves until told to stop, then until the calls in flight are answered.
pub(super) async fn serve(
    config: NodeConfig,
    hub: Arc<Hub>,
    listener: TcpListener,
    flight: Flight,
    stop: watch::Receiver<bool>,
) {
    let limits = wire_limits(&config);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(atoll_wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("the schema was compiled by this build");
    let client = match own_client(&config, &hub) {
        Ok(client) => client,
        Err(failure) => {
            tracing::error!(%failure, "clients can't be served");
            return;
        }
    };
    let sessions = Sessions {
        hub: hub.clone(),
        client: client.clone(),
        calls_in_flight_max: config.calls_in_flight_max,
        message_bytes_max: config.message_bytes_max,
        flight: flight.clone(),
        stop: stop.clone(),
    };
    // They end with this future, also when it is dropped.
    let mut companions = JoinSet::new();
    companions.spawn(announce(config.clone(), hub.clone(), client.clone()));
    let etcd = Etcd::new(&config, hub.clone(), client.clone(), stop.clone());
    let site = super::etcd::http::routes(hub.clone());
    let kv = Kv { client: client.clone(), flight: flight.clone(), stop: stop.clone() };
    let coordination = Coordination { client: client.clone(), stop: stop.clone() };
    let admin = Admin { hub: hub.clone(), client };
    companions.spawn(tell_health(hub, reporter, stop.clone()));
    let bytes_max = config.message_bytes_max;
    let mut routes = Routes::builder();
    routes
        .add_service(
            SessionServer::new(sessions)
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(bytes_max),
        )
        .add_service(
            KvServer::new(kv)
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(bytes_max),
        )
        .add_service(
            CoordinationServer::new(coordination)
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(bytes_max),
        )
        .add_service(AdminServer::new(admin).max_decoding_message_size(bytes_max))
        .add_service(health)
        .add_service(reflection);
    etcd.add_to(&mut routes);
    let all = flight.over(routes.routes().into_axum_router().merge(site).into());
    let service = Direct::new(etcd, flight, all);
    let incoming = accept(listener, accept_limits(&config));
    super::serving::serve(limits, incoming, service, stop).await;
}

fn wire_limits(config: &NodeConfig) -> WireLimits {
    WireLimits {
        message_bytes_max: config.message_bytes_max,
        // A silent client costs a ping now and then; a vanished one goes within a minute.
        keepalive_interval: Duration::from_secs(30),
        keepalive_timeout: Duration::from_secs(20),
        ..WireLimits::default()
    }
}

fn accept_limits(config: &NodeConfig) -> AcceptLimits {
    AcceptLimits {
        connections_max: config.connections_max,
        spoken: Spoken::Http2AndGet,
        ..AcceptLimits::default()
    }
}

/// How this node asks itself, directly, and the others, over the network.
fn own_client(config: &NodeConfig, hub: &Arc<Hub>) -> Result<Client, atoll_base::Failure> {
    let link = Arc::new(LocalLink::new(Arc::new(NodePort::new(hub.clone()))));
    let members = &config.bootstrap.members;
    let (own, others): (Vec<_>, Vec<_>) = members.iter().partition(|m| m.node == config.node_id);
    let others = others.iter().map(|m| &m.client).chain(&config.join);
    let mut builder = Client::builder().addresses(others);
    for member in own {
        builder = builder.local(&member.client, link.clone());
    }
    builder.start()
}

/// Keeps the health service in step with what `/ready` says.
async fn tell_health(hub: Arc<Hub>, reporter: HealthReporter, stop: watch::Receiver<bool>) {
    let mut readiness = hub.catalog.readiness();
    loop {
        let ready = *readiness.borrow_and_update();
        let serves = ready.is_ready() && !*stop.borrow();
        let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if readiness.changed().await.is_err() {
            return;
        }
    }
}
