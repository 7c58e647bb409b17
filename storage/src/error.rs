//! The one error of this crate, and the kinds that callers decide on.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Any failure of this crate.
///
/// Cheap to clone, because one failure is told to every waiter of a flight. Decide on
/// [`Error::kind`], never on the text. `Display` is one line that may be shown to a client: it
/// names the module or the upstream and never a credential, a local path or an address. What only
/// an operator may see hangs on the source chain and goes to the log.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A module path, version or request path that no module can have.
    #[error("{what} {name:?} is malformed: {reason}")]
    InvalidName {
        /// What was parsed: `"module path"`, `"version"`, `"request path"`.
        what: &'static str,
        /// The text as it was given, shortened to 200 characters.
        name: String,
        /// The rule that it breaks.
        reason: Cow<'static, str>,
    },
    /// Upstream answered that the artifact does not exist; its own words are kept.
    #[error("{text}")]
    NotFound {
        /// `true` for 410, `false` for 404.
        gone: bool,
        /// Upstream's body as text, or a line of our own when it sent none.
        text: String,
    },
    /// Upstream answered 403: a gatekeeper's verdict that the client must see as it is.
    #[error("{text}")]
    Forbidden {
        /// Upstream's body as text, or a line of our own when it sent none.
        text: String,
    },
    /// Upstream refused the request in a way that no repetition mends (401, 400, other 4xx).
    #[error("upstream {upstream} refused the request with status {status}: {text}")]
    Refused {
        /// The upstream's name: scheme, host and path without credentials.
        upstream: String,
        /// The status that it answered.
        status: u16,
        /// The first line of its body.
        text: String,
    },
    /// No connection to upstream came about.
    #[error("upstream {upstream} cannot be reached: {reason}")]
    Unreachable {
        /// The upstream's name: scheme, host and path without credentials.
        upstream: String,
        /// What happened, in words for a client.
        reason: String,
        /// The library's error, for the log.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// Upstream failed (5xx) or broke off in the middle of a body.
    #[error("upstream {upstream} failed: {reason}")]
    Upstream {
        /// The upstream's name: scheme, host and path without credentials.
        upstream: String,
        /// What happened, in words for a client.
        reason: String,
        /// The library's error, for the log.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// Upstream was silent for longer than a named limit.
    #[error("upstream {upstream} timed out: {reason}")]
    TimedOut {
        /// The upstream's name: scheme, host and path without credentials.
        upstream: String,
        /// Which limit passed.
        reason: String,
    },
    /// Upstream asked for patience (429 or 503).
    #[error("upstream {upstream} is overloaded (status {status})")]
    Throttled {
        /// The upstream's name: scheme, host and path without credentials.
        upstream: String,
        /// The status that it answered.
        status: u16,
        /// Its `Retry-After`, when it sent one.
        retry_after: Option<Duration>,
    },
    /// The bytes that arrived are not what was asked for; they are not kept.
    #[error("{unit} is corrupt: {reason}")]
    Corrupt {
        /// The unit that was fetched.
        unit: String,
        /// The check that failed.
        reason: String,
    },
    /// It is larger than is accepted. That limit is a setting or the go command's own, and does not
    /// pass by itself.
    #[error("{unit} is corrupt: over the size limit of {bytes_max} bytes")]
    TooLarge {
        /// The unit that was fetched.
        unit: String,
        /// The largest size that is accepted.
        bytes_max: u64,
    },
    /// The object store or the spool did not do what was asked of it.
    #[error("storage failed while {doing}")]
    Storage {
        /// What was being done, to which unit: `"reading example.com/m@v1.0.0.zip"`.
        doing: String,
        /// The library's error, for the log.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
    /// A named limit of this instance was reached.
    #[error("too busy: {limit} reached; try again")]
    Overloaded {
        /// The limit's configuration key.
        limit: &'static str,
    },
    /// A waiter's patience ended before the fill did.
    #[error("{unit} was not ready within {waited_s} s")]
    WaitedTooLong {
        /// The unit that was waited for.
        unit: String,
        /// How long this request waited, in whole seconds.
        waited_s: u64,
    },
    /// The client asked for stored content only, and there is none.
    #[error("{unit} is not stored here")]
    NotStored {
        /// The unit that was asked for.
        unit: String,
        /// `true` when the client sent `Disable-Module-Fetch` (404), `false` for
        /// `only-if-cached` (504).
        fetch_disabled: bool,
    },
    /// The fill was ended from outside: an operator's break, a shutdown.
    #[error("the fetch of {unit} was interrupted; try again")]
    Interrupted {
        /// The unit that was being fetched.
        unit: String,
    },
    /// A failure that another request or instance met and wrote down.
    #[error("{}", .0.text)]
    Remembered(FailureRecord),
    /// A setting that cannot work; `Display` says which and what to do.
    #[error("{0}")]
    Config(String),
    /// A defect of ours: a panic, a broken invariant.
    #[error("internal error in the fetch of {unit}")]
    Internal {
        /// The unit that was being handled.
        unit: String,
        /// What is known, for the log.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
}

/// What a caller can do about an [`Error`]; the server's status table is keyed by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The name cannot exist: answer 404, ask nobody.
    InvalidName,
    /// Does not exist: remember for `negative.ttl`, never retry.
    NotFound,
    /// Existed once: remember for `negative.gone_ttl`, never retry.
    Gone,
    /// A gatekeeper's no: pass it on, never retry.
    Forbidden,
    /// Our request or our credentials are at fault: tell the operator, do not retry.
    Refused,
    /// No connection: retry; what is stored may stand in for an answer.
    Unreachable,
    /// Upstream trouble: retry.
    Transient,
    /// As [`ErrorKind::Transient`], by a time limit.
    TimedOut,
    /// As [`ErrorKind::Transient`], no sooner than upstream asked.
    Throttled,
    /// Wrong bytes: try another upstream, alarm.
    Corrupt,
    /// More bytes than are accepted: never retry; somebody must change the limit first.
    TooLarge,
    /// The object store's or the spool's trouble: retry, never a negative entry.
    Storage,
    /// A limit of ours: the client comes back later.
    Overloaded,
    /// The client's own patience: the fill goes on.
    WaitedTooLong,
    /// Nothing stored and fetching was forbidden by `only-if-cached`.
    NotStored,
    /// Nothing stored and fetching was forbidden by `Disable-Module-Fetch`.
    FetchDisabled,
    /// Ended from outside: the client tries again.
    Interrupted,
    /// A setting: the process cannot start.
    Config,
    /// Our defect.
    Internal,
}

impl ErrorKind {
    /// Tells whether another attempt may succeed where this one failed.
    pub fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Transient | Self::TimedOut | Self::Throttled | Self::Storage
        )
    }
}

