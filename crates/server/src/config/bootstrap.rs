//! The list of nodes that a cluster begins with: `1=host:7400/7401/7402,2=...`.

use std::fmt;
use std::str::FromStr;

use atoll_base::NodeId;

use super::value;

/// A node of the list and where the others and its clients reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    /// The node.
    pub(crate) node: NodeId,
    /// Where clients reach it, `host:port`.
    pub(crate) client: String,
    /// Where the other nodes reach it.
    pub(crate) peer: String,
    /// Where its HTTP surface is; empty when the list does not say.
    pub(crate) http: String,
}

/// The nodes that the cluster begins with, by ascending id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bootstrap {
    /// The nodes.
    pub(crate) members: Vec<Member>,
}

impl Bootstrap {
    /// A cluster id that every node computes alike from the list and the cluster's name.
    pub(crate) fn cluster_id(&self, name: &str) -> u64 {
        // FNV-1a, 64 bits: stable for ever, and nobody gains from a collision.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in format!("{name}\n{self}").bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash.max(1)
    }

    /// The entry of `node`.
    pub(crate) fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|m| m.node == node)
    }
}

impl FromStr for Bootstrap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut members = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            members.push(member(entry).map_err(|why| format!("entry {entry:?}: {why}"))?);
        }
        members.sort_by_key(|m: &Member| m.node);
        for pair in members.windows(2) {
            if pair[0].node == pair[1].node {
                return Err(format!("node {} is in it twice", pair[0].node));
            }
        }
        Ok(Self { members })
    }
}

fn member(entry: &str) -> Result<Member, String> {
    let (id, addresses) = entry.split_once('=').ok_or("there is no '=' behind the node id")?;
    let node = value::number(id.trim(), 1, u64::MAX).map_err(|why| format!("node id: {why}"))?;
    let mut parts = addresses.split('/');
    let client = value::address(parts.next().unwrap_or_default())?;
    let host = client.rsplit_once(':').expect("an address has a port").0.to_owned();
    let at = |port: &str| value::address(&format!("{host}:{port}"));
    let peer = at(parts.next().ok_or("there is no '/' and peer port behind the client port")?)?;
    let http = parts.next().map(at).transpose()?.unwrap_or_default();
    if parts.next().is_some() {
        return Err("there are more than three ports".to_owned());
    }
    Ok(Member { node: NodeId(node), client, peer, http })
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_owned());
        for (i, m) in self.members.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{}={}/{}", m.node, m.client, port(&m.peer).unwrap_or_default())?;
            if let Some(port) = port(&m.http) {
                write!(f, "/{port}")?;
            }
        }
        Ok(())
    }
}
