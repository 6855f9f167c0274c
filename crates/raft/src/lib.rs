//! A Raft core that decides and does nothing else: no clock, no disk, no network, no threads.
//!
//! # Problem
//! A few replicas must agree on one sequence of entries although machines stop, disks forget what
//! was not fsynced, and messages are lost, doubled, delayed and reordered. Raft (Ongaro and
//! Ousterhout 2014; Ongaro's thesis 2014, cited as "thesis") elects one leader a term and lets it
//! alone order entries.
//!
//! # Idea
//! [`RaftCore::step`] takes one [`Input`] and the time, and fills an [`Output`] whose lists keep
//! apart what may happen at once and what must wait for a write. Everything else is the owner's: it
//! keeps the log (and shows it through [`LogReader`]), sends, applies, sets one timer from
//! [`RaftCore::next_deadline`].
//!
//! ```text
//!            Propose, Read, Transfer, ChangeMembership
//!                               |
//!   Message, Tick -------> [ RaftCore ] -------> messages        (at once)
//!   Written, Applied -----------|-------------> write, after     (once durable)
//!   Compacted, Snapshot...      '-------------> commit, reads    (to apply, to serve)
//! ```
//!
//! ```text
//!              timeout            would win             elected
//!   Follower ----------> PreCandidate ------> Candidate --------> Leader
//!      ^  ^------------------'  lost or a leader  |                 |
//!      '------------------------------------------'-----------------'  later term, no quorum
//! ```
//!
//! # Invariants
//! - I1 At most one leader a term.
//! - I2 A leader never overwrites its log.
//! - I3 The same (index, term) means the same entries up to there.
//! - I4 A leader has every committed entry.
//! - I5 applied <= handed over to apply <= committed <= last; the first two are durable here. None
//!   of them falls, but where a replica whose log was lost starts over from a snapshot.
//! - I6 `matched < next` for every follower.
//! - I7 Vote and term never go back.
//! - I8 An acknowledgement never covers an entry, and a vote never leaves, before its write is
//!   durable.
//! - I9 The configuration in force is the last one in the log, committed or not.
//!
//! # Where it differs from the paper
//! - A candidate's own vote counts when it is durable, and its requests leave then (`election`).
//! - A follower may be told a commit index by a heartbeat, but only one that it holds.
//! - Entries are handed over to apply only when they are durable here as well, so that a crash
//!   never leaves an applied index beyond the log.
//! - Terms of the whole log are known without reads (`tail`), so backing up never reads.
//!
//! # Map
//! `core` holds the state and dispatches; `election`, `replication` (the leader's side),
//! `following` (the follower's), `reads`, `change`, `transfer`, `snapshot`, `amnesia`, `quiet` are
//! the protocol's parts, each an `impl` of the core with its own essay; [`tail`], `writes`,
//! `history`, [`progress`], [`quorum`], [`membership`] are plain data with their own tests;
//! `invariants` asserts what one core shows, `group` what several do;
//! `counters` counts.

mod amnesia;
mod change;
pub mod config;
pub mod core;
mod counters;
mod election;
mod following;
mod group;
mod history;
pub mod input;
mod invariants;
pub mod membership;
pub mod message;
pub mod output;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod progress;
mod quiet;
pub mod quorum;
pub mod reader;
mod reads;
mod replication;
mod snapshot;
pub mod tail;
mod transfer;
mod writes;

pub use config::{Config, ConfigError};
pub use core::{CoreRole, RaftCore};
pub use counters::Counters;
pub use group::validate_group;
pub use input::{Input, ReadContext};
pub use membership::{Member, Membership, MembershipError, QuorumRule, Role};
pub use message::{Body, Message};
pub use output::{HardState, Output, ProposalOutcome, Write};
pub use progress::{Progress, SendState};
pub use quorum::{Amnesia, Ballot};
pub use reader::{LogReader, ReadError};
