//! How a job gets into both queues.

use std::sync::atomic::Ordering;

use super::Inner;
use crate::LeaseError;
use crate::queue::answers::Pushed;
use crate::queue::delay_queue::DelayQueue;
use crate::queue::job::{JobRef, JobSerial, NewJob};
use crate::queue::stored::Role;
use crate::sync::lock;

impl Inner {
    /// Pushes to the journal, then to the shared queue. Cancelled in between, it leaves a job that
    /// the next reconciliation takes for one that the shared queue has lost.
    pub(super) async fn push(&self, job: &NewJob) -> Result<Pushed, LeaseError> {
        job.check()?;
        if job.owner.is_some() {
            return self.journal.push(job).await;
        }
        let _on_the_way = OnTheWay::new(self, job.serial);
        let written = self.journal.push_as(job, Role::Primary).await;
        match self.heard(self.shared.push(job).await)? {
            Ok(Pushed::Queued) => {
                self.keep(job, &written).await;
                Ok(Pushed::Queued)
            }
            Ok(Pushed::AlreadyQueued { serial }) => {
                Ok(self.keep_other(job, serial, &written).await)
            }
            Ok(refused @ (Pushed::Dead { .. } | Pushed::Full)) => {
                if matches!(written, Ok(Pushed::Queued)) {
                    self.journal.core().forget(&to_ref(job, job.serial));
                    self.journal.flush().await;
                }
                Ok(refused)
            }
            Err(away) => self.keep_alone(job, written, away).await,
        }
    }

    /// The shared queue has this push.
    async fn keep(&self, job: &NewJob, written: &Result<Pushed, LeaseError>) {
        let is_kept = match written {
            Ok(Pushed::Queued) => true,
            // An earlier one, of which the shared queue knows the end already; unless it is one
            // that it has not heard of yet, and will.
            Ok(Pushed::AlreadyQueued { .. } | Pushed::Dead { .. }) => {
                self.owns(&job.id) || self.keep_instead(job).await
            }
            Ok(Pushed::Full) | Err(_) => false,
        };
        let count = u64::from(!is_kept);
        self.unjournaled.fetch_add(count, Ordering::Relaxed);
    }

    /// Puts a job in the place of an earlier one of its id; says whether it is there to stay.
    async fn keep_instead(&self, job: &NewJob) -> bool {
        let (is_there, arrival) = {
            let (mut core, now) = (self.journal.core(), self.journal.now());
            let is_there = core.replace(now, job, Role::Primary);
            (is_there, core.arrival(&job.id))
        };
        self.journal.flush().await;
        is_there && arrival.is_none_or(|arrival| arrival.get() != Some(&false))
    }

    /// The shared queue has a job of this id, which stands for `serial`.
    async fn keep_other(
        &self,
        job: &NewJob,
        serial: JobSerial,
        written: &Result<Pushed, LeaseError>,
    ) -> Pushed {
        let stands = to_ref(job, serial);
        if serial == job.serial {
            // This push is the latest, so it is this instance's.
            let mut core = self.journal.core();
            if core
                .mirror(&job.id)
                .is_some_and(|mirror| mirror.role == Role::Backup)
            {
                core.set_role(&stands, Role::Primary);
            }
        } else if matches!(written, Ok(Pushed::Queued | Pushed::AlreadyQueued { .. })) {
            // It is being worked on there.
            let mine = to_ref(job, job.serial);
            self.journal.core().rename(&mine, serial, Role::Backup);
        }
        self.journal.flush().await;
        Pushed::AlreadyQueued { serial }
    }

    /// The shared queue is away, so the journal serves the job.
    async fn keep_alone(
        &self,
        job: &NewJob,
        written: Result<Pushed, LeaseError>,
        away: LeaseError,
    ) -> Result<Pushed, LeaseError> {
        let serial = job.serial;
        match written {
            Ok(Pushed::Queued) => {
                let mine = to_ref(job, serial);
                self.journal.core().set_role(&mine, Role::Own);
                self.journal.flush().await;
                Ok(Pushed::Queued)
            }
            Ok(Pushed::AlreadyQueued { serial }) => {
                // The shared queue may have done the earlier one already; this one it has not.
                let mine = to_ref(job, serial);
                self.journal.core().set_role(&mine, Role::Own);
                self.journal.flush().await;
                Ok(Pushed::AlreadyQueued { serial })
            }
            Ok(refused) => Ok(refused),
            Err(error) => {
                tracing::debug!(
                    error = &away as &dyn std::error::Error,
                    "neither queue took a job",
                );
                Err(error)
            }
        }
    }
}

/// Keeps the reconciliation from taking a push for lost that the shared queue has not got yet.
struct OnTheWay<'a> {
    inner: &'a Inner,
    serial: JobSerial,
}

impl<'a> OnTheWay<'a> {
    fn new(inner: &'a Inner, serial: JobSerial) -> Self {
        lock(&inner.on_the_way).insert(serial);
        Self { inner, serial }
    }
}

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        lock(&self.inner.on_the_way).remove(&self.serial);
    }
}

fn to_ref(job: &NewJob, serial: JobSerial) -> JobRef {
    JobRef {
        id: job.id.clone(),
        serial,
    }
}
