//! Failed writes: the bytes are kept, served from there, and uploaded later.
//!
//! In this order, so that a crash at any moment loses nothing: the bytes are durable, then others
//! are told where they are, then there is a job, then the lease goes. And back: the store has the
//! object, then the bytes go, then the record.

use std::time::Duration;

use crate::artifact::ArtifactKey;
use crate::error::Error;
use crate::kept::{Committing, Entry, NotKept, SpooledAt, UnitRecord};
use crate::layout;
use crate::look::failure_record;
use crate::spool::SharedSpace;
use crate::store::{Created, Source};
use crate::warmer::Core;

/// What the store has not taken by then is kept meanwhile, so that a crash during a long write
/// loses nothing. While something is kept already, at once.
const KEEP_AFTER: Duration = Duration::from_millis(250);

/// How long others are told where kept bytes are; renewed several times as often.
const SPOOLED_TTL: Duration = Duration::from_secs(5 * 60);

/// What became of verified bytes.
#[derive(Debug)]
pub(crate) enum Committed {
    /// The store has the object.
    Stored(Created),
    /// The store failed; they are kept, and a job uploads them.
    Spooled,
    /// The store failed, and they could not be kept.
    Lost,
}

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uploaded {
    /// The store has the object.
    Stored,
    /// The store has other bytes, which stay; ours are set aside.
    Conflict,
    /// Nothing is kept of this artifact any more.
    Gone,
}

impl Core {
    /// Writes verified bytes to the store, or else keeps them; `space` is the share of the budget
    /// that a spool file has.
    ///
    /// Cancelling leaves at most kept bytes behind, which are uploaded later.
    pub(crate) async fn commit(
        &self,
        key: &ArtifactKey,
        source: Source,
        space: Option<SharedSpace>,
    ) -> Committed {
        let path = layout::object_path(key);
        let creating = self.store.create(&path, source.clone());
        tokio::pin!(creating);
        let patience = match self.kept.is_empty() {
            true => KEEP_AFTER,
            false => Duration::ZERO,
        };
        let mut kept = None;
        let created = match lease::timeout(&*self.clock, patience, &mut creating).await {
            Some(created) => created,
            None => {
                let keeping = self
                    .kept
                    .keep(key, &source, space.clone(), self.clock.wall());
                let (early, created) = tokio::join!(keeping, creating);
                kept = Some(early);
                created
            }
        };
        let error = match created {
            Ok(created) => {
                if let Some(Ok(early)) = kept {
                    self.kept.remove(early.entry()).await;
                }
                return Committed::Stored(created);
            }
            Err(error) => error,
        };
        self.metrics.count_commit("failed");
        self.log_failure(&key.unit(), &error);
        let kept = match kept {
            Some(kept) => kept,
            None => self.kept.keep(key, &source, space, self.clock.wall()).await,
        };
        match kept {
            Ok(committing) => {
                self.spooled(&committing).await;
                Committed::Spooled
            }
            Err(reason) => {
                self.not_kept(key, &reason).await;
                Committed::Lost
            }
        }
    }

    async fn spooled(&self, committing: &Committing) {
        let entry = committing.entry();
        self.metrics.kept.count("kept");
        entry.serve();
        self.write_spooled(entry).await;
        self.push_upload(entry).await;
    }

    /// Says that verified bytes could not be kept, and has the artifact fetched again.
    pub(crate) async fn not_kept(&self, key: &ArtifactKey, reason: &NotKept) {
        let unit = key.unit();
        match reason {
            NotKept::Full(limit) => {
                self.metrics.kept.count("full");
                tracing::warn!(
                    unit,
                    limit,
                    "no room to keep what the storage did not take; it has to be fetched again"
                );
            }
            NotKept::Failed(error) => {
                self.metrics.kept.count("failed");
                tracing::warn!(
                    unit,
                    %error,
                    "what the storage did not take could not be kept; it has to be fetched again"
                );
            }
            NotKept::Conflict => {
                self.metrics.kept.count("conflict");
                tracing::error!(
                    unit,
                    "upstream now has other bytes than are kept; those stay"
                );
                return;
            }
        }
        let error = Error::Storage {
            doing: format!("keeping {unit}, which the storage did not take"),
            source: None,
        };
        self.retries.push_fetch(key, &error).await;
    }

