//! Objects as files below one directory: what `GOPROXY=file://…` reads, too.
//!
//! The tree only ever shows whole, durable files. A new one is written and synced elsewhere (the
//! spool, or `.staging/{uuid}/` inside the root), then appears by a hard link, which fails when the
//! name is taken; a replaced one appears by a rename. Directories are synced up to the root, and
//! are never removed, so that no write can lose its directory half-way.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{CWD, OFlags, RenameFlags};
use tokio::sync::Semaphore;

use super::STAGING;
use super::backend::{Backend, BackendError, Directory, Listed, Put, Source};
use super::body::{Stored, StoredBody};
use crate::instance_dir::InstanceDir;
use crate::mapped::MappedFile;

mod walk;

/// Files up to this length are read; longer ones are mapped.
const READ_BYTES_MAX: u64 = 64 << 10;

/// How many threads may be at work in this store at once. A disk that hangs costs no more.
const THREADS_MAX: usize = 64;

/// How many directories are remembered as synced, before all are forgotten.
const SYNCED_DIRS_MAX: usize = 65_536;

/// A store in a local directory.
#[derive(Debug)]
pub(super) struct LocalBackend {
    tree: Arc<Tree>,
    threads: Arc<Semaphore>,
}

#[derive(Debug)]
struct Tree {
    root: PathBuf,
    /// Device and inode of the root as it was opened. A root that is gone or another one now (an
    /// unmounted volume) must not look like an empty store.
    identity: (u64, u64),
    /// Opened when first needed, so that a read-only tree can be served.
    staging: Mutex<Option<Arc<InstanceDir>>>,
    staged: AtomicU64,
    synced_dirs: Mutex<HashSet<PathBuf>>,
}

impl LocalBackend {
    /// Opens a directory, creating it when it is absent. Blocks on the disk.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(root)?;
        let root = std::fs::canonicalize(root)?;
        let metadata = std::fs::metadata(&root)?;
        if !metadata.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory));
        }
        let tree = Tree {
            identity: (metadata.dev(), metadata.ino()),
            root,
            staging: Mutex::new(None),
            staged: AtomicU64::new(0),
            synced_dirs: Mutex::default(),
        };
        // Leftovers of killed processes are swept now rather than at the first write.
        if let Err(error) = tree.staging() {
            tracing::warn!(%error, "the storage directory cannot be written to; only reading");
        }
        Ok(Self {
            tree: Arc::new(tree),
            threads: Arc::new(Semaphore::new(THREADS_MAX)),
        })
    }

    /// Runs blocking work on a thread, which keeps its permit until the disk answers, whether or
    /// not anybody still waits.
    async fn run<T, F>(&self, work: F) -> Result<T, BackendError>
    where
        T: Send + 'static,
        F: FnOnce(&Tree) -> io::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.threads)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let tree = Arc::clone(&self.tree);
        let outcome = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&tree)
        });
        match outcome.await {
            Ok(outcome) => outcome.map_err(explain),
            Err(error) => Err(BackendError::unclear("the storage thread failed", error)),
        }
    }
}

/// Says what an operator has to mend. Nothing local is ever retried here.
fn explain(error: io::Error) -> BackendError {
    use io::ErrorKind as Kind;
    let reason = match error.kind() {
        Kind::ReadOnlyFilesystem => "the storage is read-only",
        Kind::PermissionDenied => "the storage denies access",
        Kind::StorageFull | Kind::QuotaExceeded => "the storage is full",
        Kind::InvalidFilename => "the name is too long for the storage",
        Kind::StaleNetworkFileHandle => "the storage is gone",
        _ => "the storage failed",
    };
    BackendError::certain(reason, error)
}

#[async_trait]
impl Backend for LocalBackend {
    async fn lookup(&self, path: &str) -> Result<Option<Stored>, BackendError> {
        let path = path.to_owned();
        self.run(move |tree| tree.lookup(&path)).await
    }

    async fn put_new(&self, path: &str, source: &Source) -> Result<Put, BackendError> {
        let (path, source) = (path.to_owned(), source.clone());
        self.run(move |tree| tree.put_new(&path, &source)).await
    }

    async fn settle(&self, path: &str) -> Result<(), BackendError> {
        let path = path.to_owned();
        self.run(move |tree| tree.settle(&path)).await
    }

