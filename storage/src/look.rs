//! What is known of an artifact without asking upstream: where it is kept, and what others wrote
//! down of it.

use std::time::Duration;

use lease::{Clock, LeaseToken, Outcome};

use crate::artifact::ArtifactKey;
use crate::artifacts::Artifacts;
use crate::error::{Error, ErrorKind, FailureRecord};
use crate::kept::{SpooledAt, UnitRecord};
use crate::layout;
use crate::module::{ModulePath, Version};
use crate::store::Stored;
use crate::turn::{Finding, Look};
use crate::warmer::Core;

/// The longest that a failure is remembered, whatever upstream asks for.
const FAILURE_TTL_MAX: Duration = Duration::from_secs(60);

/// What the keys of what is written down of units begin with.
pub(crate) const FAILURE_RECORDS: &str = "failure:";

/// Where a look found an artifact.
#[derive(Debug)]
pub(crate) enum Found {
    /// Here: in the store, or kept for it.
    Stored(Stored),
    /// Another instance keeps it, while the store does not take it.
    Spooled(SpooledAt),
}

impl Finding for Found {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Stored(_) => Outcome::Stored,
            Self::Spooled(_) => Outcome::Spooled,
        }
    }
}

impl Core {
    /// An immutable artifact as it can be had without fetching it: kept, or in the store.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the store cannot tell; that is not absence.
    pub(crate) async fn lookup(&self, key: &ArtifactKey) -> Result<Option<Stored>, Error> {
        if let Some(stored) = self.kept.get(key).await {
            return Ok(Some(stored));
        }
        self.store.lookup(&layout::object_path(key)).await
    }

    /// The versions of `module` whose info file is here, lowest first.
    ///
    /// # Errors
    ///
    /// As [`Core::lookup`].
    pub(crate) async fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, Error> {
        let mut versions = self.store.versions(module).await?;
        let kept = self.kept.versions(module);
        if !kept.is_empty() {
            versions.extend(kept);
            versions.sort();
            versions.dedup();
        }
        Ok(versions)
    }

    /// Looks for an immutable artifact here, and then, as far as `look` says, for what is written
    /// down of it. What is kept under one of `out_of_reach` counts as not there.
    ///
    /// # Errors
    ///
    /// [`Error::Remembered`]: it failed or does not exist, as somebody found out shortly before.
    /// [`Error::Storage`]: the store cannot tell; that is not absence.
    pub(crate) async fn look_as_far(
        &self,
        key: &ArtifactKey,
        unit: &str,
        look: Look,
        out_of_reach: &[LeaseToken],
    ) -> Result<Option<Found>, Error> {
        let stored = self.lookup(key).await;
        if let Ok(Some(stored)) = stored {
            return Ok(Some(Found::Stored(stored)));
        }
        // A store that cannot tell may well be why somebody keeps it.
        if look != Look::Result || stored.is_err() {
            match self.unit_record(unit).await {
                Some(UnitRecord::Spooled(at)) if !out_of_reach.contains(&at.token) => {
                    return Ok(Some(Found::Spooled(at)));
                }
                Some(UnitRecord::Failure(record))
                    if stored.is_ok() && (look == Look::ResultOrFailure || record.is_absence()) =>
                {
                    return Err(Error::Remembered(record));
                }
                _ => {}
            }
        }
        stored.map(|_| None)
    }

    /// Forgets that a unit failed.
    pub(crate) async fn forget_failure(&self, unit: &str) {
        if let Err(error) = self.records.delete(&failure_record(unit)).await {
            self.record_warnings.warn("delete", unit, &error);
        }
    }

    /// What is remembered of a unit that does not exist, or failed a moment ago.
    pub(crate) async fn remembered_failure(&self, unit: &str) -> Option<FailureRecord> {
        match self.unit_record(unit).await {
            Some(UnitRecord::Failure(record)) => Some(record),
            _ => None,
        }
    }

    /// What is written down of a unit.
    pub(crate) async fn unit_record(&self, unit: &str) -> Option<UnitRecord> {
        match self.records.get(&failure_record(unit)).await {
            Ok(record) => {
                let record = record?;
                let mut known: UnitRecord = serde_json::from_slice(&record.value).ok()?;
                if let UnitRecord::Failure(failure) = &mut known {
                    // What is left of it by now.
                    failure.retry_after_ms = failure
                        .retry_after_ms
                        .map(|_| u64::try_from(record.expires_in.as_millis()).unwrap_or(u64::MAX));
                }
                Some(known)
            }
            Err(error) => {
                tracing::debug!(unit, %error, "records are unavailable");
                None
            }
        }
    }

    /// Writes a failure down for everybody who asks in the next seconds, if it is one to tell.
    pub(crate) async fn remember_failure(&self, key: &ArtifactKey, unit: &str, error: &Error) {
        if matches!(error, Error::Remembered(_)) {
            return;
        }
        let mut record = error.to_record();
        let ttl = match error.kind() {
            // The go command asks for a partial tile that is not there yet, then for the full one,
            // and the partial one may be there a moment later.
            ErrorKind::NotFound | ErrorKind::Gone if matches!(key, ArtifactKey::Sumdb(_)) => return,
            ErrorKind::NotFound => spread(&*self.clock, self.config.negative_ttl),
            ErrorKind::Gone => spread(&*self.clock, self.config.gone_ttl),
            ErrorKind::Unreachable
            | ErrorKind::Transient
            | ErrorKind::TimedOut
            | ErrorKind::Throttled
            | ErrorKind::Corrupt
            | ErrorKind::TooLarge => match self.growing_pause(key, error).await {
                Some(pause) => {
                    record.retry_after_ms = u64::try_from(pause.as_millis()).ok();
                    pause
                }
                None => self.failure_ttl_after(error),
            },
            ErrorKind::Forbidden | ErrorKind::Refused => self.failure_ttl_after(error),
            // Ours, not the unit's: remembering would make a moment's trouble last.
            _ => return,
        };
        if ttl < Duration::from_millis(1) {
            return;
        }
        if record.is_absence()
            && matches!(self.unit_record(unit).await, Some(UnitRecord::Spooled(_)))
        {
            // Out of our reach for a moment, perhaps, but not of everybody's: upstream may no longer
            // have what an instance keeps.
            return;
        }
        let record = serde_json::to_vec(&record).unwrap_or_default();
        if let Err(error) = self
            .records
            .set(&failure_record(unit), record.into(), ttl)
            .await
        {
            self.record_warnings.warn("set", unit, &error);
        }
    }

    fn failure_ttl_after(&self, error: &Error) -> Duration {
        error
            .retry_after()
            .map_or(self.config.failure_ttl, |wait| wait.min(FAILURE_TTL_MAX))
    }
}

/// The key of what is written down of a unit that failed, does not exist, or is kept somewhere.
pub(crate) fn failure_record(unit: &str) -> String {
    format!("{FAILURE_RECORDS}{unit}")
}

/// `ttl` ± 10 %, so that what was remembered together is not asked for together.
fn spread(clock: &dyn Clock, ttl: Duration) -> Duration {
    ttl.mul_f64(0.9) + clock.jitter(ttl / 5)
}
