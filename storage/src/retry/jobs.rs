//! Jobs as the queue holds them: id, kind, payload.
//!
//! | kind | id | owner | payload |
//! | --- | --- | --- | --- |
//! | `fetch` | the unit: `example.com/m@v1.0.0.zip` | none: any instance may | `{"v":1,"path":"…"}` |
//! | `upload` | `upload:` and the unit | the instance that has the bytes | the same |
//!
//! The path is the artifact's in the store ([`layout::object_path`]).

use bytes::Bytes;
use lease::{JobId, LeaseError};
use serde::{Deserialize, Serialize};

use crate::artifact::ArtifactKey;
use crate::layout;

/// The version of the payload that this program writes, and the only one that it reads.
const PAYLOAD_VERSION: u32 = 1;

/// What the ids of uploads begin with. No module path begins so: it has a colon.
pub(super) const UPLOAD_PREFIX: &str = "upload:";

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum JobKind {
    /// Fetch it from upstream and store it.
    Fetch,
    /// Store what is kept here.
    Upload,
}

impl JobKind {
    /// The kind's name in the queue and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Upload => "upload",
        }
    }

    /// The kind of that name; `None` for one that another version has made.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::Fetch, Self::Upload]
            .into_iter()
            .find(|kind| kind.as_str() == name)
    }
}

/// The unit that a job is about, for those who list jobs.
pub fn unit_of_job<'a>(kind: &str, id: &'a str) -> &'a str {
    match JobKind::parse(kind) {
        Some(JobKind::Upload) => id.strip_prefix(UPLOAD_PREFIX).unwrap_or(id),
        _ => id,
    }
}

/// One job for the worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// What is to be done.
    pub(crate) kind: JobKind,
    /// To which immutable artifact.
    pub(crate) key: ArtifactKey,
}

#[derive(Deserialize)]
struct PayloadVersion {
    v: u32,
}

#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    v: u32,
    path: std::borrow::Cow<'a, str>,
}

impl Job {
    /// The id under which the queue has it at most once.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidKey`]: the unit's name is longer than an id may be.
    pub(crate) fn id(&self) -> Result<JobId, LeaseError> {
        let unit = self.key.unit();
        match self.kind {
            JobKind::Fetch => JobId::new(unit),
            JobKind::Upload => JobId::new([UPLOAD_PREFIX, &unit].concat()),
        }
    }

    /// What the queue keeps for whoever takes it.
    pub(crate) fn payload(&self) -> Bytes {
        let payload = Payload {
            v: PAYLOAD_VERSION,
            path: layout::object_path(&self.key).into(),
        };
        let json = serde_json::to_vec(&payload);
        Bytes::from(json.expect("a number and a string can always be written"))
    }

    /// Reads a job that somebody has pushed, perhaps another version of this program.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words for an operator.
    pub(crate) fn read(kind: &str, payload: &[u8]) -> Result<Self, String> {
        let kind = JobKind::parse(kind)
            .ok_or_else(|| format!("a job of kind {kind:?} is unknown to this version"))?;
        let nonsense = |error| format!("the job's payload cannot be read: {error}");
        let version: PayloadVersion = serde_json::from_slice(payload).map_err(nonsense)?;
        if version.v != PAYLOAD_VERSION {
            return Err(format!(
                "the job's payload has version {}; this program reads {PAYLOAD_VERSION}",
                version.v
            ));
        }
        let payload: Payload = serde_json::from_slice(payload).map_err(nonsense)?;
        let key = layout::parse_path(&payload.path)
            .map_err(|error| format!("the job names no artifact: {error}"))?;
        if key.is_mutable() {
            return Err(format!("the job is for {key}, which is asked for anew"));
        }
        Ok(Self { kind, key })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_job_is_read_as_it_was_written() {
        for path in [
            "example.com/!upper/m/@v/v1.0.0.zip",
            "sumdb/sum.example.org/tile/8/0/001",
        ] {
            let key = layout::parse_path(path).unwrap();
            for kind in [JobKind::Fetch, JobKind::Upload] {
                let key = key.clone();
                let job = Job { kind, key };
                assert_eq!(Job::read(kind.as_str(), &job.payload()).unwrap(), job);
                assert!(job.id().unwrap().as_str().ends_with(&job.key.unit()));
            }
        }
    }

    #[test]
    fn what_this_version_did_not_write_is_told_and_not_guessed() {
        let ours = r#"{"v":1,"path":"example.com/m/@v/v1.0.0.zip"}"#;
        for (kind, payload, what) in [
            ("sweep", ours, "kind \"sweep\""),
            ("fetch", r#"{"v":2,"module":"example.com/m"}"#, "version 2"),
            ("fetch", "", "cannot be read"),
            ("fetch", r#"{"v":1}"#, "cannot be read"),
            ("upload", r#"{"v":1,"path":"../x"}"#, "names no artifact"),
            (
                "fetch",
                r#"{"v":1,"path":"example.com/m/@v/list"}"#,
                "asked for anew",
            ),
        ] {
            let error = Job::read(kind, payload.as_bytes()).unwrap_err();
            assert!(error.contains(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_panics(kind in "[a-z]{0,8}|fetch", payload: Vec<u8>) {
            let _ = Job::read(&kind, &payload);
        }
    }
}
