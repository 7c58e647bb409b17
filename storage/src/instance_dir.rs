//! A directory of this process's own below a shared parent, locked while the process lives and
//! swept by others once it is dead.
//!
//! Layout: `{parent}/{uuid}/` with a file `lock` inside, held by `flock`. The kernel drops the
//! lock with the process, however it ends, so a lock that can be taken means a dead owner.
//!
//! Creating is `mkdir`, open the lock file, `flock`; a sweeper may come in between and win. That
//! is harmless: nothing is in the directory yet, and the creator, who checks after locking that
//! the lock file's name still leads to the file it locked, starts again under a new name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use uuid::Uuid;

use crate::Error;

/// The lock file's name inside an instance's directory; nobody else may use it there.
pub(crate) const LOCK_NAME: &str = "lock";

/// How often a lost race against a sweeper is repeated.
const CREATE_ATTEMPTS_MAX: usize = 16;

/// A private directory that exists as long as this value, and no longer than the process.
///
/// Removed with all it holds on drop (which blocks on the disk). What a killed process leaves is
/// removed by the next [`InstanceDir::open`] with the same parent.
#[derive(Debug)]
pub struct InstanceDir {
    path: PathBuf,
    /// Held for the lock on it; closed after the directory is gone.
    _lock: File,
    swept: usize,
}

impl InstanceDir {
    /// Removes dead siblings and creates a new directory `{parent}/{uuid}/`.
    ///
    /// `key` is the setting that names the parent, for the error's text. The parent is created
    /// when it is absent. Blocks on the disk. A live sibling, in this process or another, is never
    /// touched; on a file system without locks nothing is swept at all.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: the directory cannot be created, is read-only or belongs to somebody
    /// else; the text says which setting to change. [`Error::Storage`]: the disk failed.
    pub fn open(parent: &Path, key: &'static str) -> Result<Self, Error> {
        Self::try_open(parent).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::PermissionDenied => "this user may not write there",
                io::ErrorKind::ReadOnlyFilesystem => "the file system is read-only",
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "the disk is full",
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    "a file is in the way of the directory"
                }
                _ => return Error::storage(format!("creating a directory below `{key}`"), error),
            };
            Error::Config(format!(
                "{key}: cannot create a working directory: {reason}; \
                 mend that or set `{key}` to a directory that this user can write to"
            ))
        })
    }

    /// As [`InstanceDir::open`], with the system's error.
    pub(crate) fn try_open(parent: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        let swept = sweep(parent)?;
        for _ in 0..CREATE_ATTEMPTS_MAX {
            let path = parent.join(Uuid::new_v4().to_string());
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            match lock(&path) {
                Ok(Claim::Ours(lock)) => {
                    return Ok(Self {
                        path,
                        _lock: lock,
                        swept,
                    });
                }
                // It is ours by its unique name, and sweepers cannot tell either.
                Ok(Claim::Unknown(lock)) => {
                    tracing::warn!("no locks on this file system: dead leftovers stay");
                    return Ok(Self {
                        path,
                        _lock: lock,
                        swept,
                    });
                }
                // A sweeper was quicker; it cleans up behind itself.
                Ok(Claim::Theirs) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let _ = std::fs::remove_dir(&path);
                    return Err(error);
                }
            }
        }
        Err(io::Error::other(
            "every new directory was swept before it could be locked",
        ))
    }

    /// The directory; every name in it but `lock` is the owner's.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many directories of dead processes were removed when this one was opened.
    pub fn swept(&self) -> usize {
        self.swept
    }
}

/// The bytes that this user can still write to the file system of `dir`; blocks on the disk.
pub(crate) fn available_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

impl Drop for InstanceDir {
    fn drop(&mut self) {
        // What cannot be removed now is swept by the next process.
        let _ = remove(&self.path);
    }
}

/// Who holds the lock of a directory.
pub(crate) enum Claim {
    Ours(File),
    Theirs,
    /// The file system cannot say: it has no locks, or none just now.
    Unknown(File),
}

