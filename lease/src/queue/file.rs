//! `QueueFile`: the jobs on disk. One file, written by one transaction per change or group of
//! changes; all calls block.
//!
//! A file that cannot be what it should (damaged, by a newer version, or not ours to open) is moved
//! aside and a new one begun; nothing is ever deleted. A file that cannot be opened or written for
//! another reason (a full disk, another process that still has it) is left alone and tried again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{
    Builder, CommitError, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, TransactionError,
};

use super::stored::StoredJob;

/// By number, the entries as JSON.
const JOBS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("jobs");
/// `format` → the version of the tables.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The version of the tables.
const FORMAT: u64 = 1;
/// What the database may keep of the file in memory: the jobs are there anyway.
const CACHE_BYTES: usize = 1024 * 1024;

/// The jobs on disk.
#[derive(Debug)]
pub(super) struct QueueFile {
    path: PathBuf,
    database: Option<Database>,
    set_aside: Option<SetAside>,
    #[cfg(test)]
    disk: std::sync::Arc<faults::Disk>,
}

/// Where a file went that was not usable, and why.
pub(super) type SetAside = (PathBuf, String);

/// What opening the file brought.
#[derive(Debug)]
pub(super) struct Opened {
    /// The entries, by number.
    pub(super) jobs: Vec<(u64, StoredJob)>,
    /// The numbers of those that mean nothing.
    pub(super) unreadable: Vec<u64>,
}

/// Why the file could not be opened or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// It is not what it should be.
    #[error("the queue's file is damaged: {0}")]
    Damaged(String),
    /// The system refused.
    #[error("the queue's file cannot be used")]
    Io(#[source] io::Error),
    /// Somebody else has it.
    #[error("another process has the queue's file open")]
    InUse,
    /// Anything else.
    #[error("the queue's file cannot be used: {0}")]
    Other(String),
}

