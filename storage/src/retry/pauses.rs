//! `fill.on_failure = "backoff"`: failures in a row make the pause grow before a request asks
//! upstream again.
//!
//! | record | value | lasts |
//! | --- | --- | --- |
//! | `backoff:{unit}` | `{"failures":3}` | `retry.deadline` from the first failure; a success ends it |
//!
//! The pause itself is the failure record's time. Only who holds the unit's lease counts, so the
//! count needs no transaction; two who fetch without one lose a step of it at most.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactKey;
use crate::config::OnFailure;
use crate::error::Error;
use crate::warmer::Core;

use super::decision::pause_after;

#[derive(Debug, Serialize, Deserialize)]
struct InARow {
    failures: u32,
}

fn record_of(unit: &str) -> String {
    format!("backoff:{unit}")
}

impl Core {
    fn counts_failures(&self, key: &ArtifactKey) -> bool {
        self.config.on_failure == OnFailure::Backoff && !key.is_mutable()
    }

    /// How often in a row the fetch of `key` failed, and how long that is remembered yet; zeroes
    /// where it does not count.
    async fn in_a_row(&self, key: &ArtifactKey) -> (u32, Duration) {
        if !self.counts_failures(key) {
            return (0, Duration::ZERO);
        }
        let unit = key.unit();
        match self.records.get(&record_of(&unit)).await {
            Ok(Some(record)) => {
                let counted: Option<InARow> = serde_json::from_slice(&record.value).ok();
                counted.map_or((0, Duration::ZERO), |counted| {
                    (counted.failures, record.expires_in)
                })
            }
            Ok(None) => (0, Duration::ZERO),
            Err(error) => {
                tracing::debug!(unit, %error, "records are unavailable");
                (0, Duration::ZERO)
            }
        }
    }

    /// How often in a row the fetch of `key` failed.
    pub(crate) async fn failures_in_a_row(&self, key: &ArtifactKey) -> u32 {
        self.in_a_row(key).await.0
    }

    /// Counts one more failure and draws the pause behind it, at least half of the longest that it
    /// may be: followers must find the failure remembered. `None` where pauses do not grow.
    pub(crate) async fn growing_pause(&self, key: &ArtifactKey, error: &Error) -> Option<Duration> {
        if !self.counts_failures(key) {
            return None;
        }
        let (before, left) = self.in_a_row(key).await;
        let retry = &self.config.retry;
        let failures = before.saturating_add(1);
        let left = if before == 0 { retry.deadline } else { left };
        let value = serde_json::to_vec(&InARow { failures }).unwrap_or_default();
        let unit = key.unit();
        let record = record_of(&unit);
        if let Err(error) = self.records.set(&record, value.into(), left).await {
            self.record_warnings.warn("set", &unit, &error);
        }
        Some(pause_after(before, retry, error.retry_after()))
    }

    /// Forgets how often the fetch of `unit` failed: it has succeeded, or somebody wants it asked
    /// for at once.
    pub(crate) async fn forget_failures_in_a_row(&self, unit: &str) {
        if let Err(error) = self.records.delete(&record_of(unit)).await {
            self.record_warnings.warn("delete", unit, &error);
        }
    }
}
