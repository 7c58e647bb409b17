//! How jobs are written down: one JSON object each, in the file and in Valkey.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use uuid::Uuid;

use super::job::JobSerial;

/// The version of what this module writes.
const VERSION: u64 = 1;

/// One job in the file, or one that is remembered as done:
/// `{"v":1,"id":"…","serial":"…","state":"queued","kind":"fill","payload":"…","created_ms":…,
/// "pushed_ms":…,
/// "deadline_ms":…,"due_ms":…,"delay_ms":…,"since_ms":…,"attempts":0,"role":"own"}`.
///
/// Times are milliseconds of the Unix epoch by the wall clock of the moment of writing. Fields that
/// a reader does not know are skipped, and those that an older version did not write have defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredJob {
    #[serde(default)]
    pub(crate) v: u64,
    pub(crate) id: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) serial: Option<JobSerial>,
    #[serde(default)]
    pub(crate) state: StoredState,
    #[serde(default)]
    pub(crate) kind: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Arc<str>>,
    #[serde(default, with = "payload")]
    pub(crate) payload: Bytes,
    #[serde(default)]
    pub(crate) created_ms: u64,
    /// When it was pushed last.
    #[serde(default)]
    pub(crate) pushed_ms: u64,
    #[serde(default)]
    pub(crate) deadline_ms: u64,
    #[serde(default)]
    pub(crate) due_ms: u64,
    /// The delay that was asked for: how long the job may wait whatever the clock says.
    #[serde(default)]
    pub(crate) delay_ms: u64,
    /// When it died or was done.
    #[serde(default)]
    pub(crate) since_ms: u64,
    #[serde(default)]
    pub(crate) attempts: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Arc<str>>,
    #[serde(default)]
    pub(crate) role: Role,
    /// Whether it lives since an operator said so, of which the shared queue has not heard.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revived: bool,
    /// The shared queue's taking in which it was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<Uuid>,
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StoredState {
    #[default]
    Queued,
    /// Whoever worked on it is gone when this is read, so it is due at once.
    Taken,
    Dead,
    Done,
}

/// Who has the last word on a job that two queues have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// This queue: it serves the job.
    #[default]
    Own,
    /// The shared queue, where this instance put it; this one serves it while that is away.
    Primary,
    /// The shared queue, where another instance put it; this one only helps it to remember.
    Backup,
}

impl StoredJob {
    /// Makes an entry with nothing in it but its name.
    pub(crate) fn named(id: &str, serial: JobSerial, state: StoredState) -> Self {
        Self {
            v: VERSION,
            id: Arc::from(id),
            serial: Some(serial),
            state,
            kind: Arc::from(""),
            owner: None,
            payload: Bytes::new(),
            created_ms: 0,
            pushed_ms: 0,
            deadline_ms: 0,
            due_ms: 0,
            delay_ms: 0,
            since_ms: 0,
            attempts: 0,
            error: None,
            role: Role::Own,
            revived: false,
            token: None,
        }
    }

    /// Returns the entry as it is written.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers always make JSON")
    }

    /// Reads an entry; `None` when it is none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

/// What only the worker reads, in Valkey: `{"v":1,"payload":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StoredPayload {
    v: u64,
    #[serde(default, with = "payload")]
    pub(crate) payload: Bytes,
}

impl StoredPayload {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self {
            v: VERSION,
            payload,
        }
    }
}

/// Bytes as a JSON string where they are text, and as `{"hex":"00ff"}` where they are not.
mod payload {
    use super::*;

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form<'a> {
        Text(std::borrow::Cow<'a, str>),
        Hex { hex: String },
    }

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, to: S) -> Result<S::Ok, S::Error> {
        let form = match std::str::from_utf8(bytes) {
            Ok(text) => Form::Text(text.into()),
            Err(_) => Form::Hex { hex: hex(bytes) },
        };
        form.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
        match Form::deserialize(from)? {
            Form::Text(text) => Ok(Bytes::from(text.into_owned())),
            Form::Hex { hex } => unhex(&hex)
                .map(Bytes::from)
                .ok_or_else(|| serde::de::Error::custom("not pairs of hexadecimal digits")),
        }
    }

    fn hex(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        digits
            .map(|digit| char::from(DIGITS[usize::from(digit)]))
            .collect()
    }

    fn unhex(text: &str) -> Option<Vec<u8>> {
        let digit = |c: u8| {
            char::from(c)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        let pairs = text.as_bytes().chunks(2);
        pairs
            .map(|pair| match *pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    // The file is shared with other versions: what is written must not change its meaning.
    #[test]
    fn the_form_is_as_documented() {
        let serial = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().unwrap();
        let job = StoredJob {
            kind: Arc::from("fill"),
            payload: Bytes::from_static(b"{}"),
            ..StoredJob::named("unit", serial, StoredState::Queued)
        };
        assert_eq!(
            String::from_utf8(job.to_json()).unwrap(),
            r#"{"v":1,"id":"unit","serial":"67e55044-10b1-426f-9247-bb680e5fe0c8","state":"queued","kind":"fill","payload":"{}","created_ms":0,"pushed_ms":0,"deadline_ms":0,"due_ms":0,"delay_ms":0,"since_ms":0,"attempts":0,"role":"own"}"#
        );
        let binary = StoredPayload::new(Bytes::from_static(&[0, 0xff]));
        assert_eq!(
            serde_json::to_string(&binary).unwrap(),
            r#"{"v":1,"payload":{"hex":"00ff"}}"#
        );
    }

    #[test]
    fn an_older_and_a_newer_entry_are_read() {
        let older = StoredJob::read(br#"{"id":"unit"}"#).unwrap();
        assert_eq!(
            (&*older.id, older.v, older.state),
            ("unit", 0, StoredState::Queued)
        );
        let newer = br#"{"v":2,"id":"unit","state":"dead","shard":[1],"attempts":3}"#;
        let newer = StoredJob::read(newer).unwrap();
        assert_eq!((newer.state, newer.attempts), (StoredState::Dead, 3));
        for bad in [&b""[..], b"{}", b"\xff", br#"{"id":1}"#] {
            assert_eq!(StoredJob::read(bad), None);
        }
        for bad in [r#"{"hex":"0"}"#, r#"{"hex":"zz"}"#, "7"] {
            let bad = format!(r#"{{"v":1,"payload":{bad}}}"#);
            assert!(serde_json::from_str::<StoredPayload>(&bad).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_payload_comes_back(payload in any::<Vec<u8>>()) {
            let stored = StoredPayload::new(Bytes::from(payload));
            let json = serde_json::to_vec(&stored).unwrap();
            prop_assert_eq!(serde_json::from_slice::<StoredPayload>(&json).unwrap(), stored);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in any::<Vec<u8>>()) {
            let _ = StoredJob::read(&bytes);
        }
    }
}
