//! Jobs: what is pushed, what a worker gets, and the limits of both.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::LeaseError;
use crate::key::check_key;

/// The largest payload, in bytes.
pub const JOB_PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// The longest error text that is kept with a job, in bytes; the rest is cut off.
pub const JOB_ERROR_BYTES_MAX: usize = 1_024;
/// The longest delay of a job; a longer one is read as this one.
///
/// It also bounds what a clock that jumped can do: a job that seems to be due later than this from
/// now is due after this.
pub const DELAY_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest visibility timeout; a longer one is read as this one.
pub const VISIBILITY_MAX: Duration = Duration::from_secs(60 * 60);
/// The furthest deadline of a job; a further one is read as this one.
pub const LIFE_MAX: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest kind of a job, in bytes.
const KIND_BYTES_MAX: usize = 32;
/// The longest name of an owner or a worker, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// The name of what a job is about; a queue has at most one job of a name.
///
/// 1 ..= 2,048 bytes without control characters; ordering is that of the bytes. Clones share one
/// buffer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(Arc<str>);

impl JobId {
    /// The longest id, in bytes.
    pub const BYTES_MAX: usize = 2_048;

    /// Takes `text` as an id.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidKey`]: empty, too long, or with a control character.
    pub fn new(text: impl AsRef<str>) -> Result<Self, LeaseError> {
        let text = text.as_ref();
        check_key(text, Self::BYTES_MAX)?;
        Ok(Self(Arc::from(text)))
    }

    /// Returns the id as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({:?})", &*self.0)
    }
}

/// The name of one push, a random UUID: tells a job from an earlier and a later one of the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobSerial(Uuid);

impl JobSerial {
    /// Makes a serial that no other push has.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for JobSerial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for JobSerial {
    type Err = LeaseError;

    fn from_str(text: &str) -> Result<Self, LeaseError> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|source| LeaseError::InvalidToken { source })
    }
}

/// A job to be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// What it is about; deduplicates.
    pub id: JobId,
    /// The name of this push; a new one for each, but the same when an unanswered push is repeated.
    pub serial: JobSerial,
    /// What is to be done, one of the caller's few words: 1 ..= 32 of `a-z`, `0-9`, `_`, `-`.
    pub kind: Arc<str>,
    /// What the worker needs to know; the caller's own format, with a version of its own. At most
    /// [`JOB_PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
    /// The one instance that may take it; `None`: any.
    pub owner: Option<Arc<str>>,
    /// How long from now it is due; at most [`DELAY_MAX`].
    pub due_in: Duration,
    /// Whether a job of this id that waits already becomes due as early as this one. Otherwise it
    /// keeps its time: it may be backing off from what has just failed once more.
    pub hurries: bool,
    /// How long from now the work is worth doing; at most [`LIFE_MAX`]. The queue only carries it:
    /// what to do with a job that is too late is for the worker to say.
    pub deadline_in: Duration,
    /// Why there is something to do, for operators: the job's last error until an attempt has
    /// one. Cut to [`JOB_ERROR_BYTES_MAX`].
    pub reason: Option<Arc<str>>,
}

impl NewJob {
    /// Makes a job for any instance, due at once, with the furthest deadline, that hurries no other.
    pub fn new(id: JobId, kind: &str, payload: Bytes) -> Self {
        Self {
            id,
            serial: JobSerial::random(),
            kind: Arc::from(kind),
            payload,
            owner: None,
            due_in: Duration::ZERO,
            hurries: false,
            deadline_in: LIFE_MAX,
            reason: None,
        }
    }

    /// Refuses what no queue takes.
    pub(crate) fn check(&self) -> Result<(), LeaseError> {
        let bytes = self.payload.len();
        if bytes > JOB_PAYLOAD_BYTES_MAX {
            return Err(LeaseError::TooLarge {
                bytes: bytes as u64,
                bytes_max: JOB_PAYLOAD_BYTES_MAX as u64,
            });
        }
        let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
        if !(1..=KIND_BYTES_MAX).contains(&self.kind.len()) || !self.kind.bytes().all(word) {
            return Err(LeaseError::InvalidKey {
                reason: format!(
                    "a job's kind is 1 to {KIND_BYTES_MAX} of a-z, 0-9, _ and -, not {:?}",
                    self.kind
                ),
            });
        }
        match &self.owner {
            Some(owner) => check_name(owner),
            None => Ok(()),
        }
    }
}

/// Refuses what can be no name of an instance.
pub(crate) fn check_name(name: &str) -> Result<(), LeaseError> {
    check_key(name, NAME_BYTES_MAX)
}

/// One push of one id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobRef {
    /// The job's id.
    pub id: JobId,
    /// Which push of it.
    pub serial: JobSerial,
}

