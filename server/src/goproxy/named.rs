//! What a path names, with what every answer for it needs, and a memory of the paths asked last.
//!
//! A build farm asks for the same few thousand paths over and over. Parsing one again costs more
//! than everything else that a warm hit does outside the kernel and the HTTP library.

use std::cell::RefCell;
use std::rc::Rc;

use actix_http::header::HeaderValue;
use quick_cache::unsync::Cache;
use storage::{ArtifactKey, Error};

use super::path::{self, Target};

/// Paths that each HTTP worker remembers.
const REMEMBERED_MAX: usize = 4_096;

/// Longer paths are parsed each time, which bounds the memory at some 2 MB a worker.
const REMEMBERED_BYTES_MAX: usize = 256;

/// An artifact that a request asks for.
#[derive(Debug)]
pub(super) struct Named {
    pub(super) key: ArtifactKey,
    /// The entity tag of an immutable artifact: made from its name, because its bytes never
    /// change under that name. The same on every instance and before the bytes have arrived.
    pub(super) tag: HeaderValue,
}

impl Named {
    pub(super) fn new(key: ArtifactKey) -> Self {
        let tag = format!("\"{:016x}\"", fnv_1a(key.unit().as_bytes()));
        let tag = HeaderValue::try_from(tag).expect("hexadecimal digits in quotes");
        Self { key, tag }
    }

    /// The tag as text.
    pub(super) fn tag_text(&self) -> &str {
        self.tag.to_str().unwrap_or_default()
    }
}

thread_local! {
    /// No lock is needed: each HTTP worker is a thread, and what a path means never changes.
    static REMEMBERED: RefCell<Cache<Box<str>, Rc<Named>>> =
        RefCell::new(Cache::new(REMEMBERED_MAX));
}

/// What a path names, if it was parsed here before and names something.
pub(super) fn remembered(raw_path: &str) -> Option<Rc<Named>> {
    REMEMBERED.with_borrow(|paths| paths.get(raw_path).cloned())
}

/// Parses a path as [`path::parse`] does; `None` for the landing page.
///
/// # Errors
///
/// As [`path::parse`].
pub(super) fn parse(raw_path: &str) -> Result<Option<Rc<Named>>, Error> {
    let known = remembered(raw_path);
    if known.is_some() {
        return Ok(known);
    }
    let Target::Artifact(key) = path::parse(raw_path)? else {
        return Ok(None);
    };
    let named = Rc::new(Named::new(key));
    if raw_path.len() <= REMEMBERED_BYTES_MAX {
        REMEMBERED.with_borrow_mut(|paths| paths.insert(raw_path.into(), named.clone()));
    }
    Ok(Some(named))
}

/// FNV-1a, 64 bits, over `bytes` and a closing zero. Source: RFC 9923.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .chain([&0])
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_remembered_path_means_what_it_meant() {
        for n in 0..3 * REMEMBERED_MAX {
            let path = format!("/example.com/m{}/@v/v1.0.{}.mod", n % 97, n);
            let first = parse(&path).unwrap().unwrap();
            let again = parse(&path).unwrap().unwrap();
            assert_eq!(first.key, again.key);
            assert_eq!(
                Target::Artifact(first.key.clone()),
                path::parse(&path).unwrap()
            );
            assert_eq!(first.tag, Named::new(first.key.clone()).tag);
        }
        REMEMBERED.with_borrow(|paths| assert!(paths.len() <= REMEMBERED_MAX));
    }

    #[test]
    fn what_is_refused_is_refused_again() {
        for _ in 0..2 {
            assert!(parse("/example.com/../m/@v/list").is_err());
            assert!(parse("/").unwrap().is_none());
        }
    }
}
