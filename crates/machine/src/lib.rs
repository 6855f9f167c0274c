//! atoll-machine
