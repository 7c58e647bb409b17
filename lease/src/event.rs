//! `ReleaseEvent`: the message that a lease has ended, and how.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{LeaseKey, LeaseToken};

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The work is done and its result is stored: look there.
    Stored,
    /// The work failed, and a failure record says why.
    Failed,
    /// The holder gave up or died without a result: somebody else may try.
    Abandoned,
    /// An operator broke the lease.
    Forced,
    /// The work is done, but its result could not be stored: the holder keeps it, and a record
    /// says where it can be had.
    Spooled,
}

impl Outcome {
    /// Every outcome, for counters that start at zero.
    pub const ALL: [Self; 5] = [
        Self::Stored,
        Self::Failed,
        Self::Abandoned,
        Self::Forced,
        Self::Spooled,
    ];

    /// Returns the word for logs, labels and the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Failed => "failed",
            Self::Abandoned => "abandoned",
            Self::Forced => "forced",
            Self::Spooled => "spooled",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Says that the grant `token` of `key` has ended.
///
/// A hint and no more: it may be missing, doubled, late or forged, so whoever gets it looks for
/// itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseEvent {
    /// What was leased.
    pub key: LeaseKey,
    /// The grant that ended.
    pub token: LeaseToken,
    /// How it ended.
    pub outcome: Outcome,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};

    use super::*;

    #[test]
    fn the_word_and_the_wire_agree() {
        for outcome in Outcome::ALL {
            let wire: StrDeserializer<'_, Error> = outcome.as_str().into_deserializer();
            assert_eq!(Outcome::deserialize(wire).unwrap(), outcome);
        }
    }
}
