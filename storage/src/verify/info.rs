//! Checks on info files and on the answers to queries: JSON that names a version.
//!
//! Source: Go modules reference, "GOPROXY protocol"; `cmd/go/internal/modfetch`, `RevInfo`.

use std::borrow::Cow;
use std::fmt;

use serde::Deserializer as _;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::text::refuse_html;
use super::{INFO_BYTES_MAX, corrupt};
use crate::{Error, ModulePath, Version};

const WHAT: &str = "the version's info";

/// What is read of an info file; what else it holds is passed on unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InfoFields {
    /// The version that it names, canonical.
    pub version: Version,
    /// The commit's time as it was written, RFC 3339 with its own zone; `None` when absent.
    pub time: Option<String>,
}

/// Checks the info file of `version`.
///
/// # Errors
///
/// [`Error::Corrupt`]: not an info file, or another version's; the go command would refuse it.
pub fn check_info(data: &[u8], version: &Version) -> Result<InfoFields, Error> {
    let fields = read(data)?;
    if fields.version != *version {
        let named = &fields.version;
        return Err(corrupt(
            WHAT,
            format!("it names {named} instead of {version}"),
        ));
    }
    Ok(fields)
}

/// Checks what `@latest` or a query of `module` was answered with, and returns the version that
/// it names.
///
/// # Errors
///
/// [`Error::Corrupt`]: not an info file, or it names a version that `module` cannot have.
pub fn check_query_info(data: &[u8], module: &ModulePath) -> Result<Version, Error> {
    let version = read(data)?.version;
    if !version.fits(module) {
        return Err(corrupt(
            WHAT,
            format!("it names {version}, which {module} cannot have"),
        ));
    }
    Ok(version)
}

fn read(data: &[u8]) -> Result<InfoFields, Error> {
    if data.len() as u64 > INFO_BYTES_MAX {
        return Err(corrupt(
            WHAT,
            format!("it is larger than {INFO_BYTES_MAX} bytes"),
        ));
    }
    refuse_html(WHAT, data)?;
    let mut reader = serde_json::Deserializer::from_slice(data);
    let raw = reader
        .deserialize_map(RawInfoVisitor)
        .and_then(|raw| reader.end().map(|()| raw))
        .map_err(|error| corrupt(WHAT, format!("it is not the JSON of a version: {error}")))?;
    let text = raw
        .version
        .ok_or_else(|| corrupt(WHAT, "it names no version"))?;
    let version = Version::parse(&text).map_err(|_| {
        corrupt(
            WHAT,
            format!("it names {text:?}, which is no canonical version"),
        )
    })?;
    if let Some(time) = &raw.time
        && !is_rfc3339(time)
    {
        return Err(corrupt(
            WHAT,
            format!("its time {time:?} is not in RFC 3339's form"),
        ));
    }
    Ok(InfoFields {
        version,
        time: raw.time,
    })
}

/// The fields as the go command's decoder finds them: names in any case, the last one wins, null
/// is as good as absent.
#[derive(Default)]
struct RawInfo {
    version: Option<String>,
    time: Option<String>,
}

struct RawInfoVisitor;

impl<'de> Visitor<'de> for RawInfoVisitor {
    type Value = RawInfo;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with Version and Time")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawInfo, A::Error> {
        let mut raw = RawInfo::default();
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let field = if name.eq_ignore_ascii_case("version") {
                &mut raw.version
            } else if name.eq_ignore_ascii_case("time") {
                &mut raw.time
            } else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if let Some(value) = map.next_value()? {
                *field = Some(value);
            }
        }
        Ok(raw)
    }
}

/// Tells whether the go command's JSON decoder reads this as a time.
///
/// Source: RFC 3339, section 5.6, without leap seconds and lower-case letters.
fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some((stamp, rest)) = bytes.split_at_checked("2006-01-02T15:04:05".len()) else {
        return false;
    };
    let shape = stamp
        .iter()
        .zip(b"0000-00-00T00:00:00")
        .all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == form,
        });
    if !shape {
        return false;
    }
    let number = |digits: &[u8]| digits.iter().fold(0, |n, d| n * 10 + u32::from(d - b'0'));
    let (year, month, day) = (
        number(&stamp[..4]),
        number(&stamp[5..7]),
        number(&stamp[8..10]),
    );
    let (hour, minute) = (number(&stamp[11..13]), number(&stamp[14..16]));
    if day < 1 || day > days_in(year, month) || hour > 23 || minute > 59 {
        return false;
    }
    if number(&stamp[17..]) > 59 {
        return false;
    }
    let zone = match rest {
        [b'.', fraction @ ..] => {
            let digits = fraction
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if digits == 0 {
                return false;
            }
            &fraction[digits..]
        }
        zone => zone,
    };
    match zone {
        b"Z" => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => {
            let digits = [*h1, *h2, *m1, *m2];
            digits.iter().all(u8::is_ascii_digit)
                && number(&digits[..2]) <= 23
                && number(&digits[2..]) <= 59
        }
        _ => false,
    }
}

/// The days of a month; zero for a month that does not exist.
fn days_in(year: u32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 0,
    }
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}
