//! atoll-sim
