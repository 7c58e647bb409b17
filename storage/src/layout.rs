//! Where an artifact lies: its key, its path in a store and its path at an upstream.
//!
//! A store is a GOPROXY file tree, so that a bucket or folder serves the go command directly and
//! a module cache's download tree can be copied in. This is the only place where such a path is
//! built or read.
//!
//! | artifact | path |
//! | --- | --- |
//! | file | `{escaped module}/@v/{escaped version}.{info,mod,zip}` |
//! | list | `{escaped module}/@v/list` |
//! | latest | `{escaped module}/@latest` |
//! | query | `{escaped module}/@v/{escaped query}.info` |
//! | database's tree head | `sumdb/{name}/latest` |
//! | database's record | `sumdb/{name}/lookup/{escaped module}@{escaped version}` |
//! | database's tile | `sumdb/{name}/tile/{height}/{level}/{index}[.p/{width}]` |
//!
//! Paths have no leading slash. Source: Go modules reference, "GOPROXY protocol".

#[cfg(test)]
mod tests;

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::module::unescape_text;
use crate::{ArtifactKey, Document, Error, FileKind, ModulePath, SumdbKey, SumdbPath, Version};

const WHAT: &str = "request path";

/// What the go command leaves unescaped in a path, and the slash.
///
/// Source: `net/url`, `PathEscape`, as used by `cmd/go/internal/modfetch`.
const KEPT_BY_GO: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b':')
    .remove(b'=')
    .remove(b'@')
    .remove(b'/');

/// The path of an artifact in a store, plain text as in the table above.
///
/// Legal in every backend as it is: parse it, do not encode it again. Different keys have
/// different paths.
pub fn object_path(key: &ArtifactKey) -> String {
    match key {
        ArtifactKey::File {
            module,
            version,
            kind,
        } => {
            let (module, version) = (module.escaped(), version.escaped());
            [
                module.as_ref(),
                "/@v/",
                version.as_ref(),
                ".",
                kind.as_str(),
            ]
            .concat()
        }
        ArtifactKey::Document { module, document } => match document {
            Document::List => [module.escaped().as_ref(), "/@v/list"].concat(),
            Document::Latest => [module.escaped().as_ref(), "/@latest"].concat(),
            Document::Query(query) => [
                module.escaped().as_ref(),
                "/@v/",
                query.escaped().as_ref(),
                ".info",
            ]
            .concat(),
        },
        ArtifactKey::Sumdb(key) => format!("sumdb/{key}"),
    }
}

/// The key whose [`object_path`] this is; `None` for any other file in a store.
pub fn key_of_object_path(path: &str) -> Option<ArtifactKey> {
    parse_path(path).ok()
}

/// The path of an artifact at an upstream, percent-encoded as the go command does it: `!` is
/// `%21`, `+` and `@` stay.
pub fn upstream_path(key: &ArtifactKey) -> String {
    percent_encoded(&object_path(key)).to_string()
}

/// The folder that holds the files of a module's versions, for a listing: `{escaped module}/@v`.
pub fn versions_prefix(module: &ModulePath) -> String {
    [module.escaped().as_ref(), "/@v"].concat()
}

/// Parses a path as it stands in a store or, percent-decoded, in a request.
///
/// # Errors
///
/// [`Error::InvalidName`]: no artifact has this path; the reason names what is wrong.
pub fn parse_path(path: &str) -> Result<ArtifactKey, Error> {
    if let Some(target) = path.strip_prefix("sumdb/") {
        let (name, path) = SumdbKey::split(target)?;
        return Ok(ArtifactKey::Sumdb(SumdbKey {
            name,
            path: SumdbPath::parse(path)?,
        }));
    }
    let refuse = |reason: &'static str| Error::invalid_name(WHAT, path, reason);
    // No module path holds '@', so that the first element which begins with it ends the path.
    let Some((module, target)) = path.split_once("/@") else {
        return Err(refuse("it has neither /@v/ nor /@latest"));
    };
    let module = ModulePath::unescape(module)?;
    if target == "latest" {
        return Ok(ArtifactKey::Document {
            module,
            document: Document::Latest,
        });
    }
    let Some(file) = target.strip_prefix("v/") else {
        return Err(refuse("a module is followed by /@v/ or /@latest only"));
    };
    if file == "list" {
        return Ok(ArtifactKey::Document {
            module,
            document: Document::List,
        });
    }
    if file.contains('/') {
        return Err(refuse(
            "nothing lies below the files in /@v/; a query holds no slash",
        ));
    }
    let kind = file
        .rsplit_once('.')
        .map(|(name, kind)| (name, FileKind::from_extension(kind)));
    match kind {
        Some(("", Some(_))) => Err(refuse("the file in /@v/ names no version")),
        Some((name, Some(FileKind::Info))) => {
            let text = unescape_text("version", name)?;
            ArtifactKey::info(module, &text)
        }
        Some((name, Some(kind))) => ArtifactKey::file(module, Version::unescape(name)?, kind),
        _ => Err(refuse(
            "/@v/ holds list and files ending in .info, .mod or .zip",
        )),
    }
}

/// Writes text with everything percent-encoded that the go command encodes in a path.
pub(crate) fn percent_encoded(text: &str) -> impl fmt::Display + '_ {
    utf8_percent_encode(text, KEPT_BY_GO)
}
