//! Version queries: names such as `master`, `v1` or a commit that an upstream resolves.
//!
//! Source: Go modules reference, "Version queries"; `golang.org/x/mod/module`, `EscapeVersion`;
//! `cmd/go/internal/modfetch`, `proxyRepo.Stat`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::version::is_canonical;
use super::{
    ElementRule, ModulePath, VERSION_BYTES_MAX, Version, check_element, escape, unescape_text,
};
use crate::Error;

const WHAT: &str = "version query";

/// Queries that the go command answers by itself from the list; no proxy is asked for them.
const CLIENT_SIDE: [&str; 3] = ["latest", "upgrade", "patch"];

/// A name that an upstream resolves to a canonical version: a branch, a commit, a tag, the
/// beginning of a version, a version with build metadata.
///
/// ASCII without `/`, as the go command allows it; never begins with a dash, so that it cannot
/// become an option of a command. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionQuery(Arc<str>);

impl VersionQuery {
    /// Parses a query in its plain form; a canonical version is none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the go command would not send this, or it is a [`Version`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        if is_canonical(text) {
            let reason = "it is a canonical version and needs no resolving";
            return Err(Error::invalid_name(WHAT, text, reason));
        }
        Self::new(text)
    }

    /// As [`parse`](Self::parse), but a canonical version that `module` cannot have is a query.
    ///
    /// `go get example.com/m@v2.0.0` asks for `v2.0.0.info` and is answered with
    /// `v2.0.0+incompatible`, or with the pseudo-version of the tag's commit.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the go command would not send this, or it is a version of `module`.
    pub fn parse_for(module: &ModulePath, text: &str) -> Result<Self, Error> {
        match Version::parse(text) {
            Ok(version) if version.fits(module) => Self::parse(text),
            _ => Self::new(text),
        }
    }

    /// Parses a query in its escaped form; a canonical version is none.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the escape is malformed, or as for [`parse`](Self::parse).
    pub fn unescape(escaped: &str) -> Result<Self, Error> {
        Self::parse(&unescape_text(WHAT, escaped)?)
    }

    /// The query in its plain form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The query with each upper-case letter written as `!` and its lower case.
    pub fn escaped(&self) -> Cow<'_, str> {
        escape::escape(&self.0)
    }

    fn new(text: &str) -> Result<Self, Error> {
        check(text).map_err(|reason| Error::invalid_name(WHAT, text, reason))?;
        Ok(Self(text.into()))
    }
}

impl fmt::Display for VersionQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for VersionQuery {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), Cow<'static, str>> {
    if text.contains('/') {
        return Err("a branch with a slash cannot be asked for; use its commit".into());
    }
    if text.contains('!') || !text.is_ascii() {
        return Err("it holds '!' or a character outside ASCII".into());
    }
    check_element(text, ElementRule::File)?;
    if text.starts_with('-') {
        return Err("it begins with a dash".into());
    }
    if CLIENT_SIDE.contains(&text) {
        return Err("the go command answers it from the list of versions".into());
    }
    if escape::escaped_len(text) > VERSION_BYTES_MAX {
        return Err(format!("it is longer than {VERSION_BYTES_MAX} bytes").into());
    }
    // Such a name could not be told from one that was percent-encoded twice on its way here.
    if has_percent_code(text) {
        return Err("it holds a percent code".into());
    }
    Ok(())
}

fn has_percent_code(text: &str) -> bool {
    text.as_bytes().windows(3).any(|window| {
        window[0] == b'%' && window[1].is_ascii_hexdigit() && window[2].is_ascii_hexdigit()
    })
}
