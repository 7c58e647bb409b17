//! The maps that are compared, each behind the same five calls.
//!
//! All candidates hash with the standard library's keyed hasher: keys of a proxy come from its
//! clients, so a hasher without a secret is no choice, and a faster hasher would favour its map.
//! Plain maps start empty and grow; caches are given a bound of twice what they will hold.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

/// A key like the ones corral uses: an artifact's path, shared rather than copied.
pub type Key = Arc<str>;

/// A stored value: reference-counted bytes, so that reading copies no content.
pub type Value = Bytes;

/// What the table of flights and the hot tier need from a map.
///
/// All calls may be made from any number of threads at once.
pub trait ConcurrentMap: Send + Sync {
    /// Returns the value of `key`, or `None` when it is not there.
    fn get(&self, key: &str) -> Option<Value>;
    /// Writes `value` under `key`, whether or not the key was there.
    fn insert(&self, key: Key, value: Value);
    /// Writes `value` under `key` if the key is there, and says whether it was.
    fn edit(&self, key: &Key, value: Value) -> bool;
    /// Removes `key`, and says whether it was there.
    fn remove(&self, key: &str) -> bool;
    /// Counts the entries; exact only while nobody writes.
    fn len(&self) -> usize;
    /// Says whether there are no entries, with the precision of [`ConcurrentMap::len`].
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A row of the comparison.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// Short name in tables and plots.
    pub name: &'static str,
    /// Whether it evicts: a cache does more work per write than a plain map.
    pub bounded: bool,
    /// Builds an empty map that will hold about `keys` entries.
    pub build: fn(keys: usize) -> Box<dyn ConcurrentMap>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Every candidate, in the order of the tables.
pub fn all() -> Vec<Candidate> {
    vec![
        Candidate {
            name: "std RwLock",
            bounded: false,
            build: |_| Box::new(RwLock::<HashMap<Key, Value>>::default()),
        },
        Candidate {
            name: "64 x Mutex",
            bounded: false,
            build: |_| Box::new(Shards::<parking_lot::Mutex<HashMap<Key, Value>>>::new()),
        },
        Candidate {
            name: "64 x RwLock",
            bounded: false,
            build: |_| Box::new(Shards::<parking_lot::RwLock<HashMap<Key, Value>>>::new()),
        },
        Candidate {
            name: "dashmap",
            bounded: false,
            build: |_| Box::new(dashmap::DashMap::<Key, Value>::new()),
        },
        Candidate {
            name: "papaya",
            bounded: false,
            build: |_| Box::new(papaya::HashMap::<Key, Value>::new()),
        },
        Candidate {
            name: "scc",
            bounded: false,
            build: |_| Box::new(scc::HashMap::<Key, Value>::new()),
        },
        Candidate {
            name: "moka",
            bounded: true,
            build: |keys| Box::new(moka::sync::Cache::<Key, Value>::new(2 * keys as u64)),
        },
        Candidate {
            name: "quick_cache",
            bounded: true,
            build: |keys| Box::new(QuickCache::new(keys)),
        },
        Candidate {
            name: "hot tier",
            bounded: true,
            build: |keys| Box::new(super::hot_tier::Tier::new(keys)),
        },
    ]
}

impl ConcurrentMap for RwLock<HashMap<Key, Value>> {
    fn get(&self, key: &str) -> Option<Value> {
        self.read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    fn insert(&self, key: Key, value: Value) {
        self.write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        let mut map = self.write().unwrap_or_else(PoisonError::into_inner);
        map.get_mut(key).map(|slot| *slot = value).is_some()
    }

    fn remove(&self, key: &str) -> bool {
        self.write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key)
            .is_some()
    }

    fn len(&self) -> usize {
        self.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// How many locks the hand-sharded maps spread their keys over.
const SHARDS: usize = 64;

/// The simplest concurrent map: a fixed number of locked maps, chosen by the key's hash.
struct Shards<L> {
    hasher: RandomState,
    shards: Box<[L]>,
}

impl<L: Default> Shards<L> {
    fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| L::default()).collect(),
        }
    }

    fn shard(&self, key: &str) -> &L {
        // The upper bits choose the shard: the map inside uses its own hasher, but a map that
        // shared this one would use the lower bits.
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }
}

impl ConcurrentMap for Shards<parking_lot::Mutex<HashMap<Key, Value>>> {
    fn get(&self, key: &str) -> Option<Value> {
        self.shard(key).lock().get(key).cloned()
    }

    fn insert(&self, key: Key, value: Value) {
        self.shard(&key).lock().insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        self.shard(key)
            .lock()
            .get_mut(key)
            .map(|slot| *slot = value)
            .is_some()
    }

