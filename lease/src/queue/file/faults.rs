//! A disk that refuses on demand.

use std::fs::OpenOptions;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// What is wrong with the disk.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// Files cannot grow.
    pub(crate) full: AtomicBool,
    /// Files can grow, since holes take no room, but nothing fits into them.
    pub(crate) no_room: AtomicBool,
    /// Nothing can be written.
    pub(crate) read_only: AtomicBool,
    /// What was written may be lost.
    pub(crate) cannot_sync: AtomicBool,
    /// Files that are there cannot be opened.
    pub(crate) forbidden: AtomicBool,
    /// How often a file was opened.
    pub(crate) opens: AtomicU64,
    /// How often it was synchronized.
    pub(crate) syncs: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Backend {
    file: FileBackend,
    disk: Arc<Disk>,
}

impl Disk {
    pub(super) fn open(self: &Arc<Self>, path: &Path) -> Result<Backend, redb::DatabaseError> {
        self.opens.fetch_add(1, Ordering::Relaxed);
        if path.exists() {
            Self::check(&self.forbidden, io::ErrorKind::PermissionDenied)?;
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false);
        Ok(Backend {
            file: FileBackend::new(file.open(path)?)?,
            disk: Arc::clone(self),
        })
    }

    fn check(flag: &AtomicBool, kind: io::ErrorKind) -> io::Result<()> {
        match flag.load(Ordering::Relaxed) {
            true => Err(kind.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Disk::check(&self.disk.full, io::ErrorKind::StorageFull)?;
        Disk::check(&self.disk.read_only, io::ErrorKind::ReadOnlyFilesystem)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Disk::check(&self.disk.cannot_sync, io::ErrorKind::Other)?;
        self.disk.syncs.fetch_add(1, Ordering::Relaxed);
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Disk::check(&self.disk.no_room, io::ErrorKind::StorageFull)?;
        Disk::check(&self.disk.read_only, io::ErrorKind::ReadOnlyFilesystem)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
