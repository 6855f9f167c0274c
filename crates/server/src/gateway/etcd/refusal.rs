//! Refusals as etcd's clients know them: they tell them apart by code and text.

use atoll_base::{Code, Failure};
use atoll_machine::refusal;
use atoll_transport::status::to_status;
use tonic::{Code as Grpc, Status};

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        $(
            $(#[$doc])*
            pub(super) fn $name() -> Status {
                Status::new(Grpc::$code, concat!("etcdserver: ", $text))
            }
        )*
    };
}

refusals! {
    empty_key = InvalidArgument, "key is not provided";
    key_not_found = InvalidArgument, "key not found";
    value_provided = InvalidArgument, "value is provided";
    lease_provided = InvalidArgument, "lease is provided";
    too_many_ops = InvalidArgument, "too many operations in txn request";
    duplicate_key = InvalidArgument, "duplicate key given in txn request";
    invalid_sort_option = InvalidArgument, "invalid sort option";
    compacted = OutOfRange, "mvcc: required revision has been compacted";
    future_revision = OutOfRange, "mvcc: required revision is a future revision";
    no_space = ResourceExhausted, "mvcc: database space exceeded";
    lease_not_found = NotFound, "requested lease not found";
    lease_exists = FailedPrecondition, "lease already exists";
    lease_ttl_too_large = OutOfRange, "too large lease TTL";
    request_too_large = InvalidArgument, "request is too large";
    too_many_requests = ResourceExhausted, "too many requests";
    member_not_found = NotFound, "member not found";
    peer_urls_exist = FailedPrecondition, "Peer URLs already exists";
    not_learner = FailedPrecondition, "can only promote a learner member";
    not_leader = FailedPrecondition, "not leader";
    bad_transferee = FailedPrecondition, "bad leader transferee";
    auth_not_enabled = FailedPrecondition, "authentication is not enabled";
    no_leader = Unavailable, "no leader";
    stopped = Unavailable, "server stopped";
    timed_out = Unavailable, "request timed out";
    leader_failed = Unavailable, "request timed out, possibly due to previous leader failure";
    corrupt = DataLoss, "corrupt cluster";
}

/// The refusal that etcd would give; ours travels along in its metadata.
pub(super) fn refused(failure: &Failure) -> Status {
    let known = match failure.code {
        Code::Compacted => compacted(),
        Code::FutureRevision => future_revision(),
        Code::NotFound if failure.message.starts_with(refusal::KEY_NOT_FOUND) => key_not_found(),
        Code::NotFound if failure.message.starts_with(refusal::LEASE_NOT_FOUND) => {
            lease_not_found()
        }
        Code::InvalidArgument if failure.message == refusal::DUPLICATE_KEY => duplicate_key(),
        Code::AlreadyExists => lease_exists(),
        Code::TooLarge => request_too_large(),
        Code::DiskFull => no_space(),
        Code::Overloaded => too_many_requests(),
        Code::NotLeader | Code::NoLeader | Code::StaleEpoch | Code::Unreachable => no_leader(),
        Code::ShuttingDown => stopped(),
        Code::Damaged => corrupt(),
        Code::DeadlineExceeded => timed_out(),
        // It may have happened, or did: etcd's clients know one text for that.
        Code::Indeterminate | Code::SessionExpired | Code::ReplyForgotten => leader_failed(),
        Code::InvalidArgument
        | Code::NotFound
        | Code::PreconditionFailed
        | Code::Unsupported
        | Code::Internal => {
            let status = to_status(failure);
            let text = format!("etcdserver: {}", status.message());
            return Status::with_metadata(status.code(), text, status.metadata().clone());
        }
    };
    let metadata = to_status(failure).metadata().clone();
    Status::with_metadata(known.code(), known.message(), metadata)
}

/// An answer of another kind than was asked for.
pub(super) fn unexpected(asked: &str) -> Status {
    Status::internal(format!("etcdserver: {asked} was answered with something else"))
}
