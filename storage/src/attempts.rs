//! What a fill and a refresh do alike: attempts with delays between them, and the lease around
//! them.

use std::future::Future;
use std::sync::Arc;

use lease::{LeaseGuard, Outcome};
use tokio::time::Instant;

use crate::artifact::ArtifactKey;
use crate::error::Error;
use crate::flight::{FlightStatus, Phase};
use crate::retry::{Delays, RetryPolicy};
use crate::warmer::Core;

/// One series of attempts, which together get `fill.first_byte_max` to bring a first byte.
pub(crate) struct Attempts<'a> {
    core: &'a Core,
    status: &'a FlightStatus,
    delays: Delays,
    deadline: Instant,
}

impl<'a> Attempts<'a> {
    /// Begins a series of one attempt and at most `retries` more; its time runs from now.
    pub(crate) fn new(core: &'a Core, status: &'a FlightStatus, retries: u32) -> Self {
        let policy = RetryPolicy {
            retries,
            first_delay: core.config.retry_delay,
            delay_max: core.config.retry_delay_max,
        };
        Self {
            core,
            status,
            delays: policy.delays(),
            deadline: core.clock.now() + core.config.first_byte_max,
        }
    }

    /// Notes that an attempt begins; returns when its first byte must be here.
    pub(crate) fn begin(&self) -> Instant {
        self.status.begin_attempt();
        self.status.enter(Phase::Fetching);
        self.deadline
    }

    /// Lets the time begin anew: bytes have come since, so nobody has waited for a first one.
    pub(crate) fn renew(&mut self) {
        self.deadline = self.core.clock.now() + self.core.config.first_byte_max;
    }

    /// Waits until the next attempt is due after one that ended with `error`.
    ///
    /// # Errors
    ///
    /// `error` itself when no attempt may follow: `may_retry` says no, the error is not one that
    /// passes, or retries or time are used up.
    pub(crate) async fn pause_after(&mut self, error: Error, may_retry: bool) -> Result<(), Error> {
        if !may_retry || !error.kind().is_transient() {
            return Err(error);
        }
        let Some(delay) = self.delays.next_after(error.retry_after()) else {
            return Err(error);
        };
        if self.core.clock.now() + delay >= self.deadline {
            return Err(error);
        }
        let unit = self.status.unit();
        tracing::debug!(unit, %error, delay_ms = delay.as_millis(), "retrying");
        self.status.enter(Phase::Backoff);
        self.core.clock.sleep(delay).await;
        Ok(())
    }
}

/// What work under a lease has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// Its result is stored.
    Stored,
    /// Its result is kept here, and a record says so.
    Spooled,
    /// Its result is with the clients, and nowhere else.
    Uncommitted,
}

impl Done {
    fn outcome(self) -> Outcome {
        match self {
            Self::Stored => Outcome::Stored,
            Self::Spooled => Outcome::Spooled,
            Self::Uncommitted => Outcome::Abandoned,
        }
    }
}

impl Core {
    /// Does `work` on `key` under `guard` (`None`: leases are out of reach), writes its failure
    /// down, and gives the lease back.
    ///
    /// In this order: whoever the release wakes up must find the failure. The release goes on
    /// behind the caller's back, and delays nobody.
    ///
    /// # Errors
    ///
    /// What `work` returns; [`Error::Interrupted`] when an operator broke the lease.
    pub(crate) async fn under_lease(
        self: &Arc<Self>,
        guard: Option<LeaseGuard>,
        key: &ArtifactKey,
        unit: &str,
        work: impl Future<Output = Result<Done, Error>>,
    ) -> Result<(), Error> {
        let result = match &guard {
            None => work.await,
            Some(guard) => {
                let forced = guard.forced();
                tokio::select! {
                    result = work => result,
                    () = forced => Err(Error::Interrupted { unit: unit.to_owned() }),
                }
            }
        };
        if let Err(error) = &result {
            self.remember_failure(key, unit, error).await;
        }
        if let Some(guard) = guard {
            drop(guard.release(match &result {
                Ok(done) => done.outcome(),
                Err(_) => Outcome::Failed,
            }));
        }
        result.map(drop)
    }
}
