//! corral's own hot tier in the comparison: the finished wrapper, path parsing included.

use std::time::SystemTime;

use prometheus_client::registry::Registry;
use storage::{ArtifactKey, HotTier, StorageMetrics, Stored, StoredBody, layout};

use super::candidates::{ConcurrentMap, Key, Value};

/// What an entry may weigh on average here, its key and slot included.
const ENTRY_BYTES: u64 = 4096;

/// The hot tier as requests use it: by the path that came on the wire.
pub(super) struct Tier(HotTier);

impl Tier {
    /// Builds a tier with room for twice `keys` entries, as the other caches have.
    pub(super) fn new(keys: usize) -> Self {
        let metrics = StorageMetrics::new(&mut Registry::default());
        let bytes_max = 2 * keys as u64 * ENTRY_BYTES;
        Self(HotTier::new(bytes_max, bytes_max, &metrics))
    }
}

fn artifact(key: &str) -> ArtifactKey {
    layout::parse_path(key).expect("the benchmark's keys are artifact paths")
}

fn stored(value: Value) -> Stored {
    Stored {
        len: value.len() as u64,
        modified: SystemTime::UNIX_EPOCH,
        body: StoredBody::Bytes(value),
    }
}

impl ConcurrentMap for Tier {
    fn get(&self, key: &str) -> Option<Value> {
        match self.0.get(&artifact(key))?.body {
            StoredBody::Bytes(value) => Some(value),
            _ => None,
        }
    }

    fn insert(&self, key: Key, value: Value) {
        self.0.insert(artifact(&key), stored(value));
    }

    fn edit(&self, key: &Key, value: Value) -> bool {
        let artifact = artifact(key);
        let known = self.0.get(&artifact).is_some();
        if known {
            self.0.insert(artifact, stored(value));
        }
        known
    }

    fn remove(&self, key: &str) -> bool {
        self.0.remove(&artifact(key))
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