    /// Uploads what is kept of `key`.
    ///
    /// Cancelling leaves it kept, or the write to finish by itself, which is harmless.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: it is kept as before; try again later.
    pub(crate) async fn upload(&self, key: &ArtifactKey) -> Result<Uploaded, Error> {
        // A job that runs before it is known what there is must not count as done.
        self.kept.loaded().await;
        let Some(entry) = self.kept.entry(key).await else {
            return Ok(Uploaded::Gone);
        };
        let Some(source) = self.kept.source(&entry).await else {
            if self.kept.has(&entry) {
                // Without its job it would count as dropped by an operator.
                return Err(Error::Storage {
                    doing: format!("reading what is kept of {key}"),
                    source: None,
                });
            }
            return Ok(Uploaded::Gone);
        };
        let created = self.store.create(&layout::object_path(key), source).await;
        let uploaded = match created {
            Ok(Created::Created) => {
                self.metrics.count_commit("created");
                Uploaded::Stored
            }
            Ok(Created::ExistsSame) => {
                self.metrics.count_commit("exists_same");
                Uploaded::Stored
            }
            Ok(Created::Conflict { .. }) => {
                self.metrics.count_commit("conflict");
                Uploaded::Conflict
            }
            Err(error) => {
                self.metrics.count_commit("failed");
                // Its fill was broken off, so nobody knew whether the store had taken it. Now it
                // has not.
                if !entry.is_served() {
                    entry.serve();
                    self.write_spooled(&entry).await;
                }
                return Err(error);
            }
        };
        if uploaded == Uploaded::Conflict {
            self.hot.remove(key);
            let is_found = self.kept.set_aside(&entry).await;
            self.metrics.kept.count("conflict");
            tracing::error!(
                unit = %key,
                set_aside = is_found,
                "other bytes are stored than were kept; the stored ones stay, the kept ones are \
                 in `kept/conflicts` below `spool.dir` if there was room"
            );
        } else {
            self.kept.remove(&entry).await;
            self.metrics.kept.count("uploaded");
        }
        self.forget_spooled(&entry).await;
        Ok(uploaded)
    }

    /// Tells the other instances where kept bytes are, if there are any to tell.
    pub(crate) async fn write_spooled(&self, entry: &Entry) {
        let Some(address) = self.address() else {
            return;
        };
        let at = SpooledAt::new(address, entry.token(), entry.len());
        let record = serde_json::to_vec(&at).unwrap_or_default();
        let unit = entry.key().unit();
        let written = self
            .records
            .set(&failure_record(&unit), record.into(), SPOOLED_TTL)
            .await;
        if let Err(error) = written {
            self.record_warnings.warn("set", &unit, &error);
        }
    }

    /// Takes that back, unless somebody else has written another record meanwhile.
    pub(crate) async fn forget_spooled(&self, entry: &Entry) {
        if self.address().is_none() {
            return;
        }
        let unit = entry.key().unit();
        let ours = match self.unit_record(&unit).await {
            Some(UnitRecord::Spooled(at)) => at.token == entry.token(),
            _ => false,
        };
        if ours && let Err(error) = self.records.delete(&failure_record(&unit)).await {
            // Whoever follows it is told that there is nothing any more, and looks in the store.
            tracing::debug!(unit, %error, "a record of kept bytes stays until it expires");
        }
    }

    /// Our address for other instances, where there may be others.
    fn address(&self) -> Option<&str> {
        let address = self.turns.holder.address.as_deref();
        address.filter(|_| self.peers.is_on())
    }

    /// Puts the job that uploads an entry into the queue.
    pub(crate) async fn push_upload(&self, entry: &Entry) {
        let is_there = self.retries.push_upload(entry.key()).await;
        entry.set_has_job(is_there);
    }
}
