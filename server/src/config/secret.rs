//! Values that must not be printed as they are.

use std::fmt;
use std::ops::Deref;
use std::path::Path;

/// A text, often a URL or a list of them, that may hold credentials.
///
/// `Display` and `Debug` hide them, see [`redacted`](Self::redacted).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text as it is, credentials included: for making requests, not for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Tells whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text with user information and query values of its URLs replaced by `***`.
    pub fn redacted(&self) -> String {
        redact(&self.0)
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.redacted())
    }
}

/// A text that is never printed: a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Reads the secret that `file` holds, without the white space around it.
    ///
    /// # Errors
    ///
    /// What the file must be, as a phrase for a mistake.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(file) {
            Ok(text) if !text.trim().is_empty() => Ok(Self::new(text.trim())),
            Ok(_) => Err("must be a file that holds the secret, but it is empty".to_owned()),
            Err(error) => Err(format!("must be a file that can be read: {error}")),
        }
    }

    /// The secret itself: for comparing, in constant time, not for printing.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Options for the object store, name and value each; `Debug` shows the names alone.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageOptions(pub Vec<(String, String)>);

impl Deref for StorageOptions {
    type Target = [(String, String)];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, _)| (name, "***")))
            .finish()
    }
}

/// Hides user information and query values of all URLs in `text`.
///
/// It rather hides too much: a password may itself contain `/`, `,` or `@`, so everything from
/// `://` to the last `@` before the next `://` is taken for user information.
pub(super) fn redact(text: &str) -> String {
    let mut parts = text.split("://");
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("://");
        match part.rfind('@') {
            Some(at) => {
                out.push_str("***");
                push_without_query_values(&mut out, &part[at..]);
            }
            None => push_without_query_values(&mut out, part),
        }
    }
    out
}

fn push_without_query_values(out: &mut String, part: &str) {
    let Some((path, rest)) = part.split_once('?') else {
        out.push_str(part);
        return;
    };
    let end = rest.find([',', '|', ' ', '#']).unwrap_or(rest.len());
    let (query, rest) = rest.split_at(end);
    out.push_str(path);
    for (i, pair) in query.split('&').enumerate() {
        out.push(if i == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) => {
                out.push_str(name);
                out.push_str("=***");
            }
            None => out.push_str(pair),
        }
    }
    out.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_credentials_wherever_they_stand() {
        let cases = [
            (
                "https://proxy.example,direct",
                "https://proxy.example,direct",
            ),
            (
                "https://u:p@proxy.example/x,direct",
                "https://***@proxy.example/x,direct",
            ),
            (
                "https://a.example|https://u:p@b.example",
                "https://a.example|https://***@b.example",
            ),
            (
                "https://u:p@a.example,https://b.example",
                "https://***@a.example,https://b.example",
            ),
            (
                "redis://:p@ss/w,d@cache.example:6379",
                "redis://***@cache.example:6379",
            ),
            (
                "az://box?sig=abc&v=1,direct",
                "az://box?sig=***&v=***,direct",
            ),
            (
                "sum.example https://u@s.example",
                "sum.example https://***@s.example",
            ),
            ("direct", "direct"),
        ];
        for (text, expected) in cases {
            assert_eq!(redact(text), expected);
            assert_eq!(
                format!("{:?}", SecretUrl::new(text)),
                format!("{expected:?}")
            );
        }
        let options = StorageOptions(vec![("aws_secret_access_key".into(), "hush".into())]);
        assert!(!format!("{options:?} {:?}", Secret::new("hush")).contains("hush"));
    }
}
