//! Request targets: from the path on the wire to what is asked for.
//!
//! The path is percent-decoded here, once, and nowhere else. Whatever could be read in two ways
//! (dot segments, encoded slashes, empty elements, codes within codes) is refused rather than
//! normalized, so that what is parsed is what every proxy on the way has seen.
//!
//! Source: Go modules reference, "GOPROXY protocol"; RFC 3986, section 2.1.

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use storage::{ArtifactKey, Error, layout};

/// The longest request path in bytes, as it is on the wire. Longer than the longest legal one
/// with each of its letters encoded.
pub const REQUEST_PATH_BYTES_MAX: usize = 4096;

const WHAT: &str = "request path";

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// An artifact of a module or of a checksum database.
    Artifact(ArtifactKey),
    /// The page that says how to use the proxy.
    Landing,
}

/// Parses a request's path as it came on the wire, without the query.
///
/// # Errors
///
/// [`Error::InvalidName`]: nothing has this path; the text is one line for the client's user.
pub fn parse(raw_target_path: &str) -> Result<Target, Error> {
    let refuse = |reason: Cow<'static, str>| Error::invalid_name(WHAT, raw_target_path, reason);
    if raw_target_path.len() > REQUEST_PATH_BYTES_MAX {
        return Err(refuse(
            format!("it is longer than {REQUEST_PATH_BYTES_MAX} bytes").into(),
        ));
    }
    let Some(raw) = raw_target_path.strip_prefix('/') else {
        return Err(refuse("it does not begin with a slash".into()));
    };
    if raw.is_empty() {
        return Ok(Target::Landing);
    }
    let path = decode(raw).map_err(|reason| refuse(reason.into()))?;
    check_segments(&path).map_err(|reason| refuse(reason.into()))?;
    layout::parse_path(&path).map(Target::Artifact)
}

/// Undoes percent-encoding. Borrows when there is none, which is the usual case.
fn decode(raw: &str) -> Result<Cow<'_, str>, &'static str> {
    if let Some(bad) = raw
        .bytes()
        .find(|byte| !(0x21..0x7f).contains(byte) || *byte == b'\\')
    {
        return Err(match bad {
            b'\\' => "it holds a backslash",
            0x80.. => "it holds a byte outside ASCII",
            _ => "it holds a space or a control character",
        });
    }
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut decoded = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((before, after)) = rest.split_once('%') {
        decoded.push_str(before);
        let Some((code, after)) = after.split_at_checked(2) else {
            return Err("a '%' is not followed by two hexadecimal digits");
        };
        decoded.push(char::from(decode_byte(code)?));
        rest = after;
    }
    decoded.push_str(rest);
    let is_code = |code: &str| code.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if decoded.split('%').skip(1).any(is_code) {
        return Err("it is percent-encoded twice");
    }
    Ok(Cow::Owned(decoded))
}

/// The character behind a `%`, unless it may not be encoded or may not be there at all.
fn decode_byte(code: &str) -> Result<u8, &'static str> {
    if !code.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("a '%' is not followed by two hexadecimal digits");
    }
    match u8::from_str_radix(code, 16).expect("two hexadecimal digits make a byte") {
        // Encoded, they hide the path's structure from whoever looks at it before us.
        b'/' => Err("it holds an encoded slash"),
        b'\\' => Err("it holds an encoded backslash"),
        b'.' => Err("it holds an encoded dot"),
        0 => Err("it holds an encoded NUL"),
        0x01..0x20 | 0x7f => Err("it holds an encoded control character"),
        0x80.. => Err("it holds an encoded byte outside ASCII"),
        byte => Ok(byte),
    }
}

fn check_segments(path: &str) -> Result<(), &'static str> {
    if path.ends_with('/') {
        return Err("it ends with a slash, and there are no listings");
    }
    for segment in path.split('/') {
        match segment {
            "" => return Err("it holds two slashes in a row"),
            "." | ".." => return Err("it holds a dot segment"),
            _ => {}
        }
    }
    Ok(())
}
