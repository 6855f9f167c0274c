//! A Raft core that decides and does nothing else: no clock, no disk, no network, no threads.

pub mod config;
pub mod core;
pub mod input;
pub mod membership;
pub mod message;
pub mod output;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod progress;
pub mod reader;

pub use config::{Config, ConfigError};
pub use core::{CoreRole, RaftCore};
pub use input::{Input, ReadContext};
pub use membership::{Member, Membership, MembershipError, QuorumRule, Role};
pub use message::{Body, Message};
pub use output::{HardState, Output, ProposalOutcome, Write};
pub use progress::{Progress, SendState};
pub use reader::{LogReader, ReadError};
