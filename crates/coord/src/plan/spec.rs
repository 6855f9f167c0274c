//! What a user asks for when creating a keyspace, and what may be asked.

use atoll_base::{Code, Failure};
use bytes::Bytes;

use crate::descriptor::{Protocol, ShardOptions};

/// Bytes in a keyspace's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Shards that a keyspace can be created with.
pub const SHARDS_MAX: u32 = 256;
/// Bytes in a split key: as many as a key may have.
const SPLIT_KEY_BYTES_MAX: usize = 16 << 10;
/// Bytes of all split keys together, so that the plan fits into one log entry.
const SPLIT_KEYS_BYTES_MAX: usize = 1 << 20;

/// A keyspace to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyspaceSpec {
    /// 1 to 64 of `a-z 0-9 . _ -`.
    pub name: String,
    /// How its copies agree.
    pub protocol: Protocol,
    /// Copies of each shard, an odd number; `None`: 3, or 1 where there are fewer than three nodes.
    pub replicas: Option<u32>,
    /// How many shards, 1 to 256; `None`: one more than there are split keys.
    pub shards: Option<u32>,
    /// Where shards begin, ascending; none: they are spaced evenly over the first bytes of keys.
    pub split_keys: Vec<Bytes>,
    /// What holds for each shard.
    pub options: ShardOptions,
}

impl KeyspaceSpec {
    /// A keyspace of one shard with the usual number of replicas.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            protocol: Protocol::Raft,
            replicas: None,
            shards: None,
            split_keys: Vec::new(),
            options: ShardOptions::default(),
        }
    }

    /// The number of replicas in a cluster of `nodes`.
    ///
    /// # Errors
    /// `InvalidArgument` naming both numbers.
    pub(super) fn replicas_on(&self, nodes: usize) -> Result<u32, Failure> {
        let replicas = self.replicas.unwrap_or(if nodes >= 3 { 3 } else { 1 });
        if replicas.is_multiple_of(2) {
            return Err(self.refuse(format!(
                "{replicas} replicas asked for, an odd number is needed: an even one tolerates no \
                 more failures than the next lower one"
            )));
        }
        if replicas as usize > nodes {
            return Err(self
                .refuse(format!("{replicas} replicas asked for, the cluster has {nodes} nodes")));
        }
        Ok(replicas)
    }

    /// The shards' first keys: the empty key and then the split keys.
    ///
    /// # Errors
    /// `InvalidArgument` naming what does not fit.
    pub(super) fn starts(&self) -> Result<Vec<Bytes>, Failure> {
        let from_keys = self.split_keys.len() as u64 + 1;
        let shards = self.shards.map_or(from_keys, u64::from);
        if shards == 0 || shards > u64::from(SHARDS_MAX) {
            return Err(
                self.refuse(format!("{shards} shards asked for, allowed are 1 to {SHARDS_MAX}"))
            );
        }
        if !self.split_keys.is_empty() && shards != from_keys {
            return Err(self.refuse(format!(
                "{shards} shards asked for, {} split keys make {from_keys}",
                self.split_keys.len()
            )));
        }
        self.check_split_keys()?;
        let splits = match self.split_keys.is_empty() {
            true => (1..shards).map(|i| evenly(i, shards)).collect(),
            false => self.split_keys.clone(),
        };
        Ok(std::iter::once(Bytes::new()).chain(splits).collect())
    }

    fn check_split_keys(&self) -> Result<(), Failure> {
        let mut bytes = 0;
        let mut before: &[u8] = b"";
        for key in &self.split_keys {
            if key[..] <= *before {
                return Err(self.refuse(format!(
                    "split keys must ascend: \"{}\" follows \"{}\"",
                    key.escape_ascii(),
                    before.escape_ascii()
                )));
            }
            if key.len() > SPLIT_KEY_BYTES_MAX {
                return Err(self.refuse(format!(
                    "a split key has {} bytes, at most {SPLIT_KEY_BYTES_MAX} are allowed",
                    key.len()
                )));
            }
            bytes += key.len();
            before = key;
        }
        if bytes > SPLIT_KEYS_BYTES_MAX {
            return Err(self.refuse(format!(
                "the split keys have {bytes} bytes, at most {SPLIT_KEYS_BYTES_MAX} are allowed"
            )));
        }
        Ok(())
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Failure {
        let name = &self.name;
        Failure::new(Code::InvalidArgument, format!("keyspace {name} cannot be created: {why}"))
    }
}

/// The `i`-th of the keys that cut all two-byte beginnings into `n` equal parts, without a trailing
/// zero byte.
fn evenly(i: u64, n: u64) -> Bytes {
    let at = u16::try_from(i * 0x1_0000 / n).expect("i is below n");
    let [high, low] = at.to_be_bytes();
    match low {
        0 => Bytes::from(vec![high]),
        low => Bytes::from(vec![high, low]),
    }
}

/// Checks a keyspace's name.
///
/// # Errors
/// `InvalidArgument` naming the length or the first character that is not allowed.
pub fn validate_name(name: &str) -> Result<(), Failure> {
    let refuse = |why: String| Err(Failure::new(Code::InvalidArgument, why));
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        let len = name.len();
        return refuse(format!(
            "a keyspace's name has 1 to {NAME_BYTES_MAX} characters, this one has {len}"
        ));
    }
    let allowed = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '-');
    if let Some(other) = name.chars().find(|c| !allowed(*c)) {
        return refuse(format!(
            "a keyspace's name consists of a-z 0-9 . _ -, \"{}\" has {other:?}",
            name.escape_debug()
        ));
    }
    Ok(())
}
