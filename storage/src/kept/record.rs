//! The shared record that says where an artifact is kept: it stands in place of a failure.

use lease::LeaseToken;
use serde::{Deserialize, Serialize};

use crate::error::FailureRecord;

/// Where the bytes of a unit can be had while the store does not take them.
///
/// JSON, for example
/// `{"kind":"spooled","address":"10.0.0.7:8072","token":"9f0c…","len":1048576}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpooledAt {
    kind: SpooledKind,
    /// The internal address of the instance that keeps them.
    pub(crate) address: String,
    /// What that instance knows them by.
    pub(crate) token: LeaseToken,
    /// How many bytes there are.
    pub(crate) len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum SpooledKind {
    Spooled,
}

impl SpooledAt {
    pub(crate) fn new(address: &str, token: LeaseToken, len: u64) -> Self {
        Self {
            kind: SpooledKind::Spooled,
            address: address.to_owned(),
            token,
            len,
        }
    }
}

/// What is written down of a unit for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum UnitRecord {
    /// It is kept by an instance.
    Spooled(SpooledAt),
    /// It failed, or does not exist.
    Failure(FailureRecord),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn the_two_records_are_told_apart() {
        let at = SpooledAt::new("10.0.0.7:8072", LeaseToken::random(), 3);
        let text = serde_json::to_string(&at).unwrap();
        assert!(text.starts_with(r#"{"kind":"spooled","address":"10.0.0.7:8072","token":""#));
        let read: UnitRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, UnitRecord::Spooled(at));
        let failure = FailureRecord {
            kind: ErrorKind::Throttled,
            text: "later".to_owned(),
            retry_after_ms: Some(2_000),
        };
        let text = serde_json::to_string(&failure).unwrap();
        let read: UnitRecord = serde_json::from_str(&text).unwrap();
        assert_eq!(read, UnitRecord::Failure(failure));
    }
}
