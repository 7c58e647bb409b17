//! The worker: takes the jobs that are due and runs each as a normal flight.
//!
//! What it promises:
//! - A job takes its slot before it joins a flight, and there are few slots: no client ever waits
//!   for one, and jobs never crowd out clients.
//! - Jobs that failed before get half of the slots at most, so that units which always fail, or
//!   hang until their time limits, never hold up the others.
//! - Each job is settled: done, due again, or dead. A worker that dies leaves it to its visibility
//!   timeout, one that is stopped gives it back.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use lease::{JobQuery, JobState, LeaseError, Settled, TakenJob};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict as Cached;
use crate::error::Error;
use crate::fill::Landed;
use crate::flight::Role;
use crate::turn::Look;
use crate::upload::Uploaded;
use crate::warmer::{Core, causes};
use crate::warning_gate::WarningGate;

use super::decision::{Run, Standing, Verdict, decide};
use super::history;
use super::jobs::{Job, JobKind, UPLOAD_PREFIX};

/// How long a job stays taken without a word from its worker.
const VISIBILITY: Duration = Duration::from_secs(60);

/// How often a worker says that it is still at work: two may be lost.
const EXTEND_EVERY: Duration = Duration::from_secs(20);

/// How often the queue is asked at least, for what others have pushed.
const POLL: Duration = Duration::from_secs(1);

/// The pause after the queue had nothing, although it said that something was due: another
/// worker was quicker.
const MISSED_PAUSE: Duration = Duration::from_millis(250);

/// Jobs that failed before and wait here, taken, for a slot.
const WAITING_MAX: usize = 64;

/// When no slot for such jobs became free for this long, those who hold them hang: what else is
/// due is put back, to find the jobs behind it.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// How long a job that was put back waits: this, and up to as much again.
const PUT_BACK: Duration = Duration::from_secs(60);

/// How often a queue that does not answer is told what became of a job, and the pause between.
const SETTLE_TRIES: u32 = 3;
const SETTLE_PAUSE: Duration = Duration::from_secs(1);

/// How long one telling may take: behind it a stopping process waits.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Uploads that one success makes due; the others come by themselves within a minute.
const HURRIED_MAX: usize = 1_000;

/// The least time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Takes jobs and runs them.
#[derive(Debug)]
pub(crate) struct Worker {
    core: Arc<Core>,
    slots: Arc<Semaphore>,
    /// Slots that jobs may have which failed before; each needs one of `slots` as well.
    repeat_slots: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Whether those who wait have waited in vain for long.
    is_stuck: AtomicBool,
    uploads_fail: AtomicBool,
    warnings: WarningGate,
    runtime: Handle,
    tasks: TaskTracker,
    /// No job begins any more; what nobody but us waits for ends.
    winding_down: CancellationToken,
    /// Everything ends.
    stop: CancellationToken,
}

/// What ends a worker, and who waits for its tasks.
pub(crate) struct WorkerParts {
    pub(crate) runtime: Handle,
    pub(crate) tasks: TaskTracker,
    pub(crate) winding_down: CancellationToken,
    pub(crate) stop: CancellationToken,
}

/// A job's way to its slot.
enum Ticket {
    /// It has one.
    Slot {
        _slot: OwnedSemaphorePermit,
        _repeat: Option<OwnedSemaphorePermit>,
    },
    /// It waits for one.
    Waiting { _waiting: OwnedSemaphorePermit },
}

impl Worker {
    /// Makes the worker of `core`; nothing runs yet.
    pub(crate) fn new(core: Arc<Core>, parts: WorkerParts) -> Arc<Self> {
        let slots = slots_of(&core);
        Arc::new(Self {
            warnings: WarningGate::new(core.clock.clone(), WARN_EVERY),
            core,
            slots: Arc::new(Semaphore::new(slots)),
            repeat_slots: Arc::new(Semaphore::new((slots / 2).max(1))),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            is_stuck: AtomicBool::new(false),
            uploads_fail: AtomicBool::new(false),
            runtime: parts.runtime,
            tasks: parts.tasks,
            winding_down: parts.winding_down,
            stop: parts.stop,
        })
    }

