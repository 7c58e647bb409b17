//! The hot tier (L1): complete immutable artifacts in memory, ready to send.
//!
//! What is in it never changes, so there is nothing to keep coherent; an entry leaves by
//! eviction or when an operator purges it. Small artifacts are held as bytes, large ones as
//! mappings of the stored file, whose pages the kernel may take back at any time.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, OptionsBuilder, Weighter};

use crate::artifact::ArtifactKey;
use crate::metrics::StorageMetrics;
use crate::store::{Stored, StoredBody};

/// What an entry costs beside its body: key, table slot, allocation headers.
const ENTRY_OVERHEAD_BYTES: u64 = 256;

/// Mean artifact size that the table's initial allocation is made for.
const ENTRY_EXPECTED_BYTES: u64 = 64 * 1024;

/// Parts of the table with a lock and an equal share of `bytes_max` each. Few, because no entry
/// can be larger than a share; reads take the lock shared, so hits don't wait on each other.
const SHARDS: usize = 4;

/// The in-memory tier of complete artifacts, bounded by bytes.
#[derive(Debug)]
pub struct HotTier {
    cache: Option<Cache<ArtifactKey, Stored, ByBytes, DefaultHashBuilder, CountEvictions>>,
    entry_bytes_max: u64,
    oversized: Counter,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl Weighter<ArtifactKey, Stored> for ByBytes {
    fn weight(&self, _: &ArtifactKey, stored: &Stored) -> u64 {
        stored.len + ENTRY_OVERHEAD_BYTES
    }
}

#[derive(Debug, Clone)]
struct CountEvictions(Counter);

impl Lifecycle<ArtifactKey, Stored> for CountEvictions {
    type RequestState = ();

    fn on_evict(&self, (): &mut (), _: ArtifactKey, _: Stored) {
        self.0.inc();
    }
}

impl HotTier {
    /// Creates a tier of at most `bytes_max` bytes (0: none is kept) with entries of at most
    /// `entry_bytes_max`.
    pub fn new(bytes_max: u64, entry_bytes_max: u64, metrics: &Arc<StorageMetrics>) -> Self {
        let cache = (bytes_max > 0).then(|| {
            let entries = usize::try_from(bytes_max / ENTRY_EXPECTED_BYTES).unwrap_or(usize::MAX);
            let options = OptionsBuilder::new()
                .estimated_items_capacity(entries.clamp(64, 1_000_000))
                .weight_capacity(bytes_max)
                .shards(SHARDS)
                .build()
                .expect("both capacities are given");
            Cache::with_options(
                options,
                ByBytes,
                DefaultHashBuilder::default(),
                CountEvictions(metrics.lru_eviction.clone()),
            )
        });
        Self {
            cache,
            entry_bytes_max,
            oversized: metrics.lru_oversized.clone(),
        }
    }

    /// The artifact, if it is here. Takes no lock that another hit waits on.
    pub fn get(&self, key: &ArtifactKey) -> Option<Stored> {
        self.cache.as_ref()?.get(key)
    }

    /// Keeps an artifact, unless it is larger than an entry may be: that is counted, and it goes
    /// on being served from the store.
    pub fn insert(&self, key: ArtifactKey, stored: Stored) {
        let Some(cache) = &self.cache else { return };
        if matches!(stored.body, StoredBody::Remote(_)) {
            return;
        }
        if stored.len > self.entry_bytes_max {
            self.oversized.inc();
            return;
        }
        cache.insert(key, stored);
    }

    /// Forgets an artifact; tells whether it was here.
    pub fn remove(&self, key: &ArtifactKey) -> bool {
        self.cache
            .as_ref()
            .is_some_and(|cache| cache.remove(key).is_some())
    }

    /// Bytes that are kept now.
    pub fn bytes(&self) -> u64 {
        self.cache.as_ref().map_or(0, Cache::weight)
    }

    /// Artifacts that are kept now.
    pub fn len(&self) -> usize {
        self.cache.as_ref().map_or(0, Cache::len)
    }

    /// Tells whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
