//! Module paths, versions and version queries: what is a legal name, and its `!x` case-escape.
//!
//! A value of one of these types is legal by construction, so that nothing behind them checks
//! again and no malformed name can reach a store or an upstream.
//!
//! Source: Go modules reference, "Module paths", "Versions", "Version queries"; package
//! `golang.org/x/mod/module`.

mod element;
mod escape;
mod letters;
mod query;
mod version;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;

pub(crate) use element::{ElementRule, check_element};
pub(crate) use letters::fold;
pub use query::VersionQuery;
pub use version::Version;

/// The longest module path in bytes, counted in its escaped form.
///
/// Together with a version's [`VERSION_BYTES_MAX`] it leaves room for a prefix inside the 1,024
/// bytes that object stores allow a key.
pub const MODULE_PATH_BYTES_MAX: usize = 700;

/// The longest element of a module path in bytes, escaped: what file systems allow a name.
pub const PATH_ELEMENT_BYTES_MAX: usize = 255;

/// The longest version or version query in bytes, escaped: what file systems allow a name, less
/// the extension and a writer's temporary suffix.
pub const VERSION_BYTES_MAX: usize = 240;

const WHAT: &str = "module path";

/// A legal module path in its plain form, such as `github.com/Azure/go-autorest/v14`.
///
/// Cheap to clone. Ordered as text.
///
/// ```
/// use storage::ModulePath;
///
/// let module = ModulePath::unescape("github.com/!azure/go-autorest")?;
/// assert_eq!(module.as_str(), "github.com/Azure/go-autorest");
/// assert_eq!(module.escaped(), "github.com/!azure/go-autorest");
/// assert!(ModulePath::parse("example.com/m/v1").is_err());
/// # Ok::<(), storage::Error>(())
/// ```
///
/// Source: `golang.org/x/mod/module`, `CheckPath`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModulePath(Arc<str>);

impl ModulePath {
    /// Parses a module path in its plain form.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: no module can have this path; the reason names the broken rule.
    pub fn parse(path: &str) -> Result<Self, Error> {
        check_path(path).map_err(|reason| Error::invalid_name(WHAT, path, reason))?;
        Ok(Self(path.into()))
    }

    /// Parses a module path in its escaped form, as it stands in a request or an object path.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the escape is malformed, or no module can have this path.
    pub fn unescape(escaped: &str) -> Result<Self, Error> {
        Self::parse(&unescape_text(WHAT, escaped)?)
    }

    /// The path in its plain form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path with each upper-case letter written as `!` and its lower case.
    pub fn escaped(&self) -> Cow<'_, str> {
        escape::escape(&self.0)
    }

    /// The major-version suffix with its separator: `/v2`, `.v3`, `.v1-unstable`, or empty.
    pub(crate) fn major_suffix(&self) -> &str {
        split_major(&self.0).unwrap_or_default()
    }
}

impl fmt::Display for ModulePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ModulePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModulePath {
    type Err = Error;

    fn from_str(path: &str) -> Result<Self, Error> {
        Self::parse(path)
    }
}

/// Undoes the case-escape of a text that is parsed afterwards.
pub(crate) fn unescape_text<'a>(
    what: &'static str,
    escaped: &'a str,
) -> Result<Cow<'a, str>, Error> {
    escape::unescape(escaped).map_err(|reason| Error::invalid_name(what, escaped, reason))
}

fn check_path(path: &str) -> Result<(), Cow<'static, str>> {
    if path.is_empty() {
        return Err("it is empty".into());
    }
    if escape::escaped_len(path) > MODULE_PATH_BYTES_MAX {
        return Err(format!("it is longer than {MODULE_PATH_BYTES_MAX} bytes").into());
    }
    if path.starts_with('-') {
        return Err("it begins with a dash".into());
    }
    for element in path.split('/') {
        check_element(element, ElementRule::Module)?;
        if escape::escaped_len(element) > PATH_ELEMENT_BYTES_MAX {
            return Err(format!("an element is longer than {PATH_ELEMENT_BYTES_MAX} bytes").into());
        }
    }
    let host = path.split('/').next().unwrap_or_default();
    if !host.contains('.') {
        return Err(format!("the first element {host:?} has no dot").into());
    }
    let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-');
    if let Some(bad) = host.bytes().find(|&byte| !allowed(byte)) {
        return Err(format!("the first element holds {:?}", char::from(bad)).into());
    }
    match split_major(path) {
        Some(_) => Ok(()),
        None if path.starts_with("gopkg.in/") => Err("a gopkg.in path ends in .vN".into()),
        None => Err("a major version suffix is /v2 or higher, without leading zero or dot".into()),
    }
}

/// The major-version suffix of `path`, empty where it has none; `None` where the last element
/// looks like a version but is not a legal one.
///
/// Source: `golang.org/x/mod/module`, `SplitPathVersion`.
fn split_major(path: &str) -> Option<&str> {
    if path.starts_with("gopkg.in/") {
        return split_gopkg_major(path);
    }
    let stem = path.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &path[stem.len()..];
    if number.is_empty() || !stem.ends_with("/v") {
        return Some("");
    }
    let legal = !number.contains('.') && !number.starts_with('0') && number != "1";
    legal.then(|| &path[stem.len() - "/v".len()..])
}

/// As [`split_major`] for `gopkg.in`, where each path ends in `.vN`, `N` starting at 0, with or
/// without `-unstable`.
fn split_gopkg_major(path: &str) -> Option<&str> {
    let tagged = path.strip_suffix("-unstable").unwrap_or(path);
    let stem = tagged.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &tagged[stem.len()..];
    if number.is_empty() || !stem.ends_with(".v") {
        return None;
    }
    let major = &path[stem.len() - ".v".len()..];
    (!number.starts_with('0') || major == ".v0").then_some(major)
}
