//! Reading one TOML value into one typed field, and showing it again.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;

use super::network::Network;
use super::secret::{Secret, SecretUrl};

/// What a key accepts beyond its type.
pub(super) enum Rule {
    /// Everything that the type can hold.
    Free,
    /// A whole number in this range.
    Count(RangeInclusive<u64>),
    /// A duration in this range.
    Span(RangeInclusive<Duration>),
    /// A number of bytes in this range.
    Size(RangeInclusive<u64>),
    /// A text that passes this check, which returns its normal form or "must be …".
    Text(fn(&str) -> Result<String, String>),
    /// URLs that pass this check; in a list without types, a comma begins a new one only before
    /// a scheme.
    Urls(fn(&str) -> Result<String, String>),
}

/// How a value is written where there are no types: in a variable, a flag or `--set`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `true` or `false`.
    Switch,
    /// A number, or a text with a unit.
    Number,
    /// A text even if it looks like a number.
    Text,
    /// A text as it stands, which is shown to nobody.
    Secret,
}

/// A type that a key can have.
pub(super) trait Field: Sized {
    const SHAPE: Shape;

    /// Reads `value`, or says what it must be: a phrase that begins with "must be".
    fn read(value: &Value, rule: &Rule) -> Result<Self, String>;

    /// The value as it would be written; `None` if nothing is set. Credentials are hidden.
    fn show(&self) -> Option<Value>;
}

impl Field for bool {
    const SHAPE: Shape = Shape::Switch;

    fn read(value: &Value, _rule: &Rule) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| "must be true or false".to_owned())
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

/// Counts are `u32` or `usize`; `u64` is kept for bytes.
macro_rules! count {
    ($type:ty) => {
        impl Field for $type {
            const SHAPE: Shape = Shape::Number;

            fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
                let Rule::Count(range) = rule else {
                    unreachable!("a count has a range")
                };
                value
                    .as_integer()
                    .and_then(|number| u64::try_from(number).ok())
                    .filter(|number| range.contains(number))
                    .and_then(|number| Self::try_from(number).ok())
                    .ok_or_else(|| {
                        let (min, max) = (range.start(), range.end());
                        format!("must be a whole number from {min} to {max}")
                    })
            }

            fn show(&self) -> Option<Value> {
                i64::try_from(*self).ok().map(Value::Integer)
            }
        }
    };
}
count!(u32);
count!(usize);

impl Field for u64 {
    const SHAPE: Shape = Shape::Number;

    fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
        let Rule::Size(range) = rule else {
            unreachable!("a size has a range")
        };
        match value {
            Value::Integer(number) => Self::try_from(*number).ok(),
            Value::String(text) => parse_size(text),
            _ => None,
        }
        .filter(|bytes| range.contains(bytes))
        .ok_or_else(|| {
            let (min, max) = (format_size(*range.start()), format_size(*range.end()));
            format!("must be a size from {min} to {max}, such as \"64MiB\" or a number of bytes")
        })
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(format_size(*self)))
    }
}

impl Field for Duration {
    const SHAPE: Shape = Shape::Text;

    fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
        let Rule::Span(range) = rule else {
            unreachable!("a duration has a range")
        };
        match value {
            Value::String(text) => parse_duration(text),
            // Zero is the one number that needs no unit.
            Value::Integer(0) => Some(Self::ZERO),
            _ => None,
        }
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| {
            let (min, max) = (
                format_duration(*range.start()),
                format_duration(*range.end()),
            );
            format!("must be a duration from {min} to {max} with its unit, such as \"6s\"")
        })
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(format_duration(*self)))
    }
}

impl Field for SocketAddr {
    const SHAPE: Shape = Shape::Text;

    fn read(value: &Value, _rule: &Rule) -> Result<Self, String> {
        let text = value.as_str().unwrap_or_default().trim();
        let port_of = |prefix| {
            text.strip_prefix(prefix)
                .and_then(|port: &str| port.parse().ok())
        };
        text.parse()
            .ok()
            .or_else(|| port_of("localhost:").map(|port: u16| (Ipv4Addr::LOCALHOST, port).into()))
            .or_else(|| port_of(":").map(|port: u16| (Ipv4Addr::UNSPECIFIED, port).into()))
            .ok_or_else(|| {
                "must be an IP address and a port from 0 to 65535, such as \"127.0.0.1:8070\" \
                 or \"[::]:8070\""
                    .to_owned()
            })
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl Field for String {
    const SHAPE: Shape = Shape::Text;

    fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
        let text = value
            .as_str()
            .map(str::trim)
            .filter(|text| !text.is_empty());
        match (text, rule) {
            (None, Rule::Text(check) | Rule::Urls(check)) => {
                Err(check("").err().unwrap_or_else(must_be_text))
            }
            (None, _) => Err(must_be_text()),
            (Some(text), Rule::Text(check) | Rule::Urls(check)) => check(text),
            (Some(text), _) => Ok(text.to_owned()),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(self)
            .filter(|text| !text.is_empty())
            .cloned()
            .map(Value::String)
    }
}

fn must_be_text() -> String {
    "must be a text that is not empty".to_owned()
}

impl Field for PathBuf {
    const SHAPE: Shape = Shape::Text;

    fn read(value: &Value, _rule: &Rule) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if !text.is_empty() && !text.contains("://") => Ok(Self::from(text)),
            _ => Err("must be a path".to_owned()),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(self.to_string_lossy().into_owned())
            .filter(|path| !path.is_empty())
            .map(Value::String)
    }
}

impl Field for Secret {
    const SHAPE: Shape = Shape::Secret;

