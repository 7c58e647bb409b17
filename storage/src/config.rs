//! Settings of the warmer: plain typed values; the server reads them from wherever it likes.

use std::time::Duration;

use crate::flight::FlightLimits;
use crate::freshness::FreshnessPolicy;

/// What to do when a follower has waited all its rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnWaitTimeout {
    /// Fetch without a lease; at most [`WarmerConfig::unleased_max`] at once.
    Fetch,
    /// Fail the request (504).
    Error,
}

/// What follows a fill that failed for a passing reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFailure {
    /// A job tries again in the background.
    Queue,
    /// The next request tries again, after a pause that grows with each failure in a row.
    Backoff,
    /// Nothing, beyond the failure's being told for `failure.ttl`.
    Drop,
}

/// Settings of the background queue of what failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryConfig {
    /// Attempts of one fetch after which its job is dead. `retry.attempts_max`, default 10. An
    /// upload has no such limit: only time ends it.
    pub attempts_max: u32,
    /// Time after its first failure at which a job is dead. `retry.deadline`, default 24 h.
    pub deadline: Duration,
    /// The first delay is drawn from `0 ..= first_delay`; the bound doubles with every attempt.
    /// Default 1 s.
    pub first_delay: Duration,
    /// What the bound grows to. Default 10 min.
    pub delay_max: Duration,
    /// Jobs at work at once in this process. `retry.concurrency_max`, default 16; never more than
    /// a quarter of the flights that may run at once.
    pub concurrency_max: usize,
    /// Whether a job goes on to the list's other upstreams after any error.
    /// `retry.other_upstreams`, default true.
    pub other_upstreams: bool,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self {
            attempts_max: 10,
            deadline: Duration::from_secs(86_400),
            first_delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(600),
            concurrency_max: 16,
            other_upstreams: true,
        }
    }
}

/// Settings of a [`crate::Warmer`]. Every duration is by the monotonic clock.
#[derive(Debug, Clone)]
pub struct WarmerConfig {
    /// Bounds of the flight table.
    pub flights: FlightLimits,
    /// Further attempts after a failed one, while nothing has gone out yet. `fill.retries`,
    /// default 3. More hide short upstream trouble and prolong long trouble.
    pub retries: u32,
    /// First step of the delay between attempts; it doubles up to `retry_delay_max`.
    pub retry_delay: Duration,
    /// Longest delay between inline attempts.
    pub retry_delay_max: Duration,
    /// All attempts of a fill together get this long to bring a first byte.
    /// `fill.first_byte_max`, default 25 s: clients give up at 30 s.
    pub first_byte_max: Duration,
    /// A waiter's patience without progress. `fill.wait_max`, default 60 s.
    pub wait_max: Duration,
    /// The longest that one fill may take. `fill.max_duration`, default 1 h.
    pub fill_max: Duration,
    /// Whether zips reach clients while they arrive. `fill.stream`, default true.
    pub stream: bool,
    /// `fill.on_wait_timeout`, default fetch.
    pub on_wait_timeout: OnWaitTimeout,
    /// Fetches without a lease at once, after waiting in vain. Default 4.
    pub unleased_max: usize,
    /// `lease.ttl`, default 6 s.
    pub lease_ttl: Duration,
    /// How often a follower looks whether or not anything woke it. Default 2 s.
    pub follow_poll: Duration,
    /// How soon a follower looks first when release events do not flow; it doubles up to
    /// `follow_poll`. Default 250 ms.
    pub follow_poll_deaf: Duration,
    /// How often a holder that is waited for is asked whether it is still there. Default 250 ms;
    /// after two bad answers its lease is taken over.
    pub holder_asked_every: Duration,
    /// Whether followers stream from the holder while it fetches. `internal.relay`, default true.
    pub relay: bool,
    /// The longest silence of a relay before it counts as broken. Default 20 s, as for upstreams.
    pub relay_stall_timeout: Duration,
    /// `documents.ttl`, `.swr`, `.sie`: 60 s, 5 min, 24 h.
    pub documents: FreshnessPolicy,
    /// Refreshes that may wait behind stale answers. Default 256; one more is dropped.
    pub revalidations_max: usize,
    /// How long a 404 is remembered, ± 10 %. `negative.ttl`, default 60 s.
    pub negative_ttl: Duration,
    /// How long a 410 is remembered, ± 10 %. `negative.gone_ttl`, default 5 min.
    pub gone_ttl: Duration,
    /// How long a failure is told to whoever asks. `failure.ttl`, default 10 s.
    pub failure_ttl: Duration,
    /// `fill.on_failure`, default queue.
    pub on_failure: OnFailure,
    /// How failed fetches and failed writes are tried again.
    pub retry: RetryConfig,
    /// The largest zip. Default 500 MiB, which is what the go command takes.
    pub zip_bytes_max: u64,
    /// Never ask upstream; what is stored is all there is. `offline`, default false.
    pub offline: bool,
    /// How often sampled gauges are read. Default 10 s.
    pub sample_interval: Duration,
}

impl Default for WarmerConfig {
    fn default() -> Self {
        Self {
            flights: FlightLimits {
                flights_max: 4_096,
                waiters_max: 50_000,
            },
            retries: 3,
            retry_delay: Duration::from_millis(200),
            retry_delay_max: Duration::from_secs(2),
            first_byte_max: Duration::from_secs(25),
            wait_max: Duration::from_secs(60),
            fill_max: Duration::from_secs(3_600),
            stream: true,
            on_wait_timeout: OnWaitTimeout::Fetch,
            unleased_max: 4,
            lease_ttl: Duration::from_secs(6),
            follow_poll: Duration::from_secs(2),
            follow_poll_deaf: Duration::from_millis(250),
            holder_asked_every: Duration::from_millis(250),
            relay: true,
            relay_stall_timeout: Duration::from_secs(20),
            documents: FreshnessPolicy {
                ttl: Duration::from_secs(60),
                stale_while_revalidate: Duration::from_secs(300),
                stale_if_error: Duration::from_secs(86_400),
            },
            revalidations_max: 256,
            negative_ttl: Duration::from_secs(60),
            gone_ttl: Duration::from_secs(300),
            failure_ttl: Duration::from_secs(10),
            on_failure: OnFailure::Queue,
            retry: RetryConfig::default(),
            zip_bytes_max: 500 << 20,
            offline: false,
            sample_interval: Duration::from_secs(10),
        }
    }
}
