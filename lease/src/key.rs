//! `LeaseKey`: the name of what a lease covers.

use std::fmt;
use std::sync::Arc;

use crate::LeaseError;

/// The name of one lease: 1 ..= 2,048 bytes of text without control characters.
///
/// The text means nothing to this crate; ordering is that of its bytes. Clones share one buffer.
///
/// ```
/// use lease::LeaseKey;
///
/// let key = LeaseKey::new("example.com/m@v1.0.0.zip").unwrap();
/// assert_eq!(key.as_str(), "example.com/m@v1.0.0.zip");
/// assert!(LeaseKey::new("").is_err());
/// assert!(LeaseKey::new("two\nlines").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey(Arc<str>);

impl LeaseKey {
    /// The longest key, in bytes.
    pub const BYTES_MAX: usize = 2_048;

    /// Takes `text` as a key.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidKey`]: empty, longer than [`BYTES_MAX`](Self::BYTES_MAX), or with a
    /// control character; the name came from outside and cannot be leased.
    pub fn new(text: impl AsRef<str>) -> Result<Self, LeaseError> {
        let text = text.as_ref();
        check_key(text, Self::BYTES_MAX)?;
        Ok(Self(Arc::from(text)))
    }

    /// Returns the key as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Refuses what can be no key: control characters would break log lines and wire formats.
pub(crate) fn check_key(text: &str, bytes_max: usize) -> Result<(), LeaseError> {
    let refuse = |reason: String| Err(LeaseError::InvalidKey { reason });
    if text.is_empty() {
        return refuse("it is empty".to_owned());
    }
    if text.len() > bytes_max {
        return refuse(format!(
            "it has {} bytes, more than {bytes_max}",
            text.len()
        ));
    }
    if let Some(at) = text.find(char::is_control) {
        return refuse(format!("it has a control character at byte {at}"));
    }
    Ok(())
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LeaseKey({:?})", &*self.0)
    }
}

impl AsRef<str> for LeaseKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::LeaseErrorKind;

    #[test]
    fn length_is_counted_in_bytes() {
        assert!(LeaseKey::new("k".repeat(2_048)).is_ok());
        assert!(LeaseKey::new("k".repeat(2_049)).is_err());
        assert!(LeaseKey::new("é".repeat(1_024)).is_ok());
        assert!(LeaseKey::new("é".repeat(1_025)).is_err());
    }

    #[test]
    fn control_characters_are_refused() {
        for bad in ["", "\0", "a\tb", "a\r\nb", "a\u{7f}", "a\u{85}b"] {
            let error = LeaseKey::new(bad).unwrap_err();
            assert_eq!(error.kind(), LeaseErrorKind::Invalid, "{bad:?}");
        }
        for good in [" ", "a b", "!m@v1+incompatible", "{tag}*?[x]", "日本"] {
            assert_eq!(LeaseKey::new(good).unwrap().to_string(), good);
        }
    }
}
