//! Counting fetches: who is told, and when.

use std::fmt::Debug;
use std::sync::Arc;

/// How one fetch attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FetchOutcome {
    /// The whole body arrived.
    Ok,
    /// 304.
    NotModified,
    /// 404.
    NotFound,
    /// 410.
    Gone,
    /// 403.
    Forbidden,
    /// 401, 400 and other 4xx.
    Refused,
    /// No connection, 5xx, or an answer that makes no sense.
    Failed,
    /// A time limit passed.
    TimedOut,
    /// 429 or 503.
    Throttled,
    /// The body broke off.
    Truncated,
    /// More bytes than the caller allows.
    TooLarge,
    /// No place was free in time; upstream was not asked.
    Overloaded,
    /// Whoever asked went away before the end.
    Cancelled,
}

impl FetchOutcome {
    /// All of them, to prime counters with.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::NotModified,
        Self::NotFound,
        Self::Gone,
        Self::Forbidden,
        Self::Refused,
        Self::Failed,
        Self::TimedOut,
        Self::Throttled,
        Self::Truncated,
        Self::TooLarge,
        Self::Overloaded,
        Self::Cancelled,
    ];

    /// The metric label, for example `"not_found"`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotModified => "not_modified",
            Self::NotFound => "not_found",
            Self::Gone => "gone",
            Self::Forbidden => "forbidden",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::TimedOut => "timed_out",
            Self::Throttled => "throttled",
            Self::Truncated => "truncated",
            Self::TooLarge => "too_large",
            Self::Overloaded => "overloaded",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Is told of every fetch; all methods return at once and may be called from any thread.
pub trait FetchObserver: Send + Sync + Debug {
    /// A fetch attempt of `upstream` ended; called exactly once per attempt.
    fn ended(&self, upstream: &str, outcome: FetchOutcome) {
        let _ = (upstream, outcome);
    }

    /// `delta` (1 or -1) fetches more wait for a place at `upstream`.
    fn queued(&self, upstream: &str, delta: i64) {
        let _ = (upstream, delta);
    }

    /// `delta` (1 or -1) fetches more are under way at `upstream`.
    fn in_flight(&self, upstream: &str, delta: i64) {
        let _ = (upstream, delta);
    }
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFetchObserver;

impl FetchObserver for NoFetchObserver {}

/// One attempt: reports its outcome once, however it ends.
#[derive(Debug)]
pub(super) struct Attempt {
    observer: Arc<dyn FetchObserver>,
    upstream: Arc<str>,
    outcome: FetchOutcome,
}

impl Attempt {
    /// Starts as cancelled, which is what it is if it is dropped before anything is known.
    pub(super) fn start(observer: Arc<dyn FetchObserver>, upstream: Arc<str>) -> Self {
        Self {
            observer,
            upstream,
            outcome: FetchOutcome::Cancelled,
        }
    }

    /// Sets what will be reported when the attempt is dropped.
    pub(super) fn set(&mut self, outcome: FetchOutcome) {
        self.outcome = outcome;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.observer.ended(&self.upstream, self.outcome);
    }
}

/// Which of an observer's two levels a [`Level`] moves.
#[derive(Debug, Clone, Copy)]
pub(super) enum LevelKind {
    Queued,
    InFlight,
}

/// Raises a level for as long as it lives.
#[derive(Debug)]
pub(super) struct Level {
    observer: Arc<dyn FetchObserver>,
    upstream: Arc<str>,
    kind: LevelKind,
}

impl Level {
    pub(super) fn raise(
        observer: Arc<dyn FetchObserver>,
        upstream: Arc<str>,
        kind: LevelKind,
    ) -> Self {
        let level = Self {
            observer,
            upstream,
            kind,
        };
        level.shift(1);
        level
    }

    fn shift(&self, delta: i64) {
        match self.kind {
            LevelKind::Queued => self.observer.queued(&self.upstream, delta),
            LevelKind::InFlight => self.observer.in_flight(&self.upstream, delta),
        }
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        self.shift(-1);
    }
}
