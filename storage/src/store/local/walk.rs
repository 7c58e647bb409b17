//! Ordered listings of a directory tree, a bounded piece at a time.

use std::fs::Metadata;
use std::io;
use std::path::Path;

use super::{Directory, Listed, STAGING};

/// How deep a tree is followed.
const DEPTH_MAX: usize = 128;

/// A directory entry; its key sorts as the paths below it do: a directory's ends in `/`.
struct Entry {
    key: String,
    is_dir: bool,
}

/// Lists files below `prefix` after `after` in the order of their paths' bytes.
///
/// Needs memory for the directories on the way to one file, not for the tree. Links to directories
/// are not followed; what vanishes meanwhile is left out.
pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> io::Result<Vec<Listed>> {
    let mut listed = Vec::new();
    let base = match prefix {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let mut stack = vec![entries(root, &base, after)?.into_iter()];
    while let Some(level) = stack.last_mut() {
        let Some(entry) = level.next() else {
            stack.pop();
            continue;
        };
        if listed.len() == limit {
            break;
        }
        if entry.is_dir {
            if stack.len() < DEPTH_MAX {
                stack.push(entries(root, &entry.key, after)?.into_iter());
            }
        } else if let Some(found) = describe(root, entry.key)? {
            listed.push(found);
        }
    }
    Ok(listed)
}

/// Lists what lies directly in `prefix`.
pub(super) fn list_dir(root: &Path, prefix: &str, limit: usize) -> io::Result<Directory> {
    let base = match prefix {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let mut directory = Directory::default();
    for entry in entries(root, &base, None)? {
        if directory.objects.len() + directory.prefixes.len() == limit {
            directory.truncated = true;
            break;
        }
        if entry.is_dir {
            directory
                .prefixes
                .push(entry.key.trim_end_matches('/').to_owned());
        } else if let Some(found) = describe(root, entry.key)? {
            directory.objects.push(found);
        }
    }
    directory.prefixes.sort_unstable();
    Ok(directory)
}

/// Reads one directory, in order, without what lies wholly before `after`.
fn entries(root: &Path, base: &str, after: Option<&str>) -> io::Result<Vec<Entry>> {
    let dir = match std::fs::read_dir(root.join(base)) {
        Ok(dir) => dir,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut entries = Vec::new();
    for entry in dir {
        let entry = entry?;
        // A name that is no text is nothing of ours.
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if base.is_empty() && name == STAGING {
            continue;
        }
        let is_dir = entry.file_type()?.is_dir();
        let key = format!("{base}{name}{}", if is_dir { "/" } else { "" });
        let wanted = after.is_none_or(|after| {
            key.as_str() > after || (is_dir && after.starts_with(key.as_str()))
        });
        if wanted {
            entries.push(Entry { key, is_dir });
        }
    }
    entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

fn describe(root: &Path, path: String) -> io::Result<Option<Listed>> {
    let metadata: Metadata = match std::fs::metadata(root.join(&path)) {
        Ok(metadata) if metadata.is_file() => metadata,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(Listed {
        path,
        len: metadata.len(),
        modified: metadata.modified()?,
    }))
}
