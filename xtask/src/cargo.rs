//! Commands of cargo.

use std::path::Path;
use std::process::{Command, Stdio};

/// The cargo that runs us, so that a toolchain override reaches the steps too.
pub(crate) fn command(root: &Path, args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root).args(args).stdin(Stdio::null());
    command
}
