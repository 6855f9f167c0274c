//! Calls and answers between the wire and the cores, in both directions: a client encodes requests
//! and decodes answers, a server does the reverse.
//!
//! What a client sends is checked here for form only (a number that names nothing, a missing body);
//! whether it may be done is for the shard to say. Deadlines travel as "so long from now", since
//! clocks differ, and stand as points on the receiver's clock.

mod answer;
mod id;
mod lease;
mod lock;
mod op;
mod page;
mod read;
mod request;
mod watch;

pub use answer::{decode_answer, encode_answer, encode_status};
pub use id::command_id;
pub use lease::{
    decode_keep_alive, decode_lease_grant, decode_lease_revoke, encode_kept_alive,
    encode_lease_status,
};
pub use lock::{
    decode_acquire, decode_cancel, decode_proclaim, decode_release, decode_set_semaphore,
    encode_lock_info, encode_observed, guarded,
};
pub use op::{decode_delete, decode_put, decode_txn, encode_reply};
pub use read::{decode_range, encode_page, key_value, range_end};
pub use request::{decode_call, encode_call, encode_member};
pub use watch::{decode_watch, encode_watch_events};

use atoll_base::{Code, Failure};

/// A request that is not well formed.
fn malformed(message: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, message)
}

#[cfg(test)]
mod tests;
