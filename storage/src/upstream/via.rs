//! `Via`: the name that our requests carry, which may change while they are made.

use std::sync::{Arc, PoisonError, RwLock};

use reqwest::header::HeaderValue;

use crate::error::Error;

/// The `Via` field of our requests, for example `1.1 corral/3f0c…`; clones share it.
///
/// It changes when the instances of a fleet agree on a name after requests are made already.
/// Requests that are under way keep the old one.
#[derive(Debug, Clone)]
pub struct Via {
    field: Arc<RwLock<HeaderValue>>,
}

impl Via {
    /// Makes a field of `text`.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: `text` is no header value.
    pub fn new(text: &str) -> Result<Self, Error> {
        let field = Arc::new(RwLock::new(parse(text)?));
        Ok(Self { field })
    }

    /// Sets what requests carry from now on.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new); then nothing changed.
    pub fn set(&self, text: &str) -> Result<(), Error> {
        *self.field.write().unwrap_or_else(PoisonError::into_inner) = parse(text)?;
        Ok(())
    }

    pub(super) fn field(&self) -> HeaderValue {
        let field = self.field.read().unwrap_or_else(PoisonError::into_inner);
        field.clone()
    }
}

fn parse(text: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(text).map_err(|_| Error::Config(format!("{text:?} is no Via field")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_change_together_and_nonsense_changes_nothing() {
        let via = Via::new("1.1 corral/a").expect("a field");
        let clone = via.clone();
        via.set("1.1 corral/b").expect("a field");
        assert_eq!(clone.field(), "1.1 corral/b");
        assert!(via.set("two\nlines").is_err());
        assert_eq!(clone.field(), "1.1 corral/b");
    }
}
