//! atoll-replica