/// Tries to lock a directory, without waiting.
pub(crate) fn lock(dir: &Path) -> io::Result<Claim> {
    let path = dir.join(LOCK_NAME);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Claim::Theirs),
        Err(Errno::NOSYS | Errno::NOLCK | Errno::NOTSUP | Errno::INVAL) => {
            return Ok(Claim::Unknown(file));
        }
        Err(error) => return Err(error.into()),
    }
    // The lock may be on a file that a sweeper unlinked between our open and our flock.
    let (ours, named) = (file.metadata()?, std::fs::metadata(&path)?);
    Ok(if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
        Claim::Ours(file)
    } else {
        Claim::Theirs
    })
}

/// Removes the directories of dead processes and counts them.
fn sweep(parent: &Path) -> io::Result<usize> {
    let mut swept = 0;
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        // Only what this module named itself is ever removed.
        let named_by_us = entry
            .file_name()
            .to_str()
            .is_some_and(|name| Uuid::try_parse(name).is_ok_and(|uuid| uuid.to_string() == name));
        if !named_by_us || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let dir = entry.path();
        match lock(&dir) {
            Ok(Claim::Ours(_lock)) => match remove(&dir) {
                Ok(()) => swept += 1,
                Err(error) => tracing::warn!(%error, "a dead process's directory stays"),
            },
            Ok(Claim::Theirs | Claim::Unknown(_)) => {}
            // Another sweeper has just removed it, or it belongs to another user.
            Err(error) => tracing::debug!(%error, "a sibling directory was not looked at"),
        }
    }
    Ok(swept)
}

/// Removes a directory whose lock is held: its contents first, then the lock file, then itself.
///
/// In this order a crash in between leaves a directory that the next sweeper still recognises.
fn remove(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK_NAME {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_file(dir.join(LOCK_NAME))?;
    std::fs::remove_dir(dir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// What `kill -9` leaves: a directory, a file in it and a lock file that nobody locks.
    ///
    /// It is moved into place whole, or a sweeper of the same test could come in between.
    fn leftover(parent: &Path) -> PathBuf {
        let name = Uuid::new_v4().to_string();
        let built = parent.join(format!("{name}.new"));
        std::fs::create_dir_all(built.join("sub")).unwrap();
        std::fs::write(built.join("spool"), "half a file").unwrap();
        std::fs::write(built.join(LOCK_NAME), "").unwrap();
        std::fs::rename(&built, parent.join(&name)).unwrap();
        parent.join(name)
    }

    #[test]
    fn a_directory_lives_as_long_as_its_value() {
        let parent = tempfile::tempdir().unwrap();
        let dir = InstanceDir::open(parent.path(), "spool.dir").unwrap();
        std::fs::write(dir.path().join("spool"), "bytes").unwrap();
        let path = dir.path().to_owned();
        drop(dir);
        assert!(!path.exists());
        assert!(parent.path().exists());
    }

    #[test]
    fn the_dead_are_swept_and_the_living_are_kept() {
        let parent = tempfile::tempdir().unwrap();
        let living = InstanceDir::open(parent.path(), "spool.dir").unwrap();
        std::fs::write(living.path().join("spool"), "bytes").unwrap();
        let dead = leftover(parent.path());
        let half_swept = parent.path().join(Uuid::new_v4().to_string());
        std::fs::create_dir(&half_swept).unwrap();
        let foreign = parent.path().join("notes");
        std::fs::create_dir(&foreign).unwrap();

        let next = InstanceDir::open(parent.path(), "spool.dir").unwrap();
        assert_eq!(next.swept(), 2);
        assert!(!dead.exists() && !half_swept.exists());
        assert!(living.path().join("spool").exists());
        assert!(foreign.exists());
    }

    #[test]
    fn creators_and_sweepers_may_race() {
        let parent = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..40 {
                        leftover(parent.path());
                        let dir = InstanceDir::open(parent.path(), "spool.dir").unwrap();
                        std::fs::write(dir.path().join("spool"), "mine").unwrap();
                        std::thread::yield_now();
                        let text = std::fs::read_to_string(dir.path().join("spool")).unwrap();
                        assert_eq!(text, "mine");
                    }
                });
            }
        });
        drop(InstanceDir::open(parent.path(), "spool.dir").unwrap());
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_in_the_way_is_a_line_about_the_setting() {
        let parent = tempfile::NamedTempFile::new().unwrap();
        let error = InstanceDir::open(parent.path(), "spool.dir")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("spool.dir: ") && error.contains("in the way"),
            "{error}"
        );
        assert!(!error.contains('/'), "no local path: {error}");
    }
}