    /// Takes jobs until the process winds down. Its jobs are tasks of their own.
    ///
    /// Ends by itself and must not be cancelled: a job that was taken and not heard of would be
    /// away until its visibility timeout.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut missed = false;
        while !self.winding_down.is_cancelled() {
            let queue = self.core.retries.queue();
            match queue.next_due(self.core.retries.worker()).await {
                Ok(Some(Duration::ZERO)) if missed => {
                    missed = false;
                    self.pause(MISSED_PAUSE).await;
                }
                Ok(Some(Duration::ZERO)) => match self.take().await {
                    Ok(taken) => missed = taken == 0,
                    Err(error) => self.queue_failed("taking jobs", &error).await,
                },
                Ok(next) => {
                    missed = false;
                    let poll = next.map_or(POLL, |due_in| due_in.min(POLL));
                    tokio::select! {
                        () = self.core.retries.pushed() => {}
                        () = self.pause(poll) => {}
                    }
                }
                Err(error) => self.queue_failed("asking for jobs", &error).await,
            }
        }
    }

    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.winding_down.cancelled() => {}
            () = self.core.clock.sleep(pause) => {}
        }
    }

    /// Says at a bounded rate that the queue does not answer, and gives it time.
    async fn queue_failed(&self, doing: &'static str, error: &LeaseError) {
        if let Some(kept_back) = self.warnings.due() {
            tracing::warn!(doing, %error, kept_back, "the queue of jobs does not answer");
        }
        self.pause(POLL).await;
    }

    /// Takes as many jobs as there are free slots, at least one, and starts them; returns how
    /// many. Waits for a slot.
    async fn take(self: &Arc<Self>) -> Result<usize, LeaseError> {
        let mut free = Vec::new();
        tokio::select! {
            biased;
            () = self.winding_down.cancelled() => return Ok(0),
            slot = self.slots.clone().acquire_owned() => free.extend(slot),
        }
        while let Ok(slot) = self.slots.clone().try_acquire_owned() {
            free.push(slot);
        }
        let retries = &self.core.retries;
        let taken = retries
            .queue()
            .take(retries.worker(), free.len(), VISIBILITY);
        let jobs = taken.await?;
        let count = jobs.len();
        let (fresh, repeated): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| history::attempts_in(job.info.last_error.as_deref()) == 0);
        for job in fresh {
            let Some(slot) = free.pop() else {
                // More than was asked for: it waits with the others.
                self.start_repeated(job, None).await;
                continue;
            };
            let ticket = Ticket::Slot {
                _slot: slot,
                _repeat: None,
            };
            self.start(job, ticket);
        }
        for job in repeated {
            self.start_repeated(job, free.pop()).await;
        }
        Ok(count)
    }

    /// Starts a job that failed before, in its half of the slots; lets it wait, or puts it back
    /// where that half hangs.
    async fn start_repeated(self: &Arc<Self>, job: TakenJob, slot: Option<OwnedSemaphorePermit>) {
        let repeat = self.repeat_slots.clone().try_acquire_owned();
        if let (Some(slot), Ok(repeat)) = (slot, repeat) {
            let ticket = Ticket::Slot {
                _slot: slot,
                _repeat: Some(repeat),
            };
            return self.start(job, ticket);
        }
        let mut room = self.waiting.clone().try_acquire_owned().ok();
        if room.is_none() && !self.is_stuck.load(Ordering::Relaxed) {
            let waiting = self.waiting.clone().acquire_owned();
            let waiting = lease::timeout(&*self.core.clock, STUCK_AFTER, waiting).await;
            room = waiting.and_then(Result::ok);
        }
        self.is_stuck.store(room.is_none(), Ordering::Relaxed);
        if let Some(_waiting) = room {
            return self.start(job, Ticket::Waiting { _waiting });
        }
        let due_in = PUT_BACK + self.core.clock.jitter(PUT_BACK);
        let worker = self.clone();
        let settling = async move { worker.settle(&job, Run::NotTried(due_in)).await };
        self.tasks.spawn_on(settling, &self.runtime);
    }

    fn start(self: &Arc<Self>, job: TakenJob, ticket: Ticket) {
        let worker = self.clone();
        let handling = async move { worker.handle(job, ticket).await };
        self.tasks.spawn_on(handling, &self.runtime);
    }

    /// Runs one job and settles it.
    async fn handle(self: Arc<Self>, job: TakenJob, ticket: Ticket) {
        let queue = self.core.retries.queue();
        let mut working = AssertUnwindSafe(self.work(&job, ticket))
            .catch_unwind()
            .boxed();
        let (run, _slot) = loop {
            tokio::select! {
                biased;
                worked = &mut working => break match worked {
                    Ok((run, ticket)) => (run, Some(ticket)),
                    Err(_) => (Run::Failed(self.internal(&job)), None),
                },
                () = self.stop.cancelled() => break (Run::NotTried(Duration::ZERO), None),
                () = self.core.clock.sleep(EXTEND_EVERY) => {
                    // Not heard, or out of date: then another worker may do it as well, and the
                    // flight is shared or finds it done.
                    if let Err(error) = queue.extend(&job.receipt, VISIBILITY).await {
                        tracing::debug!(job = %job.info.id, %error, "a job could not be kept");
                    }
                }
            }
        };
        // Whoever was told to stop in the middle of it lets go of it first.
        drop(working);
        self.settle(&job, run).await;
    }

    fn internal(&self, job: &TakenJob) -> Error {
        Error::Internal {
            unit: job.info.id.to_string(),
            source: None,
        }
    }

    /// Waits for the job's slot, then does what it says. The slot is kept until it is settled.
    async fn work(&self, job: &TakenJob, ticket: Ticket) -> (Run, Ticket) {
        let ticket = match ticket {
            Ticket::Slot { .. } => ticket,
            Ticket::Waiting { _waiting } => {
                let repeat = self.repeat_slots.clone().acquire_owned().await;
                let slot = self.slots.clone().acquire_owned().await;
                Ticket::Slot {
                    _slot: slot.expect("this semaphore is never closed"),
                    _repeat: repeat.ok(),
                }
            }
        };
        if self.winding_down.is_cancelled() {
            return (Run::NotTried(Duration::ZERO), ticket);
        }
        let run = match Job::read(&job.info.kind, &job.payload) {
            Err(reason) => Run::Senseless(reason),
            Ok(Job { kind, key }) => match kind {
                JobKind::Fetch => self.fetch(&key).await,
                JobKind::Upload => self.upload(&key).await,
            },
        };
        (run, ticket)
    }

    fn ended_with(&self, error: Error) -> Run {
        let stopping = self.winding_down.is_cancelled();
        Run::ended_with(error, &self.core.config.retry, stopping)
    }

    /// Joins the unit's flight, starting one if there is none, and waits for its end: what has
    /// landed may still fail.
    async fn fetch(&self, key: &ArtifactKey) -> Run {
        let core = &self.core;
        let seat = match core.join_for_job(key) {
            Ok(seat) => seat,
            Err(error) => return self.ended_with(error),
        };
        let status = seat.status().clone();
        tokio::select! {
            biased;
            () = status.ended() => {}
            () = self.winding_down.cancelled() => {
                if seat.role() == Role::Leader && status.waiters() <= 1 {
                    status.cancel();
                }
                status.ended().await;
            }
        }
        let error = match seat.landed(core.config.wait_max, &*core.clock).await {
            Err(error) => Some(error),
            Ok(Landed::Stored {
                verdict: Cached::HitStored,
                ..
            }) => return Run::Done,
            Ok(Landed::Filling { filling, .. }) => filling.state().end.and_then(Result::err),
            Ok(_) => None,
        };
        if let Some(error) = error {
            return self.ended_with(error);
        }
        // Another instance may keep it, while the store does not take it.
        let look = Look::ResultOrAbsence;
        match core.look_as_far(key, &key.unit(), look, &[]).await {
            Ok(Some(_)) => Run::Done,
            Ok(None) => self.ended_with(Error::Storage {
                doing: format!("storing {key}, which was fetched"),
                source: None,
            }),
            Err(error) => self.ended_with(error),
        }
    }

    async fn upload(&self, key: &ArtifactKey) -> Run {
        let core = &self.core;
        let uploading = lease::timeout(&*core.clock, core.config.fill_max, core.upload(key));
        match uploading.await {
            Some(Ok(uploaded)) => {
                let is_stored = uploaded != Uploaded::Gone;
                if is_stored && self.uploads_fail.swap(false, Ordering::Relaxed) {
                    self.hurry_uploads().await;
                }
                Run::Done
            }
            Some(Err(error)) => {
                self.uploads_fail.store(true, Ordering::Relaxed);
                self.ended_with(error)
            }
            None => {
                self.uploads_fail.store(true, Ordering::Relaxed);
                self.ended_with(Error::Storage {
                    doing: format!("uploading {key}, which took longer than fill.max_duration"),
                    source: None,
                })
            }
        }
    }

    /// Makes our uploads due that wait for a store which takes bytes again.
    async fn hurry_uploads(&self) {
        let retries = &self.core.retries;
        let queue = retries.queue();
        let mut query = JobQuery {
            contains: Some(UPLOAD_PREFIX.to_owned()),
            limit: HURRIED_MAX,
            ..JobQuery::default()
        };
        let mut hurried = 0;
        loop {
            let page = match queue.list(&query).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::debug!(%error, "uploads wait for their own times");
                    return;
                }
            };
            for job in page.jobs {
                let waits = matches!(&job.state, JobState::Queued { due_in } if !due_in.is_zero());
                let is_ours = job.info.owner.as_ref() == Some(retries.worker())
                    && &*job.info.kind == JobKind::Upload.as_str();
                if !waits || !is_ours {
                    continue;
                }
                if hurried == HURRIED_MAX || queue.run_now(&job.info.id).await.is_err() {
                    return;
                }
                hurried += 1;
            }
            match page.next {
                Some(next) => query.after = Some(next),
                None => return,
            }
        }
    }

    /// Tells the queue what became of a job.
    async fn settle(&self, job: &TakenJob, run: Run) {
        let (core, info) = (&self.core, &job.info);
        let told = history::attempts_in(info.last_error.as_deref());
        let kind = JobKind::parse(&info.kind);
        let standing = Standing {
            // Nobody asks for the kind of a job that makes no sense.
            kind: kind.unwrap_or(JobKind::Fetch),
            // Another life has its own numbers: the queue counts what was taken in it.
            attempt: told.saturating_add(1).min(info.attempts.max(1)),
            deadline_in: info.deadline_in,
        };
        let verdict = decide(&run, standing, &core.config.retry);
        let text = match &run {
            Run::Failed(error) => causes(error),
            Run::Senseless(reason) => reason.clone(),
            Run::NotTried(_) => "its time was over before it could be tried".to_owned(),
            Run::Done | Run::Absent => String::new(),
        };
        let earlier = info.last_error.as_deref();
        let history = match &verdict {
            Verdict::PutBack { .. } => earlier.unwrap_or_default().to_owned(),
            _ => history::with_attempt(standing.attempt, &text, earlier),
        };
        let outcome = match &verdict {
            Verdict::Ack { outcome } => outcome,
            Verdict::Retry { .. } => "failed",
            Verdict::PutBack { .. } => "put_back",
            Verdict::Bury => "dead",
        };
        let (id, attempt) = (&info.id, standing.attempt);
        match &verdict {
            Verdict::Ack { .. } => tracing::info!(job = %id, attempt, outcome, "a job is done"),
            Verdict::Retry { due_in } => {
                let due_in_ms = due_in.as_millis();
                tracing::debug!(job = %id, attempt, error = %text, due_in_ms, "a job failed");
            }
            Verdict::PutBack { due_in } => {
                let due_in_ms = due_in.as_millis();
                tracing::debug!(job = %id, due_in_ms, "a job was put back");
            }
            Verdict::Bury => {
                tracing::warn!(job = %id, attempt, error = %text, "a job is given up");
            }
        }
        if self.tell(job, &verdict, &history).await {
            core.metrics
                .count_job(kind.map_or("unknown", JobKind::as_str), outcome);
        }
    }

    /// Tells the queue, several times if it does not answer; returns whether it knows.
    async fn tell(&self, job: &TakenJob, verdict: &Verdict, history: &str) -> bool {
        let (queue, receipt) = (self.core.retries.queue(), &job.receipt);
        for left in (0..SETTLE_TRIES).rev() {
            let telling = async {
                match verdict {
                    Verdict::Ack { .. } => queue.ack(receipt).await,
                    Verdict::Retry { due_in } | Verdict::PutBack { due_in } => {
                        queue.retry(receipt, *due_in, history).await
                    }
                    Verdict::Bury => queue.bury(receipt, history).await,
                }
            };
            let told = lease::timeout(&*self.core.clock, SETTLE_MAX, telling).await;
            match told {
                Some(Ok(Settled::Settled)) => return true,
                Some(Ok(Settled::Stale)) => {
                    tracing::debug!(job = %job.info.id, "a job was taken from us meanwhile");
                    return false;
                }
                Some(Err(error)) => tracing::debug!(job = %job.info.id, %error, "not settled"),
                None => tracing::debug!(job = %job.info.id, "not settled in time"),
            }
            if left == 0 || self.stop.is_cancelled() {
                break;
            }
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = self.core.clock.sleep(SETTLE_PAUSE) => {}
            }
        }
        if let Some(kept_back) = self.warnings.due() {
            tracing::warn!(
                job = %job.info.id,
                kept_back,
                "the queue did not take a job's end; the job comes back and is looked at again"
            );
        }
        false
    }
}

/// Jobs at work at once: as configured, and at most a quarter of the flights.
fn slots_of(core: &Core) -> usize {
    let quarter = core.config.flights.flights_max / 4;
    core.config.retry.concurrency_max.min(quarter).max(1)
}

/// Reads how full the queue is, every `sample_interval`.
pub(crate) async fn sample_queue(core: Arc<Core>) {
    let mut dropped_before = 0;
    loop {
        match core.retries.queue().stats().await {
            Ok(stats) => {
                core.metrics.set_queue(&stats);
                let dropped = stats.dead_dropped.saturating_sub(dropped_before);
                core.metrics.retry_dead_dropped.inc_by(dropped);
                dropped_before = dropped_before.max(stats.dead_dropped);
            }
            Err(error) => tracing::debug!(%error, "the queue's depth is not known"),
        }
        core.clock.sleep(core.config.sample_interval).await;
    }
}
