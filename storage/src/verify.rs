//! Checks on what an upstream sent, before anything of it is stored.
//!
//! They look at the form of one artifact: an info file names its version, a zip obeys the module
//! zip rules, a page of HTML is none of these. None of them is stricter than the go command about
//! what real upstreams send. Whether the bytes are the ones that everybody else gets is the
//! checksum database's business.

mod info;
mod text;
mod zip;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use crate::{ArtifactKey, Document, Error, FileKind, SumdbPath, TileLevel, Version};

pub use info::{InfoFields, check_info, check_query_info};
pub use text::{check_list, check_mod};
pub use zip::{ZipSummary, check_zip};

/// The largest info file or answer to a query, in bytes.
pub const INFO_BYTES_MAX: u64 = 1 << 20;

/// The largest `.mod` file, in bytes; as the module zip rules have it for `go.mod` and `LICENSE`.
pub const MOD_BYTES_MAX: u64 = 16 << 20;

/// The largest version list, in bytes.
pub const LIST_BYTES_MAX: u64 = 16 << 20;

/// The largest zip, in bytes, and the largest sum of the files in it; the go command's own limit.
pub const ZIP_BYTES_MAX: u64 = 500 << 20;

/// The largest document of a checksum database, in bytes.
pub const SUMDB_BYTES_MAX: u64 = 16 << 20;

/// What a successful check learned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// From an info file.
    Info(InfoFields),
    /// From `@latest` or a query's answer: the version that it names.
    Resolved(Version),
    /// From a zip.
    Zip(ZipSummary),
    /// The artifact has nothing to tell.
    Plain,
}

/// The most bytes that an upstream may send for this artifact.
pub fn bytes_max(key: &ArtifactKey) -> u64 {
    match key {
        ArtifactKey::File {
            kind: FileKind::Info,
            ..
        } => INFO_BYTES_MAX,
        ArtifactKey::File {
            kind: FileKind::Mod,
            ..
        } => MOD_BYTES_MAX,
        ArtifactKey::File {
            kind: FileKind::Zip,
            ..
        } => ZIP_BYTES_MAX,
        ArtifactKey::Document {
            document: Document::List,
            ..
        } => LIST_BYTES_MAX,
        ArtifactKey::Document { .. } => INFO_BYTES_MAX,
        ArtifactKey::Sumdb(_) => SUMDB_BYTES_MAX,
    }
}

/// Checks the whole of an artifact by the rules for its kind.
///
/// A zip is read at its central directory and local headers only, so that a mapped file costs few
/// pages. Blocks for at most a few hundred milliseconds, for the largest zips.
///
/// # Errors
///
/// [`Error::Corrupt`]: these bytes are not this artifact; try another upstream.
pub fn check(key: &ArtifactKey, data: &[u8]) -> Result<Checked, Error> {
    let checked = match key {
        ArtifactKey::File {
            module,
            version,
            kind,
        } => match kind {
            FileKind::Info => check_info(data, version).map(Checked::Info),
            FileKind::Mod => check_mod(data).map(|()| Checked::Plain),
            FileKind::Zip => check_zip(data, module, version).map(Checked::Zip),
        },
        ArtifactKey::Document { module, document } => match document {
            Document::List => check_list(data).map(|()| Checked::Plain),
            Document::Latest | Document::Query(_) => {
                check_query_info(data, module).map(Checked::Resolved)
            }
        },
        ArtifactKey::Sumdb(sumdb) => match &sumdb.path {
            // Hashes may begin with any byte.
            SumdbPath::Tile(tile) if tile.level() != TileLevel::Data => Ok(Checked::Plain),
            _ => text::refuse_html("the document", data).map(|()| Checked::Plain),
        },
    };
    checked.map_err(|error| match error {
        Error::Corrupt { reason, .. } => Error::Corrupt {
            unit: key.unit(),
            reason,
        },
        other => other,
    })
}

fn corrupt(unit: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> Error {
    Error::Corrupt {
        unit: unit.into(),
        reason: reason.into().into_owned(),
    }
}
