//! The worker: takes the jobs that are due and runs each as a normal flight.
//!
//! What it promises:
//! - A job takes its slot before it joins a flight, and there are few slots: no client ever waits
//!   for one, and jobs never crowd out clients.
//! - Jobs that failed before get half of the slots at most, so that units which always fail, or
//!   hang until their time limits, never hold up the others. A single slot cannot be halved: there
//!   they do, each until its time limit.
//! - Each job is settled: done, due again, or dead. A worker that dies leaves it to its visibility
//!   timeout, one that is stopped gives it back.

mod runs;
mod settle;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use lease::{LeaseError, TakenJob};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::decision::Run;
use super::history;
use super::jobs::{Job, JobKind};
use crate::error::Error;
use crate::warmer::Core;
use crate::warning_gate::WarningGate;

/// How long a job stays taken without a word from its worker.
const VISIBILITY: Duration = Duration::from_secs(60);

/// How often a worker says that it is still at work: two may be lost.
const EXTEND_EVERY: Duration = Duration::from_secs(20);

/// How often the queue is asked at least, for what others have pushed.
const POLL: Duration = Duration::from_secs(1);

/// The pause after the queue had nothing, although it said that something was due: another
/// worker was quicker.
const MISSED_PAUSE: Duration = Duration::from_millis(250);

/// The pause before more jobs are taken once one found no room in this process.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

/// Jobs that failed before and wait here, taken, for a slot.
const WAITING_MAX: usize = 64;

/// When no slot for such jobs became free for this long, those who hold them hang: what else is
/// due is put back, to find the jobs behind it.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// How long a job that was put back waits: this, and up to as much again.
const PUT_BACK: Duration = Duration::from_secs(60);

/// How long one call of the queue may take.
const CALL_MAX: Duration = Duration::from_secs(2);

/// The least time between two hurries of uploads: one upload that always fails, beside others that
/// succeed, must not undo everybody's pauses each time.
const HURRY_EVERY: Duration = Duration::from_secs(30);

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
    /// Whether a job found no room since some were taken.
    found_no_room: AtomicBool,
    uploads_fail: AtomicBool,
    /// Whether the store takes uploads again, and the others have not been hurried yet.
    uploads_work_again: AtomicBool,
    hurries: WarningGate,
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
    Waiting {
        _waiting: Option<OwnedSemaphorePermit>,
    },
}

