//! Ending the process, when going on would be worse (D1, D2).

use std::io::{self, Write};

/// Ends the process, saying why on standard error even where logs go elsewhere. Not by `eprintln!`:
/// what a test prints is kept back, and would go with the process.
pub(crate) fn abort(why: &str) -> ! {
    tracing::error!("{why}");
    let _ = writeln!(io::stderr(), "atoll: {why}");
    std::process::abort();
}

/// Aborts when dropped by a panic: a thread that others wait for must not just vanish (D2).
pub(super) struct AbortOnPanic(pub(super) &'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            abort(&format!("{} panicked, see above; start the node again", self.0));
        }
    }
}
