//! What this crate counts. Every handle is made once, with the registry that is handed in, and
//! primed to 0; there is no global, so two instances in one process share nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use lease::{LeaseKey, LeaseObserver, LostReason, Outcome, QueueStats, ReleaseEnd};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::upstream::{FetchObserver, FetchOutcome};

mod kept;

pub use self::kept::KeptMetrics;

/// Outcomes of a fill, the label values of `corral_fills_total`.
pub(crate) const FILL_OUTCOMES: [&str; 10] = [
    "stored",
    "spooled",
    "already_stored",
    "relayed",
    "not_found",
    "refused",
    "failed",
    "corrupt",
    "uncommitted",
    "interrupted",
];

/// Results of a commit, the label values of `corral_commit_total`.
pub(crate) const COMMIT_RESULTS: [&str; 4] = ["created", "exists_same", "conflict", "failed"];

/// Results of asking for a lease, the label values of `corral_lease_acquire_total`.
pub(crate) const ACQUIRE_RESULTS: [&str; 3] = ["granted", "held", "unavailable"];

/// Reasons for losing a lease, the label values of `corral_lease_lost_total`.
pub(crate) const LOST_REASONS: [&str; 4] = ["expired", "not_owner", "unreachable", "forced"];

/// Causes of a follower's wake-up, the label values of `corral_lease_wake_total`.
pub(crate) const WAKE_CAUSES: [&str; 6] = ["event", "reconnect", "expiry", "poll", "relay", "gone"];

/// Ends of relays, the label values of `corral_relay_total`.
pub(crate) const RELAY_ENDS: [&str; 7] = [
    "whole",
    "broken",
    "corrupt",
    "stopped",
    "unknown",
    "refused",
    "unreachable",
];

/// Answers to early take-overs, the label values of `corral_lease_take_over_total`.
pub(crate) const TAKE_OVER_RESULTS: [&str; 5] = ["freed", "refused", "gone", "moved", "failed"];

/// Answers to a push of a job, the label values of `corral_retry_pushed_total`.
pub(crate) const PUSH_RESULTS: [&str; 5] = ["queued", "already_queued", "dead", "full", "failed"];

/// What becomes of a job after a run, label values of `corral_retry_attempts_total`.
pub(crate) const JOB_OUTCOMES: [&str; 5] = ["done", "absent", "failed", "dead", "put_back"];

/// Kinds of jobs, label values of `corral_retry_attempts_total`; the last is for those that
/// another version has made.
pub(crate) const JOB_KINDS: [&str; 3] = ["fetch", "upload", "unknown"];

/// The one label of a counter family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabel {
    /// One of the family's named values.
    pub outcome: &'static str,
}

/// The one label of a counter family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ResultLabel {
    /// One of the family's named values.
    pub result: &'static str,
}

/// The one label of a counter family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    /// One of the family's named values.
    pub reason: &'static str,
}

/// The one label of a counter family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CauseLabel {
    /// One of the family's named values.
    pub cause: &'static str,
}

/// The one label of a gauge family.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// One of the family's named values.
    pub state: &'static str,
}

/// The labels of `corral_retry_attempts_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct JobLabels {
    /// What was to be done.
    pub kind: &'static str,
    /// What became of it.
    pub outcome: &'static str,
}

/// The labels of `corral_upstream_fetches_total`. Upstreams are configured, so their number is
/// bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FetchLabels {
    /// The upstream's name, without credentials.
    pub upstream: String,
    /// A label of [`FetchOutcome`].
    pub outcome: &'static str,
}

/// The one label of `corral_flight_ttfb_seconds`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RoleLabel {
    /// `leader` or `waiter`.
    pub role: &'static str,
}

