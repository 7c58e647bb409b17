//! What becomes of a job after a run: pure, so that it can be shown for every case.

use std::time::Duration;

use crate::config::RetryConfig;
use crate::error::{Error, ErrorKind};

use super::backoff::RetryPolicy;
use super::jobs::JobKind;

/// The longest delay of what waits for our own storage, such as an upload: the bytes are here, and
/// their clients are served from a place that is none for long.
const STORAGE_DELAY_MAX: Duration = Duration::from_secs(60);

/// The least delay of a job that was not tried because this process had no room for it.
const BUSY_DELAY_MIN: Duration = Duration::from_secs(1);

/// How a run of a job ended.
#[derive(Debug)]
pub(crate) enum Run {
    /// What it is for is done, or was.
    Done,
    /// It does not exist, says upstream.
    Absent,
    /// It failed.
    Failed(Error),
    /// Our own storage failed, and nobody else was asked for anything.
    Hindered(Error),
    /// It was not tried: this process had no room for it.
    NoRoom,
    /// It was not tried, and may be again after this.
    NotTried(Duration),
    /// Nobody can say what it is for.
    Senseless(String),
}

/// A job as far as the decision goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) kind: JobKind,
    /// The number of the attempt that has ended, from 1.
    pub(crate) attempt: u32,
    /// How long the job is still worth doing.
    pub(crate) deadline_in: Duration,
}

/// What to do with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is done.
    Ack { outcome: &'static str },
    /// It failed, and is due again after this.
    Retry { due_in: Duration },
    /// It was not tried; no attempt is counted.
    PutBack { due_in: Duration },
    /// It is given up.
    Bury,
}

impl Run {
    /// The run that ended with `error`; `has_asked` says that it cost upstream a request, and
    /// `stopping` that this process is about to end.
    pub(crate) fn ended_with(
        error: Error,
        has_asked: bool,
        config: &RetryConfig,
        stopping: bool,
    ) -> Self {
        match (&error, error.kind()) {
            (_, ErrorKind::NotFound | ErrorKind::Gone) => Self::Absent,
            (_, ErrorKind::Interrupted) if stopping => Self::NotTried(Duration::ZERO),
            (_, ErrorKind::Storage) if !has_asked => Self::Hindered(error),
            // Upstream was not asked: there was no place for it in this process. A full spool is
            // met behind upstream's answer.
            (Error::Overloaded { limit }, _) if !limit.starts_with("spool.") => Self::NoRoom,
            // This instance asks nobody; another one, or this one later, may.
            (_, ErrorKind::NotStored | ErrorKind::FetchDisabled) => {
                Self::NotTried(config.delay_max.max(BUSY_DELAY_MIN))
            }
            _ => Self::Failed(error),
        }
    }
}

/// Decides what becomes of a job after `run`.
///
/// A job is never due again sooner than upstream asked for. One whose next attempt would come
/// after its deadline is given up.
pub(crate) fn decide(run: &Run, standing: Standing, config: &RetryConfig) -> Verdict {
    let (error, is_hindered) = match run {
        Run::Done => return Verdict::Ack { outcome: "done" },
        Run::Absent => return Verdict::Ack { outcome: "absent" },
        Run::Senseless(_) => return Verdict::Bury,
        // Spread, for all that wait find the same room.
        Run::NoRoom => {
            let jitter = drawn(0, BUSY_DELAY_MIN, BUSY_DELAY_MIN);
            return put_back(BUSY_DELAY_MIN + jitter, standing);
        }
        Run::NotTried(due_in) => return put_back(*due_in, standing),
        Run::Hindered(error) => (error, true),
        Run::Failed(error) => (error, false),
    };
    let (is_final, delay_max) = match standing.kind {
        // Only time ends it: a store that is away for an hour has refused an upload sixty times,
        // and says nothing of an artifact that upstream was not asked for.
        JobKind::Upload => (false, config.delay_max.min(STORAGE_DELAY_MAX)),
        JobKind::Fetch if is_hindered => (false, config.delay_max.min(STORAGE_DELAY_MAX)),
        // Whatever it is, also our own full disk: it has cost upstream a request, perhaps a whole
        // download.
        JobKind::Fetch => {
            let is_no = matches!(
                error.kind(),
                ErrorKind::Forbidden
                    | ErrorKind::Refused
                    | ErrorKind::InvalidName
                    | ErrorKind::TooLarge
            );
            let is_used_up = standing.attempt >= config.attempts_max;
            (is_no || is_used_up, config.delay_max)
        }
    };
    if is_final {
        return Verdict::Bury;
    }
    let due_in = delay_after(standing.attempt, delay_max, config, error.retry_after());
    if due_in >= standing.deadline_in {
        return Verdict::Bury;
    }
    Verdict::Retry { due_in }
}

