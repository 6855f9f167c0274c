//! What the tests share: processes, clusters of them, waiting, and a load whose history is checked.

mod cluster;
mod load;
mod ports;
mod process;
mod turn;
mod wait;

pub(crate) use cluster::{Cluster, done, leader};
pub(crate) use load::Load;
pub(crate) use ports::Ports;
pub(crate) use process::{Process, Signal, command, http_get, resident_bytes};
pub(crate) use turn::Turn;
pub(crate) use wait::{eventually, within};

/// The size of a test: `quick` by default, `full` when `ATOLL_TEST_FULL` is 1.
pub(crate) fn sized<T>(quick: T, full: T) -> T {
    if std::env::var("ATOLL_TEST_FULL").is_ok_and(|v| v == "1") { full } else { quick }
}
