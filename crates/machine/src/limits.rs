//! The bounds of one shard's state machine.

use atoll_base::codec::{DecodeError, Reader, Writer};
use bytes::Bytes;

macro_rules! limits {
    (
        since 1 { $($(#[$doc:meta])* $name:ident = $default:expr;)* }
        since 2 { $($(#[$doc2:meta])* $name2:ident = $default2:expr;)* }
    ) => {
        /// Bounds that decide what commands do. They are part of the replicated state: written when
        /// a shard is made, carried by its snapshots, and from then on those in the engine win over
        /// those given at open, so that replicas with different settings stay equal (M1).
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct MachineLimits {
            $($(#[$doc])* pub $name: u64,)*
            $($(#[$doc2])* pub $name2: u64,)*
        }

        impl Default for MachineLimits {
            fn default() -> Self {
                Self { $($name: $default,)* $($name2: $default2,)* }
            }
        }

        impl MachineLimits {
            const VERSION: u8 = 2;

            pub(crate) fn encode(&self) -> Vec<u8> {
                let mut w = Writer::default();
                w.u8(Self::VERSION);
                $(w.varint(self.$name);)*
                $(w.varint(self.$name2);)*
                w.finish()
            }

            pub(crate) fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
                let mut r = Reader::new(bytes);
                let version = r.u8("limits version")?;
                if !(1..=Self::VERSION).contains(&version) {
                    let value = u64::from(version);
                    return Err(DecodeError::Unknown { what: "limits version", offset: 0, value });
                }
                let limits = Self {
                    $($name: r.varint(stringify!($name))?,)*
                    // A shard made under version 1 has these, for ever.
                    $($name2: match version {
                        1 => $default2,
                        _ => r.varint(stringify!($name2))?,
                    },)*
                };
                r.finish("limits")?;
                Ok(limits)
            }
        }
    };
}

limits! {
    since 1 {
        /// Bytes of a key.
        key_bytes_max = 16 << 10;
        /// Bytes of a value.
        value_bytes_max = 8 << 20;
        /// Compares and steps of a transaction, nested ones included.
        txn_parts_max = 1024;
        /// Keys that one command may delete, or one compare may look at.
        scan_keys_max = 100_000;
        /// Bytes of keys and values that one delete may remove.
        delete_bytes_max = 64 << 20;
        /// Bytes of pairs that one page of a range, or the previous pairs of one command, may hold.
        page_bytes_max = 4 << 20;
        /// Keys that one page of a range may visit.
        page_visits_max = 20_000;
        /// Clients whose replies are kept; the longest silent one is forgotten for a new one.
        clients_max = 4096;
        /// Forgotten clients that are still known to be so; beyond, a client's retry looks like a
        /// new client's request.
        forgotten_clients_max = 16_384;
        /// Replies kept for one client.
        replies_per_client_max = 1024;
        /// Bytes of one kept reply; of a bigger one only its revision is kept.
        reply_bytes_max = 1024;
        /// Bytes of kept replies of one client; beyond, only their revisions are kept.
        replies_bytes_per_client_max = 128 << 10;
        /// Bytes of kept replies of all clients; beyond, the longest silent clients are forgotten.
        replies_bytes_max = 32 << 20;
        /// Changes that each entry clears away below the compact revision.
        collect_per_entry = 64;
    }
    since 2 {
        /// Leases, sessions included.
        leases_max = 100_000;
        /// Keys attached to one lease; they go in one entry.
        lease_keys_max = 100_000;
        /// Bytes of those keys and their values.
        lease_bytes_max = 64 << 20;
        /// Shortest time to live, milliseconds; shorter wishes are raised to it.
        lease_ttl_min_ms = 2_000;
        /// Longest time to live, and longest lock delay, milliseconds.
        lease_ttl_max_ms = 9_000_000_000_000;
        /// Locks, semaphores and elections that are held, waited for, closed or have a limit.
        locks_max = 200_000;
        /// Holders and waiters of all locks.
        claims_max = 500_000;
        /// Bytes of what a leader proclaims.
        lock_value_bytes_max = 16 << 10;
        /// Guards of one command.
        guards_max = 16;
        /// Fencing tokens remembered of locks in other shards.
        marks_max = 1_000_000;
    }
}
