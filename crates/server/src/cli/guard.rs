//! Writes under a lock.

use atoll_client::{Bytes, Guard, Keyspace, Token};
use clap::Args;

use super::exit::Problem;

/// The variable that a command run by `atoll lock` finds its guard in.
pub(crate) const GUARD: &str = "ATOLL_GUARD";

/// Guards of a write.
#[derive(Args, Clone, Debug)]
pub(crate) struct GuardArgs {
    /// Write only while this lock is held with this token; the store checks it. Set by `atoll lock`
    /// for the command that it runs
    #[arg(long, env = GUARD, value_name = "LOCK=TOKEN[@KEYSPACE]")]
    guard: Vec<String>,
}

impl GuardArgs {
    /// The keyspace, under the guards.
    pub(crate) async fn over(&self, keyspace: Keyspace) -> Result<Keyspace, Problem> {
        let mut guarded = keyspace.clone();
        for text in &self.guard {
            let Parts { lock, token, of } = parts(text)?;
            let id = match of {
                Some(name) => keyspace.client().keyspace(name).id().await?,
                None => keyspace.id().await?,
            };
            let lock = Bytes::from(lock.to_owned());
            guarded = guarded.guarded_by(Guard { keyspace: id, lock, token });
        }
        Ok(guarded)
    }
}

/// The text of a guard.
pub(crate) fn guard_text(lock: &str, token: Token, keyspace: &str) -> String {
    format!("{lock}={token}@{keyspace}")
}

#[derive(PartialEq, Debug)]
struct Parts<'a> {
    lock: &'a str,
    token: Token,
    of: Option<&'a str>,
}

/// A lock's name may hold anything, a token and a keyspace hold no `=`.
fn parts(text: &str) -> Result<Parts<'_>, Problem> {
    let bad = || Problem::usage(format!("--guard {text} is not LOCK=TOKEN[@KEYSPACE]"));
    let (lock, rest) = text.rsplit_once('=').ok_or_else(bad)?;
    let (token, of) = match rest.split_once('@') {
        Some((token, of)) => (token, Some(of)),
        None => (rest, None),
    };
    let token = Token(token.parse().map_err(|_| bad())?);
    if lock.is_empty() || of == Some("") { Err(bad()) } else { Ok(Parts { lock, token, of }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_are_read_as_they_are_written() {
        for lock in ["m", "a=b", "a@b=7", "a/b:c"] {
            let text = guard_text(lock, Token(12), "jobs");
            let wanted = Parts { lock, token: Token(12), of: Some("jobs") };
            assert_eq!(parts(&text).unwrap(), wanted);
        }
        assert_eq!(parts("m=3").unwrap(), Parts { lock: "m", token: Token(3), of: None });
        for bad in ["m", "=3", "m=x", "m=3@", "m="] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
