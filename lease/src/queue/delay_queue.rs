//! `DelayQueue`: jobs that are due at a time and taken by one worker at a time.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;

use super::answers::{
    Changed, JobPage, JobQuery, JobView, Pushed, QueueStats, Restored, Review, Settled,
};
use super::job::{Backup, DoneJob, JobId, JobRef, NewJob, Receipt, TakenJob};
use crate::LeaseError;

/// Jobs that are due at a time, taken by one worker at a time, and kept until they are settled.
///
/// A worker takes a job for a visibility timeout. If it does not settle the job in time, the job
/// comes back and others may take it; a receipt stays good until one does. So a job is done at
/// least once, by a worker that lives, and twice only if a worker was too slow. Ids are unique
/// among all jobs, dead ones included. Times are counted by the queue's own clock.
///
/// All methods may be called by any task at any time. Cancelling one leaves open whether it took
/// effect, and nothing else: a job that nobody knows to be taken comes back by its timeout.
///
/// Every method fails with [`LeaseError::Unavailable`] or [`LeaseError::Protocol`] when there is no
/// usable answer; it may have taken effect. A job that is not there is no error.
#[async_trait]
pub trait DelayQueue: Send + Sync + Debug + 'static {
    /// Puts a job into the queue, unless there is one of its id.
    ///
    /// Once this has answered [`Pushed::Queued`] or [`Pushed::AlreadyQueued`], the job is as
    /// durable as the queue is.
    ///
    /// # Errors
    ///
    /// - [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: repeat it with the same serial.
    /// - [`LeaseError::InvalidKey`], [`LeaseError::TooLarge`]: the job breaks a rule of [`NewJob`];
    ///   nothing changed.
    async fn push(&self, job: &NewJob) -> Result<Pushed, LeaseError>;

    /// Takes up to `limit` jobs that are due for `worker`, the most overdue first, for `visibility`
    /// (1 ms ..= [`VISIBILITY_MAX`](crate::VISIBILITY_MAX); other values are moved into it).
    ///
    /// Each job's number of attempts rises with it. Jobs that `worker` may not take are passed
    /// over. At most [`PAGE_LIMIT_MAX`](crate::PAGE_LIMIT_MAX) at once.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidKey`]: `worker` is no name (1 ..= 255 bytes without control
    /// characters).
    async fn take(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<TakenJob>, LeaseError>;

    /// Keeps a job taken for `visibility` from now; also one that came back, if nobody took it.
    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<Settled, LeaseError>;

    /// Removes a job that is done.
    async fn ack(&self, receipt: &Receipt) -> Result<Settled, LeaseError>;

    /// Puts a job back that failed with `error`, due in `due_in`.
    async fn retry(
        &self,
        receipt: &Receipt,
        due_in: Duration,
        error: &str,
    ) -> Result<Settled, LeaseError>;

    /// Gives a job up that failed with `error`; it stays listed among the dead.
    async fn bury(&self, receipt: &Receipt, error: &str) -> Result<Settled, LeaseError>;

    /// Says how long until [`take`](Self::take) may give `worker` a job; zero when it would now,
    /// `None` when there is none. It may be too early, never too late, as far as can be known now:
    /// another instance's push, or an outage, makes jobs due that nobody is told of. So a worker
    /// asks again every second or so; `take` alone does as well, and costs the same.
    async fn next_due(&self, worker: &str) -> Result<Option<Duration>, LeaseError>;

    /// Says how full the queue is.
    async fn stats(&self) -> Result<QueueStats, LeaseError>;

    /// Lists jobs in the order of their ids' bytes.
    async fn list(&self, query: &JobQuery) -> Result<JobPage, LeaseError>;

    /// Shows one job, dead or not; `None` when there is none.
    async fn get(&self, id: &JobId) -> Result<Option<JobView>, LeaseError>;

    /// Makes a job due that waits. A dead one does not: see [`requeue`](Self::requeue).
    async fn run_now(&self, id: &JobId) -> Result<Changed, LeaseError>;

    /// Removes a job, wherever it is; a worker that has it finds its receipt out of date.
    async fn drop_job(&self, id: &JobId) -> Result<Changed, LeaseError>;

    /// Gives a dead job another life: due now, no attempts, and as long a deadline as it had.
    async fn requeue(&self, id: &JobId) -> Result<Changed, LeaseError>;

    /// Says what is known of each of `refs`, in their order; at most
    /// [`PAGE_LIMIT_MAX`](crate::PAGE_LIMIT_MAX) of them. For journals.
    async fn review(&self, refs: &[JobRef]) -> Result<Vec<Review>, LeaseError>;

    /// Brings a job back that the queue may have lost. For journals.
    ///
    /// A job of its id that waits learns of attempts that it did not know, and stands for this push
    /// if that came later than its own.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    async fn restore(&self, backup: &Backup) -> Result<Restored, LeaseError>;

    /// Removes those of `done` that are there, and remembers them as done; at most
    /// [`PAGE_LIMIT_MAX`](crate::PAGE_LIMIT_MAX) of them. For journals.
    ///
    /// One that somebody else works on is left to them.
    async fn finish(&self, done: &[DoneJob]) -> Result<(), LeaseError>;
}