impl Worker {
    /// Makes the worker of `core`; nothing runs yet.
    pub(crate) fn new(core: Arc<Core>, parts: WorkerParts) -> Arc<Self> {
        let slots = slots_of(&core);
        Arc::new(Self {
            hurries: WarningGate::new(core.clock.clone(), HURRY_EVERY),
            warnings: WarningGate::new(core.clock.clone(), WARN_EVERY),
            core,
            slots: Arc::new(Semaphore::new(slots)),
            repeat_slots: Arc::new(Semaphore::new((slots / 2).max(1))),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            is_stuck: AtomicBool::new(false),
            found_no_room: AtomicBool::new(false),
            uploads_fail: AtomicBool::new(false),
            uploads_work_again: AtomicBool::new(false),
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
            let next = self.within(queue.next_due(self.core.retries.worker()));
            match next.await {
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

    /// Bounds a call of the queue: a stopping process waits for it.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, LeaseError>>,
    ) -> Result<T, LeaseError> {
        let answer = lease::timeout(&*self.core.clock, CALL_MAX, call).await;
        answer.unwrap_or_else(|| Err(LeaseError::unavailable("no answer in time")))
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
        if self.found_no_room.swap(false, Ordering::Relaxed) {
            // Clients have all places: what is taken now would most likely be put back.
            self.pause(NO_ROOM_PAUSE).await;
            if self.winding_down.is_cancelled() {
                return Ok(0);
            }
        }
        while let Ok(slot) = self.slots.clone().try_acquire_owned() {
            free.push(slot);
        }
        let retries = &self.core.retries;
        let taken = retries
            .queue()
            .take(retries.worker(), free.len(), VISIBILITY);
        let jobs = self.within(taken).await?;
        let since = self.core.clock.now();
        let count = jobs.len();
        let (fresh, repeated): (Vec<_>, Vec<_>) = jobs
            .into_iter()
            .partition(|job| history::attempts_in(job.info.last_error.as_deref()) == 0);
        for job in fresh {
            // A queue that gives more than it was asked for gets them done one after the other.
            let ticket = match free.pop() {
                Some(slot) => Ticket::Slot {
                    _slot: slot,
                    _repeat: None,
                },
                None => Ticket::Waiting { _waiting: None },
            };
            self.start(job, ticket);
        }
        let mut put_back = Vec::new();
        // For all together: nobody says of those at the end that they are still being worked on.
        let stuck_at = self.core.clock.now() + STUCK_AFTER;
        for job in repeated {
            match self.ticket_of_repeated(free.pop(), stuck_at).await {
                Some(ticket) => self.start(job, ticket),
                None => put_back.push(job),
            }
        }
        drop(free);
        let settling = put_back.iter().map(|job| {
            let due_in = match self.winding_down.is_cancelled() {
                true => Duration::ZERO,
                false => PUT_BACK + self.core.clock.jitter(PUT_BACK),
            };
            self.settle(job, since, Run::NotTried(due_in))
        });
        join_all(settling).await;
        Ok(count)
    }

    /// Finds a place for a job that failed before: in its half of the slots, or among those that
    /// wait for one; `None` where there is none until `stuck_at`, for that half hangs.
    async fn ticket_of_repeated(
        &self,
        slot: Option<OwnedSemaphorePermit>,
        stuck_at: Instant,
    ) -> Option<Ticket> {
        let repeat = self.repeat_slots.clone().try_acquire_owned();
        if let (Some(slot), Ok(repeat)) = (slot, repeat) {
            return Some(Ticket::Slot {
                _slot: slot,
                _repeat: Some(repeat),
            });
        }
        let mut room = self.waiting.clone().try_acquire_owned().ok();
        if room.is_none() && !self.is_stuck.load(Ordering::Relaxed) {
            let left = stuck_at.saturating_duration_since(self.core.clock.now());
            tokio::select! {
                biased;
                waiting = self.waiting.clone().acquire_owned() => room = waiting.ok(),
                () = self.pause(left) => {}
            }
        }
        self.is_stuck.store(room.is_none(), Ordering::Relaxed);
        room.map(|room| Ticket::Waiting {
            _waiting: Some(room),
        })
    }

    fn start(self: &Arc<Self>, job: TakenJob, ticket: Ticket) {
        let worker = self.clone();
        let handling = async move { worker.handle(job, ticket).await };
        self.tasks.spawn_on(handling, &self.runtime);
    }

    /// Runs one job and settles it.
    async fn handle(self: Arc<Self>, job: TakenJob, ticket: Ticket) {
        let queue = self.core.retries.queue();
        let since = self.core.clock.now();
        let mut working = AssertUnwindSafe(self.work(&job, ticket))
            .catch_unwind()
            .boxed();
        let (run, slot) = loop {
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
                    let extending = self.within(queue.extend(&job.receipt, VISIBILITY));
                    if let Err(error) = extending.await {
                        tracing::debug!(job = %job.info.id, %error, "a job could not be kept");
                    }
                }
            }
        };
        // Whoever was told to stop in the middle of it lets go of it first.
        drop(working);
        if matches!(run, Run::NoRoom) {
            // Before its slot is free for the next one.
            self.found_no_room.store(true, Ordering::Relaxed);
        }
        self.settle(&job, since, run).await;
        drop(slot);
        if self.uploads_work_again.swap(false, Ordering::Relaxed) {
            self.hurry_uploads().await;
        }
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
            Ticket::Waiting { .. } => tokio::select! {
                biased;
                () = self.winding_down.cancelled() => ticket,
                slot = self.slot_for_repeated() => {
                    // Its place among those who wait is free.
                    drop(ticket);
                    slot
                }
            },
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

    async fn slot_for_repeated(&self) -> Ticket {
        let open = "this semaphore is never closed";
        let repeat = self.repeat_slots.clone().acquire_owned().await.expect(open);
        let slot = self.slots.clone().acquire_owned().await.expect(open);
        Ticket::Slot {
            _slot: slot,
            _repeat: Some(repeat),
        }
    }
}

/// Jobs at work at once: as configured, and at most a quarter of the flights. Both are limits, so
/// there may be one only.
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