/// Handles of everything that this crate counts.
#[derive(Debug)]
pub struct StorageMetrics {
    /// Fills by outcome.
    pub fills: Family<OutcomeLabel, Counter>,
    /// Upstream attempts by upstream and outcome.
    pub upstream_fetches: Family<FetchLabels, Counter>,
    /// Commits by result.
    pub commits: Family<ResultLabel, Counter>,
    /// Requests that wait on flights now.
    pub flight_waiters: Gauge,
    /// Flights now.
    pub flights: Gauge,
    /// Time from joining a flight until it landed, by role.
    pub flight_ttfb_seconds: Family<RoleLabel, Histogram>,
    /// Answers to asking for a lease.
    pub lease_acquire: Family<ResultLabel, Counter>,
    /// How long leases were held.
    pub lease_hold_seconds: Histogram,
    /// Ends of releases.
    pub lease_release: Family<ResultLabel, Counter>,
    /// Fetches that wait for a place at their upstream.
    pub upstream_queued: Gauge,
    /// Fetches under way.
    pub upstream_in_flight: Gauge,
    /// Leases lost while they were held.
    pub lease_lost: Family<ReasonLabel, Counter>,
    /// Wake-ups of followers.
    pub lease_wake: Family<CauseLabel, Counter>,
    /// Leases of holders that were found gone.
    pub lease_take_over: Family<ResultLabel, Counter>,
    /// Relays from holders, by how they ended.
    pub relays: Family<ResultLabel, Counter>,
    /// Fills that went on without a lease after all rounds of waiting.
    pub lease_rounds_exhausted: Counter,
    /// Bytes in the hot tier; sampled.
    pub lru_bytes: Gauge,
    /// Entries that left the hot tier for want of room.
    pub lru_eviction: Counter,
    /// Artifacts too large for the hot tier.
    pub lru_oversized: Counter,
    /// Refreshes waiting behind stale answers.
    pub reval_queue_depth: Gauge,
    /// Refreshes refused because the queue was full.
    pub reval_dropped: Counter,
    /// Bytes in spool files now.
    pub spool_bytes: Gauge,
    /// What is kept because the store did not take it.
    pub kept: KeptMetrics,
    /// Requests refused because a named limit was reached, by limit.
    pub limit_reached: Family<LimitLabel, Counter>,
    /// Stale documents served because a refresh failed.
    pub stale_if_error: Counter,
    /// Bodies that broke off and were gone on with where they did.
    pub fill_resumed: Counter,
    /// Jobs in the queue by state; sampled.
    pub retry_jobs: Family<StateLabel, Gauge>,
    /// How late the most overdue job is, in seconds; sampled.
    pub retry_lag_seconds: Gauge<f64, AtomicU64>,
    /// Answers to pushes of jobs.
    pub retry_pushed: Family<ResultLabel, Counter>,
    /// Runs of jobs by kind and what became of the job.
    pub retry_attempts: Family<JobLabels, Counter>,
    /// Dead jobs that left for want of room.
    pub retry_dead_dropped: Counter,
}

/// The one label of `corral_limit_reached_total`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LimitLabel {
    /// The limit's configuration key.
    pub limit: &'static str,
}

/// Limits whose reaching is counted, the label values of `corral_limit_reached_total`.
pub(crate) const LIMITS: [&str; 7] = [
    "fill.concurrency_max",
    "fill.waiters_max",
    "spool.bytes_max",
    "spool.free_bytes_min",
    "upstreams.concurrency_max",
    "fill.unleased_max",
    "internal.holders_max",
];

