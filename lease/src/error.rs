//! The crate's error: what was being done to which key, and what the caller should do about it.

use std::time::Duration;

use crate::LeaseToken;

/// Why a lease table or a record store did not do what it was asked.
///
/// "Held by somebody else", "not yours any more" and "no such record" are answers, not errors.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseError {
    /// The lease server did not answer in time, refused, or has no room.
    ///
    /// Whether the operation took effect is unknown. Go on without a lease, or use the fallback.
    #[error("lease server did not {doing}")]
    Unavailable {
        /// The unfinished act, as an infinitive with its key, such as `renew "m@v1.zip"`.
        doing: String,
        /// What the connection or the server reported.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The lease of this grant has ended, so the work it covered is no longer exclusive.
    #[error("lease {token} has ended")]
    Lost {
        /// The grant that ended.
        token: LeaseToken,
    },
    /// The token that was shown belongs to another grant than the one that is in force.
    #[error("token {shown} is not the one in force")]
    TokenMismatch {
        /// The token that the caller showed.
        shown: LeaseToken,
    },
    /// The server answered with something that this version does not understand.
    ///
    /// Treat like [`Unavailable`](Self::Unavailable), but tell an operator: a retry will not help.
    #[error("unexpected answer to {doing}: {detail}")]
    Protocol {
        /// The act that was answered.
        doing: String,
        /// What was unexpected.
        detail: String,
    },
    /// A key is empty, too long or has control characters; it is never sent.
    #[error("invalid key: {reason}")]
    InvalidKey {
        /// What is wrong with it.
        reason: String,
    },
    /// A text is not a lease token.
    #[error("not a lease token (a UUID)")]
    InvalidToken {
        /// What the parser found.
        #[source]
        source: uuid::Error,
    },
    /// A time to live is shorter than one millisecond or longer than the maximum.
    #[error("a time to live of {ttl:?} is outside 1ms ..= {ttl_max:?}")]
    InvalidTtl {
        /// What was asked for.
        ttl: Duration,
        /// The longest that is allowed.
        ttl_max: Duration,
    },
    /// A record is larger than the store may ever hold; what was stored under its key is gone.
    #[error("a record of {bytes} bytes does not fit into {bytes_max}")]
    TooLarge {
        /// The size of key and value.
        bytes: u64,
        /// The largest that is taken.
        bytes_max: u64,
    },
    /// A configuration value is outside its range.
    #[error("{field}: {reason}")]
    InvalidConfig {
        /// The field's name.
        field: &'static str,
        /// The rule it breaks, with the allowed values.
        reason: String,
    },
}

/// What a caller does about a [`LeaseError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LeaseErrorKind {
    /// Go on without: no lease, or the fallback record.
    Unavailable,
    /// The grant is over; stop relying on it.
    NotHeld,
    /// Go on without, and alarm: the other side speaks another language.
    Protocol,
    /// The caller's own mistake; repeating it changes nothing.
    Invalid,
}

impl LeaseError {
    /// An [`Unavailable`](Self::Unavailable) without a deeper cause.
    pub fn unavailable(doing: impl Into<String>) -> Self {
        Self::Unavailable {
            doing: doing.into(),
            source: None,
        }
    }

    /// Returns what the caller should do about it.
    pub fn kind(&self) -> LeaseErrorKind {
        match self {
            Self::Unavailable { .. } => LeaseErrorKind::Unavailable,
            Self::Lost { .. } | Self::TokenMismatch { .. } => LeaseErrorKind::NotHeld,
            Self::Protocol { .. } => LeaseErrorKind::Protocol,
            Self::InvalidKey { .. }
            | Self::InvalidToken { .. }
            | Self::InvalidTtl { .. }
            | Self::TooLarge { .. }
            | Self::InvalidConfig { .. } => LeaseErrorKind::Invalid,
        }
    }
}

impl LeaseErrorKind {
    /// Returns the word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::NotHeld => "not_held",
            Self::Protocol => "protocol",
            Self::Invalid => "invalid",
        }
    }
}

/// Returns what an error says, and what its causes say.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_causes(source)),
        None => error.to_string(),
    }
}
