//! Tests over real `atoll serve` processes: real sockets, files, signals.
//!
//! What the simulator can't show is shown here: that the shell around the cores (threads, fsync,
//! sockets, start, stop, flags) keeps their promises. Each test starts processes of its own in
//! folders of its own, on loopback ports that were free, waits for conditions with deadlines, and
//! ends what it started.
//!
//! The quick form of every test runs by default. `ATOLL_TEST_FULL=1` makes the heavy ones as large
//! as the promise that they check: `ATOLL_TEST_FULL=1 cargo test --release -p atoll-server --test
//! processes`.

mod harness;

mod catch_up;
mod cli;
mod coordination;
mod damage;
mod dev;
mod disk_full;
mod etcd;
mod faults;
mod hostile;
mod import;
mod interrupted;
mod locks;
mod members;
mod quiet;
mod scan;
mod start;
mod torture;
mod witness;
