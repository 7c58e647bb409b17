//! What a fill calls when it failed: makes the job that tries again.
//!
//! A push is done before anybody is told of the failure, so whoever was told can rely on the job.
//! It is bounded in time and never an error for a client.

use std::sync::Arc;
use std::time::Duration;

use lease::{Clock, DelayQueue, LeaseError, NewJob, Pushed};
use tokio::sync::Notify;

use crate::artifact::ArtifactKey;
use crate::config::{OnFailure, RetryConfig};
use crate::error::{Error, ErrorKind};
use crate::metrics::StorageMetrics;
use crate::warning_gate::WarningGate;

use super::decision::first_delay;
use super::jobs::{Job, JobKind};

/// How long a failing fill waits for its job to be durable: a disk that needs longer is no reason
/// to keep clients waiting for an error.
pub(crate) const PUSH_MAX: Duration = Duration::from_secs(2);

/// The least time between two warnings of one kind.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What [`Retries`] is made of.
pub(crate) struct RetriesParts {
    pub(crate) queue: Arc<dyn DelayQueue>,
    pub(crate) worker: Arc<str>,
    pub(crate) config: RetryConfig,
    pub(crate) on_failure: OnFailure,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<StorageMetrics>,
}

/// When a job is due.
#[derive(Debug, Clone, Copy)]
enum Due {
    /// After this, unless it waits already: then it keeps its time.
    Unhurried(Duration),
    /// After this, even if it waits already and for longer.
    AtLatest(Duration),
}

/// The queue of jobs for later, as fills and the worker share it.
#[derive(Debug)]
pub(crate) struct Retries {
    queue: Arc<dyn DelayQueue>,
    worker: Arc<str>,
    config: RetryConfig,
    on_failure: OnFailure,
    clock: Arc<dyn Clock>,
    metrics: Arc<StorageMetrics>,
    pushed: Notify,
    warnings: WarningGate,
}

impl Retries {
    pub(crate) fn new(parts: RetriesParts) -> Self {
        Self {
            warnings: WarningGate::new(parts.clock.clone(), WARN_EVERY),
            queue: parts.queue,
            worker: parts.worker,
            config: parts.config,
            on_failure: parts.on_failure,
            clock: parts.clock,
            metrics: parts.metrics,
            pushed: Notify::new(),
        }
    }

    /// The queue itself.
    pub(crate) fn queue(&self) -> &Arc<dyn DelayQueue> {
        &self.queue
    }

    /// Our name as a worker, and as the owner of jobs that only we can do.
    pub(crate) fn worker(&self) -> &Arc<str> {
        &self.worker
    }

    /// Ends when a job was pushed here since the last call.
    pub(super) async fn pushed(&self) {
        self.pushed.notified().await;
    }

    /// Makes a job of a fetch that failed with `error`, if that is one to try again.
    ///
    /// Call it before the failure is told to anybody. A job that waits already stays the one, and
    /// keeps its time: clients that ask on must not cancel its back-off and use up its attempts.
    /// Cancelling leaves open whether there is a job.
    pub(crate) async fn push_fetch(&self, key: &ArtifactKey, error: &Error) {
        if self.on_failure == OnFailure::Queue && makes_a_job(key, error) {
            let due_in = first_delay(&self.config, error.retry_after());
            let due = Due::Unhurried(due_in);
            self.push(JobKind::Fetch, key, due, Some(&error.to_string()))
                .await;
        }
    }

    /// Makes a job, due at once, of a fetch that this process's end has cut short.
    pub(crate) async fn push_cut_short(&self, key: &ArtifactKey) {
        if self.on_failure == OnFailure::Queue && !key.is_mutable() {
            let why = "a stop of the process cut its fetch short";
            let due = Due::AtLatest(Duration::ZERO);
            self.push(JobKind::Fetch, key, due, Some(why)).await;
        }
    }

    /// Makes the job that stores what is kept here of `key`. Only this instance can do it.
    ///
    /// Call it when the bytes are durable. Returns whether there is a job now, or was before.
    pub(crate) async fn push_upload(&self, key: &ArtifactKey) -> bool {
        let due = Due::AtLatest(first_delay(&self.config, None));
        self.push(JobKind::Upload, key, due, None).await
    }

    async fn push(&self, kind: JobKind, key: &ArtifactKey, due: Due, why: Option<&str>) -> bool {
        let job = Job {
            kind,
            key: key.clone(),
        };
        let (due_in, hurries) = match due {
            Due::Unhurried(due_in) => (due_in, false),
            Due::AtLatest(due_in) => (due_in, true),
        };
        let pushing = async {
            let new = NewJob {
                due_in,
                hurries,
                deadline_in: self.config.deadline,
                reason: why.map(Arc::from),
                owner: (kind == JobKind::Upload).then(|| self.worker.clone()),
                ..NewJob::new(job.id()?, kind.as_str(), job.payload())
            };
            self.queue.push(&new).await
        };
        let pushed = lease::timeout(&*self.clock, PUSH_MAX, pushing).await;
        let pushed = pushed.unwrap_or_else(|| Err(LeaseError::unavailable("no answer in time")));
        let (result, is_there) = match &pushed {
            Ok(Pushed::Queued) => ("queued", true),
            Ok(Pushed::AlreadyQueued { .. }) => ("already_queued", true),
            Ok(Pushed::Dead { .. }) => ("dead", true),
            Ok(Pushed::Full) => ("full", false),
            Err(_) => ("failed", false),
        };
        self.metrics.count_pushed(result);
        if is_there {
            self.pushed.notify_one();
        } else if let Some(kept_back) = self.warnings.due() {
            let (kind, unit) = (kind.as_str(), key.unit());
            match pushed {
                Err(error) => {
                    tracing::warn!(kind, unit, %error, kept_back, "a job could not be queued");
                }
                Ok(_) => {
                    tracing::warn!(
                        kind,
                        unit,
                        kept_back,
                        "the queue of jobs is full; not queued"
                    );
                }
            }
        }
        is_there
    }
}

/// Whether trying again in the background can help: the failure passes, it is news, and it is of
/// something that does not change. Documents are asked for again by whoever wants them.
fn makes_a_job(key: &ArtifactKey, error: &Error) -> bool {
    if key.is_mutable() || matches!(error, Error::Remembered(_)) {
        return false;
    }
    match error {
        // A full spool has cost this unit its fetch; the other limits of ours are about clients,
        // who come back by themselves.
        Error::Overloaded { limit } => limit.starts_with("spool."),
        _ => error.kind().is_transient() || error.kind() == ErrorKind::Corrupt,
    }
}
