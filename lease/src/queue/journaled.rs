//! `JournaledQueue`: a shared queue with this instance's journal behind it.
//!
//! # The scheme
//!
//! Every job that this instance pushes is first written to its journal, a [`LocalQueue`] with a
//! file, and then pushed to the shared queue. The journal knows for each of its jobs who has the
//! last word on it:
//!
//! | role | the job | served by |
//! |---|---|---|
//! | own | was pushed, or tried and put back, while the shared queue was away; or has an owner | the journal |
//! | primary | is in the shared queue, where this instance put it | the shared queue; the journal while that is away |
//! | backup | is in the shared queue, where another instance put it before | the shared queue only |
//!
//! A job with an owner is the business of one instance and its disk, so it never leaves the journal.
//!
//! Each push has a serial, and a job stands for the latest push of its id: what ends an earlier one
//! does not end it. Every [`RECONCILE_EVERY`], and as soon as the shared queue takes jobs again,
//! the journal is held against the shared queue, push by push:
//!
//! - What was done there leaves the journal; what was done here while it was away is removed there,
//!   unless somebody works on it.
//! - What is there is followed: attempts, due time, death and a second life.
//! - What is not there and was not done (the server lost its memory) is put there again, and so is
//!   what was pushed here meanwhile. Where the id has a job that waits, that stands for the later of
//!   the two pushes from then on, and the journal keeps a copy of it.
//!
//! # What follows from it
//!
//! An acknowledged push is in the journal of whoever pushed it until the shared queue says that it
//! is done, so it is lost only with that disk *and* the server's memory. A job is done twice when a
//! worker elsewhere has it while the shared queue goes away and this instance then serves it too
//! (for that, the shared queue must have been away for [`OUTAGE_GRACE`]), or when the shared queue
//! forgot that it was done. Attempts that the shared queue counted after the last reconciliation
//! are forgotten with its memory; a job's deadline bounds that.

mod push;
mod reconcile;
mod settle;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::answers::{
    Changed, JobPage, JobQuery, JobView, Pushed, QueueStats, Restored, Review, Settled,
};
use super::core::Serving;
use super::delay_queue::DelayQueue;
use super::job::{
    Backup, DoneJob, JobId, JobRef, JobSerial, NewJob, Receipt, TakenJob, check_name,
};
use super::local::{FileHealth, LocalQueue};
use super::stored::Role;
use crate::error::with_causes;
use crate::sync::lock;
use crate::{Clock, LeaseError, LeaseErrorKind, PAGE_LIMIT_MAX};

/// The time between two reconciliations while all is well; a tenth more or less.
pub(super) const RECONCILE_EVERY: Duration = Duration::from_secs(30);
/// The time between two attempts at it while the shared queue is away.
const RECONCILE_RETRY_EVERY: Duration = Duration::from_secs(1);
/// How long the shared queue must have been away before its jobs are served from the journal: a
/// single slow answer must not make everybody do what others are doing.
pub(super) const OUTAGE_GRACE: Duration = Duration::from_secs(3);

/// A shared queue with this instance's journal behind it; the module says how they work together.
///
/// While the shared queue answers, this is the shared queue; while it does not, this is a queue of
/// the instance's own jobs, and errors of the shared one do not show. Dropping it ends its task.
#[derive(Debug)]
pub struct JournaledQueue {
    inner: Arc<Inner>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// How the two are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalHealth {
    /// Why the shared queue did not answer, or did not take a job; `None` once it writes again.
    pub shared_error: Option<String>,
    /// The journal's file; `None` for a journal in memory.
    pub file: Option<FileHealth>,
    /// Jobs in the journal, dead ones included.
    pub journaled: usize,
    /// Jobs that the shared queue had lost and that were put there again, since the start.
    pub restored: u64,
    /// Jobs that the shared queue took and the journal could not, since the start.
    pub unjournaled: u64,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<dyn DelayQueue>,
    journal: LocalQueue,
    clock: Arc<dyn Clock>,
    /// Since when the shared queue does not answer or takes no jobs, and why.
    away: Mutex<Option<(Instant, String)>>,
    /// A push that never was: what the shared queue is told to see whether it writes anything down.
    sign: DoneJob,
    /// Pushes that are in the journal and still on their way to the shared queue.
    on_the_way: Mutex<HashSet<JobSerial>>,
    /// Asks for a reconciliation now.
    reconcile: Notify,
    /// Whose jobs are taken first the next time, so that neither queue waits for the other.
    journal_first: AtomicBool,
    restored: AtomicU64,
    unjournaled: AtomicU64,
}

