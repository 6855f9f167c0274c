//! Whole nodes in one process: real threads, files and sockets.

mod cluster;
mod gateway;

use std::path::Path;
use std::time::Duration;

use atoll_base::NodeId;
use atoll_client::Client;

use crate::config::{self, Bootstrap, Member, NodeConfig};
use crate::instance::{Instance, Listeners};

/// A cluster whose nodes can be stopped and started again at their old addresses.
struct Cluster {
    configs: Vec<NodeConfig>,
    nodes: Vec<Option<Instance>>,
}

fn settings(id: u64, folder: &Path) -> NodeConfig {
    let command = config::matches_of(clap::Command::new("t").no_binary_name(true));
    let flags = command
        .try_get_matches_from([
            format!("--node-id={id}"),
            format!("--data={}", folder.join(format!("node-{id}")).display()),
            "--listen=127.0.0.1:0".to_owned(),
            "--peer-listen=127.0.0.1:0".to_owned(),
            "--http-listen=127.0.0.1:0".to_owned(),
            "--lanes=2".to_owned(),
            // Both ways to work, side by side.
            format!("--one-thread={}", id % 2 == 1),
            "--log-segment-bytes=32MiB".to_owned(),
            "--election-timeout=300ms".to_owned(),
            "--heartbeat-interval=50ms".to_owned(),
            "--disk-reserve-bytes=0".to_owned(),
        ])
        .unwrap();
    let mut config = config::load_flags(&flags.clone()).unwrap();
    config.bootstrap = Bootstrap::default();
    config
}

impl Cluster {
    async fn start(count: u64, folder: &Path) -> Self {
        let mut bound = Vec::new();
        let mut members = Vec::new();
        for id in 1..=count {
            let mut config = settings(id, folder);
            let listeners = Listeners::bind(&config).await.unwrap();
            let text = |l: &tokio::net::TcpListener| l.local_addr().unwrap().to_string();
            config.listen = text(&listeners.client);
            config.peer_listen = text(&listeners.peer);
            config.http_listen = text(&listeners.http);
            members.push(Member {
                node: NodeId(id),
                client: config.listen.clone(),
                peer: config.peer_listen.clone(),
                http: config.http_listen.clone(),
            });
            bound.push((config, listeners));
        }
        let (mut configs, mut nodes) = (Vec::new(), Vec::new());
        for (mut config, listeners) in bound {
            config.bootstrap = Bootstrap { members: members.clone() };
            configs.push(config.clone());
            nodes.push(Some(Instance::start(&config, listeners).await.unwrap()));
        }
        Self { configs, nodes }
    }

    async fn stop(&mut self, index: usize) {
        self.nodes[index].take().expect("it runs").stop().await;
    }

    async fn restart(&mut self, index: usize) {
        let config = self.configs[index].clone();
        let listeners = Listeners::bind(&config).await.unwrap();
        self.nodes[index] = Some(Instance::start(&config, listeners).await.unwrap());
    }

    async fn stop_all(&mut self) {
        for node in self.nodes.iter_mut().filter_map(Option::take) {
            node.stop().await;
        }
    }

    async fn client(&self) -> Client {
        let addresses = self.configs.iter().map(|c| c.listen.clone());
        let connect = Client::connect(addresses);
        tokio::time::timeout(Duration::from_secs(30), connect).await.unwrap().unwrap()
    }
}
