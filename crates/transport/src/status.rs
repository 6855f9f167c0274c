//! Refusals on the wire: as a message inside sessions, as a gRPC status outside.
//!
//! A status carries the whole [`Failure`] in the binary metadata `atoll-failure-bin`; its gRPC code
//! is the nearest one for clients that look no further. A code that generic clients retry on their
//! own (`UNAVAILABLE`) is only used where the thing did not happen.

use std::time::Duration;

use atoll_base::{Code, Failure, Happened, NodeId, Retry};
use atoll_wire::v1 as pb;
use prost::Message;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code as Grpc, Status};

/// The metadata that holds an encoded `atoll.v1.Failure`.
pub const FAILURE_METADATA: &str = "atoll-failure-bin";

/// Longest message text put into a status; statuses travel in headers.
const STATUS_TEXT_BYTES_MAX: usize = 2048;

/// The wire form of a failure.
#[must_use]
pub fn encode_failure(failure: &Failure) -> pb::Failure {
    let happened = match failure.happened {
        Happened::No => pb::failure::Happened::No,
        Happened::Maybe => pb::failure::Happened::Maybe,
        Happened::Yes => pb::failure::Happened::Yes,
    };
    pb::Failure {
        code: u32::from(failure.code as u16),
        happened: happened as i32,
        retry: match failure.retry {
            Retry::Never => 0,
            Retry::Now => 1,
            Retry::After(wait) => u64::try_from(wait.as_millis()).map_or(u64::MAX, |ms| ms + 1),
        },
        leader: failure.leader.unwrap_or_default().0,
        message: failure.message.clone(),
        code_name: failure.code.name().to_owned(),
    }
}

/// The failure in its wire form. A code of a newer server becomes `internal` and keeps its name in
/// the text; its three answers survive.
#[must_use]
pub fn decode_failure(wire: pb::Failure) -> Failure {
    let known = u16::try_from(wire.code).ok().and_then(Code::from_u16);
    let message = match known {
        Some(_) => wire.message,
        None => format!("{} (unknown code {} {})", wire.message, wire.code, wire.code_name),
    };
    Failure {
        code: known.unwrap_or(Code::Internal),
        happened: match pb::failure::Happened::try_from(wire.happened) {
            Ok(pb::failure::Happened::No) => Happened::No,
            Ok(pb::failure::Happened::Yes) => Happened::Yes,
            Ok(pb::failure::Happened::Maybe) | Err(_) => Happened::Maybe,
        },
        retry: match wire.retry {
            0 => Retry::Never,
            1 => Retry::Now,
            ms => Retry::After(Duration::from_millis(ms - 1)),
        },
        leader: (wire.leader != 0).then_some(NodeId(wire.leader)),
        message,
    }
}

/// The status that says it.
#[must_use]
pub fn to_status(failure: &Failure) -> Status {
    let mut detail = encode_failure(failure);
    let mut end = detail.message.len().min(STATUS_TEXT_BYTES_MAX);
    while !detail.message.is_char_boundary(end) {
        end -= 1;
    }
    detail.message.truncate(end);
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(FAILURE_METADATA, MetadataValue::from_bytes(&detail.encode_to_vec()));
    Status::with_metadata(grpc_code(failure.code), detail.message, metadata)
}

/// What the status says; for one that no Atoll node made, what is true of every such status.
#[must_use]
pub fn from_status(status: &Status) -> Failure {
    let detail = status
        .metadata()
        .get_bin(FAILURE_METADATA)
        .and_then(|value| value.to_bytes().ok())
        .and_then(|bytes| pb::Failure::decode(bytes).ok());
    if let Some(detail) = detail {
        return decode_failure(detail);
    }
    let code = match status.code() {
        Grpc::InvalidArgument => Code::InvalidArgument,
        Grpc::OutOfRange => Code::TooLarge,
        Grpc::Unimplemented => Code::Unsupported,
        Grpc::NotFound => Code::NotFound,
        Grpc::FailedPrecondition => Code::PreconditionFailed,
        Grpc::DeadlineExceeded => Code::DeadlineExceeded,
        Grpc::ResourceExhausted => Code::Overloaded,
        Grpc::Internal | Grpc::DataLoss => Code::Internal,
        // The connection or the call broke: nobody says whether before or after.
        _ => Code::Indeterminate,
    };
    Failure::new(code, status.message())
}

/// The nearest gRPC code.
#[must_use]
pub fn grpc_code(code: Code) -> Grpc {
    match code {
        Code::InvalidArgument | Code::TooLarge => Grpc::InvalidArgument,
        Code::NotFound => Grpc::NotFound,
        Code::AlreadyExists => Grpc::AlreadyExists,
        Code::PreconditionFailed | Code::SessionExpired | Code::ReplyForgotten => {
            Grpc::FailedPrecondition
        }
        Code::Compacted | Code::FutureRevision => Grpc::OutOfRange,
        Code::Unsupported => Grpc::Unimplemented,
        Code::NotLeader
        | Code::StaleEpoch
        | Code::NoLeader
        | Code::Damaged
        | Code::ShuttingDown
        | Code::Unreachable => Grpc::Unavailable,
        Code::Overloaded | Code::DiskFull => Grpc::ResourceExhausted,
        Code::Indeterminate => Grpc::Unknown,
        Code::DeadlineExceeded => Grpc::DeadlineExceeded,
        Code::Internal => Grpc::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_survives_the_way_through_a_status() {
        for code in Code::ALL {
            let failure = Failure::new(*code, "shard 7: ä, 5 of 4").with_leader(Some(NodeId(3)));
            let status = to_status(&failure);
            assert_eq!(from_status(&status), failure);
            if status.code() == Grpc::Unavailable {
                assert_eq!(failure.happened, Happened::No, "{code:?}");
            }
        }
    }

    #[test]
    fn a_status_of_somebody_else_is_a_maybe() {
        let failure = from_status(&Status::unavailable("broken pipe"));
        assert_eq!((failure.code, failure.happened), (Code::Indeterminate, Happened::Maybe));
    }

    #[test]
    fn a_newer_code_keeps_its_answers() {
        let wire = pb::Failure {
            code: 9999,
            happened: pb::failure::Happened::No as i32,
            retry: 21,
            code_name: "too_new".into(),
            message: "what is this".into(),
            ..Default::default()
        };
        let failure = decode_failure(wire);
        assert_eq!(failure.happened, Happened::No);
        assert_eq!(failure.retry, Retry::After(Duration::from_millis(20)));
        assert_eq!(failure.message, "what is this (unknown code 9999 too_new)");
    }
}
