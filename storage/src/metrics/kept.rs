//! What is counted of the spool's keeping of what the store did not take.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::ResultLabel;

/// What becomes of kept bytes, the label values of `corral_spool_kept_total`.
pub(crate) const KEPT_RESULTS: [&str; 8] = [
    "kept",
    "full",
    "failed",
    "recovered",
    "lost",
    "uploaded",
    "conflict",
    "dropped",
];

/// Handles of what is counted here.
#[derive(Debug)]
pub struct KeptMetrics {
    /// Artifacts that are kept now; sampled.
    pub files: Gauge,
    /// Their bytes; sampled.
    pub bytes: Gauge,
    /// What the spool's disk has left; sampled.
    pub free_bytes: Gauge,
    /// Events by what they are.
    pub total: Family<ResultLabel, Counter>,
}

impl KeptMetrics {
    /// Makes the handles and registers them.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            files: Gauge::default(),
            bytes: Gauge::default(),
            free_bytes: Gauge::default(),
            total: Family::default(),
        };
        for result in KEPT_RESULTS {
            let _ = metrics.total.get_or_create(&ResultLabel { result });
        }
        registry.register(
            "spool_kept_files",
            "Artifacts that are kept because the storage did not take them",
            metrics.files.clone(),
        );
        registry.register_with_unit(
            "spool_kept",
            "Bytes that are kept because the storage did not take them",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register_with_unit(
            "spool_free",
            "What the spool's disk has left",
            Unit::Bytes,
            metrics.free_bytes.clone(),
        );
        registry.register(
            "spool_kept",
            "What became of bytes that the storage did not take",
            metrics.total.clone(),
        );
        metrics
    }

    /// Counts one `result`.
    pub(crate) fn count(&self, result: &'static str) {
        self.count_many(result, 1);
    }

    /// Counts `number` of them.
    pub(crate) fn count_many(&self, result: &'static str, number: u64) {
        self.total
            .get_or_create(&ResultLabel { result })
            .inc_by(number);
    }
}
