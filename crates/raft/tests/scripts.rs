//! Golden scripts: `testscripts/*.txt` hold commands (`> ...`) and what each of them made happen,
//! one dense line per event. `ATOLL_GOLDEN=write cargo test -p atoll-raft --test scripts` rewrites
//! what happened; the difference is read in review.
//!
//! `world/script.rs` explains the commands.
#![allow(missing_docs, reason = "a test")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are not seen as one")]

mod world;

use std::fmt::Write as _;
use std::path::Path;

use world::script::play;

#[test]
#[allow(clippy::disallowed_methods, reason = "a test reads its own scripts")]
fn every_script_still_happens_as_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testscripts");
    let rewrite = std::env::var("ATOLL_GOLDEN").is_ok_and(|v| v == "write");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let (mut scenarios, mut broken) = (0, Vec::new());
    for path in paths {
        let was = std::fs::read_to_string(&path).unwrap();
        let mut is = String::new();
        let mut player = None;
        for line in was.lines() {
            if line.starts_with('#') || line.is_empty() {
                if line.starts_with("## ") {
                    scenarios += 1;
                    player = None;
                }
                writeln!(is, "{line}").unwrap();
            } else if let Some(command) = line.strip_prefix("> ") {
                writeln!(is, "{line}").unwrap();
                println!("{}: {line}", path.display());
                for event in play(&mut player, command) {
                    writeln!(is, "{event}").unwrap();
                }
            }
        }
        if rewrite {
            std::fs::write(&path, &is).unwrap();
        } else if is != was {
            let at = is.lines().zip(was.lines()).position(|(a, b)| a != b).unwrap_or(0);
            let (a, b) = (is.lines().nth(at), was.lines().nth(at));
            broken.push(format!("{} line {}:\n now {a:?}\n was {b:?}", path.display(), at + 1));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(scenarios >= 60, "{scenarios} scenarios");
}
