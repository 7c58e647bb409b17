//! What the server counts, and the registry that everything is registered with.

mod queue;
mod valkey;

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use storage::Verdict;

pub use queue::QueueMetrics;
pub use valkey::ValkeyMetrics;

/// Values of the label `kind`.
pub const KINDS: [&str; 8] = [
    "info", "mod", "zip", "list", "latest", "query", "sumdb", "other",
];

/// Values of the label `cache`.
pub const CACHE_OUTCOMES: [&str; 9] = [
    "hit",
    "hit_stored",
    "miss",
    "collapsed",
    "relayed",
    "stale",
    "stale_if_error",
    "built_from_store",
    "error",
];

/// Labels of `corral_requests_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    kind: &'static str,
    cache: &'static str,
}

/// Labels of `corral_responses_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StatusLabel {
    status: &'static str,
}

/// Handles of everything that this crate counts, resolved once so that a request costs an
/// addition.
#[derive(Debug)]
pub struct ServerMetrics {
    requests: Vec<Counter>,
    /// Answers by class of status.
    responses: [Counter; 4],
    /// Connections of clients now.
    pub connections: Gauge,
}

const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

impl ServerMetrics {
    /// Makes the handles and registers them.
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let requests = Family::<RequestLabels, Counter>::default();
        let responses = Family::<StatusLabel, Counter>::default();
        let metrics = Self {
            requests: KINDS
                .iter()
                .flat_map(|kind| CACHE_OUTCOMES.iter().map(move |cache| (kind, cache)))
                .map(|(kind, cache)| {
                    requests
                        .get_or_create(&RequestLabels { kind, cache })
                        .clone()
                })
                .collect(),
            responses: STATUS_CLASSES
                .map(|status| responses.get_or_create(&StatusLabel { status }).clone()),
            connections: Gauge::default(),
        };
        registry.register("requests", "Requests by kind and cache outcome", requests);
        registry.register("responses", "Answers by class of status", responses);
        registry.register(
            "connections",
            "Client connections",
            metrics.connections.clone(),
        );
        registry.register(
            "build",
            "Version of this binary",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        Arc::new(metrics)
    }

    /// Counts a request; `cache` is one of [`CACHE_OUTCOMES`].
    pub fn count_request(&self, kind: &str, cache: &str) {
        let kind = KINDS
            .iter()
            .position(|k| *k == kind)
            .unwrap_or(KINDS.len() - 1);
        let cache = CACHE_OUTCOMES
            .iter()
            .position(|c| *c == cache)
            .unwrap_or(CACHE_OUTCOMES.len() - 1);
        self.requests[kind * CACHE_OUTCOMES.len() + cache].inc();
    }

    /// Counts an answer by its status.
    pub fn count_response(&self, status: u16) {
        let class = usize::from(status / 100).clamp(2, 5) - 2;
        self.responses[class].inc();
    }
}

/// The `cache` label of an answer.
pub fn cache_label(cache: &storage::CacheOutcome) -> &'static str {
    match cache.verdict {
        Verdict::Miss if cache.collapsed => "collapsed",
        verdict => verdict.label(),
    }
}

/// Counts a connection for as long as it lives.
pub struct ConnectionCount(Gauge);

impl ConnectionCount {
    /// Counts one more.
    pub fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}
