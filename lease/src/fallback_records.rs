//! `FallbackRecords`: shared records, with this process's own copies for when the store errs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::seldom::Seldom;
use crate::{
    Clock, LeaseError, LeaseErrorKind, LocalRecords, Record, RecordPage, Records, ValkeyObserver,
};

/// What is answered when the shared store cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnGetError {
    /// This process's copy, if it has one: what may be out of date is better than nothing.
    #[default]
    L1,
    /// "There is none": what may be out of date is never shown.
    Miss,
}

impl OnGetError {
    /// Every choice, for listing the allowed values.
    pub const ALL: [Self; 2] = [Self::L1, Self::Miss];

    /// Returns the word in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::L1 => "l1",
            Self::Miss => "miss",
        }
    }
}

/// Records that a fleet shares (the second tier), with copies in this process (the first).
///
/// While the shared store answers, its word is final: the copies are never read, and "there is
/// none" stays that. They are read when it *errs*, and kept for that:
///
/// | what happens | shared store | this process's copy |
/// |---|---|---|
/// | get, there | the answer | kept, see below |
/// | get, not there | the answer | not looked at |
/// | get fails | | the answer, or "none", see [`OnGetError`] |
/// | set, stored | stored | kept, see below |
/// | set fails | | stored for the whole TTL: it is all there is |
/// | delete, done or failed | as it may be | gone |
///
/// A copy lasts the shorter of `l1_ttl` and what is left of the record; with an `l1_ttl` of zero
/// none is kept but those of sets that fail. Listings show the shared store or fail: part of it
/// would pass for the whole.
#[derive(Debug)]
pub struct FallbackRecords {
    shared: Arc<dyn Records>,
    local: LocalRecords,
    l1_ttl: Duration,
    on_get_error: OnGetError,
    observer: Arc<dyn ValkeyObserver>,
    failures: Seldom,
}

impl FallbackRecords {
    /// Puts `local` behind `shared`; `clock` is only for how often the log is told.
    pub fn new(
        shared: Arc<dyn Records>,
        local: LocalRecords,
        l1_ttl: Duration,
        on_get_error: OnGetError,
        observer: Arc<dyn ValkeyObserver>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            shared,
            local,
            l1_ttl,
            on_get_error,
            observer,
            failures: Seldom::new(clock),
        }
    }

    /// Returns this process's copies.
    pub fn local(&self) -> &LocalRecords {
        &self.local
    }

    /// Keeps a copy of what the shared store holds for `ttl` from now.
    async fn keep(&self, key: &str, value: Bytes, ttl: Duration) {
        let ttl = ttl.min(self.l1_ttl);
        // Below a millisecond, as with a switched-off copy, nothing is kept; what there was is
        // older than what the shared store has now.
        if self.local.set(key, value, ttl).await.is_err() {
            self.drop_copy(key).await;
        }
    }

    async fn drop_copy(&self, key: &str) {
        // It fails for a key that is none only, and then there is no copy.
        let _ = self.local.delete(key).await;
    }

    /// Says whether `error` is the store's rather than the caller's, and counts it then.
    fn store_failed(&self, key: &str, error: &LeaseError) -> bool {
        let kind = error.kind();
        if !matches!(kind, LeaseErrorKind::Unavailable | LeaseErrorKind::Protocol) {
            return false;
        }
        self.observer.record_error(kind);
        if let Some(held_back) = self.failures.due() {
            tracing::warn!(
                record.key = key,
                error = error as &dyn std::error::Error,
                held_back,
                "the shared records cannot be reached; this process's own take their place",
            );
        }
        true
    }
}

#[async_trait]
impl Records for FallbackRecords {
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError> {
        match self.shared.get(key).await {
            Ok(Some(record)) => {
                self.observer.record_hit();
                self.keep(key, record.value.clone(), record.expires_in)
                    .await;
                Ok(Some(record))
            }
            Ok(None) => {
                self.observer.record_miss();
                Ok(None)
            }
            Err(error) if !self.store_failed(key, &error) => Err(error),
            Err(_) => match self.on_get_error {
                OnGetError::L1 => {
                    self.observer.record_get_fallback();
                    self.local.get(key).await
                }
                OnGetError::Miss => Ok(None),
            },
        }
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError> {
        match self.shared.set(key, value.clone(), ttl).await {
            Ok(()) => {
                self.observer.record_write();
                self.keep(key, value, ttl).await;
                Ok(())
            }
            Err(error) if self.store_failed(key, &error) => {
                self.observer.record_set_fallback();
                self.local.set(key, value, ttl).await
            }
            Err(error @ LeaseError::TooLarge { .. }) => {
                self.drop_copy(key).await;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError> {
        match self.shared.set_if_absent(key, value.clone(), ttl).await {
            Ok(true) => {
                self.observer.record_write();
                self.keep(key, value, ttl).await;
                Ok(true)
            }
            Ok(false) => Ok(false),
            Err(error) if self.store_failed(key, &error) => {
                self.observer.record_set_fallback();
                self.local.set_if_absent(key, value, ttl).await
            }
            Err(error) => Err(error),
        }
    }

    /// Also removes this process's copy, whatever becomes of the shared record. Copies of other
    /// processes go by their own time.
    async fn delete(&self, key: &str) -> Result<bool, LeaseError> {
        let deleted = self.shared.delete(key).await;
        // After the answer: a get beside this one may have kept a copy of what was about to go.
        self.drop_copy(key).await;
        match &deleted {
            Ok(_) => self.observer.record_write(),
            Err(error) => {
                self.store_failed(key, error);
            }
        }
        deleted
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RecordPage, LeaseError> {
        let page = self.shared.list(prefix, after, limit).await;
        if let Err(error) = &page {
            self.store_failed(prefix, error);
        }
        page
    }
}

#[cfg(test)]
mod tests;
