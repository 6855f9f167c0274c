//! Every mark of the crates under test, so that a summary can say which were never reached.
//!
//! A test compares the list with the sources.

/// All marks, sorted.
pub const ALL: &[&str] = &[
    "a change of members was refused",
    "a change waited for a newcomer to catch up",
    "a change waited for silent members",
    "a failed assertion quarantined a replica",
    "a follower does not rest for a leader whose end it would not notice",
    "a follower in the snapshot state met the log again",
    "a follower lost the snapshot it was pulling",
    "a follower needs entries that the log has cut",
    "a follower needs what came before the log",
    "a follower replaced its log's end",
    "a follower said that it lost entries",
    "a follower that is behind refused to go quiet",
    "a follower's question for a read index was not answered",
    "a forgotten client came back",
    "a founder was described again before it took part",
    "a gravestone kept a founding description out",
    "a gravestone kept an old description out",
    "a group moved as a whole",
    "a group went quiet",
    "a hard state was written again to let a segment go",
    "a holder asked again and got its token",
    "a holder of data was sent what witnesses are sent",
    "a joint configuration was left",
    "a keep-alive came after the expiry was proposed",
    "a leader gave up being preferred before it left",
    "a leader met damage in its own log",
    "a leader that hears no quorum stepped down",
    "a leader that is no voter any more resigned",
    "a leader that is to leave handed over",
    "a leader trimmed history",
    "a leader went back to where a log meets its own",
    "a lease expired",
    "a lock's delay ended",
    "a log that nothing described was dropped",
    "a new leader started a deadline in full",
    "a newcomer waits for its first snapshot",
    "a node aborted because its disk failed",
    "a node could not start because its disk failed",
    "a pre-vote was refused to a log that is behind",
    "a pre-vote was refused to protect the leader or a vote",
    "a proposal was refused",
    "a proposed entry was replaced by another leader's",
    "a proposed expiry had no effect and is counted anew",
    "a question for a read index was its own confirmation",
    "a quiet follower was asked for a vote and protected its leader",
    "a quiet follower was needed and woke its leader",
    "a quiet leader ceased to lead and said so",
    "a quiet leader was woken by a follower that lost sight of it",
    "a read waited for its index to be applied",
    "a read waited for the first commit of the term",
    "a read was refused because too many wait",
    "a read's deadline passed while it waited",
    "a record was stored again by an import",
    "a replica found its log damaged",
    "a replica lost the count of its lives",
    "a replica restarted in the middle of a snapshot",
    "a replica retired",
    "a replica turned between a witness and a holder of data",
    "a replica was described again while it retired",
    "a replica was taken in again before it was gone",
    "a replica went with its keyspace",
    "a replica with amnesia became whole",
    "a replica without state voted",
    "a request below the session's floor was refused",
    "a retry got the first answer",
    "a segment could not be prepared",
    "a segment was recycled",
    "a session was forgotten",
    "a snapshot chunk was asked for again",
    "a snapshot chunk was sent again",
    "a snapshot could not be made",
    "a snapshot that was spooled is installed after a restart",
    "a snapshot was announced again",
    "a snapshot was given up because its sender is silent",
    "a snapshot was installed",
    "a snapshot was offered that is here already",
    "a snapshot's sender no longer had it",
    "a snapshot's sending was given up",
    "a stale read was too old and asked for a confirmation",
    "a stretch of the log may have held all of a shard",
    "a successor campaigned because it was told to",
    "a torn tail was cut",
    "a transfer of leadership took too long",
    "a turn's commands took several entries",
    "a vote was refused",
    "a vote was refused to protect the leader",
    "a wait for a lock ended without it",
    "a waiter asked again and kept its place",
    "a watch ended because its history is gone",
    "a watch waited for its reader",
    "a watch was served from history",
    "a watch went on behind an installed snapshot",
    "a watcher fell behind the history",
    "a witness began",
    "a write completed for another suffix",
    "a write under an old token was refused",
    "a write's deadline passed while it waited",
    "an append did not follow the log",
    "an append held only what is committed here",
    "an append lost the race for a list",
    "an append or its answer was lost",
    "an election was lost by its votes",
    "an engine ended before its log began",
    "an engine was ahead of its log",
    "an expiry of an earlier term was refused",
    "an import found a record where it belongs",
    "an import was killed",
    "an order to retire came before its description",
    "an order to retire met a later configuration",
    "an order to retire met a member",
    "an order to retire was older than the gravestone",
    "damage in the log could be anybody's",
    "damage in the log was laid to whose records it hit",
    "expiries could not be proposed",
    "history was collected",
    "leadership ended under a question about leases",
    "leadership ended under proposed writes",
    "leadership went to the preferred leader",
    "power was lost between a snapshot and the start of its log",
    "the first write of a segment was torn",
    "the log found no room",
    "the log overtook a snapshot while it was fetched",
    "the log overtook a snapshot while it was installed",
    "the log was cut beyond a snapshot while it was installed",
    "what a failed write left was scrubbed",
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Adds the marks of all sources below `dir`.
    fn collect(dir: &Path, marks: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, marks);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("marks.rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                for piece in text.split("reached!(").skip(1) {
                    let name = piece.trim_start().strip_prefix('"').and_then(|p| p.split_once('"'));
                    marks.extend(name.map(|(name, _)| name.to_owned()));
                }
            }
        }
    }

    #[test]
    fn the_list_is_that_of_the_sources() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut marks = BTreeSet::new();
        for name in ["raft", "storage", "replica", "machine", "coord", "node", "sim"] {
            collect(&crates.join(name).join("src"), &mut marks);
        }
        let listed: BTreeSet<String> = ALL.iter().map(|&mark| mark.to_owned()).collect();
        assert_eq!(listed, marks);
        assert!(ALL.is_sorted());
    }
}
