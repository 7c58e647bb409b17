//! `Act`: what is being done to which key, for errors, logs and counters.

use std::fmt;

use crate::LeaseError;

/// One act, named before it is tried; costs nothing until it is written out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act<'a> {
    /// An infinitive, and the label of the act's counters.
    pub(crate) verb: &'static str,
    /// What it is done to; empty when that is the server itself.
    pub(crate) key: &'a str,
}

impl<'a> Act<'a> {
    pub(crate) fn new(verb: &'static str, key: &'a str) -> Self {
        Self { verb, key }
    }

    /// Makes the error for an act that got no answer, or none that it can be tried without.
    pub(crate) fn unavailable(
        self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> LeaseError {
        LeaseError::Unavailable {
            doing: self.to_string(),
            source: Some(source.into()),
        }
    }

    /// Makes the error for an answer that means nothing to this version.
    pub(crate) fn protocol(self, detail: impl Into<String>) -> LeaseError {
        LeaseError::Protocol {
            doing: self.to_string(),
            detail: detail.into(),
        }
    }
}

impl fmt::Display for Act<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb)?;
        if self.key.is_empty() {
            return Ok(());
        }
        write!(f, " {:?}", self.key)
    }
}
