//! Checks on module zips, by the rules that the go command unpacks them with.
//!
//! Source: `golang.org/x/mod/zip`, package comment, `CheckZip`, `Unzip`.

mod directory;
mod tree;

use std::borrow::Cow;

use directory::{Directory, Entry};
use tree::NameTree;

use super::text::refuse_html;
use super::{MOD_BYTES_MAX, ZIP_BYTES_MAX, corrupt};
use crate::module::{ElementRule, check_element};
use crate::{Error, FileKind, ModulePath, Version};

/// Compression methods that the go command can undo.
const STORED: u16 = 0;
const DEFLATED: u16 = 8;

/// The type bits of a Unix mode, and the types that a module may hold.
const MODE_TYPE: u32 = 0o170_000;
const MODE_REGULAR: u32 = 0o100_000;
const MODE_FOLDER: u32 = 0o040_000;

/// The most entries in one zip, folders and repeated folders included.
const ENTRIES_MAX: u64 = 1_000_000;

/// The longest file name in bytes, which is more than any file system takes.
const NAME_BYTES_MAX: usize = 4096;

/// What a zip holds, by its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZipSummary {
    /// The number of files, folders not counted.
    pub files: u64,
    /// The sum of their sizes when unpacked, in bytes.
    pub unpacked_bytes: u64,
}

/// Checks the zip of a version: `data` is the whole file.
///
/// Every name begins with `{module}@{version}/` and is legal on every file system; no file is
/// there twice, no two names differ in case only; `go.mod` lies at the top only; files are regular
/// and their sizes within the limits. Reads the central directory and the local headers, does not
/// unpack.
///
/// # Errors
///
/// [`Error::Corrupt`]: the go command would refuse to unpack this; the reason names the first
/// file that breaks a rule.
pub fn check_zip(data: &[u8], module: &ModulePath, version: &Version) -> Result<ZipSummary, Error> {
    let unit = || format!("{module}@{version}.{}", FileKind::Zip);
    if data.len() as u64 > ZIP_BYTES_MAX {
        return Err(corrupt(
            unit(),
            format!("it is larger than {ZIP_BYTES_MAX} bytes"),
        ));
    }
    refuse_html(&unit(), data)?;
    let directory = Directory::open(data).map_err(|fault| corrupt(unit(), fault))?;
    let mut check = Check {
        data,
        prefix: format!("{module}@{version}/"),
        names: NameTree::default(),
        entries: 0,
        summary: ZipSummary {
            files: 0,
            unpacked_bytes: 0,
        },
    };
    for entry in directory {
        let entry = entry.map_err(|fault| corrupt(unit(), fault))?;
        check.add(&entry).map_err(|reason| {
            // A hostile name may be long and hold anything.
            let name: String = String::from_utf8_lossy(entry.name)
                .chars()
                .take(200)
                .collect();
            corrupt(unit(), format!("{name:?}: {reason}"))
        })?;
    }
    Ok(check.summary)
}

/// The rules, and what has been seen so far.
struct Check<'a> {
    data: &'a [u8],
    prefix: String,
    names: NameTree<'a>,
    entries: u64,
    summary: ZipSummary,
}

impl<'a> Check<'a> {
    fn add(&mut self, entry: &Entry<'a>) -> Result<(), Cow<'static, str>> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(format!("there are more than {ENTRIES_MAX} entries").into());
        }
        let Some(name) = entry.name.strip_prefix(self.prefix.as_bytes()) else {
            return Err(format!("the name does not begin with {:?}", self.prefix).into());
        };
        if name.len() > NAME_BYTES_MAX {
            return Err(format!("the name is longer than {NAME_BYTES_MAX} bytes").into());
        }
        entry.check_local(self.data)?;
        let name = std::str::from_utf8(name).map_err(|_| "the name is not UTF-8")?;
        let folder = name.strip_suffix('/').or(name.is_empty().then_some(name));
        if folder.is_some() && entry.unpacked_bytes != 0 {
            return Err("a folder has data".into());
        }
        match folder {
            // The top folder.
            Some("") if name.is_empty() => Ok(()),
            Some(folder) => {
                check_name(folder)?;
                Ok(self.names.add(folder, true)?)
            }
            None => {
                check_name(name)?;
                self.names.add(name, false)?;
                self.add_file(name, entry)
            }
        }
    }

    fn add_file(&mut self, name: &str, entry: &Entry<'_>) -> Result<(), Cow<'static, str>> {
        let base = name.rsplit('/').next().unwrap_or_default();
        if base.eq_ignore_ascii_case("go.mod") && name != "go.mod" {
            return Err("a module has one go.mod, at its top and in lower case".into());
        }
        match entry.unix_mode.map(|mode| mode & MODE_TYPE) {
            None | Some(0 | MODE_REGULAR | MODE_FOLDER) => {}
            Some(_) => return Err("it is a link or another irregular file".into()),
        }
        let sized = match entry.method {
            STORED => entry.compressed_bytes == entry.unpacked_bytes,
            DEFLATED => true,
            method => {
                return Err(format!("the go command cannot undo compression {method}").into());
            }
        };
        if !sized {
            return Err("its two sizes differ although it is stored as it is".into());
        }
        if matches!(name, "go.mod" | "LICENSE") && entry.unpacked_bytes > MOD_BYTES_MAX {
            return Err(format!("it is larger than {MOD_BYTES_MAX} bytes").into());
        }
        let total = self
            .summary
            .unpacked_bytes
            .checked_add(entry.unpacked_bytes);
        let total = total
            .filter(|&total| total <= ZIP_BYTES_MAX)
            .ok_or_else(|| {
                format!("the files are larger than {ZIP_BYTES_MAX} bytes when unpacked")
            })?;
        self.summary.unpacked_bytes = total;
        self.summary.files += 1;
        Ok(())
    }
}

/// Source: `golang.org/x/mod/module`, `CheckFilePath`.
fn check_name(name: &str) -> Result<(), Cow<'static, str>> {
    name.split('/')
        .try_for_each(|element| check_element(element, ElementRule::File))
}
