//! Holding the journal against the shared queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, stream};
use rand::Rng;

use super::{Inner, RECONCILE_EVERY, RECONCILE_RETRY_EVERY};
use crate::LeaseError;
use crate::queue::answers::{Changed, Restored, Review};
use crate::queue::core::Mirror;
use crate::queue::job::JobRef;
use crate::queue::stored::Role;
use crate::sync::lock;

/// How many jobs are asked for in one call.
const BATCH: usize = 200;
/// How many jobs are put back side by side.
const RESTORES_MAX: usize = 16;

/// Reconciles until the task is aborted.
pub(super) async fn run(inner: Arc<Inner>) {
    loop {
        if let Err(error) = inner.reconcile().await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the journal was not held against the shared queue",
            );
            // Whatever asks for one meanwhile gets it then: the failure itself has asked already.
            inner.clock.sleep(RECONCILE_RETRY_EVERY).await;
            continue;
        }
        // A fleet must not ask in step.
        let factor = rand::rng().random_range(0.9..=1.1);
        let pause = RECONCILE_EVERY.mul_f64(factor);
        tokio::select! {
            () = inner.reconcile.notified() => {}
            () = inner.clock.sleep(pause) => {}
        }
    }
}

impl Inner {
    /// Holds the whole journal against the shared queue. Cancelled or failed in between, it leaves
    /// the rest for the next time.
    pub(super) async fn reconcile(&self) -> Result<(), LeaseError> {
        self.see_whether_it_is_back().await?;
        self.tell().await?;
        let (mut after, mut restored) = (None, 0);
        loop {
            let mut mirrors = {
                let mut core = self.journal.core();
                core.mirrors(self.journal.now(), after.as_ref(), BATCH)
            };
            let Some(last) = mirrors.last() else {
                break;
            };
            after = Some(last.job.id.clone());
            {
                let on_the_way = lock(&self.on_the_way);
                mirrors.retain(|mirror| !on_the_way.contains(&mirror.job.serial));
            }
            let refs: Vec<JobRef> = mirrors.iter().map(|mirror| mirror.job.clone()).collect();
            let reviews = self.heard(self.shared.review(&refs).await)??;
            if reviews.len() != refs.len() {
                return Err(LeaseError::Protocol {
                    doing: "review jobs".to_owned(),
                    detail: "not as many answers as questions".to_owned(),
                });
            }
            let pairs: Vec<_> = mirrors.into_iter().zip(reviews).collect();
            let settling = pairs
                .into_iter()
                .map(|(mirror, review)| self.compare(mirror, review));
            let mut settling = stream::iter(settling).buffer_unordered(RESTORES_MAX);
            while let Some(settled) = settling.next().await {
                restored += u64::from(settled?);
            }
        }
        self.journal.flush().await;
        if restored > 0 {
            tracing::warn!(
                queue.restored = restored,
                "the shared queue had lost jobs, which were put there again",
            );
        }
        Ok(())
    }

    /// Ends an outage if the shared queue writes down what it is told.
    async fn see_whether_it_is_back(&self) -> Result<(), LeaseError> {
        if lock(&self.away).is_none() {
            return Ok(());
        }
        let told = self.shared.finish(std::slice::from_ref(&self.sign)).await;
        self.heard(told)??;
        *lock(&self.away) = None;
        tracing::debug!("the shared queue takes jobs again");
        Ok(())
    }

    /// Tells the shared queue what was done or dropped without it.
    async fn tell(&self) -> Result<(), LeaseError> {
        loop {
            let owed = self.journal.core().owed(BATCH);
            if owed.is_empty() {
                return Ok(());
            }
            self.heard(self.shared.finish(&owed).await)??;
            self.journal.core().paid(&owed);
        }
    }

    /// Settles what the two queues say of one push; says whether the shared one had lost it.
    async fn compare(&self, mirror: Mirror, review: Review) -> Result<bool, LeaseError> {
        let (job, role) = (&mirror.job, mirror.role);
        match (role, review) {
            (_, Review::Done) => {
                self.journal.core().forget(job);
                Ok(false)
            }
            (Role::Own, Review::Dead { .. }) if mirror.revived => {
                self.revive(job).await?;
                Ok(false)
            }
            (_, Review::Unknown | Review::Other { .. }) | (Role::Own, Review::Queued { .. }) => {
                let lost = self.put(job).await?;
                let lost = lost && role != Role::Own;
                self.restored.fetch_add(u64::from(lost), Ordering::Relaxed);
                Ok(lost)
            }
            (_, Review::Queued { .. } | Review::Taken { .. } | Review::Dead { .. }) => {
                self.follow(&mirror, review).await?;
                Ok(false)
            }
        }
    }

    /// Makes the journal's copy look as the job does in the shared queue. Whoever tries it next
    /// goes on from the last error, so that comes along when there may be another.
    async fn follow(&self, mirror: &Mirror, review: Review) -> Result<(), LeaseError> {
        let job = &mirror.job;
        let is_news = mirror.is_behind || review.attempts() != Some(mirror.attempts);
        let view = match review {
            // Its attempt has not ended: there is no other error yet.
            Review::Taken { .. } => None,
            _ if is_news => self.heard(self.shared.get(&job.id).await)??,
            _ => None,
        };
        let view = view.filter(|view| view.info.serial == job.serial);
        let now = self.journal.now();
        let mut core = self.journal.core();
        core.follow(now, job, review, view.as_ref());
        Ok(())
    }

    /// Gives a job the other life in the shared queue that an operator gave it here.
    async fn revive(&self, job: &JobRef) -> Result<(), LeaseError> {
        match self.heard(self.shared.requeue(&job.id).await)?? {
            // It lives here alone until there is.
            Changed::Full => Ok(()),
            _ => self.put(job).await.map(drop),
        }
    }

    /// Puts a job of the journal into the shared queue; says whether it was not there.
    async fn put(&self, job: &JobRef) -> Result<bool, LeaseError> {
        let now = self.journal.now();
        let Some(backup) = self.journal.core().backup(now, job) else {
            // It was done meanwhile.
            return Ok(false);
        };
        match self.heard(self.shared.restore(&backup).await)?? {
            Restored::Added => {
                self.journal.core().set_role(job, Role::Primary);
                Ok(true)
            }
            Restored::Known(Review::Done) => {
                self.journal.core().forget(job);
                Ok(false)
            }
            Restored::Known(Review::Other { serial }) => {
                self.journal.core().rename(job, serial, Role::Backup);
                Ok(false)
            }
            Restored::Known(review) => {
                self.journal.core().follow(now, job, review, None);
                Ok(false)
            }
            Restored::Full => {
                self.journal.core().set_role(job, Role::Own);
                Ok(false)
            }
        }
    }
}
