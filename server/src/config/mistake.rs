//! A mistake in the configuration, as one line.

use std::fmt;

use toml::Value;

use super::secret::redact;
use super::source::Origin;

/// One mistake: where it stands, which key it is about, and what to set instead.
///
/// Its `Display` is one line without a line break, credentials hidden:
/// `/etc/corral/corral.toml:12: fill.retires: unknown key; did you mean "fill.retries"?`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where the value was given; `None` if it is missing.
    pub origin: Option<Origin>,
    /// Dotted key, as given; empty if the mistake is about no key.
    pub key: String,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl Mistake {
    /// A mistake about `key` as `origin` gives it.
    pub(super) fn new(origin: &Origin, key: &str, problem: impl Into<String>) -> Self {
        Self {
            origin: Some(origin.clone()),
            key: key.to_owned(),
            problem: problem.into(),
        }
    }

    /// A mistake about a value that `key` cannot take.
    pub(super) fn value(origin: &Origin, key: &str, value: &Value, must: &str) -> Self {
        Self::new(origin, &format!("{key} = {}", brief(value)), must)
    }

    /// A mistake about `key`, which is set nowhere.
    pub(super) fn missing(key: &str, problem: impl Into<String>) -> Self {
        Self {
            origin: None,
            key: key.to_owned(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = self.origin.as_ref().map(ToString::to_string);
        let parts = [
            origin.unwrap_or_default(),
            self.key.clone(),
            self.problem.clone(),
        ];
        let line = parts
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ");
        f.write_str(&line.replace(['\n', '\r'], " "))
    }
}

/// Everything that is wrong in one configuration; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    /// One line each, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            let line_break = if i == 0 { "" } else { "\n" };
            write!(f, "{line_break}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// A value as a line can hold it: credentials hidden, on one line, cut when long.
fn brief(value: &Value) -> String {
    const CHARS_MAX: usize = 80;
    let text = match value {
        Value::String(text) => format!("{:?}", redact(text)),
        other => redact(&other.to_string()),
    };
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
