//! What is remembered of units that do not exist or failed a moment ago, for operators.
//!
//! Both are records under one prefix, told apart by their kind. What somebody else wrote there and
//! we cannot read counts as a failure, so that it can be seen and forgotten.

#[cfg(feature = "test-util")]
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "test-util")]
use lease::Records;
use lease::{LeaseError, PAGE_LIMIT_MAX, Record, RecordEntry};
use serde::Deserialize;

use crate::config::OnFailure;
use crate::look::{FAILURE_RECORDS, failure_record};
use crate::warmer::Warmer;

/// Most records that one page looks at: a filter that matches few of many must not keep a server
/// busy for one answer.
const LOOKED_AT_MAX: usize = 5 * PAGE_LIMIT_MAX;

/// The kind of a record that cannot be read.
const UNREADABLE: &str = "unreadable";

/// What is remembered of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RememberedClass {
    /// It does not exist, or no longer does.
    Negative,
    /// It failed a moment ago, or its bytes are kept by an instance that cannot store them.
    Failure,
}

/// A unit and what is remembered of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remembered {
    /// What was asked for, such as `example.com/m@v1.0.0.zip`.
    pub unit: String,
    /// Which of the two.
    pub class: RememberedClass,
    /// The failure's kind in lower case, such as `not_found` or `timed_out`; `unreadable` for what
    /// another version wrote.
    pub kind: String,
    /// The line that clients get.
    pub text: String,
    /// How long upstream asked us to wait; with `fill.on_failure = "backoff"`, how long nobody asks
    /// it. `None` when neither is the case.
    pub retry_after: Option<Duration>,
    /// The internal address of the instance that keeps the bytes; `None` for all other kinds.
    pub address: Option<String>,
    /// How many bytes that instance keeps; `None` for all other kinds.
    pub bytes: Option<u64>,
    /// How long it is still remembered.
    pub expires_in: Duration,
}

/// Which of them to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RememberedQuery {
    /// Only these.
    pub class: RememberedClass,
    /// Only units with this text in them, case-sensitive and literal; `None` or empty: all.
    pub contains: Option<String>,
    /// Only units after this one, usually the previous page's [`RememberedPage::next`].
    pub after: Option<String>,
    /// The most to return, 1 ..= [`PAGE_LIMIT_MAX`]; other values are moved into it.
    pub limit: usize,
}

/// Some of them, in the order of their units' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RememberedPage {
    /// What was found. There may be fewer than asked for, even none, before the last page.
    pub items: Vec<Remembered>,
    /// The unit to go on after; `None` when there is nothing more.
    pub next: Option<String>,
}

/// What operators are shown of a record; other fields are its readers' own business.
#[derive(Deserialize)]
struct Line {
    kind: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    retry_after_ms: Option<u64>,
    #[serde(default)]
    address: Option<String>,
    #[serde(default)]
    len: Option<u64>,
}

impl Remembered {
    fn new(unit: String, record: &Record) -> Self {
        let line = serde_json::from_slice(&record.value).unwrap_or_else(|_| Line {
            kind: UNREADABLE.to_owned(),
            text: "written by another version".to_owned(),
            retry_after_ms: None,
            address: None,
            len: None,
        });
        let class = match line.kind.as_str() {
            "not_found" | "gone" => RememberedClass::Negative,
            _ => RememberedClass::Failure,
        };
        Self {
            unit,
            class,
            kind: line.kind,
            text: line.text,
            retry_after: line.retry_after_ms.map(Duration::from_millis),
            address: line.address,
            bytes: line.len,
            expires_in: record.expires_in,
        }
    }
}

impl Warmer {
    /// Lists what is remembered, over everybody who shares the records.
    ///
    /// Looks at a bounded number of records, so a page may be short without being the last; none
    /// that lasted is left out over all pages.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: no usable answer; try again.
    pub async fn remembered(&self, query: &RememberedQuery) -> Result<RememberedPage, LeaseError> {
        let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
        let contains = query.contains.as_deref().unwrap_or_default();
        let mut after = query.after.as_deref().map(failure_record);
        let mut page = RememberedPage::default();
        let mut looked_at = 0;
        loop {
            let records = &self.core().records;
            // As many as are still wanted at first, then more: most are usually of one sort.
            let step = match looked_at {
                0 => limit,
                _ => PAGE_LIMIT_MAX,
            };
            let found = records
                .list(FAILURE_RECORDS, after.as_deref(), step)
                .await?;
            looked_at += found.records.len();
            for RecordEntry { key, record } in found.records {
                let Some(unit) = key.strip_prefix(FAILURE_RECORDS) else {
                    continue;
                };
                if page.items.len() == limit {
                    page.next = page.items.last().map(|last| last.unit.clone());
                    return Ok(page);
                }
                let item = Remembered::new(unit.to_owned(), &record);
                if item.class == query.class && item.unit.contains(contains) {
                    page.items.push(item);
                }
            }
            let Some(next) = found.next else {
                return Ok(page);
            };
            if page.items.len() == limit || looked_at >= LOOKED_AT_MAX {
                let unit = next.strip_prefix(FAILURE_RECORDS);
                page.next = unit.map(str::to_owned);
                return Ok(page);
            }
            after = Some(next);
        }
    }

    /// Shows what is remembered of one unit; `None` when nothing is.
    ///
    /// # Errors
    ///
    /// As [`remembered`](Self::remembered); [`LeaseError::InvalidKey`] for what can be no unit.
    pub async fn remembered_of(&self, unit: &str) -> Result<Option<Remembered>, LeaseError> {
        let record = self.core().records.get(&failure_record(unit)).await?;
        Ok(record.map(|record| Remembered::new(unit.to_owned(), &record)))
    }

    /// Forgets what is remembered of a unit; says whether anything was.
    ///
    /// The next request for it asks upstream again, on every instance that the records can be read
    /// by; one that cannot has a copy for at most `l1.ttl`. What is stored, fetched or queued is
    /// untouched.
    ///
    /// # Errors
    ///
    /// As [`remembered_of`](Self::remembered_of). Only this instance's own copy is gone then.
    pub async fn forget(&self, unit: &str) -> Result<bool, LeaseError> {
        let core = self.core();
        let was_there = core.records.delete(&failure_record(unit)).await?;
        if core.config.on_failure == OnFailure::Backoff {
            // Or the next failure would begin with the longest pause, and without a second try.
            core.forget_failures_in_a_row(unit).await;
        }
        Ok(was_there)
    }

    /// The shared records, for tests that need something to be remembered.
    #[cfg(feature = "test-util")]
    pub fn records(&self) -> &Arc<dyn Records> {
        &self.core().records
    }
}

#[cfg(test)]
mod tests;