fn put_back(due_in: Duration, standing: Standing) -> Verdict {
    match standing.deadline_in.is_zero() && !due_in.is_zero() {
        true => Verdict::Bury,
        false => Verdict::PutBack { due_in },
    }
}

/// How long after a client's failure its job is due first.
pub(crate) fn first_delay(config: &RetryConfig, retry_after: Option<Duration>) -> Duration {
    delay_after(0, config.delay_max, config, retry_after)
}

/// How long nobody asks after a failure that `failures` others came before in a row: at least half
/// of what it may be, or followers would find nothing remembered and ask for themselves. An
/// upstream gets the patience that it asked for up to `delay_max`.
pub(crate) fn pause_after(
    failures: u32,
    config: &RetryConfig,
    retry_after: Option<Duration>,
) -> Duration {
    let asked = retry_after.map_or(Duration::ZERO, |asked| asked.min(config.delay_max));
    let policy = policy(config.first_delay, config.delay_max);
    let jitter = drawn(failures, config.first_delay, config.delay_max) / 2;
    asked + policy.bound(failures) / 2 + jitter
}

/// Draws the delay after `attempts` of a job's own: full jitter on top of what upstream asked for.
fn delay_after(
    attempts: u32,
    delay_max: Duration,
    config: &RetryConfig,
    retry_after: Option<Duration>,
) -> Duration {
    let jitter = drawn(attempts, config.first_delay, delay_max);
    retry_after.unwrap_or_default().saturating_add(jitter)
}

/// Draws one delay of a series that never ends, after `used` others.
fn drawn(used: u32, first_delay: Duration, delay_max: Duration) -> Duration {
    let mut delays = policy(first_delay, delay_max).delays_from(used);
    delays.next().unwrap_or(delay_max)
}

