//! `Secret`: a text that is used, never shown.

use std::fmt;

/// A password or a private key.
///
/// `Debug` shows `***` and there is no `Display`, so it cannot end up in a log line or an error by
/// way of the struct that holds it. It is kept in memory as it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself: for the server it belongs to, not for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Says whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // acceptance: E15
    #[test]
    fn it_never_shows_itself() {
        let secret = Secret::new("hush");
        assert_eq!(format!("{secret:?} {:?}", Some(&secret)), "*** Some(***)");
        assert_eq!(secret.expose(), "hush");
    }
}
