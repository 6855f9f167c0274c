//! A Raft core that decides and does nothing else: no clock, no disk, no network, no threads.

pub mod config;
pub mod input;
pub mod membership;
pub mod message;
pub mod output;
pub mod reader;

pub use config::Config;
pub use input::{Input, ReadContext};
pub use membership::{Member, Membership, Role};
pub use message::{Body, Message};
pub use output::{HardState, Output, ProposalOutcome, Write};
pub use reader::{LogReader, ReadError};
