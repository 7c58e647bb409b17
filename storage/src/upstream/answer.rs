//! Reading an answer's headers and turning a refusal into our own error.
//!
//! The table from upstream's status to our error stands here and nowhere else.

use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{
    CACHE_CONTROL, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, HeaderName, RETRY_AFTER,
};

use super::CacheControl;
use super::observer::FetchOutcome;
use crate::error::Error;

/// How much of an error's body is kept.
pub(super) const TEXT_BYTES_MAX: usize = 8 * 1024;
/// The longest wait that an upstream can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest header value that is kept.
const HEADER_BYTES_MAX: usize = 1024;
/// How many characters of a body's first line go into a message.
const LINE_CHARS_MAX: usize = 200;

/// The error for an answer that brings no content.
///
/// `text` is the answer's body when it is fit to be shown, see [`readable`].
pub(super) fn refusal(
    status: StatusCode,
    headers: &HeaderMap,
    text: Option<String>,
    unit: &str,
    upstream: &str,
) -> (Error, FetchOutcome) {
    let upstream = upstream.to_owned();
    match status.as_u16() {
        404 => {
            let text = text.unwrap_or_else(|| format!("not found: {unit}"));
            (
                Error::NotFound { gone: false, text },
                FetchOutcome::NotFound,
            )
        }
        410 => {
            let text = text.unwrap_or_else(|| format!("gone: {unit}"));
            (Error::NotFound { gone: true, text }, FetchOutcome::Gone)
        }
        403 => {
            let text = text.unwrap_or_else(|| format!("forbidden: {unit}"));
            (Error::Forbidden { text }, FetchOutcome::Forbidden)
        }
        // The server gave up waiting for a request on a connection that it wanted to close: the
        // one 4xx that says nothing about our request.
        408 => {
            let reason = "it waited too long for our request (status 408)".to_owned();
            (Error::TimedOut { upstream, reason }, FetchOutcome::TimedOut)
        }
        429 | 503 => {
            let retry_after = retry_after(headers);
            let status = status.as_u16();
            (
                Error::Throttled {
                    upstream,
                    status,
                    retry_after,
                },
                FetchOutcome::Throttled,
            )
        }
        400..=499 => {
            let text = first_line(text.as_deref()).unwrap_or_else(|| "no reason given".to_owned());
            (
                Error::Refused {
                    upstream,
                    status: status.as_u16(),
                    text,
                },
                FetchOutcome::Refused,
            )
        }
        500..=599 => {
            let reason = match first_line(text.as_deref()) {
                Some(line) => format!("status {}: {line}", status.as_u16()),
                None => format!("status {}", status.as_u16()),
            };
            (
                Error::Upstream {
                    upstream,
                    reason,
                    source: None,
                },
                FetchOutcome::Failed,
            )
        }
        other => {
            let reason = format!("unexpected status {other}");
            (
                Error::Upstream {
                    upstream,
                    reason,
                    source: None,
                },
                FetchOutcome::Failed,
            )
        }
    }
}

/// An error's body as text for a person; `None` when there is nothing that a terminal should see.
///
/// `bytes` may be the beginning of a longer body.
pub(super) fn readable(headers: &HeaderMap, bytes: &[u8]) -> Option<String> {
    let is_cut = bytes.len() > TEXT_BYTES_MAX;
    let bytes = &bytes[..bytes.len().min(TEXT_BYTES_MAX)];
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // The cut may go through a character.
        Err(error) if is_cut && error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).ok()?
        }
        Err(_) => return None,
    };
    if is_html(headers, text) {
        return None;
    }
    let text: String = text
        .chars()
        .filter(|&c| c == '\n' || c == '\t' || !c.is_control())
        .collect();
    (!text.trim().is_empty()).then_some(text)
}

fn is_html(headers: &HeaderMap, text: &str) -> bool {
    let declared = header(headers, &CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.to_ascii_lowercase();
        kind.starts_with("text/html") || kind.starts_with("application/xhtml")
    });
    let start: String = text
        .trim_start()
        .chars()
        .take(14)
        .collect::<String>()
        .to_lowercase();
    declared || start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// The first line that says something, shortened.
fn first_line(text: Option<&str>) -> Option<String> {
    let line = text?.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().take(LINE_CHARS_MAX).collect())
}

/// A header's value, unless it is absent, no text or absurdly long.
pub(super) fn header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    (value.len() <= HEADER_BYTES_MAX).then(|| value.to_owned())
}

