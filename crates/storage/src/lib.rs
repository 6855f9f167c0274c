//! atoll-storage
