//! The case-escape: upper case is written `!x`, so that names differ on every file system.
//!
//! Source: `golang.org/x/mod/module`, "Escaped Paths".

use std::borrow::Cow;

/// Writes each upper-case letter as `!` and its lower case. Borrows when there is none.
pub(super) fn escape(plain: &str) -> Cow<'_, str> {
    if !plain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Cow::Borrowed(plain);
    }
    let mut escaped = String::with_capacity(escaped_len(plain));
    for c in plain.chars() {
        if c.is_ascii_uppercase() {
            escaped.push('!');
        }
        escaped.push(c.to_ascii_lowercase());
    }
    Cow::Owned(escaped)
}

/// The number of bytes that [`escape`] would write.
pub(super) fn escaped_len(plain: &str) -> usize {
    plain.len() + plain.bytes().filter(u8::is_ascii_uppercase).count()
}

/// Undoes [`escape`]. Borrows when nothing is escaped; the reason names what cannot be undone.
pub(super) fn unescape(escaped: &str) -> Result<Cow<'_, str>, &'static str> {
    let plain_byte = |byte: u8| byte.is_ascii() && byte != b'!' && !byte.is_ascii_uppercase();
    if escaped.bytes().all(plain_byte) {
        return Ok(Cow::Borrowed(escaped));
    }
    let mut plain = String::with_capacity(escaped.len());
    let mut chars = escaped.chars();
    while let Some(c) = chars.next() {
        match c {
            '!' => match chars.next() {
                Some(letter @ 'a'..='z') => plain.push(letter.to_ascii_uppercase()),
                _ => return Err("'!' is not followed by a lower-case letter"),
            },
            'A'..='Z' => return Err("an upper-case letter is written '!' and its lower case"),
            c if c.is_ascii() => plain.push(c),
            _ => return Err("it holds a character outside ASCII"),
        }
    }
    Ok(Cow::Owned(plain))
}
