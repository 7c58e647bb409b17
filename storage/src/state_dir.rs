//! A directory that outlives the process: what a restart must find again.
//!
//! Layout: `{parent}/state-{n}/` with a file `lock` inside, held by `flock` while a process uses
//! it, and a file `id`, the owner's lasting name. Each process takes the first that is free, so one
//! that starts again finds what it had, and two that share a parent by mistake do not mix. Processes
//! take them one after the other, as far as `flock` on the parent works: then one can look whether
//! another directory is in use without being in the way of who starts beside it.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use uuid::Uuid;

use crate::Error;
use crate::instance_dir::{Claim, LOCK_NAME, lock};
use crate::store::sync_dir;

/// Processes that may share a parent.
const SHARED_MAX: usize = 64;

/// Nobody but this user has any business in it.
const PRIVATE: u32 = 0o700;

/// The name of the file with the owner's lasting name.
const ID_NAME: &str = "id";

/// How often a start looks whether others have taken their directories: they need milliseconds,
/// unless they were stopped.
const TURN_LOOKS_MAX: u32 = 600;

/// The pause between two looks at whether it is our turn.
const TURN_LOOK_EVERY: Duration = Duration::from_millis(5);

/// The name of that file while it is written.
const NEW_ID_NAME: &str = "id.new";

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
        std::fs::create_dir_all(parent).map_err(failed)?;
        let turn = turn(parent);
        for n in 0..SHARED_MAX {
            let path = parent.join(format!("state-{n}"));
            make_private(&path).map_err(failed)?;
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
            if turn.is_some() {
                for other in left_alone(parent, &path) {
                    tracing::warn!(
                        left_alone = %other.display(),
                        "a directory beside ours in `{key}` holds something, such as jobs or kept \
                         files, that nobody looks after until a process uses it; each takes the \
                         lowest number that is free"
                    );
                }
            }
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

/// Makes a directory, or makes one of ours private that is there: what is kept in it may be of
/// private modules, and the queue tells their names.
fn make_private(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(PRIVATE).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    // One that an operator has made for us may belong to somebody else, who decides then.
    if let Ok(metadata) = std::fs::metadata(dir)
        && metadata.mode() & 0o077 != 0
    {
        let _ = std::fs::set_permissions(dir, Permissions::from_mode(PRIVATE));
    }
    Ok(())
}

/// Waits until no other process takes a directory below `parent`; the next one's turn comes when
/// the file is closed. `None` where that cannot be had, or one that hangs has it.
#[allow(
    clippy::disallowed_methods,
    reason = "a start has nothing else to do, and nothing runs yet that it could hold up"
)]
fn turn(parent: &Path) -> Option<File> {
    let parent = File::open(parent).ok()?;
    for _ in 0..TURN_LOOKS_MAX {
        match rustix::fs::flock(&parent, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(parent),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(TURN_LOOK_EVERY),
            Err(_) => return None,
        }
    }
    None
}

/// The directories below `parent` beside `ours` that hold something and that no process uses.
fn left_alone(parent: &Path, ours: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter(|entry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("state-"));
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .map(|entry| entry.path())
        .filter(|path| path != ours && holds_something(path))
        // What cannot be looked at belongs to somebody else.
        .filter(|path| matches!(lock(path), Ok(Claim::Ours(_))))
        .collect();
    found.sort();
    found
}

/// Says whether there is anything in a directory but what this module puts there and empty folders.
fn holds_something(dir: &Path) -> bool {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            name != LOCK_NAME && name != ID_NAME && name != NEW_ID_NAME
        })
        .any(|entry| match std::fs::read_dir(entry.path()) {
            Ok(mut inside) => inside.next().is_some(),
            Err(_) => true,
        })
}

/// Reads the directory's id, or gives it one.
fn lasting_id(dir: &Path) -> io::Result<Arc<str>> {
    let path = dir.join(ID_NAME);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let text = std::str::from_utf8(&bytes).unwrap_or_default().trim();
            if Uuid::try_parse(text).is_ok() {
                return Ok(Arc::from(text));
            }
            // A crash may have left it empty; nothing hangs on the old one that is not made anew.
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let id = Uuid::new_v4().simple().to_string();
    let new = dir.join(NEW_ID_NAME);
    std::fs::write(&new, &id)?;
    File::open(&new)?.sync_all()?;
    std::fs::rename(&new, &path)?;
    sync_dir(dir)?;
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
    fn what_nobody_looks_after_is_found() {
        let parent = tempfile::tempdir().unwrap();
        let open = || StateDir::open(parent.path(), "spool.dir").unwrap();
        let (ours, used, empty, left) = (open(), open(), open(), open());
        let left_alone = || left_alone(parent.path(), ours.path());
        for dir in [&ours, &used, &left] {
            std::fs::write(dir.path().join("queue"), "a job").unwrap();
        }
        // As a copy of a working instance's has it, and beside what is none of ours.
        let moved = parent.path().join("state-70");
        std::fs::create_dir_all(moved.join("kept")).unwrap();
        std::fs::create_dir_all(parent.path().join("state-old/kept/file")).unwrap();
        let left_path = left.path().to_owned();
        assert_eq!(left_alone(), Vec::<PathBuf>::new());
        drop((empty, left));
        assert_eq!(left_alone(), std::slice::from_ref(&left_path));
        std::fs::write(moved.join("kept/file"), "bytes").unwrap();
        assert_eq!(left_alone(), [left_path, moved]);
    }

    #[test]
    fn a_look_is_in_nobodys_way() {
        let parent = tempfile::tempdir().unwrap();
        let open = || StateDir::open(parent.path(), "spool.dir").unwrap();
        let first = open().path().to_owned();
        let turn = turn(parent.path()).unwrap();
        let Claim::Ours(look) = lock(&first).unwrap() else {
            panic!("it is in use")
        };
        let (opened, news) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let opening = scope.spawn(|| {
                let dir = open();
                opened.send(()).unwrap();
                dir.path().to_owned()
            });
            let soon = std::time::Duration::from_millis(200);
            assert!(news.recv_timeout(soon).is_err(), "it did not wait");
            drop((look, turn));
            assert_eq!(opening.join().unwrap(), first);
        });
    }

    #[test]
    fn a_broken_id_is_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let path = StateDir::open(parent.path(), "spool.dir")
            .unwrap()
            .path()
            .to_owned();
        for broken in [&b""[..], b"\xff\xfe", b"not an id"] {
            std::fs::write(path.join(ID_NAME), broken).unwrap();
            let again = StateDir::open(parent.path(), "spool.dir").unwrap();
            assert!(Uuid::try_parse(again.id()).is_ok());
        }
    }

    #[test]
    fn one_that_hangs_in_its_turn_holds_up_nobody_for_long() {
        let parent = tempfile::tempdir().unwrap();
        let _hangs = turn(parent.path()).unwrap();
        let opened = StateDir::open(parent.path(), "spool.dir").unwrap();
        assert!(opened.path().ends_with("state-0"));
    }

    #[test]
    fn nobody_else_may_look_into_it() {
        let parent = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let dir = StateDir::open(&parent.path().join("spool"), "spool.dir").unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        let path = dir.path().to_owned();
        drop(dir);
        // As an earlier version has made it.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        let again = StateDir::open(&parent.path().join("spool"), "spool.dir").unwrap();
        assert_eq!((again.path(), mode(&path)), (path.as_path(), 0o700));
    }
}
