//! `FaultyQueue`: a delay queue whose calls go wrong on demand.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Fault, Plan, lock};
use crate::{
    Backup, Changed, Clock, DelayQueue, DoneJob, JobId, JobPage, JobQuery, JobRef, JobView,
    LeaseError, NewJob, Pushed, QueueStats, Receipt, Restored, Review, Settled, TakenJob,
};

/// The calls of a [`DelayQueue`] that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum QueueOp {
    /// [`DelayQueue::push`].
    Push,
    /// [`DelayQueue::take`].
    Take,
    /// [`DelayQueue::extend`].
    Extend,
    /// [`DelayQueue::ack`].
    Ack,
    /// [`DelayQueue::retry`].
    Retry,
    /// [`DelayQueue::bury`].
    Bury,
    /// [`DelayQueue::next_due`].
    NextDue,
    /// [`DelayQueue::stats`].
    Stats,
    /// [`DelayQueue::list`] and [`DelayQueue::get`].
    List,
    /// [`DelayQueue::run_now`], [`DelayQueue::drop_job`] and [`DelayQueue::requeue`].
    Order,
    /// [`DelayQueue::review`].
    Review,
    /// [`DelayQueue::restore`].
    Restore,
    /// [`DelayQueue::finish`].
    Finish,
}

/// A delay queue whose calls go wrong on demand.
#[derive(Debug)]
pub struct FaultyQueue {
    inner: Arc<dyn DelayQueue>,
    plan: Plan<QueueOp>,
}

steering!(FaultyQueue, DelayQueue, QueueOp);

macro_rules! through {
    ($self:ident, $op:ident, $call:expr) => {
        $self.plan.run(QueueOp::$op, $call).await
    };
}

#[async_trait]
impl DelayQueue for FaultyQueue {
    async fn push(&self, job: &NewJob) -> Result<Pushed, LeaseError> {
        through!(self, Push, self.inner.push(job))
    }

    async fn take(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<TakenJob>, LeaseError> {
        through!(self, Take, self.inner.take(worker, limit, visibility))
    }

    async fn extend(&self, receipt: &Receipt, visibility: Duration) -> Result<Settled, LeaseError> {
        through!(self, Extend, self.inner.extend(receipt, visibility))
    }

    async fn ack(&self, receipt: &Receipt) -> Result<Settled, LeaseError> {
        through!(self, Ack, self.inner.ack(receipt))
    }

    async fn retry(
        &self,
        receipt: &Receipt,
        due_in: Duration,
        error: &str,
    ) -> Result<Settled, LeaseError> {
        through!(self, Retry, self.inner.retry(receipt, due_in, error))
    }

    async fn bury(&self, receipt: &Receipt, error: &str) -> Result<Settled, LeaseError> {
        through!(self, Bury, self.inner.bury(receipt, error))
    }

    async fn next_due(&self, worker: &str) -> Result<Option<Duration>, LeaseError> {
        through!(self, NextDue, self.inner.next_due(worker))
    }

    async fn stats(&self) -> Result<QueueStats, LeaseError> {
        through!(self, Stats, self.inner.stats())
    }

    async fn list(&self, query: &JobQuery) -> Result<JobPage, LeaseError> {
        through!(self, List, self.inner.list(query))
    }

    async fn get(&self, id: &JobId) -> Result<Option<JobView>, LeaseError> {
        through!(self, List, self.inner.get(id))
    }

    async fn run_now(&self, id: &JobId) -> Result<Changed, LeaseError> {
        through!(self, Order, self.inner.run_now(id))
    }

    async fn drop_job(&self, id: &JobId) -> Result<Changed, LeaseError> {
        through!(self, Order, self.inner.drop_job(id))
    }

    async fn requeue(&self, id: &JobId) -> Result<Changed, LeaseError> {
        through!(self, Order, self.inner.requeue(id))
    }

    async fn review(&self, refs: &[JobRef]) -> Result<Vec<Review>, LeaseError> {
        through!(self, Review, self.inner.review(refs))
    }

    async fn restore(&self, backup: &Backup) -> Result<Restored, LeaseError> {
        through!(self, Restore, self.inner.restore(backup))
    }

    async fn finish(&self, done: &[DoneJob]) -> Result<(), LeaseError> {
        through!(self, Finish, self.inner.finish(done))
    }
}
