//! One node at work: the pure lanes, and the threads and tasks that carry out what they say.
//!
//! ```text
//!  sessions ──┐                        ┌──> peer links ──> other nodes
//!  peers ─────┤   lane threads         │
//!  catalog ───┼──> Mailbox ──> turn ───┼──> log thread ──> links (after), lanes (Written)
//!  log done ──┤                        ├──> origins ──> sessions
//!  persisted ─┘                        ├──> catalog view ──> every lane
//!                                      └──> upkeep thread ──> Persisted to lanes
//! ```
//!
//! A lane is one OS thread that owns its replicas; the log has one thread, so that the writes of
//! all lanes share one fsync; the engine's persist and the look at the disk have another. All of
//! them sleep while there is nothing to do. Connections live on tokio, on one thread for two cores.
//! Where the setting `one_thread` says so, lanes are tasks on it (`threads::lane`), and so is the
//! log while the disk is fast (`threads::log`, ADR 0008).
//! Whoever hands something over pushes into a [`mailbox`] or a link's queue and goes on; nobody
//! waits for anybody.
//!
//! # Starting
//!
//! Each step needs the one before; what fails stops the start with an error that says what to do.
//! 1. Listeners are bound: a port in use is known before anything is touched.
//! 2. The data folder is locked and its identity checked. A node that joins asks the cluster first
//!    who it is, then writes that into its new folder; one that founds does so in the end of
//!    [`probation`].
//! 3. The engine is opened, then the log; the log says what it cut or found damaged.
//! 4. Lanes are opened with what the log held and the founding description of shard 1; they tell
//!    the catalog as far as the engine has it.
//! 5. The log, upkeep and lane threads, or the tasks in their place, start.
//! 6. Peers are heard and called.
//! 7. A founder with a new folder makes sure that it is no member that lost its data; before that
//!    it has no replica.
//! 8. Clients are served; `/ready` says yes once the catalog is there and shard 1 has a leader.
//!
//! # Stopping
//!
//! 1. Leadership is handed over where somebody can take it, for at most a moment.
//! 2. New calls are refused with `shutting_down`, `/ready` says no.
//! 3. Sessions and watches end, connections are told to; calls in flight get their answers for up
//!    to `shutdown_timeout`. Who has nothing in flight and does not hang up is left behind.
//! 4. Peer links end.
//! 5. Lanes take what waits, turn a last time and end.
//! 6. The log writes what lanes left and ends.
//! 7. The engine is persisted, so that the next start replays little.
//! 8. The folder's lock is let go.
//!
//! A kill at any point is safe; the order only makes the next start quick and the callers' answers
//! true.
//!
//! # Failing
//!
//! * **D1** A failed fsync, or any failed log write but a full disk, aborts the process: what the
//!   disk holds is unknown, and only a restart that reads it tells.
//! * **D2** A panic of a lane, of the log or of the upkeep thread aborts the process; a failed
//!   assertion in one replica is caught inside the lane and quarantines that replica only.
//!   An engine that is damaged or refuses writes ends the process too; see [`guarded`].
//! * **D3** Optional inputs (calls, peers' messages) are refused when a lane's queue is full; what
//!   a lane must hear (written, persisted, catalog) is never refused and bounded by its source.

mod catalog;
mod clock;
mod counts;
mod found;
mod guarded;
mod hub;
mod identity;
mod join;
mod lanes;
mod mailbox;
mod metrics;
mod node;
mod origins;
mod pressure;
mod probation;
mod room;
mod threads;
mod timed_disk;
mod work;

pub(crate) use catalog::Readiness;
pub(crate) use counts::described;
pub(crate) use hub::{Caller, Hub};
pub(crate) use metrics::observe;
pub(crate) use node::{Node, StartError};
pub(crate) use origins::{Attached, Batch};
