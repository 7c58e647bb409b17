//! A directory that outlives the process: what a restart must find again.
//!
//! Layout: `{parent}/state-{n}/` with a file `lock` inside, held by `flock` while a process uses
//! it, and a file `id`, the owner's lasting name. Each process takes the first that is free, so one
//! that starts again finds what it had, and two that share a parent by mistake do not mix.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::Error;
use crate::instance_dir::{Claim, lock};

/// Processes that may share a parent.
const SHARED_MAX: usize = 64;

/// The name of the file with the owner's lasting name.
const ID_NAME: &str = "id";

/// This process's part of what outlives processes.
///
/// The lock goes with the value; the directory stays.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    id: Arc<str>,
    /// Held for the lock on it.
    _lock: File,
}

impl StateDir {
    /// Takes the first free directory below `parent`, making it where there is none.
    ///
    /// `key` is the setting that names the parent, for the error's text. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: it cannot be made or written, or [`SHARED_MAX`] others are in use.
    pub fn open(parent: &Path, key: &'static str) -> Result<Self, Error> {
        let failed = |error: io::Error| {
            Error::Config(format!(
                "{key}: cannot use a directory for what outlives restarts: {error}; \
                 mend that or set `{key}` to a directory that this user can write to"
            ))
        };
        for n in 0..SHARED_MAX {
            let path = parent.join(format!("state-{n}"));
            std::fs::create_dir_all(&path).map_err(failed)?;
            let lock = match lock(&path).map_err(failed)? {
                Claim::Ours(lock) => lock,
                Claim::Theirs => continue,
                Claim::Unknown(lock) => {
                    tracing::warn!(
                        "no locks on this file system: nobody else may use this spool directory"
                    );
                    lock
                }
            };
            if n > 0 {
                tracing::warn!(
                    "another process uses the same `{key}`; what waits for the other's restart \
                     is not seen by this one"
                );
            }
            let id = lasting_id(&path).map_err(failed)?;
            return Ok(Self {
                path,
                id,
                _lock: lock,
            });
        }
        Err(Error::Config(format!(
            "{key}: {SHARED_MAX} processes use it already; set `{key}` to a directory of its own"
        )))
    }

    /// The directory; every name in it but `lock` and `id` is the owner's.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The owner's lasting name, the same after a restart.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }
}

/// Reads the directory's id, or gives it one.
fn lasting_id(dir: &Path) -> io::Result<Arc<str>> {
    let path = dir.join(ID_NAME);
    match std::fs::read_to_string(&path) {
        Ok(text) if Uuid::try_parse(text.trim()).is_ok() => return Ok(Arc::from(text.trim())),
        // A crash may have left it empty; nothing hangs on the old one that is not made anew.
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = Uuid::new_v4().simple().to_string();
    let new = dir.join("id.new");
    std::fs::write(&new, &id)?;
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &path)?;
    Ok(Arc::from(id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_finds_its_own_again_and_another_does_not_get_it() {
        let parent = tempfile::tempdir().unwrap();
        let first = StateDir::open(parent.path(), "spool.dir").unwrap();
        let second = StateDir::open(parent.path(), "spool.dir").unwrap();
        assert_ne!(first.path(), second.path());
        assert_ne!(first.id(), second.id());
        let (path, id) = (first.path().to_owned(), first.id().clone());
        drop(first);
        let again = StateDir::open(parent.path(), "spool.dir").unwrap();
        assert_eq!((again.path(), again.id()), (path.as_path(), &id));
    }

    #[test]
    fn a_broken_id_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let path = StateDir::open(parent.path(), "spool.dir")
            .unwrap()
            .path()
            .to_owned();
        std::fs::write(path.join(ID_NAME), "").unwrap();
        let again = StateDir::open(parent.path(), "spool.dir").unwrap();
        assert!(Uuid::try_parse(again.id()).is_ok());
    }
}
