//! atoll-coord
