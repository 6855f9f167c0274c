//! How refusals begin that gateways must tell apart from others of the same code.

/// A put that keeps what is there found nothing there.
pub const KEY_NOT_FOUND: &str = "key not found";
/// The lease named does not live.
pub const LEASE_NOT_FOUND: &str = "requested lease not found";
/// A transaction sets a key twice, or sets and deletes it.
pub const DUPLICATE_KEY: &str = "duplicate key given in txn request";