impl JournaledQueue {
    /// Puts `journal` behind `shared`, with the task that reconciles them on `runtime`.
    ///
    /// The journal is used for nothing else and was opened as one: [`LocalQueue::open_journal`],
    /// [`LocalQueue::journal_in_memory`].
    pub fn new(
        shared: Arc<dyn DelayQueue>,
        journal: LocalQueue,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Self {
        let inner = Arc::new(Inner {
            shared,
            journal,
            clock,
            away: Mutex::new(None),
            sign: DoneJob::from(JobRef {
                id: JobId::new("sign of life").expect("it is short and has no control characters"),
                serial: JobSerial::random(),
            }),
            on_the_way: Mutex::default(),
            reconcile: Notify::new(),
            journal_first: AtomicBool::new(false),
            restored: AtomicU64::new(0),
            unjournaled: AtomicU64::new(0),
        });
        let task = runtime.spawn(reconcile::run(Arc::clone(&inner)));
        Self {
            inner,
            task: Mutex::new(Some(task)),
        }
    }

    /// Returns how the two queues are. Costs no I/O.
    pub fn health(&self) -> JournalHealth {
        let inner = &self.inner;
        let journaled = inner.journal.core().len();
        JournalHealth {
            shared_error: lock(&inner.away).as_ref().map(|(_, why)| why.clone()),
            file: inner.journal.file_health(),
            journaled,
            restored: inner.restored.load(Ordering::Relaxed),
            unjournaled: inner.unjournaled.load(Ordering::Relaxed),
        }
    }

    /// Ends the task and closes the journal's file. May be repeated; pushes fail from then on while
    /// the shared queue is away.
    pub async fn shutdown(&self) {
        let task = lock(&self.task).take();
        if let Some(task) = task {
            task.abort();
            // It was cancelled, which is what was asked for.
            let _ = task.await;
        }
        self.inner.journal.close().await;
    }
}

impl Drop for JournaledQueue {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl Inner {
    /// Draws the conclusions from an answer of the shared queue; hands out what it said. Inside, an
    /// error means that it is away.
    ///
    /// That it answers does not mean that it is back: a server without room, or without its
    /// replicas, can be looked at and takes no job. The reconciliation finds out.
    fn heard<T>(&self, answer: Result<T, LeaseError>) -> Result<Result<T, LeaseError>, LeaseError> {
        let error = match answer {
            Ok(answer) => return Ok(Ok(answer)),
            Err(error) => error,
        };
        if !matches!(
            error.kind(),
            LeaseErrorKind::Unavailable | LeaseErrorKind::Protocol
        ) {
            return Err(error);
        }
        let mut away = lock(&self.away);
        let since = match &*away {
            Some((since, _)) => *since,
            None => {
                // A line for operators comes from whoever looks after the server.
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "the shared queue does not answer; this instance does its own jobs meanwhile",
                );
                self.reconcile.notify_one();
                self.clock.now()
            }
        };
        *away = Some((since, with_causes(&error)));
        Ok(Err(error))
    }

    /// Says which of its jobs the journal serves.
    fn serving(&self) -> Serving {
        match self.alone_in() {
            Some(Duration::ZERO) => Serving::Alone,
            _ => Serving::Own,
        }
    }

