//! `LocalRecords`: the record store of one process, bounded in entries and bytes.

use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::expiring::Expiring;
use crate::sync::lock;
use crate::ttl::{record_ttl_ms, whole};
use crate::{
    Clock, LeaseError, PAGE_LIMIT_MAX, Record, RecordEntry, RecordPage, Records, check_record_key,
};

/// Most ended records that one write clears away, so that no write pays for all.
const SWEEP_MAX: usize = 32;
/// Keys that a listing looks at before it lets others at the store.
const LIST_STEP: usize = 1_024;
/// What a record costs beside its key and value: two tree nodes' shares and the buffers' heads.
const OVERHEAD_BYTES: u64 = 192;

/// How much a [`LocalRecords`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordLimits {
    /// Most records; default 100,000, at least 1. More: more memory; fewer: earlier forgetting.
    pub entries_max: usize,
    /// Most bytes of keys, values and a fixed share per record; default 64 MiB.
    pub bytes_max: u64,
}

impl Default for RecordLimits {
    fn default() -> Self {
        Self {
            entries_max: 100_000,
            bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// What a [`LocalRecords`] holds, and what it had to let go since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RecordStats {
    /// Records in memory now, those included that ended but were not cleared yet.
    pub entries: usize,
    /// Their bytes, as [`RecordLimits::bytes_max`] counts them.
    pub bytes: u64,
    /// Records that went early to make room.
    pub evicted: u64,
    /// Records that were refused because they alone exceed the limit.
    pub oversized: u64,
}

/// The record store of one process.
///
/// At a limit the record that ends soonest goes first. Expiry is lazy, helped by a bounded sweep
/// in each write: it needs no task.
#[derive(Debug)]
pub struct LocalRecords {
    clock: Arc<dyn Clock>,
    limits: RecordLimits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    records: Expiring<Arc<str>, Bytes>,
    bytes: u64,
    evicted: u64,
    oversized: u64,
}

fn cost(key: &str, value: &Bytes) -> u64 {
    OVERHEAD_BYTES + key.len() as u64 + value.len() as u64
}

impl LocalRecords {
    /// Makes an empty store with the default limits that counts time by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_limits(clock, RecordLimits::default())
    }

    /// Makes an empty store with `limits`.
    pub fn with_limits(clock: Arc<dyn Clock>, limits: RecordLimits) -> Self {
        let records = Expiring::new();
        let state = Mutex::new(State {
            records,
            bytes: 0,
            evicted: 0,
            oversized: 0,
        });
        Self {
            clock,
            limits,
            state,
        }
    }

    /// Returns the store's size and its counters.
    pub fn stats(&self) -> RecordStats {
        let state = lock(&self.state);
        RecordStats {
            entries: state.records.len(),
            bytes: state.bytes,
            evicted: state.evicted,
            oversized: state.oversized,
        }
    }

    fn put(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
        only_if_absent: bool,
    ) -> Result<bool, LeaseError> {
        check_record_key(key)?;
        let ttl = whole(record_ttl_ms(ttl)?);
        let bytes = cost(key, &value);
        let fits = bytes <= self.limits.bytes_max;
        // Copied, since a slice of a larger buffer would keep all of it alive behind the
        // accounting's back; and copied here, since others wait for the lock.
        let value = if fits {
            Bytes::copy_from_slice(&value)
        } else {
            Bytes::new()
        };
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.sweep(now);
        if only_if_absent && state.records.get(key, now).is_some() {
            return Ok(false);
        }
        // The old record goes in any case: keeping it would be answering with what was replaced.
        state.remove(key);
        if !fits {
            state.oversized += 1;
            return Err(LeaseError::TooLarge {
                bytes,
                bytes_max: self.limits.bytes_max,
            });
        }
        let entries_max = self.limits.entries_max.max(1);
        while state.records.len() >= entries_max || state.bytes + bytes > self.limits.bytes_max {
            let Some((key, value, ends)) = state.records.pop_soonest() else {
                break;
            };
            state.bytes -= cost(&key, &value);
            state.evicted += u64::from(ends > now);
        }
        state.bytes += bytes;
        state.records.insert(Arc::from(key), value, now + ttl);
        Ok(true)
    }
}

impl State {
    fn remove(&mut self, key: &str) -> Option<Instant> {
        let (key, value, ends) = self.records.remove(key)?;
        self.bytes -= cost(&key, &value);
        Some(ends)
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_MAX {
            let Some((key, value)) = self.records.pop_ended(now) else {
                return;
            };
            self.bytes -= cost(&key, &value);
        }
    }
}

#[async_trait]
impl Records for LocalRecords {
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError> {
        check_record_key(key)?;
        let now = self.clock.now();
        let state = lock(&self.state);
        Ok(state.records.get(key, now).map(|(value, ends)| Record {
            value: value.clone(),
            expires_in: ends.saturating_duration_since(now),
        }))
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError> {
        self.put(key, value, ttl, false).map(drop)
    }

    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError> {
        self.put(key, value, ttl, true)
    }

    async fn delete(&self, key: &str) -> Result<bool, LeaseError> {
        check_record_key(key)?;
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.sweep(now);
        Ok(state.remove(key).is_some_and(|ends| ends > now))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RecordPage, LeaseError> {
        let limit = limit.clamp(1, PAGE_LIMIT_MAX);
        let mut page = RecordPage::default();
        // The last key that was looked at, or the one the caller goes on after, whichever is later
        // than the prefix itself.
        let mut behind: Option<Arc<str>> = after.filter(|after| *after >= prefix).map(Arc::from);
        loop {
            let now = self.clock.now();
            let state = lock(&self.state);
            let start = behind
                .as_deref()
                .map_or(Bound::Included(prefix), Bound::Excluded);
            let mut looked_at = None;
            for (key, value, ends) in state.records.range(start).take(LIST_STEP) {
                if !key.starts_with(prefix) {
                    return Ok(page);
                }
                looked_at = Some(Arc::clone(key));
                if ends <= now {
                    continue;
                }
                if page.records.len() == limit {
                    page.next = page.records.last().map(|last| last.key.clone());
                    return Ok(page);
                }
                let expires_in = ends.saturating_duration_since(now);
                let record = Record {
                    value: value.clone(),
                    expires_in,
                };
                page.records.push(RecordEntry {
                    key: key.as_ref().to_owned(),
                    record,
                });
            }
            if looked_at.is_none() {
                return Ok(page);
            }
            behind = looked_at;
        }
    }
}

#[cfg(test)]
mod tests;
