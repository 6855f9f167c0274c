//! The keys of a tree in order, with the versions of each.
//!
//! A walk down a map of many keys looks at a dozen of them, each somewhere else in memory; who
//! knows the key, as every change does, finds it by its hash.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::KeyRange;

/// The number of a batch within a layer, from 1; 0 is before the first.
pub(super) type BatchNumber = u64;

/// What a key costs beside its bytes and those of its values: its places in both maps, which are
/// two thirds full, and its versions.
pub(super) const KEY_OVERHEAD_BYTES: u64 = 190;

/// The values of a key.
pub(super) struct Versions {
    pub(super) number: BatchNumber,
    pub(super) value: Option<Bytes>,
    /// Oldest first; only what some view needs.
    pub(super) older: Vec<(BatchNumber, Option<Bytes>)>,
}

impl Versions {
    /// What there was after that batch, if anything was known.
    pub(super) fn at(&self, number: BatchNumber) -> Option<&Option<Bytes>> {
        if self.number <= number {
            return Some(&self.value);
        }
        self.older.iter().rev().find(|(n, _)| *n <= number).map(|(_, value)| value)
    }
}

/// Keys and their versions.
#[derive(Default)]
pub(super) struct Sorted {
    /// Where the versions of each key are.
    order: BTreeMap<Bytes, u32>,
    /// The same, and never gone through.
    places: HashMap<Bytes, u32, RandomState>,
    versions: Vec<Versions>,
}

impl Sorted {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Versions> {
        Some(&self.versions[*self.places.get(key)? as usize])
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Versions> {
        Some(&mut self.versions[*self.places.get(key)? as usize])
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Brings what there is of these keys near. No step for one key waits for one for another, so
    /// the waits for memory overlap.
    pub(super) fn prefetch(&self, keys: &[&[u8]]) {
        let found: Vec<&Versions> = keys.iter().filter_map(|key| self.get(key)).collect();
        let heads = found.iter().filter_map(|versions| versions.value.as_ref()?.first());
        // Kept from being left out as of no use.
        std::hint::black_box(heads.fold(0, |all, head| all ^ head));
    }

    /// Adds a key that is not here.
    pub(super) fn insert(&mut self, key: Bytes, versions: Versions) {
        let place = u32::try_from(self.versions.len()).expect("a layer has fewer than 2^32 keys");
        self.versions.push(versions);
        self.places.insert(key.clone(), place);
        self.order.insert(key, place);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Versions)> {
        self.order.iter().map(|(key, place)| (key, &self.versions[*place as usize]))
    }

    /// What lies in a range that is not empty.
    pub(super) fn range(
        &self,
        range: KeyRange<'_>,
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Versions)> {
        let found = self.order.range::<[u8], _>(range);
        found.map(|(key, place)| (key, &self.versions[*place as usize]))
    }
}