impl StorageMetrics {
    /// Makes the handles and registers them with `registry` (which sets the `corral` prefix).
    pub fn new(registry: &mut Registry) -> Arc<Self> {
        let metrics = Self {
            fills: Family::default(),
            upstream_fetches: Family::default(),
            commits: Family::default(),
            flight_waiters: Gauge::default(),
            flights: Gauge::default(),
            flight_ttfb_seconds: Family::new_with_constructor(latency_histogram),
            lease_acquire: Family::default(),
            lease_hold_seconds: latency_histogram(),
            lease_release: Family::default(),
            upstream_queued: Gauge::default(),
            upstream_in_flight: Gauge::default(),
            lease_lost: Family::default(),
            lease_wake: Family::default(),
            lease_take_over: Family::default(),
            relays: Family::default(),
            lease_rounds_exhausted: Counter::default(),
            lru_bytes: Gauge::default(),
            lru_eviction: Counter::default(),
            lru_oversized: Counter::default(),
            reval_queue_depth: Gauge::default(),
            reval_dropped: Counter::default(),
            spool_bytes: Gauge::default(),
            kept: KeptMetrics::new(registry),
            limit_reached: Family::default(),
            stale_if_error: Counter::default(),
            fill_resumed: Counter::default(),
            retry_jobs: Family::default(),
            retry_lag_seconds: Gauge::default(),
            retry_pushed: Family::default(),
            retry_attempts: Family::default(),
            retry_dead_dropped: Counter::default(),
        };
        for outcome in FILL_OUTCOMES {
            let _ = metrics.fills.get_or_create(&OutcomeLabel { outcome });
        }
        for result in COMMIT_RESULTS {
            let _ = metrics.commits.get_or_create(&ResultLabel { result });
        }
        for result in ACQUIRE_RESULTS {
            let _ = metrics.lease_acquire.get_or_create(&ResultLabel { result });
        }
        for reason in LOST_REASONS {
            let _ = metrics.lease_lost.get_or_create(&ReasonLabel { reason });
        }
        for cause in WAKE_CAUSES {
            let _ = metrics.lease_wake.get_or_create(&CauseLabel { cause });
        }
        for result in TAKE_OVER_RESULTS {
            let _ = metrics
                .lease_take_over
                .get_or_create(&ResultLabel { result });
        }
        for result in RELAY_ENDS {
            let _ = metrics.relays.get_or_create(&ResultLabel { result });
        }
        for limit in LIMITS {
            let _ = metrics.limit_reached.get_or_create(&LimitLabel { limit });
        }
        for role in ["leader", "waiter"] {
            let _ = metrics
                .flight_ttfb_seconds
                .get_or_create(&RoleLabel { role });
        }
        registry.register("fills", "Fills by outcome", metrics.fills.clone());
        registry.register(
            "upstream_fetches",
            "Upstream attempts by outcome",
            metrics.upstream_fetches.clone(),
        );
        registry.register("commit", "Commits by result", metrics.commits.clone());
        registry.register(
            "flight_waiters",
            "Requests that wait on flights",
            metrics.flight_waiters.clone(),
        );
        registry.register("flights", "Flights that run", metrics.flights.clone());
        registry.register_with_unit(
            "flight_ttfb",
            "Time from joining a flight to its landing",
            Unit::Seconds,
            metrics.flight_ttfb_seconds.clone(),
        );
        registry.register(
            "lease_acquire",
            "Answers to asking for a lease",
            metrics.lease_acquire.clone(),
        );
        registry.register_with_unit(
            "lease_hold",
            "How long leases were held",
            Unit::Seconds,
            metrics.lease_hold_seconds.clone(),
        );
        for end in ReleaseEnd::ALL {
            let _ = metrics.lease_release.get_or_create(&ResultLabel {
                result: end.as_str(),
            });
        }
        registry.register(
            "lease_release",
            "Ends of releases",
            metrics.lease_release.clone(),
        );
        registry.register(
            "upstream_queued",
            "Fetches that wait for a place at their upstream",
            metrics.upstream_queued.clone(),
        );
        registry.register(
            "upstream_in_flight",
            "Fetches under way",
            metrics.upstream_in_flight.clone(),
        );
        registry.register(
            "lease_lost",
            "Leases lost while held",
            metrics.lease_lost.clone(),
        );
        registry.register(
            "lease_wake",
            "Wake-ups of followers",
            metrics.lease_wake.clone(),
        );
        registry.register(
            "lease_take_over",
            "Leases of holders that were found gone, by what became of them",
            metrics.lease_take_over.clone(),
        );
        registry.register(
            "relay",
            "Relays from holders by how they ended",
            metrics.relays.clone(),
        );
        registry.register(
            "lease_rounds_exhausted",
            "Fills that waited all their rounds in vain",
            metrics.lease_rounds_exhausted.clone(),
        );
        registry.register_with_unit(
            "lru",
            "Bytes in the hot tier, sampled",
            Unit::Bytes,
            metrics.lru_bytes.clone(),
        );
        registry.register("lru_eviction", "Evictions", metrics.lru_eviction.clone());
        registry.register(
            "lru_oversized",
            "Artifacts too large for the hot tier",
            metrics.lru_oversized.clone(),
        );
        registry.register(
            "reval_queue_depth",
            "Refreshes waiting behind stale answers",
            metrics.reval_queue_depth.clone(),
        );
        registry.register(
            "reval_dropped",
            "Refreshes refused because the queue was full",
            metrics.reval_dropped.clone(),
        );
        registry.register_with_unit(
            "spool",
            "Bytes in spool files",
            Unit::Bytes,
            metrics.spool_bytes.clone(),
        );
        registry.register(
            "limit_reached",
            "Requests refused by a named limit",
            metrics.limit_reached.clone(),
        );
        registry.register(
            "stale_if_error",
            "Stale documents served because a refresh failed",
            metrics.stale_if_error.clone(),
        );
        registry.register(
            "fill_resumed",
            "Bodies that broke off and were gone on with where they did",
            metrics.fill_resumed.clone(),
        );
        metrics.register_retries(registry);
        Arc::new(metrics)
    }

