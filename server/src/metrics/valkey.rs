//! What happens between this instance and its Valkey, as metrics and for operators.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lease::{BreakerState, LeaseErrorKind, ValkeyHealth, ValkeyObserver};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Every kind of failure, for counters that start at zero.
const KINDS: [LeaseErrorKind; 2] = [LeaseErrorKind::Unavailable, LeaseErrorKind::Protocol];

/// A server, by its address without credentials; there are as many as are configured.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BreakerLabels {
    node: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    node: String,
    kind: &'static str,
}

/// Counters and gauges about Valkey. Without Valkey they are there and stay at zero.
#[derive(Debug)]
pub struct ValkeyMetrics {
    hits: Counter,
    misses: Counter,
    writes: Counter,
    errors: Family<KindLabel, Counter>,
    get_fallbacks: Counter,
    set_fallbacks: Counter,
    hit_rate: Gauge<f64, AtomicU64>,
    degraded: Gauge,
    connected: Family<NodeLabel, Gauge>,
    breaker: Family<BreakerLabels, Gauge>,
    command_failures: Family<FailureLabels, Counter>,
    pubsub_connected: Family<NodeLabel, Gauge>,
    events: Counter,
    events_overflowed: Counter,
    event_lag: Histogram,
    canaries_missed: Counter,
    unreadable: Counter,
    /// How long the last canary took, by node: the latency that operators are shown.
    last_lag: Mutex<BTreeMap<String, Duration>>,
}

impl ValkeyMetrics {
    /// Makes the handles and registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            hits: Counter::default(),
            misses: Counter::default(),
            writes: Counter::default(),
            errors: Family::default(),
            get_fallbacks: Counter::default(),
            set_fallbacks: Counter::default(),
            hit_rate: Gauge::default(),
            degraded: Gauge::default(),
            connected: Family::default(),
            breaker: Family::default(),
            command_failures: Family::default(),
            pubsub_connected: Family::default(),
            events: Counter::default(),
            events_overflowed: Counter::default(),
            // 100 us to 3.3 s: from the same machine to a fleet in trouble.
            event_lag: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            canaries_missed: Counter::default(),
            unreadable: Counter::default(),
            last_lag: Mutex::default(),
        };
        for kind in KINDS {
            let _ = metrics.errors.get_or_create(&KindLabel {
                kind: kind.as_str(),
            });
        }
        metrics.register_records(registry);
        metrics.register_servers(registry);
        metrics.register_events(registry);
        metrics
    }

    fn register_records(&self, registry: &mut Registry) {
        registry.register(
            "valkey_hits",
            "Shared records that were read and there",
            self.hits.clone(),
        );
        registry.register(
            "valkey_misses",
            "Shared records that were read and not there",
            self.misses.clone(),
        );
        registry.register(
            "valkey_miss",
            "The same as valkey_misses, beside the two fallbacks",
            self.misses.clone(),
        );
        registry.register(
            "valkey_writes",
            "Shared records that were written or deleted",
            self.writes.clone(),
        );
        registry.register(
            "valkey_errors",
            "Operations on shared records that failed",
            self.errors.clone(),
        );
        registry.register(
            "valkey_get_fallback",
            "Reads that failed and were answered from this process's own copy",
            self.get_fallbacks.clone(),
        );
        registry.register(
            "valkey_set_fallback",
            "Writes that failed and were kept in this process",
            self.set_fallbacks.clone(),
        );
        registry.register(
            "valkey_hit_rate_percent",
            "Hits among hits and misses since the start, 0 to 100",
            self.hit_rate.clone(),
        );
    }

    fn register_servers(&self, registry: &mut Registry) {
        registry.register(
            "valkey_degraded",
            "1 while at least one server does not serve or sends no events",
            self.degraded.clone(),
        );
        registry.register(
            "valkey_connected",
            "1 while a connection for commands is open",
            self.connected.clone(),
        );
        registry.register(
            "valkey_breaker",
            "1 for the state that the breaker is in",
            self.breaker.clone(),
        );
        registry.register(
            "valkey_command_failures",
            "Calls that failed",
            self.command_failures.clone(),
        );
        registry.register(
            "valkey_unreadable",
            "Payloads of another version",
            self.unreadable.clone(),
        );
    }

    fn register_events(&self, registry: &mut Registry) {
        registry.register(
            "pubsub_connected",
            "1 while release events are known to flow",
            self.pubsub_connected.clone(),
        );
        registry.register("lease_events", "Release events", self.events.clone());
        registry.register(
            "lease_events_overflowed",
            "Times that events came faster than they could be read",
            self.events_overflowed.clone(),
        );
        registry.register_with_unit(
            "lease_event_lag",
            "From publishing an event until it is here, measured by canaries",
            Unit::Seconds,
            self.event_lag.clone(),
        );
        registry.register(
            "canary_missed",
            "Canaries that did not come back in time",
            self.canaries_missed.clone(),
        );
    }

    /// Makes every gauge and counter of a server's, before anything has happened to it.
    pub fn prime(&self, health: &ValkeyHealth) {
        for node in &health.nodes {
            let label = node_label(&node.address);
            let _ = self.connected.get_or_create(&label);
            let live = i64::from(node.subscribed);
            self.pubsub_connected.get_or_create(&label).set(live);
            self.set_breaker(&node.address, node.breaker);
            for kind in KINDS {
                drop(self.failures(&node.address, kind));
            }
        }
    }

    /// Brings what is computed rather than counted up to date, for a scrape.
    pub fn sample(&self, is_degraded: bool) {
        self.degraded.set(i64::from(is_degraded));
        let (hits, misses) = (self.hits.get() as f64, self.misses.get() as f64);
        if hits + misses > 0.0 {
            self.hit_rate.set(100.0 * hits / (hits + misses));
        }
    }

    /// How long the last canary of a server took; `None` before the first.
    pub fn last_lag(&self, node: &str) -> Option<Duration> {
        let last = self.last_lag.lock().unwrap_or_else(PoisonError::into_inner);
        last.get(node).copied()
    }

    fn failures(&self, node: &str, kind: LeaseErrorKind) -> Counter {
        let labels = FailureLabels {
            node: node.to_owned(),
            kind: kind.as_str(),
        };
        self.command_failures.get_or_create(&labels).clone()
    }

    fn set_breaker(&self, node: &str, state: BreakerState) {
        for other in BreakerState::ALL {
            let labels = BreakerLabels {
                node: node.to_owned(),
                state: other.as_str(),
            };
            let gauge = self.breaker.get_or_create(&labels);
            gauge.set(i64::from(other == state));
        }
    }
}

