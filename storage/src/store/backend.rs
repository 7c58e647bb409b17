//! What [`ArtifactStore`](super::ArtifactStore) asks of a place that holds objects.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

use super::body::Stored;
use crate::MappedFile;

/// The primitive operations of one kind of object store.
///
/// Paths are checked by the caller. Implementations bound their own concurrency; deadlines are the
/// caller's, who drops the future when one passes. A dropped write may still take effect.
#[async_trait]
pub trait Backend: std::fmt::Debug + Send + Sync + 'static {
    /// Opens an object for reading; `None` only when it certainly does not exist.
    async fn lookup(&self, path: &str) -> Result<Option<Stored>, BackendError>;

    /// Creates an object, whole and durable, unless one exists.
    async fn put_new(&self, path: &str, source: &Source) -> Result<Put, BackendError>;

    /// Makes sure that an object found after [`Put::Exists`] survives a crash.
    async fn settle(&self, path: &str) -> Result<(), BackendError>;

    /// Creates or replaces an object at once and durably.
    async fn put_over(&self, path: &str, bytes: Bytes) -> Result<(), BackendError>;

    /// Removes an object; one that does not exist is no error.
    async fn delete(&self, path: &str) -> Result<(), BackendError>;

    /// Lists at most `limit` objects below `prefix` whose path sorts after `after`, in the order
    /// of their paths' bytes.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, BackendError>;

    /// Lists what lies directly in `prefix`, at most `limit` entries.
    async fn list_dir(&self, prefix: &str, limit: usize) -> Result<Directory, BackendError>;

    /// Shows that objects can be read, with a look outside the tree that needs nothing to be there.
    async fn probe_read(&self) -> Result<(), BackendError>;

    /// Shows that objects can be written, with something outside the tree.
    async fn probe_write(&self) -> Result<(), BackendError>;
}

/// What becomes an object.
#[derive(Debug, Clone)]
pub enum Source {
    /// A small body in memory.
    Bytes(Bytes),
    /// A finished spool file on a local disk.
    ///
    /// On the store's own file system the file itself becomes the object, by a second hard link:
    /// it must never be written to or truncated again, and it brings its own permission bits.
    File {
        /// Where the file is.
        path: std::path::PathBuf,
        /// Its length in bytes.
        len: u64,
        /// A mapping of the whole file.
        map: MappedFile,
    },
}

impl Source {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a conditional write found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// Nothing was there; the object is stored now.
    Created,
    /// Something is there, or is being written by somebody else.
    Exists,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object's path, for example `example.com/m/@v/v1.0.0.zip`.
    pub path: String,
    /// Its length in bytes.
    pub len: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
}

/// What lies directly below one prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory {
    /// The objects, by path.
    pub objects: Vec<Listed>,
    /// The full paths of the prefixes below, without a trailing slash, by path.
    pub prefixes: Vec<String>,
    /// `true` when there was more than the limit allowed.
    pub truncated: bool,
}

/// Why a backend did not do what was asked.
///
/// `Display` is one line without a local path, an address or a secret; the source has the rest.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}")]
pub struct BackendError {
    /// The line for people.
    pub reason: &'static str,
    /// `true` when the operation had no effect and would fail again: retrying and looking at what
    /// happened are both pointless.
    pub certain: bool,
    /// The library's error.
    #[source]
    pub source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl BackendError {
    /// A failure that leaves open whether the operation took effect.
    pub fn unclear<E>(reason: &'static str, source: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Self {
            reason,
            certain: false,
            source: Some(Arc::new(source)),
        }
    }

    /// A failure that repetition does not mend.
    pub fn certain<E>(reason: &'static str, source: E) -> Self
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Self {
            reason,
            certain: true,
            source: Some(Arc::new(source)),
        }
    }

    /// A failure that no library reported.
    pub fn plain(reason: &'static str, certain: bool) -> Self {
        Self {
            reason,
            certain,
            source: None,
        }
    }
}
