//! Which watchers a key concerns.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::WatchId;
use crate::query::KeyEnd;

/// Watchers by range. Single keys and prefixes, which is what nearly all watch, are looked up;
/// other ranges are gone through, each distinct one once.
#[derive(Default, Debug)]
pub struct WatchIndex {
    keys: BTreeMap<Bytes, BTreeSet<WatchId>>,
    prefixes: BTreeMap<Bytes, BTreeSet<WatchId>>,
    /// How many distinct prefixes there are of each length.
    prefix_lengths: BTreeMap<usize, usize>,
    ranges: BTreeMap<(Bytes, KeyEnd), BTreeSet<WatchId>>,
}

impl WatchIndex {
    /// Adds a watcher of a range.
    pub fn insert(&mut self, id: WatchId, start: &Bytes, end: &KeyEnd) {
        if *end == KeyEnd::Single {
            self.keys.entry(start.clone()).or_default().insert(id);
        } else if *end == KeyEnd::of_prefix(start) {
            let watchers = self.prefixes.entry(start.clone()).or_default();
            if watchers.is_empty() {
                *self.prefix_lengths.entry(start.len()).or_default() += 1;
            }
            watchers.insert(id);
        } else {
            self.ranges.entry((start.clone(), end.clone())).or_default().insert(id);
        }
    }

    /// Takes out a watcher that was added with this range.
    pub fn remove(&mut self, id: WatchId, start: &Bytes, end: &KeyEnd) {
        if *end == KeyEnd::Single {
            remove_from(&mut self.keys, start, id);
        } else if *end == KeyEnd::of_prefix(start) {
            if remove_from(&mut self.prefixes, start, id) {
                let count = self.prefix_lengths.get_mut(&start.len());
                let count = count.expect("the length of a prefix in the map is counted");
                *count -= 1;
                if *count == 0 {
                    self.prefix_lengths.remove(&start.len());
                }
            }
        } else {
            remove_from(&mut self.ranges, &(start.clone(), end.clone()), id);
        }
    }

    /// Calls `each` for every watcher of `key`.
    pub fn matching(&self, key: &[u8], mut each: impl FnMut(WatchId)) {
        self.keys.get(key).into_iter().flatten().for_each(|id| each(*id));
        for length in self.prefix_lengths.keys().take_while(|length| **length <= key.len()) {
            self.prefixes.get(&key[..*length]).into_iter().flatten().for_each(|id| each(*id));
        }
        for ((start, end), watchers) in &self.ranges {
            if start.as_ref() > key {
                break;
            }
            if end.contains(start, key) {
                watchers.iter().for_each(|id| each(*id));
            }
        }
    }
}

/// True when nobody is left under `key`.
fn remove_from<K: Ord>(map: &mut BTreeMap<K, BTreeSet<WatchId>>, key: &K, id: WatchId) -> bool {
    let Some(watchers) = map.get_mut(key) else { return false };
    watchers.remove(&id);
    if watchers.is_empty() {
        map.remove(key);
        return true;
    }
    false
}
