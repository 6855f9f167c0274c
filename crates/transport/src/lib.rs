//! atoll-transport
