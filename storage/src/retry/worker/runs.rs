//! What the worker does for a job: fetches it as a flight, or uploads it.

use std::sync::atomic::Ordering;

use lease::{JobQuery, JobState};

use super::Worker;
use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict;
use crate::error::Error;
use crate::fill::Landed;
use crate::flight::Role;
use crate::retry::decision::Run;
use crate::retry::jobs::{JobKind, UPLOAD_PREFIX};
use crate::turn::Look;
use crate::upload::Uploaded;

/// Uploads that one success makes due; the others come by themselves within a minute.
const HURRIED_MAX: usize = 1_000;

impl Worker {
    fn ended_with(&self, error: Error, has_asked: bool) -> Run {
        let stopping = self.winding_down.is_cancelled();
        Run::ended_with(error, has_asked, &self.core.config.retry, stopping)
    }

    /// Joins the unit's flight, starting one if there is none, and waits for its end: what has
    /// landed may still fail.
    pub(super) async fn fetch(&self, key: &ArtifactKey) -> Run {
        let core = &self.core;
        let seat = match core.join_for_job(key) {
            Ok(seat) => seat,
            Err(error) => return self.ended_with(error, false),
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
        let has_asked = status.attempts() > 0;
        let cut = match seat.landed(core.config.wait_max, &*core.clock).await {
            Err(error) => return self.ended_with(error, has_asked),
            Ok(Landed::Stored {
                verdict: Verdict::HitStored,
                ..
            }) => return Run::Done,
            // Those who read it were cut, but the fill may have gone on without them.
            Ok(Landed::Filling { filling, .. }) => filling.state().end.and_then(Result::err),
            Ok(_) => None,
        };
        // Another instance may keep it, while the store does not take it.
        let look = Look::ResultOrAbsence;
        match core.look_as_far(key, &key.unit(), look, &[]).await {
            Ok(Some(_)) => Run::Done,
            Ok(None) => {
                let error = cut.unwrap_or_else(|| Error::Storage {
                    doing: format!("storing {key}, which was fetched"),
                    source: None,
                });
                // By us or by an instance that relayed it: it was a download.
                self.ended_with(error, true)
            }
            Err(error) => self.ended_with(error, has_asked),
        }
    }

    pub(super) async fn upload(&self, key: &ArtifactKey) -> Run {
        let core = &self.core;
        let uploading = lease::timeout(&*core.clock, core.config.fill_max, core.upload(key));
        match uploading.await {
            Some(Ok(uploaded)) => {
                let is_stored = uploaded != Uploaded::Gone;
                let have_failed = self.uploads_fail.load(Ordering::Relaxed);
                if is_stored && have_failed && self.hurries.due().is_some() {
                    self.uploads_fail.store(false, Ordering::Relaxed);
                    // Once this job is settled, which must not wait for the others.
                    self.uploads_work_again.store(true, Ordering::Relaxed);
                }
                Run::Done
            }
            Some(Err(error)) => {
                self.uploads_fail.store(true, Ordering::Relaxed);
                self.ended_with(error, false)
            }
            None => {
                self.uploads_fail.store(true, Ordering::Relaxed);
                let error = Error::Storage {
                    doing: format!("uploading {key}, which took longer than fill.max_duration"),
                    source: None,
                };
                self.ended_with(error, false)
            }
        }
    }

    /// Makes our uploads due that wait for a store which takes bytes again.
    pub(super) async fn hurry_uploads(&self) {
        let retries = &self.core.retries;
        let queue = retries.queue();
        let mut query = JobQuery {
            contains: Some(UPLOAD_PREFIX.to_owned()),
            limit: HURRIED_MAX,
            ..JobQuery::default()
        };
        let mut hurried = 0;
        loop {
            let page = match self.within(queue.list(&query)).await {
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
                if hurried == HURRIED_MAX || self.winding_down.is_cancelled() {
                    return;
                }
                if let Err(error) = self.within(queue.run_now(&job.info.id)).await {
                    tracing::debug!(%error, "uploads wait for their own times");
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
}