    async fn put_over(&self, path: &str, bytes: Bytes) -> Result<(), BackendError> {
        let path = path.to_owned();
        self.run(move |tree| tree.put_over(&path, &bytes)).await
    }

    async fn delete(&self, path: &str) -> Result<(), BackendError> {
        let path = path.to_owned();
        self.run(move |tree| tree.delete(&path)).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BackendError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.run(move |tree| {
            let listed = walk::list(&tree.root, &prefix, after.as_deref(), limit)?;
            tree.check_identity()?;
            Ok(listed)
        })
        .await
    }

    async fn list_dir(&self, prefix: &str, limit: usize) -> Result<Directory, BackendError> {
        let prefix = prefix.to_owned();
        self.run(move |tree| {
            let directory = walk::list_dir(&tree.root, &prefix, limit)?;
            tree.check_identity()?;
            Ok(directory)
        })
        .await
    }

    async fn probe_read(&self) -> Result<(), BackendError> {
        self.run(Tree::probe_read).await
    }

    async fn probe_write(&self) -> Result<(), BackendError> {
        self.run(Tree::probe_write).await
    }
}

impl Tree {
    fn lookup(&self, path: &str) -> io::Result<Option<Stored>> {
        // Without O_NONBLOCK a stray pipe in the tree would block this thread for ever.
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("the flag fits an int");
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(self.root.join(path));
        let mut file = match opened {
            Ok(file) => file,
            // A name longer than the file system allows cannot have been stored.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::NotADirectory
                        | io::ErrorKind::InvalidFilename
                ) =>
            {
                self.check_identity()?;
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if metadata.is_dir() {
            return Ok(None);
        }
        if !metadata.is_file() {
            return Err(io::Error::other(
                "the object is neither a file nor a directory",
            ));
        }
        let len = metadata.len();
        let body = if len <= READ_BYTES_MAX {
            let mut bytes = vec![0; usize::try_from(len).expect("at most 64 KiB")];
            file.read_exact(&mut bytes)?;
            StoredBody::Bytes(bytes.into())
        } else {
            StoredBody::Mapped(MappedFile::map(&file, len)?)
        };
        Ok(Some(Stored {
            len,
            modified: metadata.modified()?,
            body,
        }))
    }

    fn put_new(&self, path: &str, source: &Source) -> io::Result<Put> {
        let target = self.prepare_parent(path)?;
        if target.symlink_metadata().is_ok() {
            return Ok(Put::Exists);
        }
        if let Source::File {
            path: spool, len, ..
        } = source
        {
            let file = File::open(spool)?;
            if file.metadata()?.len() != *len {
                return Err(io::Error::other("the spool file changed its length"));
            }
            file.sync_all()?;
            match std::fs::hard_link(spool, &target) {
                Ok(()) => {
                    sync_parent(&target)?;
                    return Ok(Put::Created);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Ok(Put::Exists);
                }
                // Another file system, or one without hard links: copy.
                Err(error) if link_unsupported(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let staged = match source {
            Source::Bytes(bytes) => self.stage(|file| file.write_all(bytes))?,
            Source::File {
                path: spool, len, ..
            } => self.stage(|file| {
                let copied = io::copy(&mut File::open(spool)?, file)?;
                if copied == *len {
                    return Ok(());
                }
                Err(io::Error::other(
                    "the spool file changed while it was copied",
                ))
            })?,
        };
        let linked = match std::fs::hard_link(&staged.path, &target) {
            Err(error) if link_unsupported(&error) => {
                let flags = RenameFlags::NOREPLACE;
                rustix::fs::renameat_with(CWD, &staged.path, CWD, &target, flags)
                    .map_err(io::Error::from)
            }
            linked => linked,
        };
        match linked {
            Ok(()) => sync_parent(&target).map(|()| Put::Created),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Put::Exists),
            Err(error) => Err(error),
        }
    }

    fn settle(&self, path: &str) -> io::Result<()> {
        let target = self.prepare_parent(path)?;
        File::open(&target)?.sync_all()?;
        sync_parent(&target)
    }

    fn put_over(&self, path: &str, bytes: &Bytes) -> io::Result<()> {
        let target = self.prepare_parent(path)?;
        let staged = self.stage(|file| file.write_all(bytes))?;
        std::fs::rename(&staged.path, &target)?;
        sync_parent(&target)
    }

    fn delete(&self, path: &str) -> io::Result<()> {
        let target = self.root.join(path);
        match std::fs::remove_file(&target) {
            Ok(()) => sync_parent(&target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.check_identity(),
            Err(error) => Err(error),
        }
    }

    fn probe_read(&self) -> io::Result<()> {
        std::fs::read_dir(&self.root)?.next().transpose()?;
        self.check_identity()
    }

    fn probe_write(&self) -> io::Result<()> {
        self.check_identity()?;
        let staged = self.stage(|file| file.write_all(b"probe"))?;
        if std::fs::read(&staged.path)? != b"probe" {
            return Err(io::Error::other("the probe was read back differently"));
        }
        Ok(())
    }

    /// Fails when the root is not the directory that was opened.
    fn check_identity(&self) -> io::Result<()> {
        let gone = || io::Error::from(io::ErrorKind::StaleNetworkFileHandle);
        let metadata = std::fs::metadata(&self.root).map_err(|_| gone())?;
        if (metadata.dev(), metadata.ino()) == self.identity {
            return Ok(());
        }
        Err(gone())
    }

    /// Creates the directories above an object durably and returns the object's file name.
    fn prepare_parent(&self, path: &str) -> io::Result<PathBuf> {
        self.check_identity()?;
        let target = self.root.join(path);
        let parent = target
            .parent()
            .expect("an object lies below the root")
            .to_owned();
        let known = |dirs: &HashSet<PathBuf>| dirs.contains(&parent);
        if known(
            &self
                .synced_dirs
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        ) && parent.is_dir()
        {
            return Ok(target);
        }
        let mut dir = self.root.clone();
        let relative = parent
            .strip_prefix(&self.root)
            .expect("an object lies below the root");
        for segment in relative {
            let above = dir.clone();
            dir.push(segment);
            match std::fs::create_dir(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            // Also when it was there: whoever created it may not have synced it yet.
            sync_dir(&above)?;
        }
        let mut dirs = self
            .synced_dirs
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if dirs.len() >= SYNCED_DIRS_MAX {
            dirs.clear();
        }
        dirs.insert(parent);
        Ok(target)
    }

    /// Writes and syncs a file outside the tree; it is removed when the value is dropped.
    fn stage(&self, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<Staged> {
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let create = |dir: Arc<InstanceDir>| {
            let path = dir.path().join(number.to_string());
            let file = OpenOptions::new()
                .create_new(true)
                .write(true)
                .open(&path)?;
            Ok::<_, io::Error>((file, Staged { path, _dir: dir }))
        };
        let (mut file, staged) = match create(self.staging()?) {
            // Somebody cleaned up below us: start over in a new directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.check_identity()?;
                *self.staging.lock().unwrap_or_else(PoisonError::into_inner) = None;
                create(self.staging()?)?
            }
            created => created?,
        };
        write(&mut file)?;
        file.sync_all()?;
        Ok(staged)
    }

    fn staging(&self) -> io::Result<Arc<InstanceDir>> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dir) = &*staging {
            return Ok(Arc::clone(dir));
        }
        let dir = Arc::new(InstanceDir::try_open(&self.root.join(STAGING))?);
        *staging = Some(Arc::clone(&dir));
        Ok(dir)
    }
}

/// A synced file outside the tree.
struct Staged {
    path: PathBuf,
    /// Keeps the directory until the file is in place.
    _dir: Arc<InstanceDir>,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Makes a file's name durable.
fn sync_parent(target: &Path) -> io::Result<()> {
    let parent = target.parent().expect("an object lies below the root");
    sync_dir(parent)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    match File::open(dir)?.sync_all() {
        // Some network file systems cannot sync directories; theirs are durable or nothing helps.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        synced => synced,
    }
}

/// Tells whether a hard link is impossible here in principle.
///
/// `EPERM` and `EACCES` are what file systems without links and the kernel's hard-link protection
/// answer; where writing is forbidden too, the copy says so.
pub(crate) fn link_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::CrossesDevices
            | io::ErrorKind::TooManyLinks
            | io::ErrorKind::Unsupported
            | io::ErrorKind::PermissionDenied
    )
}