/// A failure as it is shared through records, so that every waiter on every instance gets the
/// same answer.
///
/// JSON, for example `{"kind":"throttled","text":"…","retry_after_ms":2000}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureRecord {
    /// The original failure's kind.
    pub kind: ErrorKind,
    /// The original failure's line for clients.
    pub text: String,
    /// How long upstream asked us to wait; with `fill.on_failure = "backoff"`, how long nobody asks
    /// it, which includes that. `None` when neither is the case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl FailureRecord {
    /// Tells whether it says that the artifact does not exist.
    pub fn is_absence(&self) -> bool {
        matches!(self.kind, ErrorKind::NotFound | ErrorKind::Gone)
    }
}

impl Error {
    /// Says what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::InvalidName { .. } => ErrorKind::InvalidName,
            Self::NotFound { gone: false, .. } => ErrorKind::NotFound,
            Self::NotFound { gone: true, .. } => ErrorKind::Gone,
            Self::Forbidden { .. } => ErrorKind::Forbidden,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Upstream { .. } => ErrorKind::Transient,
            Self::TimedOut { .. } => ErrorKind::TimedOut,
            Self::Throttled { .. } => ErrorKind::Throttled,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Storage { .. } => ErrorKind::Storage,
            Self::Overloaded { .. } => ErrorKind::Overloaded,
            Self::WaitedTooLong { .. } => ErrorKind::WaitedTooLong,
            Self::NotStored {
                fetch_disabled: false,
                ..
            } => ErrorKind::NotStored,
            Self::NotStored {
                fetch_disabled: true,
                ..
            } => ErrorKind::FetchDisabled,
            Self::Interrupted { .. } => ErrorKind::Interrupted,
            Self::Remembered(record) => record.kind,
            Self::Config(_) => ErrorKind::Config,
            Self::Internal { .. } => ErrorKind::Internal,
        }
    }

    /// How long the client should wait before it asks again, when upstream said so.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } => *retry_after,
            Self::Remembered(record) => record.retry_after_ms.map(Duration::from_millis),
            _ => None,
        }
    }

    /// The form in which this failure is shared with other waiters and instances.
    pub fn to_record(&self) -> FailureRecord {
        FailureRecord {
            kind: self.kind(),
            text: self.to_string(),
            retry_after_ms: self
                .retry_after()
                .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Builds [`Error::Storage`] from a library's error.
    pub fn storage<E>(doing: impl Into<String>, source: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Self::Storage {
            doing: doing.into(),
            source: Some(Arc::new(source)),
        }
    }

    /// Builds [`Error::InvalidName`], shortening a name too long to print.
    pub fn invalid_name(
        what: &'static str,
        name: &str,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::InvalidName {
            what,
            name: name.chars().take(200).collect(),
            reason: reason.into(),
        }
    }
}
