//! The pure server: lanes that own replicas and turn inputs into outputs.

pub mod config;
pub mod input;
pub mod output;

pub use config::{LaneConfig, Limits, RaftSettings, Upkeep};
pub use input::Input;
pub use output::{LogWrite, Output};
