//! The whole cluster in one thread on virtual time, and checkers that are known to bite.
//!
//! # What runs
//!
//! The crates that the server ships: lanes, consensus, state machine, log and engine. Only what
//! touches the machine is replaced: the network ([`network`]), disks (`MemDisk`, `MemEngine`),
//! clocks ([`clock`]), threads (virtual time in `world`) and clients (`client`). A seed decides
//! the cluster's size, its settings, its faults ([`faults`]) and its workload; the same seed and
//! build give the same run, event by event ([`trace`]).
//!
//! # What is checked
//!
//! [`check`] has one file per property. [`plant`] lists mistakes that can be made on purpose, to
//! see that the checkers catch them.
//!
//! Reading order: [`mod@run`], `world`, `world::node`, `client`, [`check`].

pub mod check;
mod client;
pub mod clock;
mod errors;
mod fabric;
pub mod faults;
pub mod history;
pub mod marks;
pub mod moment;
pub mod network;
pub mod options;
pub mod plant;
pub mod queue;
pub mod run;
pub mod script;
pub mod shape;
mod shell;
pub mod trace;
pub mod value;
mod world;

pub use faults::FaultKind;
pub use options::Options;
pub use plant::Plant;
pub use run::{Outcome, run};
pub use script::Script;