impl QueueFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            database: None,
            set_aside: None,
            #[cfg(test)]
            disk: std::sync::Arc::default(),
        }
    }

    /// Returns what tests break the disk with.
    #[cfg(test)]
    pub(super) fn disk(&self) -> &std::sync::Arc<faults::Disk> {
        &self.disk
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    /// Returns where a file went that was not usable, once; also when no new one could be begun.
    pub(super) fn take_set_aside(&mut self) -> Option<SetAside> {
        self.set_aside.take()
    }

    /// Opens the file and reads it; makes it where there is none. `since_epoch` names a file that
    /// has to be moved aside.
    pub(super) fn open(&mut self, since_epoch: Duration) -> Result<Opened, FileError> {
        self.database = None;
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(FileError::Io)?;
        }
        let reason = match self.open_or_begin() {
            Ok(opened) => {
                self.sync_folder();
                return Ok(opened);
            }
            Err(FileError::Damaged(reason)) => reason,
            // It will not be readable the next time either, and jobs would be refused until then.
            Err(FileError::Io(error)) if self.is_barred(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        let aside = self.move_aside(since_epoch).map_err(FileError::Io)?;
        self.set_aside = Some((aside, reason));
        let opened = self.open_or_begin()?;
        self.sync_folder();
        Ok(opened)
    }

    /// Opens the file; leaves an empty one behind where it could not begin one.
    fn open_or_begin(&mut self) -> Result<Opened, FileError> {
        let is_new = match self.path.metadata() {
            Ok(there) => there.is_file() && there.len() == 0,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let opened = guarded(|| self.try_open());
        if is_new && matches!(&opened, Err(error) if !matches!(error, FileError::InUse)) {
            // On a full disk it is long and has nothing in it, which would be taken for damage the
            // next time and moved aside, each second anew. There may be none to be cut.
            let mut options = std::fs::OpenOptions::new();
            let _ = options.write(true).truncate(true).open(&self.path);
        }
        opened
    }

    /// Says whether `error` means that something is at the file's path that nobody may open.
    fn is_barred(&self, error: &io::Error) -> bool {
        let barred = matches!(
            error.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory
        );
        barred && self.path.symlink_metadata().is_ok()
    }

    /// Makes a new file's name as durable as what is written into it.
    fn sync_folder(&self) {
        let folder = self.path.parent().map(std::fs::File::open);
        if let Some(Ok(folder)) = folder {
            // Some file systems have no such thing for folders; there is nothing else to be done.
            let _ = folder.sync_all();
        }
    }

    fn try_open(&mut self) -> Result<Opened, FileError> {
        let mut builder = Builder::new();
        builder
            .set_cache_size(CACHE_BYTES)
            .set_check_integrity_on_open(true);
        #[cfg(not(test))]
        let database = builder.create(&self.path)?;
        #[cfg(test)]
        let database = builder.create_with_backend(self.disk.open(&self.path)?)?;
        let writing = database.begin_write()?;
        {
            let mut meta = writing.open_table(META)?;
            let format = meta.get("format")?.map(|format| format.value());
            match format {
                None => drop(meta.insert("format", FORMAT)?),
                Some(FORMAT) => {}
                Some(other) => {
                    let reason = format!("its format is {other}, which this version cannot read");
                    return Err(FileError::Damaged(reason));
                }
            }
            writing.open_table(JOBS)?;
        }
        writing.commit()?;
        let (mut jobs, mut unreadable) = (Vec::new(), Vec::new());
        for entry in database.begin_read()?.open_table(JOBS)?.iter()? {
            let (seq, json) = entry?;
            match StoredJob::read(json.value()) {
                Some(job) => jobs.push((seq.value(), job)),
                None => unreadable.push(seq.value()),
            }
        }
        self.database = Some(database);
        Ok(Opened { jobs, unreadable })
    }

    /// Renames the file so that nothing is lost that somebody may yet want to look at.
    fn move_aside(&self, since_epoch: Duration) -> io::Result<PathBuf> {
        for n in 0..100 {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".corrupt-{}", since_epoch.as_millis() + n));
            let aside = PathBuf::from(name);
            if !aside.try_exists()? {
                std::fs::rename(&self.path, &aside)?;
                return Ok(aside);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Writes and removes entries, all or none of them; they are on disk when this returns.
    ///
    /// After an error the file has to be opened again.
    pub(super) fn write(&mut self, entries: &[(u64, Option<StoredJob>)]) -> Result<(), FileError> {
        let Some(database) = self.database.take() else {
            return Err(FileError::Other("it is not open".to_owned()));
        };
        let written = guarded(|| {
            let writing = database.begin_write()?;
            {
                let mut jobs = writing.open_table(JOBS)?;
                for (seq, job) in entries {
                    match job {
                        Some(job) => drop(jobs.insert(seq, job.to_json().as_slice())?),
                        None => drop(jobs.remove(seq)?),
                    }
                }
            }
            writing.commit()?;
            Ok(())
        });
        if written.is_ok() {
            self.database = Some(database);
            return Ok(());
        }
        // Closing it is I/O too.
        written.and(guarded(|| {
            drop(database);
            Ok(())
        }))
    }

    /// Closes the file; another process may open it from now on.
    pub(super) fn close(&mut self) {
        if let Some(database) = self.database.take() {
            let closed = guarded(|| {
                drop(database);
                Ok(())
            });
            // What was written is on disk in any case.
            drop(closed);
        }
    }
}

/// Turns a panic of the database, which some damage causes, into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, FileError>) -> Result<T, FileError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(FileError::Damaged(text.unwrap_or("unreadable").to_owned()))
        }
    }
}

impl From<StorageError> for FileError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupted(reason) => Self::Damaged(reason),
            StorageError::Io(error) => match error.kind() {
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                    Self::Damaged(error.to_string())
                }
                _ => Self::Io(error),
            },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<DatabaseError> for FileError {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::Storage(error) => error.into(),
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::InUse,
            DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => {
                Self::Damaged(error.to_string())
            }
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<TableError> for FileError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TransactionError> for FileError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<CommitError> for FileError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
pub(super) mod faults;
#[cfg(test)]
mod tests;