    fn remove(&self, key: &str) -> bool {
        self.shard(key).lock().remove(key).is_some()
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl ConcurrentMap for Shards<parking_lot::RwLock<HashMap<Key, Value>>> {
    fn get(&self, key: &str) -> Option<Value> {
        self.shard(key).read().get(key).cloned()
    }

    fn insert(&self, key: Key, value: Value) {
        self.shard(&key).write().insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        self.shard(key)
            .write()
            .get_mut(key)
            .map(|slot| *slot = value)
            .is_some()
    }

    fn remove(&self, key: &str) -> bool {
        self.shard(key).write().remove(key).is_some()
    }

    fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }
}

impl ConcurrentMap for dashmap::DashMap<Key, Value> {
    fn get(&self, key: &str) -> Option<Value> {
        self.get(key).map(|entry| entry.clone())
    }

    fn insert(&self, key: Key, value: Value) {
        self.insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        self.get_mut(key).map(|mut slot| *slot = value).is_some()
    }

    fn remove(&self, key: &str) -> bool {
        self.remove(key).is_some()
    }

    fn len(&self) -> usize {
        self.len()
    }
}

impl ConcurrentMap for papaya::HashMap<Key, Value> {
    fn get(&self, key: &str) -> Option<Value> {
        self.pin().get(key).cloned()
    }

    fn insert(&self, key: Key, value: Value) {
        self.pin().insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        self.pin()
            .update(Arc::clone(key), |_| value.clone())
            .is_some()
    }

    fn remove(&self, key: &str) -> bool {
        self.pin().remove(key).is_some()
    }

    fn len(&self) -> usize {
        self.len()
    }
}

impl ConcurrentMap for scc::HashMap<Key, Value> {
    fn get(&self, key: &str) -> Option<Value> {
        self.read_sync(key, |_, value| value.clone())
    }

    fn insert(&self, key: Key, value: Value) {
        self.upsert_sync(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        self.update_sync(key, |_, slot| *slot = value).is_some()
    }

    fn remove(&self, key: &str) -> bool {
        self.remove_sync(key).is_some()
    }

    fn len(&self) -> usize {
        self.len()
    }
}

impl ConcurrentMap for moka::sync::Cache<Key, Value> {
    fn get(&self, key: &str) -> Option<Value> {
        self.get(key)
    }

    fn insert(&self, key: Key, value: Value) {
        self.insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        // moka has no write-if-present that is cheaper than looking first.
        let present = self.contains_key(key);
        if present {
            self.insert(Arc::clone(key), value);
        }
        present
    }

    fn remove(&self, key: &str) -> bool {
        self.remove(key).is_some()
    }

    fn len(&self) -> usize {
        // The count lags behind until queued maintenance has run.
        self.run_pending_tasks();
        usize::try_from(self.entry_count()).unwrap_or(usize::MAX)
    }
}

type QuickCacheInner = quick_cache::sync::Cache<Key, Value, quick_cache::UnitWeighter, RandomState>;

struct QuickCache(QuickCacheInner);

impl QuickCache {
    fn new(keys: usize) -> Self {
        Self(QuickCacheInner::with(
            keys,
            2 * keys as u64,
            quick_cache::UnitWeighter,
            RandomState::new(),
            quick_cache::sync::DefaultLifecycle::default(),
        ))
    }
}

impl ConcurrentMap for QuickCache {
    fn get(&self, key: &str) -> Option<Value> {
        self.0.get(key)
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(key, value);
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        self.0.replace(Arc::clone(key), value, false).is_ok()
    }

    fn remove(&self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // acceptance: D2, D3
    // acceptance: D13
    #[test]
    fn every_candidate_keeps_the_same_contract() {
        assert!(all().len() >= 5);
        for candidate in all() {
            let map = (candidate.build)(100);
            let name = candidate.name;
            let key = Key::from("example.com/m/@v/v1.0.0.mod");
            let (first, second) = (Value::from_static(b"1"), Value::from_static(b"2"));
            assert!(map.is_empty(), "{name}: new map is empty");
            assert_eq!(map.get(&key), None, "{name}: miss");
            assert!(
                !map.edit(&key, first.clone()),
                "{name}: edit of a missing key"
            );
            assert_eq!(map.get(&key), None, "{name}: such an edit writes nothing");
            map.insert(Arc::clone(&key), first.clone());
            assert_eq!(map.get(&key), Some(first), "{name}: hit");
            assert!(map.edit(&key, second.clone()), "{name}: edit");
            assert_eq!(map.get(&key), Some(second), "{name}: edited");
            assert_eq!(map.len(), 1, "{name}: one entry");
            assert!(map.remove(&key), "{name}: remove");
            assert!(!map.remove(&key), "{name}: removed once");
            assert_eq!(map.len(), 0, "{name}: empty again");
        }
    }
}
