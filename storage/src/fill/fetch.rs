//! What a fill gets from upstream: attempts, what each goes on from, and whom it asks.

use tokio::time::Instant;

use super::{Fill, LedBy};
use crate::artifacts::Verdict;
use crate::attempts::{Attempts, Done};
use crate::error::{Error, ErrorKind};
use crate::intake::Incoming;
use crate::layout;
use crate::peers::Origin;
use crate::upstream::{FetchRequest, Fetched, FetchedBody, ResumeFrom};
use crate::verify;

impl Fill {
    pub(super) async fn fetch_and_commit(&mut self) -> Result<Done, Error> {
        let failures = self.core.failures_in_a_row(&self.key).await;
        let retries = match self.led_by {
            // The growing pause between requests is what retries it then.
            LedBy::Client if failures == 0 => self.core.config.retries,
            LedBy::Client | LedBy::Job => 0,
        };
        if let Err(error) = self.fetch(retries).await {
            // Before it is written down and the lease is given back: others are told then.
            self.try_again_later(&error).await;
            return Err(error);
        }
        if self.led_by == LedBy::Job {
            self.core.forget_failure(&self.unit).await;
        }
        if failures > 0 {
            self.core.forget_failures_in_a_row(&self.unit).await;
        }
        Ok(self.commit().await)
    }

    /// Attempts, one and at most `retries` more, until one has brought a verified body.
    ///
    /// What has arrived is kept for the next attempt where its upstream has named it, so that only
    /// the rest is asked for. Otherwise it is thrown away, and once clients have some of it there
    /// is no next attempt: they would wait for bytes that they can ask for again themselves. A job
    /// asks another upstream all the same, whose bytes are compared with those that are shown.
    async fn fetch(&mut self, retries: u32) -> Result<(), Error> {
        let core = self.core.clone();
        let status = self.intake.lead().status().clone();
        // What a relay has shown can be gone on from, by any number of attempts.
        let is_relayed = self.intake.is_shown();
        let mut attempts = Attempts::new(&core, &status, retries);
        loop {
            let deadline = attempts.begin();
            let (was_shown, had) = (self.intake.is_shown(), self.intake.received());
            let broken = self.broken_at.len();
            let Err(error) = self.attempt(deadline).await else {
                return Ok(());
            };
            let is_cut = was_shown && !self.intake.is_shown();
            if is_cut && error.kind() == ErrorKind::Transient {
                // Upstream is not at fault: it contradicts what a relay or its own first part had
                // brought, and those who had that are cut. Everybody else gets what it has now.
                self.broken_at.truncate(broken);
                attempts.renew();
                continue;
            }
            if self.broken_at.len() > broken && self.may_ask_another(&error) {
                if self.intake.is_shown() && !error.kind().is_transient() {
                    // Nothing right can agree with it.
                    self.intake.cut(&error);
                } else {
                    self.intake.discard_unseen();
                }
                // The next one has not used up the time that this body took.
                attempts.renew();
                continue;
            }
            if self.intake.received() > had {
                attempts.renew();
            }
            let is_resumable = self.resume().is_some();
            if !is_resumable {
                self.intake.discard_unseen();
            }
            let may_retry = error.kind() != ErrorKind::Storage
                && (is_resumable || is_relayed || !self.intake.is_shown());
            attempts.pause_after(error, may_retry).await?;
        }
    }

    /// Whether a job goes on to another upstream when the body of the last one was no good: at the
    /// headers the list does that itself.
    fn may_ask_another(&self, error: &Error) -> bool {
        let is_upstreams = match error.kind() {
            ErrorKind::Corrupt | ErrorKind::TooLarge => true,
            ErrorKind::Storage => false,
            kind => kind.is_transient(),
        };
        is_upstreams
            && self.goes_on_after_any_error()
            && self.broken_at.len() < self.core.upstream.members()
    }

    fn goes_on_after_any_error(&self) -> bool {
        self.led_by == LedBy::Job && self.core.config.retry.other_upstreams
    }

    /// One request, and its body to the end.
    async fn attempt(&mut self, deadline: Instant) -> Result<(), Error> {
        let request = self.request(deadline);
        let fetched = self.core.upstream.fetch(&request).await?;
        let upstream = fetched.upstream.clone();
        let had = self.intake.received();
        let received = match self.receive(fetched, deadline).await {
            Ok(()) => self.intake.verify(Verdict::Miss, true).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &received {
            // One whose body came further than before is asked for the rest, before others are. A
            // job has one attempt, so that one would be the only one ever asked.
            let has_more = !self.goes_on_after_any_error()
                && error.kind().is_transient()
                && self.intake.received() > had
                && self.resume().is_some();
            if !has_more && !self.broken_at.contains(&upstream) {
                self.broken_at.push(upstream);
            }
        }
        received
    }

    /// What is here of a body that broke off, where its upstream can be asked for the rest.
    fn resume(&self) -> Option<ResumeFrom> {
        let origin = self.intake.origin()?;
        let (offset, etag) = (self.intake.received(), origin.etag.as_deref());
        ResumeFrom::strong(&origin.upstream, offset, etag)
    }

    fn request(&self, deadline: Instant) -> FetchRequest {
        let bytes_max = verify::bytes_max(&self.key).min(self.core.config.zip_bytes_max);
        FetchRequest {
            first_byte_deadline: Some(deadline),
            broken_at: self.broken_at.clone(),
            resume: self.resume(),
            after_any_error: self.goes_on_after_any_error(),
            ..FetchRequest::new(&self.unit, layout::upstream_path(&self.key), bytes_max)
        }
    }

    async fn receive(&mut self, fetched: Fetched, deadline: Instant) -> Result<(), Error> {
        let FetchedBody::Modified(body) = fetched.body else {
            return Err(Error::Corrupt {
                unit: self.unit.clone(),
                reason: "304 was answered to an unconditional request".to_owned(),
            });
        };
        // A first attempt may be as slow as upstream's own limits allow. A later one must not
        // make the clients wait for those limits again: they would give up before we answer.
        let is_first = self.intake.lead().status().attempts() <= 1;
        if fetched.resumed {
            self.core.metrics.fill_resumed.inc();
        }
        let incoming = Incoming {
            sender: fetched.upstream.clone(),
            origin: Some(Origin {
                upstream: fetched.upstream,
                etag: fetched.etag,
            }),
            from: if fetched.resumed {
                self.intake.received()
            } else {
                0
            },
            len: fetched.len,
            verdict: Verdict::Miss,
            deadline: (!is_first).then_some(deadline),
            body,
        };
        self.intake.receive(incoming).await
    }
}