/// `Retry-After` in either form, at most an hour.
///
/// A date counts from the answer's own `Date`: the two clocks need not agree.
#[allow(
    clippy::disallowed_methods,
    reason = "a date is compared with the date of this moment, for want of the answer's own"
)]
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = header(headers, &RETRY_AFTER)?;
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than a u64 has are a long wait too.
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX));
    }
    let due = httpdate::parse_http_date(value).ok()?;
    let now = header(headers, &DATE)
        .and_then(|date| httpdate::parse_http_date(date.trim()).ok())
        .unwrap_or_else(SystemTime::now);
    Some(
        due.duration_since(now)
            .unwrap_or_default()
            .min(RETRY_AFTER_MAX),
    )
}

/// The directives that matter to a shared cache.
///
/// Source: RFC 9111, section 5.2.
pub(super) fn cache_control(headers: &HeaderMap) -> CacheControl {
    let mut control = CacheControl::default();
    let mut shared_max_age = None;
    for value in headers.get_all(CACHE_CONTROL) {
        let Ok(value) = value.to_str() else { continue };
        for directive in value.split(',') {
            let (name, argument) = match directive.split_once('=') {
                Some((name, argument)) => (name.trim(), argument.trim().trim_matches('"')),
                None => (directive.trim(), ""),
            };
            let seconds = || argument.parse().ok().map(Duration::from_secs);
            match name.to_ascii_lowercase().as_str() {
                "no-cache" => control.no_cache = true,
                "no-store" => control.no_store = true,
                "must-revalidate" | "proxy-revalidate" => control.must_revalidate = true,
                "max-age" => control.max_age = control.max_age.or_else(seconds),
                "s-maxage" => shared_max_age = shared_max_age.or_else(seconds),
                _ => {}
            }
        }
    }
    control.max_age = shared_max_age.or(control.max_age);
    control
}

/// The length of the whole, when `Content-Range` says that the part runs from `offset` to the end.
///
/// Source: RFC 9110, section 14.4.
pub(super) fn whole_len(headers: &HeaderMap, offset: u64) -> Option<u64> {
    let value = header(headers, &CONTENT_RANGE)?;
    let (range, total) = value.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let total: u64 = total.parse().ok()?;
    (first == offset && last.checked_add(1)? == total && first <= last).then_some(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    // protocol: E02
    #[test]
    fn texts_are_fit_for_a_terminal() {
        let none = HeaderMap::new();
        assert_eq!(
            readable(&none, b"not here\nat all\n").unwrap(),
            "not here\nat all\n"
        );
        assert_eq!(
            readable(&none, b"a\x1b[31mb\r\n\tc\x07").unwrap(),
            "a[31mb\n\tc"
        );
        assert_eq!(readable(&none, b" \n\t"), None);
        assert_eq!(readable(&none, b"\xff\xfe"), None);
        assert_eq!(readable(&none, b"cut \xc3"), None);
        assert_eq!(readable(&none, b"\n <!DOCTYPE html><html>"), None);
        assert_eq!(
            readable(&headers(&[("content-type", "Text/HTML; charset=x")]), b"hi"),
            None
        );
        let mut long = vec![b'x'; TEXT_BYTES_MAX - 1];
        long.extend("é and more".bytes());
        assert_eq!(readable(&none, &long).unwrap().len(), TEXT_BYTES_MAX - 1);
    }

    // fault: 29
    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (value, seconds) in [
            ("0", Some(0)),
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Mon, 06 Nov 1995 08:00:00 GMT", Some(3600)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            let found = retry_after(&headers(&[("retry-after", value), ("date", date)]));
            assert_eq!(found, seconds.map(Duration::from_secs), "{value:?}");
        }
    }

    // acceptance: A20
    #[test]
    fn cache_control_is_a_shared_caches() {
        let parse = |value: &str| cache_control(&headers(&[("cache-control", value)]));
        assert_eq!(parse("public"), CacheControl::default());
        let control = parse("No-Cache=\"x\", must-revalidate , max-age=60");
        assert!(control.no_cache && control.must_revalidate && !control.no_store);
        assert_eq!(control.max_age, Some(Duration::from_secs(60)));
        let control = parse("max-age=60, s-maxage=\"10\", no-store");
        assert!(control.no_store);
        assert_eq!(control.max_age, Some(Duration::from_secs(10)));
        assert_eq!(parse("max-age=soon").max_age, None);
    }

    #[test]
    fn only_a_range_to_the_end_resumes() {
        let parse = |value: &str| whole_len(&headers(&[("content-range", value)]), 5);
        assert_eq!(parse("bytes 5-9/10"), Some(10));
        for bad in [
            "bytes 4-9/10",
            "bytes 5-8/10",
            "bytes 5-9/*",
            "bytes */10",
            "5-9/10",
            "",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
