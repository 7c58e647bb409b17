//! A mutable document with what is needed to judge its freshness, and its form in shared records.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// A document as upstream last gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedDocument {
    /// Upstream's bytes, unchanged.
    pub(crate) body: Bytes,
    pub(crate) header: DocumentHeader,
}

/// What is remembered beside the bytes.
///
/// In records: a big-endian `u32` length of the header, the header as JSON, the body. For example
/// `{"v":1,"received_ms":1790000000000,"must_revalidate":false,"etag":"\"x\""}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DocumentHeader {
    /// Version of this layout; another one is a miss.
    v: u8,
    /// When upstream said so, in milliseconds of the wall clock: the only clock that a restarted
    /// process, or another instance, shares. A skewed one makes documents older or fresher by
    /// the skew, no more.
    pub(crate) received_ms: u64,
    /// Upstream forbade stale use.
    #[serde(default)]
    pub(crate) must_revalidate: bool,
    /// The upstream that gave it; its validators mean nothing to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) upstream: Option<String>,
    /// Upstream's validators, for a conditional request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) etag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_modified: Option<String>,
}

const LAYOUT_VERSION: u8 = 1;

impl CachedDocument {
    /// A document received at `received`.
    pub(crate) fn new(body: Bytes, received: SystemTime) -> Self {
        let since_epoch = received.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            body,
            header: DocumentHeader {
                v: LAYOUT_VERSION,
                received_ms: u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
                must_revalidate: false,
                upstream: None,
                etag: None,
                last_modified: None,
            },
        }
    }

    /// Age at `now`; a document from the future is as old as can be, so that it is asked for.
    pub(crate) fn age(&self, now: SystemTime) -> Duration {
        let received = UNIX_EPOCH + Duration::from_millis(self.header.received_ms);
        match now.duration_since(received) {
            Ok(age) => age,
            Err(ahead) if ahead.duration() <= CLOCK_SKEW_MAX => Duration::ZERO,
            Err(_) => Duration::MAX / 4,
        }
    }

    pub(crate) fn encode(&self) -> Bytes {
        let header = serde_json::to_vec(&self.header).unwrap_or_default();
        let mut record = BytesMut::with_capacity(4 + header.len() + self.body.len());
        record.put_u32(u32::try_from(header.len()).unwrap_or(0));
        record.put_slice(&header);
        record.put_slice(&self.body);
        record.freeze()
    }

    /// Reads a record; `None` for anything that this version did not write.
    pub(crate) fn decode(record: &Bytes) -> Option<Self> {
        let (len, rest) = record.split_at_checked(4)?;
        let len = usize::try_from(u32::from_be_bytes(len.try_into().ok()?)).ok()?;
        let (header, _) = rest.split_at_checked(len)?;
        let header: DocumentHeader = serde_json::from_slice(header).ok()?;
        (header.v == LAYOUT_VERSION).then(|| Self {
            body: record.slice(4 + len..),
            header,
        })
    }
}

/// How far two hosts' clocks may differ before a document counts as one from the future.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_round_trip(body: Vec<u8>, received_s in 0u64..4_000_000_000, flag: bool) {
            let received = UNIX_EPOCH + Duration::from_secs(received_s);
            let mut document = CachedDocument::new(Bytes::from(body), received);
            document.header.must_revalidate = flag;
            prop_assert_eq!(CachedDocument::decode(&document.encode()), Some(document));
        }

        #[test]
        fn foreign_records_are_misses(record: Vec<u8>) {
            let _ = CachedDocument::decode(&Bytes::from(record));
        }
    }

    #[test]
    fn a_document_from_the_future_is_old() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let document = CachedDocument::new(Bytes::new(), now + Duration::from_secs(3_600));
        assert!(document.age(now) > Duration::from_secs(1 << 30));
        assert_eq!(
            document.age(now + Duration::from_secs(3_700)),
            Duration::from_secs(100)
        );
    }
}
