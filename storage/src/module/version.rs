//! Canonical versions: `vX.Y.Z[-pre][+incompatible]`, their order, and which module they fit.
//!
//! Source: `golang.org/x/mod/semver`; `golang.org/x/mod/module`, `CanonicalVersion`,
//! `CheckPathMajor`, `IsPseudoVersion`.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{ModulePath, VERSION_BYTES_MAX, escape, unescape_text};
use crate::Error;

const WHAT: &str = "version";

const INCOMPATIBLE: &str = "+incompatible";

/// The digits of a pseudo-version's time, `yyyymmddhhmmss`.
const PSEUDO_TIME_DIGITS: usize = 14;

/// A canonical version, such as `v1.2.3`, `v2.0.0-rc.1` or `v3.0.0+incompatible`.
///
/// Cheap to clone. Ordered by the precedence of semantic versions, then as text, so that the
/// order agrees with equality. Numbers may have any length.
///
/// ```
/// use storage::{ModulePath, Version};
///
/// let version = Version::parse("v2.0.0-RC.1")?;
/// assert_eq!(version.escaped(), "v2.0.0-!r!c.1");
/// assert!(version < Version::parse("v2.0.0")?);
/// assert!(version.fits(&ModulePath::parse("example.com/m/v2")?));
/// assert!(!version.fits(&ModulePath::parse("example.com/m")?));
/// assert!(Version::parse("v1.2").is_err());
/// # Ok::<(), storage::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version(Arc<str>);

impl Version {
    /// Parses a canonical version in its plain form.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the text is no canonical version; it may still be a
    /// [`VersionQuery`](super::VersionQuery).
    pub fn parse(text: &str) -> Result<Self, Error> {
        check(text).map_err(|reason| Error::invalid_name(WHAT, text, reason))?;
        Ok(Self(text.into()))
    }

    /// Parses a canonical version in its escaped form.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`]: the escape is malformed, or the text is no canonical version.
    pub fn unescape(escaped: &str) -> Result<Self, Error> {
        Self::parse(&unescape_text(WHAT, escaped)?)
    }

    /// The version in its plain form.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The version with each upper-case letter written as `!` and its lower case.
    pub fn escaped(&self) -> Cow<'_, str> {
        escape::escape(&self.0)
    }

    /// Tells whether the version names a commit without a tag of its own, such as
    /// `v0.0.0-20191109021931-daa7c04131f5`.
    pub fn is_pseudo(&self) -> bool {
        is_pseudo(self.parts())
    }

    /// Tells whether the version precedes its release; pseudo-versions do.
    pub fn is_prerelease(&self) -> bool {
        !self.parts().prerelease.is_empty()
    }

    /// Tells whether the version is marked `+incompatible`: a major version of 2 or more that
    /// was tagged before its module had a `go.mod`.
    pub fn is_incompatible(&self) -> bool {
        self.0.ends_with(INCOMPATIBLE)
    }

    /// Tells whether `module` can have this version, by its major-version suffix.
    pub fn fits(&self, module: &ModulePath) -> bool {
        let suffix = module.major_suffix();
        let suffix = suffix.strip_suffix("-unstable").unwrap_or(suffix);
        // The go command once gave commits of gopkg.in/x.v1 the wrong major version, and
        // go.mod files still require them.
        if suffix == ".v1" && self.0.starts_with("v0.0.0-") {
            return true;
        }
        let major = self.parts().major;
        match suffix.get(2..) {
            Some(wanted) => major == wanted,
            None => major == "0" || major == "1" || self.is_incompatible(),
        }
    }

    fn parts(&self) -> Parts<'_> {
        Parts::split(&self.0).expect("a Version is only built from text that splits")
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.parts(), other.parts());
        cmp_number(a.major, b.major)
            .then_with(|| cmp_number(a.minor, b.minor))
            .then_with(|| cmp_number(a.patch, b.patch))
            .then_with(|| cmp_prerelease(a.prerelease, b.prerelease))
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Version {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

/// The pieces of a full version, without their separators.
#[derive(Debug, Clone, Copy)]
struct Parts<'a> {
    major: &'a str,
    minor: &'a str,
    patch: &'a str,
    /// Empty for a release.
    prerelease: &'a str,
    /// What follows `+`; `None` without one.
    build: Option<&'a str>,
}

impl<'a> Parts<'a> {
    /// Splits at the separators, without a look at the pieces.
    fn split(text: &'a str) -> Option<Self> {
        let text = text.strip_prefix('v')?;
        let (text, build) = match text.split_once('+') {
            Some((text, build)) => (text, Some(build)),
            None => (text, None),
        };
        // Only numbers come before the first dash, so that a dash inside the pre-release or a
        // dot behind it never moves these borders.
        let (core, prerelease) = text.split_once('-').unwrap_or((text, ""));
        let (major, rest) = core.split_once('.')?;
        let (minor, patch) = rest.split_once('.')?;
        Some(Self {
            major,
            minor,
            patch,
            prerelease,
            build,
        })
    }
}

pub(super) fn is_canonical(text: &str) -> bool {
    check(text).is_ok()
}

fn check(text: &str) -> Result<(), Cow<'static, str>> {
    if escape::escaped_len(text) > VERSION_BYTES_MAX {
        return Err(format!("it is longer than {VERSION_BYTES_MAX} bytes").into());
    }
    const SHAPE: &str = "a version is vX.Y.Z, vX.Y.Z-pre or either with +incompatible";
    let parts = Parts::split(text).ok_or(SHAPE)?;
    if ![parts.major, parts.minor, parts.patch]
        .into_iter()
        .all(is_number)
    {
        return Err(SHAPE.into());
    }
    if !matches!(parts.build, None | Some("incompatible")) {
        return Err("a version carries no build metadata but +incompatible".into());
    }
    let dashed = text
        .split('+')
        .next()
        .is_some_and(|text| text.contains('-'));
    if dashed && !parts.prerelease.split('.').all(is_identifier) {
        return Err("the pre-release is no dotted list of letters, digits and dashes".into());
    }
    Ok(())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_number(text: &str) -> bool {
    is_digits(text) && (text.len() == 1 || !text.starts_with('0'))
}

fn is_identifier(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && (!is_digits(text) || is_number(text))
}

/// Tells whether the pre-release is a commit's time and revision: `{time}-{revision}` behind
/// `vX.0.0-`, or the same behind `0.` as the last identifiers but these two.
fn is_pseudo(parts: Parts<'_>) -> bool {
    let Some((head, revision)) = parts.prerelease.rsplit_once('-') else {
        return false;
    };
    let plain = !revision.is_empty() && revision.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if !plain || head.len() < PSEUDO_TIME_DIGITS {
        return false;
    }
    let (base, time) = head.split_at(head.len() - PSEUDO_TIME_DIGITS);
    if !is_digits(time) {
        return false;
    }
    match base {
        "" => parts.minor == "0" && parts.patch == "0",
        base => base == "0." || base.ends_with(".0."),
    }
}

/// Compares decimal numbers of any length that have no leading zeros.
fn cmp_number(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn cmp_prerelease(a: &str, b: &str) -> Ordering {
    match (a.is_empty(), b.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let (x, y) = match (left.next(), right.next()) {
            (Some(x), Some(y)) => (x, y),
            (x, y) => return x.is_some().cmp(&y.is_some()),
        };
        let order = match (is_digits(x), is_digits(y)) {
            (true, true) => cmp_number(x, y),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => x.cmp(y),
        };
        if order.is_ne() {
            return order;
        }
    }
}
