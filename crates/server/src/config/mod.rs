//! Settings of a node: flags, environment, `atoll.toml`, defaults, in this order of precedence.
//!
//! There is one table, `table::SETTINGS`; flags, variables, keys of the file, the help text and
//! `docs/configuration.md` all come from it, so none can know a setting that another does not. A
//! setting `peer_listen` is the flag `--peer-listen`, the variable `ATOLL_PEER_LISTEN` and the key
//! `peer_listen`. Values are checked once, at start; an error names the setting, the value, where
//! it came from and what is allowed.

mod bootstrap;
mod load;
mod table;
mod value;

pub(crate) use bootstrap::{Bootstrap, Member};
pub(crate) use load::{ConfigError, load, load_flags, matches_of};
#[cfg(test)]
pub(crate) use table::SETTINGS;
pub(crate) use table::{LogFormat, NodeConfig};

#[cfg(test)]
mod tests;