    fn register_retries(&self, registry: &mut Registry) {
        self.set_queue(&QueueStats::default());
        for result in PUSH_RESULTS {
            let _ = self.retry_pushed.get_or_create(&ResultLabel { result });
        }
        for kind in JOB_KINDS {
            for outcome in JOB_OUTCOMES {
                let _ = self
                    .retry_attempts
                    .get_or_create(&JobLabels { kind, outcome });
            }
        }
        registry.register(
            "retry_jobs",
            "Jobs for later by state, sampled",
            self.retry_jobs.clone(),
        );
        registry.register_with_unit(
            "retry_lag",
            "How late the most overdue job is, sampled",
            Unit::Seconds,
            self.retry_lag_seconds.clone(),
        );
        registry.register(
            "retry_pushed",
            "Failures that were to become jobs",
            self.retry_pushed.clone(),
        );
        registry.register(
            "retry_attempts",
            "Runs of jobs by kind and what became of the job",
            self.retry_attempts.clone(),
        );
        registry.register(
            "retry_dead_dropped",
            "Dead jobs that left for want of room",
            self.retry_dead_dropped.clone(),
        );
    }

    /// Shows how full the queue of jobs is.
    pub fn set_queue(&self, stats: &QueueStats) {
        let jobs = [
            ("queued", stats.queued),
            ("taken", stats.taken),
            ("dead", stats.dead),
        ];
        for (state, number) in jobs {
            let gauge = self.retry_jobs.get_or_create(&StateLabel { state });
            gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
        }
        self.retry_lag_seconds.set(stats.lag.as_secs_f64());
    }

    /// Counts the answer to a push of a job.
    pub fn count_pushed(&self, result: &'static str) {
        self.retry_pushed
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    /// Counts a run of a job.
    pub fn count_job(&self, kind: &'static str, outcome: &'static str) {
        self.retry_attempts
            .get_or_create(&JobLabels { kind, outcome })
            .inc();
    }

    /// Makes the series of `upstream` exist, at 0.
    pub fn prime_upstream(&self, upstream: &str) {
        for outcome in FetchOutcome::ALL.map(FetchOutcome::label) {
            let _ = self.upstream_fetches.get_or_create(&FetchLabels {
                upstream: upstream.to_owned(),
                outcome,
            });
        }
    }

    /// Counts a fill's outcome.
    pub fn count_fill(&self, outcome: &'static str) {
        self.fills.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts a commit's result.
    pub fn count_commit(&self, result: &'static str) {
        self.commits.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts an answer to asking for a lease.
    pub fn count_acquire(&self, result: &'static str) {
        self.lease_acquire
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    /// Counts a follower's wake-up.
    pub fn count_wake(&self, cause: &'static str) {
        self.lease_wake.get_or_create(&CauseLabel { cause }).inc();
    }

    /// Counts an early take-over's answer.
    pub fn count_take_over(&self, result: &'static str) {
        self.lease_take_over
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    /// Counts a relay's end.
    pub fn count_relay(&self, result: &'static str) {
        self.relays.get_or_create(&ResultLabel { result }).inc();
    }

    /// Counts a request that `limit` refused.
    pub fn count_limit(&self, limit: &'static str) {
        self.limit_reached
            .get_or_create(&LimitLabel { limit })
            .inc();
    }
}

fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 18))
}

impl FetchObserver for StorageMetrics {
    fn ended(&self, upstream: &str, outcome: FetchOutcome) {
        let labels = FetchLabels {
            upstream: upstream.to_owned(),
            outcome: outcome.label(),
        };
        self.upstream_fetches.get_or_create(&labels).inc();
    }

    fn queued(&self, _: &str, delta: i64) {
        self.upstream_queued.inc_by(delta);
    }

    fn in_flight(&self, _: &str, delta: i64) {
        self.upstream_in_flight.inc_by(delta);
    }
}

impl LeaseObserver for StorageMetrics {
    fn lost(&self, key: &LeaseKey, reason: LostReason) {
        self.lease_lost
            .get_or_create(&ReasonLabel {
                reason: reason.as_str(),
            })
            .inc();
        tracing::warn!(unit = %key, reason = reason.as_str(), "lost a lease; the fetch goes on");
    }

    fn forced(&self, key: &LeaseKey) {
        self.lease_lost
            .get_or_create(&ReasonLabel { reason: "forced" })
            .inc();
        tracing::warn!(unit = %key, "an operator broke the lease; the fetch ends");
    }

    fn released(&self, key: &LeaseKey, outcome: Outcome, end: ReleaseEnd, held: Duration) {
        self.lease_hold_seconds.observe(held.as_secs_f64());
        self.lease_release
            .get_or_create(&ResultLabel {
                result: end.as_str(),
            })
            .inc();
        if end != ReleaseEnd::Released {
            let (outcome, end) = (outcome.as_str(), end.as_str());
            tracing::warn!(unit = %key, outcome, end, "a lease was not released as it should be");
        }
    }
}