/// One push that was done.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DoneJob {
    /// Which push.
    pub job: JobRef,
    /// The taking in which it was done, if the queue gave it out.
    pub(crate) token: Option<Uuid>,
}

impl From<&Receipt> for DoneJob {
    fn from(receipt: &Receipt) -> Self {
        Self {
            job: receipt.job.clone(),
            token: Some(receipt.token),
        }
    }
}

impl From<JobRef> for DoneJob {
    fn from(job: JobRef) -> Self {
        Self { job, token: None }
    }
}

/// The right to settle one job, until another worker takes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Receipt {
    /// Which job.
    pub job: JobRef,
    /// This taking's own name.
    pub(crate) token: Uuid,
}

/// What is known of a job, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInfo {
    /// What it is about.
    pub id: JobId,
    /// Which push it stands for.
    pub serial: JobSerial,
    /// What is to be done.
    pub kind: Arc<str>,
    /// The one instance that may take it; `None`: any.
    pub owner: Option<Arc<str>>,
    /// How often it was taken, the current time included.
    pub attempts: u32,
    /// How long ago it was pushed first, or got another life, by the queue's clock.
    pub age: Duration,
    /// How long the work is still worth doing; zero when it no longer is.
    pub deadline_in: Duration,
    /// Why the last attempt failed, in at most [`JOB_ERROR_BYTES_MAX`].
    pub last_error: Option<Arc<str>>,
}

/// A job that a worker has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenJob {
    /// What is known of it.
    pub info: JobInfo,
    /// What the worker needs to know.
    pub payload: Bytes,
    /// What to settle it with.
    pub receipt: Receipt,
}

/// A copy of a job, to bring it back where it was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// The job; its times count from now.
    pub job: NewJob,
    /// How long ago it was pushed first, or got another life.
    pub age: Duration,
    /// How long ago it was pushed last: the push that it stands for.
    pub pushed_ago: Duration,
    /// How often it was taken.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub last_error: Option<Arc<str>>,
    /// Whether it was given up.
    pub dead: bool,
}

/// How much a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most jobs that wait or are taken; default 10,000. At the limit the newest is refused.
    pub jobs_max: usize,
    /// Most dead jobs without an owner; default 10,000. At the limit the one that died first
    /// leaves. Dead jobs with an owner stay until somebody requeues or drops them, and are bounded
    /// by `bytes_max`; a queue that many instances share is given none.
    pub dead_max: usize,
    /// Most pushes that are remembered as over, for journals to learn of or to tell; default
    /// 20,000. What is forgotten early may be done once more.
    pub done_max: usize,
    /// Most bytes of ids, payloads and errors in the memory of this process; default 64 MiB. At
    /// the limit the newest is refused. A shared queue is bounded by the numbers alone.
    pub bytes_max: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self {
            jobs_max: 10_000,
            dead_max: 10_000,
            done_max: 20_000,
            bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// Makes an error's text fit for keeping: one line, of bounded length.
pub(crate) fn bounded_error(text: &str) -> Arc<str> {
    let mut end = text.len().min(JOB_ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let line = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = text[..end].chars().map(line).collect();
    Arc::from(text)
}

/// Returns `duration` in milliseconds, rounded up, and at most `max`.
pub(crate) fn clamped_ms(duration: Duration, max: Duration) -> u64 {
    u64::try_from(duration.min(max).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_error_is_cut_between_characters_and_stays_on_one_line() {
        let long = format!("a\nb{}", "é".repeat(JOB_ERROR_BYTES_MAX));
        let kept = bounded_error(&long);
        assert!(kept.starts_with("a bé"));
        assert_eq!(kept.len(), JOB_ERROR_BYTES_MAX - 1);
        assert_eq!(&*bounded_error(""), "");
    }

    #[test]
    fn what_no_queue_takes_is_refused() {
        let job = || NewJob::new(JobId::new("unit").unwrap(), "fill", Bytes::new());
        job().check().unwrap();
        for kind in ["", "Fill", "fill job", "é", &"k".repeat(33)] {
            let kind = Arc::from(kind);
            assert!(NewJob { kind, ..job() }.check().is_err());
        }
        let payload = Bytes::from(vec![0; JOB_PAYLOAD_BYTES_MAX + 1]);
        assert!(NewJob { payload, ..job() }.check().is_err());
        let owner = Some(Arc::from("a\nb"));
        assert!(NewJob { owner, ..job() }.check().is_err());
        assert!(JobId::new("").is_err());
    }

    #[test]
    fn milliseconds_are_rounded_up_and_bounded() {
        let ms = |duration| clamped_ms(duration, DELAY_MAX);
        assert_eq!(ms(Duration::from_nanos(1)), 1);
        assert_eq!(ms(Duration::MAX), 3_600_000);
        assert_eq!(ms(Duration::ZERO), 0);
    }
}
