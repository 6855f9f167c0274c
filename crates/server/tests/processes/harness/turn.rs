//! Whose turn it is: heavy tests run alone, light ones together, whatever runs the tests.

use std::fs::File;
use std::path::Path;

/// Held by a running test.
pub(crate) struct Turn {
    _lock: File,
}

impl Turn {
    fn file() -> File {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("processes.lock");
        File::create(path).expect("the target folder can be written")
    }

    /// Waits until no other test runs.
    pub(crate) fn alone() -> Self {
        let file = Self::file();
        file.lock().expect("files can be locked");
        Self { _lock: file }
    }

    /// Waits until no heavy test runs.
    pub(crate) fn among_others() -> Self {
        let file = Self::file();
        file.lock_shared().expect("files can be locked");
        Self { _lock: file }
    }
}
