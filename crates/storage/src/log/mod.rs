//! (format and writer follow)
