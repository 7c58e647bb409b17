//! How jobs leave both queues.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Inner;
use crate::LeaseError;
use crate::queue::answers::{Changed, Settled};
use crate::queue::delay_queue::DelayQueue;
use crate::queue::job::{DoneJob, JobId, Receipt, TakenJob, check_name};

impl Inner {
    pub(super) async fn take(
        &self,
        worker: &str,
        limit: usize,
        visibility: Duration,
    ) -> Result<Vec<TakenJob>, LeaseError> {
        check_name(worker)?;
        let journal_first = self.journal_first.fetch_xor(true, Ordering::Relaxed);
        let mut jobs = Vec::new();
        if journal_first {
            jobs = self
                .journal
                .take_as(worker, limit, visibility, self.serving())
                .await;
        }
        let rest = limit.saturating_sub(jobs.len());
        if rest > 0
            && let Ok(shared) = self.heard(self.shared.take(worker, rest, visibility).await)?
        {
            jobs.extend(shared);
        }
        let rest = limit.saturating_sub(jobs.len());
        if rest > 0 {
            let own = self
                .journal
                .take_as(worker, rest, visibility, self.serving());
            jobs.extend(own.await);
        }
        Ok(jobs)
    }

    /// Says whether the job was taken from the journal.
    pub(super) fn is_held_here(&self, receipt: &Receipt) -> bool {
        self.journal.core().held(receipt).is_some()
    }

    pub(super) async fn ack(&self, receipt: &Receipt) -> Result<Settled, LeaseError> {
        if self.is_held_here(receipt) {
            // Should the shared queue have it too, it is told at the next reconciliation.
            return self.journal.ack(receipt).await;
        }
        match self.heard(self.shared.ack(receipt).await)? {
            Ok(settled) => {
                if settled == Settled::Settled {
                    // Not worth a write of its own: the reconciliation would find it done.
                    self.journal.core().forget(&receipt.job);
                }
                Ok(settled)
            }
            Err(_) => {
                // What was done is not to be done again, so it is told later.
                self.finish_later(&[receipt.into()]).await;
                Ok(Settled::Settled)
            }
        }
    }

    pub(super) async fn finish(&self, done: &[DoneJob]) -> Result<(), LeaseError> {
        if self.heard(self.shared.finish(done).await)?.is_err() {
            self.finish_later(done).await;
        }
        Ok(())
    }

    async fn finish_later(&self, done: &[DoneJob]) {
        {
            let (mut core, now) = (self.journal.core(), self.journal.now());
            for done in done {
                core.forget(&done.job);
                core.owe(now, done.clone());
            }
        }
        self.journal.flush().await;
    }

    /// Gives a dead job of the journal another life; the shared queue hears of it later.
    pub(super) async fn requeue_here(&self, id: &JobId) -> Result<Changed, LeaseError> {
        let changed = self.journal.core().revive(self.journal.now(), id);
        self.journal.flush().await;
        Ok(changed)
    }
}
