//! atoll-wire