fn node_label(node: &str) -> NodeLabel {
    NodeLabel {
        node: node.to_owned(),
    }
}

impl ValkeyObserver for ValkeyMetrics {
    fn connected(&self, node: &str) {
        self.connected.get_or_create(&node_label(node)).set(1);
    }

    fn disconnected(&self, node: &str) {
        self.connected.get_or_create(&node_label(node)).set(0);
    }

    fn breaker(&self, node: &str, state: BreakerState) {
        self.set_breaker(node, state);
    }

    fn command_failed(&self, node: &str, _act: &'static str, kind: LeaseErrorKind) {
        self.failures(node, kind).inc();
    }

    fn subscribed(&self, node: &str, live: bool) {
        let gauge = self.pubsub_connected.get_or_create(&node_label(node));
        gauge.set(i64::from(live));
    }

    fn canary(&self, node: &str, lag: Duration) {
        self.event_lag.observe(lag.as_secs_f64());
        let mut last = self.last_lag.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get_mut(node) {
            Some(last) => *last = lag,
            None => {
                last.insert(node.to_owned(), lag);
            }
        }
    }

    fn canary_missed(&self, _node: &str) {
        self.canaries_missed.inc();
    }

    fn event(&self, _node: &str) {
        self.events.inc();
    }

    fn events_overflowed(&self, _node: &str) {
        self.events_overflowed.inc();
    }

    fn unreadable(&self, _node: &str) {
        self.unreadable.inc();
    }

    fn record_hit(&self) {
        self.hits.inc();
    }

    fn record_miss(&self) {
        self.misses.inc();
    }

    fn record_write(&self) {
        self.writes.inc();
    }

    fn record_error(&self, kind: LeaseErrorKind) {
        let kind = kind.as_str();
        self.errors.get_or_create(&KindLabel { kind }).inc();
    }

    fn record_get_fallback(&self) {
        self.get_fallbacks.inc();
    }

    fn record_set_fallback(&self) {
        self.set_fallbacks.inc();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use lease::NodeHealth;

    use super::*;

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
        text
    }

    fn lines_of(text: &str, names: &[&str]) -> Vec<String> {
        let is_asked = |line: &&str| {
            names.iter().any(|name| {
                let rest = line.strip_prefix(name);
                rest.is_some_and(|rest| rest.starts_with([' ', '{']))
            })
        };
        text.lines().filter(is_asked).map(str::to_owned).collect()
    }

