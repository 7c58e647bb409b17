//! `Records`: short-lived values that instances share, such as documents, negative entries and
//! failure records.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::LeaseError;
use crate::key::check_key;

/// The longest record key, in bytes: a lease key and room for what qualifies it.
pub const RECORD_KEY_BYTES_MAX: usize = 4_096;

/// Refuses what can be no record key: empty, too long, or with control characters.
///
/// # Errors
///
/// [`LeaseError::InvalidKey`]: says what is wrong with it.
pub fn check_record_key(key: &str) -> Result<(), LeaseError> {
    check_key(key, RECORD_KEY_BYTES_MAX)
}

/// A value and how long it still lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The value, as it was set.
    pub value: Bytes,
    /// How long until it ends, by the store's clock; never zero.
    pub expires_in: Duration,
}

/// A record with its key, from a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordEntry {
    /// The whole key, prefix included.
    pub key: String,
    /// What is stored there.
    pub record: Record,
}

/// Some records, in the order of their keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecordPage {
    /// The records. The set may change between two pages; no record that lasted is left out.
    pub records: Vec<RecordEntry>,
    /// The key to go on after; `None` when there is nothing more.
    pub next: Option<String>,
}

/// Short-lived shared values with a time to live.
///
/// A store may forget any record early (it is bounded), but never keeps one past its TTL, and a
/// read never extends one: what many read often would otherwise never be asked for again. Keys
/// have 1 ..= [`RECORD_KEY_BYTES_MAX`] bytes without control characters; TTLs are whole
/// milliseconds, see [`record_ttl_ms`](crate::record_ttl_ms).
///
/// Every method fails with [`LeaseError::Unavailable`] or [`LeaseError::Protocol`] when there is
/// no usable answer (use the fallback; a write may or may not have happened), and with
/// [`LeaseError::InvalidKey`] for a key that breaks the rule. A missing record is no error.
#[async_trait]
pub trait Records: Send + Sync + Debug + 'static {
    /// Reads the record under `key`; `None` when there is none.
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError>;

    /// Stores `value` under `key` for `ttl`, in place of what was there and of its TTL.
    ///
    /// # Errors
    ///
    /// - [`LeaseError::InvalidTtl`]: nothing changed; do not store.
    /// - [`LeaseError::TooLarge`]: the store can never hold it; what was under `key` is gone.
    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError>;

    /// Stores `value` for `ttl` if there is nothing under `key`; says whether it did.
    ///
    /// # Errors
    ///
    /// As [`set`](Self::set), but what was there stays.
    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError>;

    /// Forgets the record under `key`; says whether there was one.
    async fn delete(&self, key: &str) -> Result<bool, LeaseError>;

    /// Lists the records whose keys start with `prefix` (literal; empty: all) and come after
    /// `after`, at most `limit` (1 ..= [`PAGE_LIMIT_MAX`](crate::PAGE_LIMIT_MAX); other values
    /// are moved into it).
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RecordPage, LeaseError>;
}
