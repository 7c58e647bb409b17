//! Checks on `.mod` files and version lists: text, and no page of HTML.

use super::{LIST_BYTES_MAX, MOD_BYTES_MAX, corrupt};
use crate::Error;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Checks a `.mod` file.
///
/// What it says is not looked at: a toolchain's has no module line, and an old module's may not
/// parse at all.
///
/// # Errors
///
/// [`Error::Corrupt`]: a page of HTML, binary data, or larger than [`MOD_BYTES_MAX`].
pub fn check_mod(data: &[u8]) -> Result<(), Error> {
    check_text("the .mod file", data, MOD_BYTES_MAX)
}

/// Checks a version list. It may be empty; the lines are not looked at, since the go command
/// skips those that it does not understand.
///
/// # Errors
///
/// [`Error::Corrupt`]: a page of HTML, binary data, or larger than [`LIST_BYTES_MAX`].
pub fn check_list(data: &[u8]) -> Result<(), Error> {
    check_text("the version list", data, LIST_BYTES_MAX)
}

fn check_text(what: &str, data: &[u8], bytes_max: u64) -> Result<(), Error> {
    if data.len() as u64 > bytes_max {
        return Err(corrupt(
            what,
            format!("it is larger than {bytes_max} bytes"),
        ));
    }
    refuse_html(what, data)?;
    if data.contains(&0) {
        return Err(corrupt(what, "it is binary, not text"));
    }
    Ok(())
}

/// Refuses a page that some gateway sent in place of the document.
pub(super) fn refuse_html(what: &str, data: &[u8]) -> Result<(), Error> {
    let data = data.strip_prefix(BYTE_ORDER_MARK).unwrap_or(data);
    if data.trim_ascii_start().starts_with(b"<") {
        return Err(corrupt(what, "it is a page of HTML"));
    }
    Ok(())
}
