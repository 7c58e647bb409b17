//! `LeaseToken`, the secret-free name of one grant, and `Holder`, who got it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::LeaseError;

/// The name of one grant, a random UUID; renewals and releases compare it.
///
/// Every grant has a new one, also when the same holder takes the same key again, so a request
/// that was delayed can never touch a later grant. It is no secret: operators echo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseToken(Uuid);

impl LeaseToken {
    /// Makes a token that nobody else has (UUID version 4).
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for LeaseToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl FromStr for LeaseToken {
    type Err = LeaseError;

    fn from_str(text: &str) -> Result<Self, LeaseError> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|source| LeaseError::InvalidToken { source })
    }
}

/// Who holds a lease.
///
/// It is what the holder says of itself: data for people and for a first contact, not an identity
/// to trust.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The instance's name, such as `corral-7d9f-1`.
    pub instance: Arc<str>,
    /// Its internal `host:port`; `None` when it can be asked nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Arc<str>>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_survives_its_text() {
        let token = LeaseToken::random();
        let text = token.to_string();
        assert_eq!(text.len(), 36);
        assert_eq!(text.parse::<LeaseToken>().unwrap(), token);
        assert_ne!(token, LeaseToken::random());
    }

    #[test]
    fn other_text_is_no_token() {
        for bad in ["", "token", "123e4567-e89b-12d3-a456-42661417400", "*"] {
            assert!(matches!(
                bad.parse::<LeaseToken>(),
                Err(LeaseError::InvalidToken { .. })
            ));
        }
    }
}