    /// Says how long until the journal serves the shared queue's jobs too, if that stays away;
    /// `None` when it is not.
    fn alone_in(&self) -> Option<Duration> {
        let since = lock(&self.away).as_ref().map(|(since, _)| *since)?;
        let away = self.clock.now().saturating_duration_since(since);
        Some(OUTAGE_GRACE.saturating_sub(away))
    }

    /// Says whether the job of `id` has an owner, so that the shared queue never hears of it.
    fn is_private(&self, id: &JobId) -> bool {
        self.journal.core().has_owner(id)
    }

    /// Says whether the journal has the last word on the job of `id`.
    fn owns(&self, id: &JobId) -> bool {
        let mirror = self.journal.core().mirror(id);
        mirror.is_some_and(|mirror| mirror.role == Role::Own)
    }
}

#[async_trait]
impl DelayQueue for JournaledQueue {
    async fn push(&self, job: &NewJob) -> Result<Pushed, LeaseError> {
        self.inner.push(job).await
    }

    async fn take(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<TakenJob>, LeaseError> {
        self.inner.take(worker, limit, visibility).await
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<Settled, LeaseError> {
        if self.inner.is_held_here(receipt) {
            return self.inner.journal.extend(receipt, visibility).await;
        }
        let inner = &self.inner;
        inner.heard(inner.shared.extend(receipt, visibility).await)?
    }

    async fn ack(&self, receipt: &Receipt) -> Result<Settled, LeaseError> {
        self.inner.ack(receipt).await
    }

    async fn retry(
        &self,
        receipt: &Receipt,
        due_in: Duration,
        error: &str,
    ) -> Result<Settled, LeaseError> {
        if self.inner.is_held_here(receipt) {
            return self.inner.journal.retry(receipt, due_in, error).await;
        }
        let inner = &self.inner;
        inner.heard(inner.shared.retry(receipt, due_in, error).await)?
    }

    async fn bury(&self, receipt: &Receipt, error: &str) -> Result<Settled, LeaseError> {
        if self.inner.is_held_here(receipt) {
            return self.inner.journal.bury(receipt, error).await;
        }
        let inner = &self.inner;
        inner.heard(inner.shared.bury(receipt, error).await)?
    }

    async fn next_due(&self, worker: &str) -> Result<Option<Duration>, LeaseError> {
        check_name(worker)?;
        let inner = &self.inner;
        // A worker asks this all the time: what a full disk refused is written as soon as it can be.
        inner.journal.flush().await;
        let shared = inner.heard(inner.shared.next_due(worker).await)?;
        let (core, now) = (inner.journal.core(), inner.journal.now());
        let own = core.next_due(now, worker, Serving::Own);
        let alone = inner.alone_in().and_then(|grace| {
            let due_in = core.next_due(now, worker, Serving::Alone)?;
            Some(due_in.max(grace))
        });
        let shared = shared.ok().flatten();
        Ok([shared, own, alone].into_iter().flatten().min())
    }

    async fn stats(&self) -> Result<QueueStats, LeaseError> {
        let inner = &self.inner;
        let shared = inner.heard(inner.shared.stats().await)?;
        let (core, now) = (inner.journal.core(), inner.journal.now());
        let Ok(shared) = shared else {
            return Ok(core.stats(now, |_| true));
        };
        let own = core.stats(now, |role| role == Role::Own);
        Ok(QueueStats {
            queued: shared.queued + own.queued,
            taken: shared.taken + own.taken,
            dead: shared.dead + own.dead,
            lag: shared.lag.max(own.lag),
            dead_dropped: shared.dead_dropped + own.dead_dropped,
        })
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, LeaseError> {
        let inner = &self.inner;
        let shared = inner.heard(inner.shared.list(query).await)?;
        let (core, now) = (inner.journal.core(), inner.journal.now());
        Ok(match shared {
            Ok(shared) => merged(
                core.list(now, query, |role| role == Role::Own),
                shared,
                query.limit.clamp(1, PAGE_LIMIT_MAX),
            ),
            Err(_) => core.list(now, query, |_| true),
        })
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobView>, LeaseError> {
        let inner = &self.inner;
        if !inner.owns(id)
            && let Ok(view) = inner.heard(inner.shared.get(id).await)?
        {
            return Ok(view);
        }
        Ok(inner.journal.core().get(inner.journal.now(), id))
    }

    async fn run_now(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let inner = &self.inner;
        if inner.is_private(id) {
            return inner.journal.run_now(id).await;
        }
        let shared = inner.heard(inner.shared.run_now(id).await)?;
        if !inner.owns(id) && shared.is_ok() {
            return shared;
        }
        either(inner.journal.run_now(id).await?, shared)
    }

    async fn drop_job(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let inner = &self.inner;
        if inner.is_private(id) {
            return inner.journal.drop_job(id).await;
        }
        let shared = inner.heard(inner.shared.drop_job(id).await)?;
        // The shared queue remembers it as done if it had it; if it is away, it is told later.
        either(inner.journal.drop_job(id).await?, shared)
    }

    async fn requeue(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let inner = &self.inner;
        if inner.is_private(id) {
            return inner.journal.requeue(id).await;
        }
        let shared = inner.heard(inner.shared.requeue(id).await)?;
        if !inner.owns(id) && shared.is_ok() {
            return shared;
        }
        either(inner.requeue_here(id).await?, shared)
    }

    async fn review(&self, refs: &[JobRef]) -> Result<Vec<Review>, LeaseError> {
        let inner = &self.inner;
        match inner.heard(inner.shared.review(refs).await)? {
            Ok(reviews) => Ok(reviews),
            Err(_) => inner.journal.review(refs).await,
        }
    }

    async fn restore(&self, backup: &Backup) -> Result<Restored, LeaseError> {
        let inner = &self.inner;
        match inner.heard(inner.shared.restore(backup).await)? {
            Ok(restored) => Ok(restored),
            Err(_) => inner.journal.restore(backup).await,
        }
    }

    async fn finish(&self, done: &[DoneJob]) -> Result<(), LeaseError> {
        self.inner.finish(done).await
    }
}

/// Puts two pages of the same query together; what both have is shown as the journal has it.
fn merged(own: JobPage, shared: JobPage, limit: usize) -> JobPage {
    // Behind the end of a page that goes on, the other page alone would leave jobs out.
    let horizon = own.next.iter().chain(&shared.next).min().cloned();
    let mut jobs = own.jobs;
    let has = |jobs: &[JobView], id: &JobId| jobs.iter().any(|view| view.info.id == *id);
    let others = shared
        .jobs
        .into_iter()
        .filter(|view| !has(&jobs, &view.info.id));
    let others: Vec<_> = others.collect();
    jobs.extend(others);
    jobs.sort_unstable_by(|a, b| a.info.id.cmp(&b.info.id));
    if let Some(horizon) = &horizon {
        jobs.retain(|view| view.info.id <= *horizon);
    }
    let is_cut = jobs.len() > limit;
    jobs.truncate(limit);
    let next = match jobs.last().filter(|_| is_cut) {
        Some(last) => Some(last.info.id.clone()),
        // A page that goes on may be empty: all that was to be on it has moved on.
        None => horizon,
    };
    JobPage { jobs, next }
}

/// Returns what an order came to that went to both queues: what it changed in either.
fn either(own: Changed, shared: Result<Changed, LeaseError>) -> Result<Changed, LeaseError> {
    match (own, shared) {
        (Changed::Gone, Ok(shared)) => Ok(shared),
        // It may be there all the same.
        (Changed::Gone, Err(error)) => Err(error),
        (_, Ok(Changed::Changed)) => Ok(Changed::Changed),
        (own, _) => Ok(own),
    }
}

#[cfg(test)]
mod tests;