    const COUNTERS: [&str; 7] = [
        "corral_valkey_hits_total",
        "corral_valkey_misses_total",
        "corral_valkey_miss_total",
        "corral_valkey_writes_total",
        "corral_valkey_errors_total",
        "corral_valkey_get_fallback_total",
        "corral_valkey_set_fallback_total",
    ];

    // acceptance: A9
    // acceptance: E10
    // acceptance: A13
    #[test]
    fn each_counter_fires_in_its_own_case_only() {
        type Case = (fn(&ValkeyMetrics), &'static [&'static str]);
        let cases: [Case; 7] = [
            (|_| {}, &[]),
            (|m| m.record_hit(), &["corral_valkey_hits_total 1"]),
            (
                |m| m.record_miss(),
                &["corral_valkey_misses_total 1", "corral_valkey_miss_total 1"],
            ),
            (|m| m.record_write(), &["corral_valkey_writes_total 1"]),
            (
                |m| m.record_error(LeaseErrorKind::Protocol),
                &["corral_valkey_errors_total{kind=\"protocol\"} 1"],
            ),
            (
                |m| m.record_get_fallback(),
                &["corral_valkey_get_fallback_total 1"],
            ),
            (
                |m| m.record_set_fallback(),
                &["corral_valkey_set_fallback_total 1"],
            ),
        ];
        for (act, expected) in cases {
            let mut registry = Registry::with_prefix("corral");
            let metrics = ValkeyMetrics::new(&mut registry);
            let before = lines_of(&text(&registry), &COUNTERS);
            assert_eq!(before.len(), 8, "{before:?}");
            assert!(before.iter().all(|line| line.ends_with(" 0")), "{before:?}");
            act(&metrics);
            let lines = lines_of(&text(&registry), &COUNTERS);
            let fired: Vec<_> = lines.iter().filter(|line| !line.ends_with(" 0")).collect();
            assert_eq!(fired, expected);
        }
    }

    // acceptance: E10
    #[test]
    fn the_hit_rate_is_a_percentage() {
        let mut registry = Registry::with_prefix("corral");
        let metrics = ValkeyMetrics::new(&mut registry);
        let rate = || {
            metrics.sample(false);
            lines_of(&text(&registry), &["corral_valkey_hit_rate_percent"])
        };
        assert_eq!(rate(), ["corral_valkey_hit_rate_percent 0.0"]);
        for _ in 0..3 {
            metrics.record_hit();
        }
        metrics.record_miss();
        assert_eq!(rate(), ["corral_valkey_hit_rate_percent 75.0"]);
    }

    #[test]
    fn gauges_of_a_server_are_there_before_anything_happens() {
        let mut registry = Registry::with_prefix("corral");
        let metrics = ValkeyMetrics::new(&mut registry);
        let node = "10.0.0.1:6379";
        metrics.prime(&ValkeyHealth {
            degraded: true,
            nodes: vec![NodeHealth {
                address: node.to_owned(),
                server: None,
                breaker: BreakerState::Open,
                subscribed: false,
                last_error: None,
            }],
        });
        metrics.sample(true);
        let names = [
            "corral_valkey_degraded",
            "corral_valkey_connected",
            "corral_valkey_breaker",
            "corral_pubsub_connected",
        ];
        let mut lines = lines_of(&text(&registry), &names);
        lines.sort();
        assert_eq!(
            lines,
            [
                "corral_pubsub_connected{node=\"10.0.0.1:6379\"} 0",
                "corral_valkey_breaker{node=\"10.0.0.1:6379\",state=\"closed\"} 0",
                "corral_valkey_breaker{node=\"10.0.0.1:6379\",state=\"half_open\"} 0",
                "corral_valkey_breaker{node=\"10.0.0.1:6379\",state=\"open\"} 1",
                "corral_valkey_connected{node=\"10.0.0.1:6379\"} 0",
                "corral_valkey_degraded 1",
            ]
        );
        metrics.breaker(node, BreakerState::Closed);
        metrics.connected(node);
        metrics.subscribed(node, true);
        metrics.canary(node, Duration::from_millis(2));
        assert_eq!(metrics.last_lag(node), Some(Duration::from_millis(2)));
        let text = text(&registry);
        for line in [
            "corral_valkey_breaker{node=\"10.0.0.1:6379\",state=\"open\"} 0",
            "corral_valkey_breaker{node=\"10.0.0.1:6379\",state=\"closed\"} 1",
            "corral_pubsub_connected{node=\"10.0.0.1:6379\"} 1",
            "corral_lease_event_lag_seconds_count 1",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
    }
}
