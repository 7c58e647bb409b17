//! The rules for one element of a slash-separated path, in module paths and in file names.
//!
//! Source: `golang.org/x/mod/module`, `checkElem`.

use std::borrow::Cow;

use super::letters::is_letter;

/// Which characters and shapes an element may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ElementRule {
    /// An element of a module path.
    Module,
    /// An element of a file name inside a module, or a version.
    File,
}

/// Punctuation that a file name may hold beside letters and digits; what is missing has a meaning
/// to a shell or to some file system.
const FILE_PUNCTUATION: &[u8] = b"!#$%&()+,-.=@[]^_{}~ ";

/// Names that Windows reserves, whatever their case and whatever follows their first dot.
const WINDOWS_NAMES: [&str; 4] = ["con", "prn", "aux", "nul"];

/// Checks one element; the reason names the rule that it breaks.
pub(crate) fn check_element(element: &str, rule: ElementRule) -> Result<(), Cow<'static, str>> {
    if element.is_empty() {
        return Err("it has an empty element".into());
    }
    if element.bytes().all(|byte| byte == b'.') {
        return Err(format!("{element:?} is no path element").into());
    }
    if rule == ElementRule::Module && element.starts_with('.') {
        return Err(format!("the element {element:?} begins with a dot").into());
    }
    if element.ends_with('.') {
        return Err(format!("the element {element:?} ends with a dot").into());
    }
    if let Some(bad) = element.chars().find(|&c| !is_allowed(c, rule)) {
        return Err(format!("it holds {bad:?}").into());
    }
    let short = element.split('.').next().unwrap_or_default();
    if is_windows_name(short) {
        return Err(format!("Windows reserves the name {short:?}").into());
    }
    if rule == ElementRule::Module && ends_in_tilde_digits(short) {
        return Err(format!("the element {element:?} looks like a Windows short name").into());
    }
    Ok(())
}

fn is_allowed(c: char, rule: ElementRule) -> bool {
    match u8::try_from(c) {
        Ok(byte) if byte.is_ascii_alphanumeric() => true,
        Ok(byte) if byte.is_ascii() => match rule {
            ElementRule::Module => matches!(byte, b'-' | b'.' | b'_' | b'~'),
            ElementRule::File => FILE_PUNCTUATION.contains(&byte),
        },
        _ => rule == ElementRule::File && is_letter(c),
    }
}

fn is_windows_name(short: &str) -> bool {
    match short.as_bytes() {
        [device @ .., b'1'..=b'9'] if device.len() == 3 => {
            device.eq_ignore_ascii_case(b"com") || device.eq_ignore_ascii_case(b"lpt")
        }
        _ => WINDOWS_NAMES
            .iter()
            .any(|name| short.eq_ignore_ascii_case(name)),
    }
}

fn ends_in_tilde_digits(short: &str) -> bool {
    short.rsplit_once('~').is_some_and(|(_, suffix)| {
        !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit())
    })
}
