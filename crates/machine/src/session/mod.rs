//! Exactly once: the replies that clients may still ask for (RIFL; Raft thesis 6.3).
//!
//! A client numbers its requests and says with each which replies it has got. The shard keeps, as
//! part of its replicated state, every reply above that. So a retry, over whatever node, leader or
//! connection, finds the first answer, and finds it also after a restart or on a new replica.
//!
//! ```text
//!   client c, first unacknowledged 5          record of c: last used, floor 5, replies {5, 7, 8}
//!   sequence 4 -> session expired   7 -> the reply kept   6, 9 -> new, done and kept
//! ```
//!
//! - **S1** A sequence at or above the floor is done at most once: its reply is kept until the
//!   floor passes it.
//! - **S2** The floor never goes back. It rises with `first_unacknowledged`, and past the oldest
//!   reply when a client has too many.
//! - **S3** A client whose session was dropped (silence, or too many clients) is remembered as
//!   forgotten and refused, because its request may be a retry of one that was done. It must take a
//!   new client id. Forgotten clients are themselves kept up to a limit, the oldest going first: a
//!   retry that comes after that many other clients were forgotten would be done again. With the
//!   default limits that takes over 16 thousand clients in between.
//! - **S4** What is kept is a function of the log: order of use is by log time, ties by client id.
//!
//! Sessions live in memory. A batch writes one record for each client that it heard from, not one
//! for each command.

mod replies;
mod table;

pub(crate) use table::{Admission, SessionTable};
