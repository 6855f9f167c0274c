//! The names of requests.

use atoll_base::{ClientId, Sequence};
use atoll_machine::CommandId;
use atoll_wire::v1 as pb;

/// The name that a client gave its request.
#[must_use]
pub fn command_id(wire: pb::CommandId) -> CommandId {
    CommandId {
        client: ClientId(wire.client),
        sequence: Sequence(wire.sequence),
        first_unacknowledged: Sequence(wire.first_unacknowledged),
    }
}

pub(super) fn encode_id(id: CommandId) -> pb::CommandId {
    pb::CommandId {
        client: id.client.0,
        sequence: id.sequence.0,
        first_unacknowledged: id.first_unacknowledged.0,
    }
}