fn policy(first_delay: Duration, delay_max: Duration) -> RetryPolicy {
    RetryPolicy {
        retries: u32::MAX,
        first_delay: first_delay.min(delay_max),
        delay_max,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn errors() -> impl Strategy<Value = Error> {
        let upstream = || "fake".to_owned();
        prop_oneof![
            Just(Error::NotFound {
                gone: false,
                text: upstream()
            }),
            Just(Error::NotFound {
                gone: true,
                text: upstream()
            }),
            Just(Error::Forbidden { text: upstream() }),
            Just(Error::Refused {
                upstream: upstream(),
                status: 401,
                text: upstream()
            }),
            Just(Error::Upstream {
                upstream: upstream(),
                reason: upstream(),
                source: None
            }),
            Just(Error::Corrupt {
                unit: upstream(),
                reason: upstream()
            }),
            Just(Error::TooLarge {
                unit: upstream(),
                bytes_max: 10
            }),
            Just(Error::Storage {
                doing: upstream(),
                source: None
            }),
            Just(Error::Internal {
                unit: upstream(),
                source: None
            }),
            Just(Error::Overloaded {
                limit: "fill.concurrency_max"
            }),
            Just(Error::Overloaded {
                limit: "spool.bytes_max"
            }),
            Just(Error::Interrupted { unit: upstream() }),
            Just(Error::NotStored {
                unit: upstream(),
                fetch_disabled: false
            }),
            proptest::option::of(0_u64..4_000).prop_map(|seconds| Error::Throttled {
                upstream: "fake".to_owned(),
                status: 429,
                retry_after: seconds.map(Duration::from_secs),
            }),
        ]
    }

    proptest! {
        // acceptance: B16; fault: 29; fault: 38
        #[test]
        fn every_end_has_one_verdict_within_the_bounds(
            error in errors(),
            is_upload: bool,
            has_asked: bool,
            stopping: bool,
            attempt in 1_u32..40,
            attempts_max in 1_u32..20,
            deadline_s in 0_u64..100_000,
            first_ms in 1_u64..5_000,
            more_ms in 0_u64..600_000,
        ) {
            let kind = if is_upload { JobKind::Upload } else { JobKind::Fetch };
            let config = RetryConfig {
                attempts_max,
                first_delay: Duration::from_millis(first_ms),
                delay_max: Duration::from_millis(first_ms + more_ms),
                ..RetryConfig::default()
            };
            let deadline_in = Duration::from_secs(deadline_s);
            let standing = Standing { kind, attempt, deadline_in };
            let asked = error.retry_after().unwrap_or_default();
            let run = Run::ended_with(error.clone(), has_asked, &config, stopping);
            let is_hindered = error.kind() == ErrorKind::Storage && !has_asked;
            let is_no = matches!(
                error.kind(),
                ErrorKind::Forbidden | ErrorKind::Refused | ErrorKind::TooLarge
            );
            match decide(&run, standing, &config) {
                Verdict::Ack { .. } => prop_assert!(matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Gone)),
                Verdict::Retry { due_in } => {
                    prop_assert!(due_in >= asked && due_in < deadline_in);
                    let bound = config.first_delay.saturating_mul(2_u32.saturating_pow(attempt));
                    let mut bound = bound.min(config.delay_max);
                    if is_upload || is_hindered {
                        bound = bound.min(STORAGE_DELAY_MAX);
                    } else {
                        prop_assert!(attempt < attempts_max);
                        prop_assert!(!is_no);
                    }
                    prop_assert!(due_in - asked <= bound);
                }
                Verdict::PutBack { due_in } => {
                    prop_assert!(matches!(run, Run::NotTried(_) | Run::NoRoom));
                    prop_assert!(due_in.is_zero() || !deadline_in.is_zero());
                }
                Verdict::Bury => {
                    let is_late = asked + config.delay_max >= deadline_in;
                    let is_used_up = attempt >= attempts_max && !is_hindered;
                    prop_assert!(is_late || (!is_upload && (is_no || is_used_up)));
                }
            }
        }
    }

    #[test]
    fn a_stop_and_a_full_house_cost_no_attempt() {
        let config = RetryConfig::default();
        let interrupted = || Error::Interrupted {
            unit: "u".to_owned(),
        };
        let run = |error, stopping| Run::ended_with(error, false, &config, stopping);
        assert!(matches!(run(interrupted(), true), Run::NotTried(due_in) if due_in.is_zero()));
        // An operator's break is a failed attempt: it must not begin anew at once.
        assert!(matches!(run(interrupted(), false), Run::Failed(_)));
        let limit = "fill.concurrency_max";
        let full = run(Error::Overloaded { limit }, false);
        let standing = Standing {
            kind: JobKind::Fetch,
            attempt: config.attempts_max,
            deadline_in: Duration::from_secs(60),
        };
        let due: Vec<_> = (0..20)
            .map(|_| match decide(&full, standing, &config) {
                Verdict::PutBack { due_in } => due_in,
                other => panic!("{other:?}"),
            })
            .collect();
        let all = BUSY_DELAY_MIN..=2 * BUSY_DELAY_MIN;
        assert!(due.iter().all(|due_in| all.contains(due_in)));
        assert!(
            due.iter().any(|due_in| *due_in != due[0]),
            "they come back together"
        );
    }

    // acceptance: B15
    #[test]
    fn a_pause_is_at_least_half_of_what_it_may_be() {
        let config = RetryConfig {
            first_delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(600),
            ..RetryConfig::default()
        };
        let asked = Duration::from_secs(2_000);
        for failures in 0..12 {
            let bound = Duration::from_secs(2_u64.pow(failures)).min(config.delay_max);
            for _ in 0..50 {
                let pause = pause_after(failures, &config, None);
                assert!(
                    (bound / 2..=bound).contains(&pause),
                    "{failures}: {pause:?}"
                );
                let pause = pause_after(failures, &config, Some(asked)) - config.delay_max;
                assert!(
                    (bound / 2..=bound).contains(&pause),
                    "{failures}: {pause:?}"
                );
            }
        }
    }
}