    fn read(value: &Value, _rule: &Rule) -> Result<Self, String> {
        match value.as_str() {
            Some(text) if !text.is_empty() => Ok(Self::new(text)),
            _ => Err(must_be_text()),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::from("***"))
    }
}

impl Field for SecretUrl {
    const SHAPE: Shape = Shape::Text;

    fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
        String::read(value, rule).map(Self::new)
    }

    fn show(&self) -> Option<Value> {
        self.redacted().show()
    }
}

impl Field for Network {
    const SHAPE: Shape = Shape::Text;

    fn read(value: &Value, _rule: &Rule) -> Result<Self, String> {
        value.as_str().unwrap_or_default().trim().parse()
    }

    fn show(&self) -> Option<Value> {
        Some(Value::String(self.to_string()))
    }
}

impl<F: Field> Field for Option<F> {
    const SHAPE: Shape = F::SHAPE;

    fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
        F::read(value, rule).map(Some)
    }

    fn show(&self) -> Option<Value> {
        self.as_ref().and_then(F::show)
    }
}

/// A list is an array; or one text with commas between its entries, as in a variable.
impl<F: Field> Field for Vec<F> {
    const SHAPE: Shape = F::SHAPE;

    fn read(value: &Value, rule: &Rule) -> Result<Self, String> {
        match value {
            Value::Array(entries) => entries.iter().map(|entry| F::read(entry, rule)).collect(),
            Value::String(text) => split_list(text, rule)
                .map(|entry| F::read(&Value::from(entry.trim()), rule))
                .collect(),
            other => F::read(other, rule).map(|entry| vec![entry]),
        }
    }

    fn show(&self) -> Option<Value> {
        Some(Value::Array(self.iter().filter_map(F::show).collect()))
    }
}

/// Splits a list at its commas; among URLs, at those that a scheme follows: the URL of a Cluster
/// or of Sentinels has commas between its hosts, and a password may have some.
fn split_list<'a>(text: &'a str, rule: &Rule) -> impl Iterator<Item = &'a str> {
    let is_urls = matches!(rule, Rule::Urls(_));
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let whole = rest?;
        let mut commas = whole.match_indices(',').map(|(at, _)| at);
        let end = commas.find(|at| {
            let next = whole[at + 1..].split(',').next().unwrap_or_default();
            !is_urls || next.contains("://")
        });
        rest = end.map(|end| &whole[end + 1..]);
        Some(&whole[..end.unwrap_or(whole.len())])
    })
}

/// How the type of `field` is written without types.
pub(super) fn shape_of<F: Field>(_field: &F) -> Shape {
    F::SHAPE
}

/// Reads `value` into `field`, or leaves it as it is.
pub(super) fn assign<F: Field>(field: &mut F, value: &Value, rule: &Rule) -> Result<(), String> {
    *field = F::read(value, rule)?;
    Ok(())
}

/// The value that `text`, from a variable, a flag or `--set`, stands for.
///
/// It is a TOML value, or else a bare word, which is a string.
pub(super) fn from_text(text: &str, shape: Shape) -> Value {
    if shape == Shape::Secret {
        return Value::String(text.to_owned());
    }
    let text = text.trim();
    if shape == Shape::Switch {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => return Value::Boolean(true),
            "false" | "0" | "no" | "off" => return Value::Boolean(false),
            _ => {}
        }
    }
    match text.parse::<Value>() {
        Ok(value @ (Value::String(_) | Value::Array(_) | Value::Table(_))) => value,
        Ok(value) if shape != Shape::Text => value,
        _ => Value::String(text.to_owned()),
    }
}

/// Splits `"1h30m"` into numbers with units; `None` if one of them has no number or no unit.
fn quantities(text: &str) -> Option<Vec<(&str, &str)>> {
    let mut rest = text.trim();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let tail = tail.trim_start();
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        if number.is_empty() || number.starts_with('.') || number.ends_with('.') {
            return None;
        }
        found.push((number, unit.trim()));
        rest = tail;
    }
    Some(found).filter(|found| !found.is_empty())
}

