//! Ranges and validators of a request, against an artifact's length and entity tag.
//!
//! Source: RFC 9110 sections 13 (conditional requests) and 14 (range requests).

use std::ops::Range;

use actix_http::header::{HeaderMap, IF_NONE_MATCH, IF_RANGE, RANGE};

/// Which part of a representation is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it: no range, or one that a server may ignore.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// None that exist: answer 416.
    Unsatisfiable,
}

/// Tells whether the client has the representation with this tag already.
pub(super) fn is_not_modified(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .filter_map(|value| value.to_str().ok())
        .any(|value| {
            value.split(',').map(str::trim).any(|tag| {
                // The weak comparison (RFC 9110 section 8.8.3.2): a CDN may have weakened ours.
                tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
            })
        })
}

/// The range that a request asks for, of a representation of `len` bytes with this tag.
///
/// Several ranges, other units and anything malformed count as none, as the RFC allows.
pub(super) fn requested_part(headers: &HeaderMap, len: u64, etag: &str) -> Part {
    let Some(range) = headers.get(RANGE).and_then(|value| value.to_str().ok()) else {
        return Part::Whole;
    };
    if let Some(condition) = headers.get(IF_RANGE)
        && condition.to_str().ok() != Some(etag)
    {
        return Part::Whole;
    }
    let Some((unit, range)) = range.split_once('=') else {
        return Part::Whole;
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") || range.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = range.trim().split_once('-') else {
        return Part::Whole;
    };
    match (position(first), position(last)) {
        (Some(Some(first)), Some(last)) => match last {
            Some(last) if last < first => Part::Whole,
            _ if first >= len => Part::Unsatisfiable,
            last => {
                let end = last.map_or(len, |last| len.min(last.saturating_add(1)));
                Part::Bytes(first..end)
            }
        },
        (Some(None), Some(Some(suffix))) => match suffix {
            0 => Part::Unsatisfiable,
            _ if len == 0 => Part::Unsatisfiable,
            suffix => Part::Bytes(len.saturating_sub(suffix)..len),
        },
        _ => Part::Whole,
    }
}

/// A position: `Some(None)` when absent, `None` when malformed.
fn position(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text.is_empty() {
        return Some(None);
    }
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok().or(Some(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_http::header::HeaderValue;
    use proptest::prelude::*;

    fn headers(range: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(range).expect("a header value"));
        headers
    }

    // protocol: H04
    #[test]
    fn ranges_are_right_or_ignored() {
        for (range, part) in [
            ("bytes=0-9", Part::Bytes(0..10)),
            ("bytes=90-", Part::Bytes(90..100)),
            ("bytes=-10", Part::Bytes(90..100)),
            ("bytes=-1000", Part::Bytes(0..100)),
            ("bytes=50-1000", Part::Bytes(50..100)),
            ("BYTES=0-0", Part::Bytes(0..1)),
            ("bytes=99999999999999999999-", Part::Unsatisfiable),
            ("bytes=100-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=9-3", Part::Whole),
            ("bytes=0-1,5-6", Part::Whole),
            ("bytes=a-b", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=1-2", Part::Whole),
            ("nonsense", Part::Whole),
        ] {
            assert_eq!(
                requested_part(&headers(range), 100, "\"t\""),
                part,
                "{range}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_whole(range in "bytes=[0-9]{0,21}-[0-9]{0,21}", len: u64) {
            if let Part::Bytes(part) = requested_part(&headers(&range), len, "\"t\"") {
                prop_assert!(part.start < part.end && part.end <= len);
            }
        }
    }

    // protocol: H07
    // protocol: H08
    #[test]
    fn validators_are_compared() {
        for (value, expected) in [
            ("\"t\"", true),
            ("W/\"t\"", true),
            ("\"a\", \"t\"", true),
            ("*", true),
            ("\"other\"", false),
            ("t", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
            assert_eq!(is_not_modified(&headers, "\"t\""), expected, "{value}");
        }
    }
}
