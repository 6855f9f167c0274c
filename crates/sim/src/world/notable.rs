//! Which messages a readable trace keeps.

use atoll_raft::Body;
use atoll_replica::{PeerBody, PeerMessage};

/// Messages that are rare enough to keep a line of.
pub(super) fn is_notable(message: &PeerMessage) -> bool {
    match &message.body {
        PeerBody::Raft(message) => matches!(
            message.body,
            Body::Snapshot { .. }
                | Body::SnapshotReply { .. }
                | Body::Amnesia { .. }
                | Body::Owed { .. }
                | Body::Vote { .. }
        ),
        PeerBody::SnapshotPull { .. } | PeerBody::SnapshotChunk { .. } => true,
    }
}