fn parse_duration(text: &str) -> Option<Duration> {
    if text.trim() == "0" {
        return Some(Duration::ZERO);
    }
    quantities(text)?
        .into_iter()
        .try_fold(Duration::ZERO, |sum, (number, unit)| {
            let seconds = match unit {
                "ms" => 0.001,
                "s" => 1.0,
                "m" | "min" => 60.0,
                "h" => 3_600.0,
                "d" => 86_400.0,
                _ => return None,
            };
            // Milliseconds are the finest unit there is; rounding to them hides binary fractions.
            let millis = (number.parse::<f64>().ok()? * seconds * 1_000.0).round();
            if millis > 1e15 {
                return None;
            }
            sum.checked_add(Duration::from_millis(millis as u64))
        })
}

fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Ok(bytes) = text.parse() {
        return Some(bytes);
    }
    let found = quantities(text)?;
    let [(number, unit)] = found[..] else {
        return None;
    };
    let factor: u64 = match unit {
        "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(factor);
    }
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    (bytes <= 1e18).then_some(bytes.round() as u64)
}

/// Writes a duration in its largest whole unit.
pub(super) fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, length) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis >= length && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    if millis == 0 {
        "0s".to_owned()
    } else {
        format!("{millis}ms")
    }
}

/// Writes a size in its largest whole binary unit.
pub(super) fn format_size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >= 1 << shift && bytes.is_multiple_of(1 << shift) {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_unit() {
        let cases = [
            ("6s", Some(6_000)),
            ("250ms", Some(250)),
            ("1h", Some(3_600_000)),
            ("1h30m", Some(5_400_000)),
            ("1.5s", Some(1_500)),
            ("0.3s", Some(300)),
            ("5min", Some(300_000)),
            ("2d", Some(172_800_000)),
            (" 10 s ", Some(10_000)),
            ("0", Some(0)),
            ("0s", Some(0)),
            ("6", None),
            ("s", None),
            ("-1s", None),
            ("1.s", None),
            ("1..5s", None),
            ("6 seconds", None),
            ("99999999999999999999d", None),
            ("", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        let cases = [
            ("64MiB", Some(64 << 20)),
            ("10GiB", Some(10 << 30)),
            ("1.5KiB", Some(1536)),
            ("2 MB", Some(2_000_000)),
            ("512", Some(512)),
            ("512B", Some(512)),
            ("0", Some(0)),
            ("64M", None),
            ("64mib", None),
            ("1MiB2KiB", None),
            ("99999999999TiB", None),
            ("-1", None),
            ("", None),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), bytes, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        for millis in [
            0, 1, 250, 1_000, 61_000, 60_000, 3_600_000, 86_400_000, 86_400_001,
        ] {
            let duration = Duration::from_millis(millis);
            assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }
        for bytes in [0, 1, 1023, 1024, 500 << 20, (1 << 40) + 1, 3 << 40] {
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }
    }

    #[test]
    fn a_list_of_urls_has_commas_inside_and_between() {
        let urls = Rule::Urls(|text| Ok(text.to_owned()));
        let cases: [(&str, &[&str], &[&str]); 5] = [
            ("a,b", &["a", "b"], &["a,b"]),
            ("r://a, r://b", &["r://a", " r://b"], &["r://a", " r://b"]),
            ("r://a,b:1/m,r://c", &["r://a", "b:1/m", "r://c"], {
                &["r://a,b:1/m", "r://c"]
            }),
            ("r://:p,w@a", &["r://:p", "w@a"], &["r://:p,w@a"]),
            ("", &[""], &[""]),
        ];
        for (text, words, expected) in cases {
            assert_eq!(split_list(text, &Rule::Free).collect::<Vec<_>>(), words);
            assert_eq!(split_list(text, &urls).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn text_without_types_becomes_a_value() {
        let cases = [
            ("6s", Shape::Text, Value::from("6s")),
            ("42", Shape::Text, Value::from("42")),
            ("42", Shape::Number, Value::from(42)),
            ("\"42\"", Shape::Text, Value::from("42")),
            ("64MiB", Shape::Number, Value::from("64MiB")),
            ("true", Shape::Switch, Value::from(true)),
            ("1", Shape::Switch, Value::from(true)),
            ("NO", Shape::Switch, Value::from(false)),
            ("maybe", Shape::Switch, Value::from("maybe")),
            ("true", Shape::Text, Value::from("true")),
            ("2024-01-01", Shape::Text, Value::from("2024-01-01")),
            ("127.0.0.1:0", Shape::Text, Value::from("127.0.0.1:0")),
            ("[\"a\", \"b\"]", Shape::Text, Value::from(vec!["a", "b"])),
            ("[::]:8070", Shape::Text, Value::from("[::]:8070")),
            ("1\nx = 2", Shape::Number, Value::from("1\nx = 2")),
            (" \"p\" ", Shape::Secret, Value::from(" \"p\" ")),
        ];
        for (text, shape, value) in cases {
            assert_eq!(from_text(text, shape), value, "{text:?}");
        }
    }
}
