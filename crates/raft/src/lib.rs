//! atoll-raft
