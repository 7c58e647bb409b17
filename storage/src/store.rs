//! The object store of artifacts: look up, create once, replace, delete, list.
//!
//! Objects are named by their path in the tree, for example `example.com/m/@v/v1.0.0.zip`. An
//! object that [`ArtifactStore::lookup`] finds is whole and durable; files of versions are created
//! once and never change, documents are replaced. Nothing outside the tree is ever visible:
//! `.staging/` at its root is this module's.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use crate::Error;

mod backend;
mod body;
#[cfg(any(test, feature = "test-util"))]
pub mod contract;
#[cfg(any(test, feature = "test-util"))]
mod faults;
mod local;
mod open;
mod remote;

pub use self::backend::{Backend, BackendError, Directory, Listed, Put, Source};
pub use self::body::{ByteStream, Stored, StoredBody};
#[cfg(any(test, feature = "test-util"))]
pub use self::faults::{Fault, Faults, Operation};
pub(crate) use self::local::{link_unsupported, sync_dir};
pub use self::remote::RemoteBody;

/// The first segment of paths that are not part of the tree.
const STAGING: &str = ".staging";

/// How often a conditional write is repeated when it did not say what happened and nothing is
/// there: somebody else's write may have been in progress and failed.
const CREATE_RETRIES_MAX: u32 = 5;

/// The pause before the first of those repetitions; each further one doubles it.
const CREATE_PAUSE_FIRST: Duration = Duration::from_millis(100);

/// The slowest upload that is waited for: one attempt may take `write_timeout`, and longer by its
/// length at this rate. Whether a slow one makes progress cannot be seen.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 512 << 10;

/// How a store is reached and how much is asked of it at once.
#[derive(Clone)]
pub struct StoreOptions {
    /// Settings for remote stores by the names of their environment variables, such as
    /// `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`, `AWS_REGION`, `AWS_ACCESS_KEY_ID`; upper or lower
    /// case. Unknown names are ignored. Default: none.
    pub settings: Vec<(String, String)>,
    /// The longest a connection to a remote store may take to open. Default: 5 s.
    pub connect_timeout: Duration,
    /// The longest a look-up may take, reading of small bodies included. Default: 10 s.
    pub lookup_timeout: Duration,
    /// The longest that replacing or deleting one object, or one attempt at creating a small one,
    /// may take. Default: 30 s.
    pub write_timeout: Duration,
    /// The longest that creating one object may take, repetitions and looking at the outcome
    /// included. Default: 20 min, for 500 MiB at 512 KiB/s.
    pub upload_timeout: Duration,
    /// The longest that one page of a listing may take. Default: 60 s.
    pub list_timeout: Duration,
    /// The longest silence inside a remote body before it is asked for again. Default: 15 s.
    pub stall_timeout: Duration,
    /// The longest that [`ArtifactStore::check`] may take. Default: 5 s.
    pub check_timeout: Duration,
    /// How many short requests to a remote store may be under way. Default: 128.
    pub requests_max: usize,
    /// How many uploads to a remote store may be under way. Default: 16.
    pub uploads_max: usize,
    /// How many large bodies may be read from a remote store at once. Default: 256.
    pub streams_max: usize,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            settings: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            lookup_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            upload_timeout: Duration::from_secs(20 * 60),
            list_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(15),
            check_timeout: Duration::from_secs(5),
            requests_max: 128,
            uploads_max: 16,
            streams_max: 256,
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The values are credentials.
        let keys: Vec<_> = self.settings.iter().map(|(key, _)| key).collect();
        f.debug_struct("StoreOptions")
            .field("settings", &keys)
            .finish_non_exhaustive()
    }
}

/// What became of [`ArtifactStore::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object was not there and is now.
    Created,
    /// It was there with the very same bytes; nothing was changed.
    ExistsSame,
    /// It is there with other bytes, which were kept.
    Conflict {
        /// The length of what is stored, in bytes.
        stored_len: u64,
        /// The length of what was offered, in bytes.
        offered_len: u64,
    },
}

/// What a store that can be read can do besides.
#[derive(Debug)]
pub enum StoreHealth {
    /// It takes what is written.
    Writable,
    /// It does not, as [`Error::Storage`] says: it is read-only, full, or refuses.
    ReadOnly(Error),
}

/// The store; cheap to clone.
#[derive(Clone)]
pub struct ArtifactStore {
    scheme: &'static str,
    backend: Arc<dyn Backend>,
    options: Arc<StoreOptions>,
}

impl std::fmt::Debug for ArtifactStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactStore")
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl ArtifactStore {
    /// Opens `file:///path` (or a bare absolute path), `s3://bucket/prefix`, `gs://…`, `az://…` or
    /// `memory://`.
    ///
    /// A local directory is created when it is absent (which blocks on the disk), and one that
    /// cannot be written to is opened for reading. A remote store is not asked anything yet; call
    /// [`ArtifactStore::check`].
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: the URL or a setting cannot work; the text says what to change.
    /// [`Error::Storage`]: the disk failed.
    pub fn open(url: &str, options: StoreOptions) -> Result<Self, Error> {
        let (scheme, backend) = open::open(url, &options)?;
        Ok(Self {
            scheme,
            backend,
            options: Arc::new(options),
        })
    }

    /// The kind of store: `"file"`, `"memory"`, `"s3"`, `"gs"` or `"az"`.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Opens an object; `None` only when it certainly is not there.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: it is not known whether the object exists; never treat that as absence.
    /// [`Error::InvalidName`]: no object can have this path.
    pub async fn lookup(&self, path: &str) -> Result<Option<Stored>, Error> {
        check_path(path)?;
        self.within(
            self.options.lookup_timeout,
            "reading",
            path,
            self.backend.lookup(path),
        )
        .await
    }

    /// Stores an object unless one is there, whole and durably, or not at all.
    ///
    /// Cancelling the future may leave the write to finish or fail by itself, which is harmless.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the object is not stored, as far as is known; try again later.
    /// [`Error::InvalidName`]: no object can have this path.
    ///
    /// Source: ADR-0003.
    pub async fn create(&self, path: &str, source: Source) -> Result<Created, Error> {
        check_path(path)?;
        let deadline = self.options.upload_timeout;
        tokio::time::timeout(deadline, self.create_within_deadline(path, &source))
            .await
            .unwrap_or_else(|_| Err(timed_out("creating", path)))
    }

    async fn create_within_deadline(&self, path: &str, source: &Source) -> Result<Created, Error> {
        let at_least = Duration::from_secs(source.len() / UPLOAD_BYTES_PER_SECOND_MIN);
        let attempt_timeout = self.options.write_timeout + at_least;
        let mut failure = None;
        for attempt in 0..=CREATE_RETRIES_MAX {
            if attempt > 0 {
                tokio::time::sleep(CREATE_PAUSE_FIRST * 2_u32.pow(attempt - 1)).await;
            }
            let put = self.backend.put_new(path, source);
            match tokio::time::timeout(attempt_timeout, put).await {
                Ok(Ok(Put::Created)) => return Ok(Created::Created),
                Ok(Ok(Put::Exists)) => {}
                Ok(Err(error)) if error.certain => return Err(failed("creating", path, error)),
                Ok(Err(error)) => failure = Some(failed("creating", path, error)),
                Err(_) => failure = Some(timed_out("creating", path)),
            }
            // Whatever was answered, what is there decides. A look that fails decides nothing: the
            // next attempt may well find out.
            let found = match self.compare(path, source).await {
                Ok(found) => found,
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            if let Some(found) = found {
                if found == Created::ExistsSame {
                    self.within(
                        self.options.write_timeout,
                        "creating",
                        path,
                        self.backend.settle(path),
                    )
                    .await?;
                }
                return Ok(found);
            }
        }
        Err(failure.unwrap_or_else(|| {
            failed(
                "creating",
                path,
                BackendError::plain("another write was always in progress", true),
            )
        }))
    }

    /// Compares what is stored with what was offered; `None` when nothing is stored.
    async fn compare(&self, path: &str, source: &Source) -> Result<Option<Created>, Error> {
        let Some(stored) = self.lookup(path).await? else {
            return Ok(None);
        };
        let conflict = Created::Conflict {
            stored_len: stored.len,
            offered_len: source.len(),
        };
        if stored.len != source.len() {
            return Ok(Some(conflict));
        }
        let comparing = |error| Error::storage(format!("comparing {path}"), error);
        let mut position = 0;
        let mut chunks = stored.body.stream(0..stored.len);
        while let Some(chunk) = chunks.try_next().await.map_err(comparing)? {
            let range = position..position + chunk.len() as u64;
            let offered = match source {
                Source::Bytes(bytes) => {
                    let index = |at| usize::try_from(at).expect("within a body in memory");
                    bytes.slice(index(range.start)..index(range.end))
                }
                Source::File { map, .. } => {
                    map.ready(range.clone()).await.map_err(comparing)?;
                    map.slice(range.clone())
                }
            };
            if offered != chunk {
                return Ok(Some(conflict));
            }
            position = range.end;
        }
        Ok(Some(Created::ExistsSame))
    }

    /// Creates or replaces a document at once: a reader finds the old one or the new one, whole.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the old or the new document is there; try again later.
    /// [`Error::InvalidName`]: no object can have this path.
    pub async fn replace(&self, path: &str, bytes: Bytes) -> Result<(), Error> {
        check_path(path)?;
        let put = self.backend.put_over(path, bytes);
        self.within(self.options.write_timeout, "replacing", path, put)
            .await
    }

    /// Removes an object. One that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: it may still be there; try again later.
    /// [`Error::InvalidName`]: no object can have this path.
    pub async fn delete(&self, path: &str) -> Result<(), Error> {
        check_path(path)?;
        self.within(
            self.options.write_timeout,
            "deleting",
            path,
            self.backend.delete(path),
        )
        .await
    }

    /// Lists one page of the objects below `prefix` (`""`: all), in the order of their paths'
    /// bytes.
    ///
    /// `prefix` is whole segments, without a slash at the end. `after` is the last path of the page
    /// before; `None` begins. A page shorter than `limit` is the last one.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: nothing is known; try again later.
    /// [`Error::InvalidName`]: no object can have this prefix.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Listed>, Error> {
        check_prefix(prefix)?;
        let listing = self.backend.list(prefix, after, limit);
        self.within(self.options.list_timeout, "listing", prefix, listing)
            .await
    }

    /// Lists what lies directly in `prefix` (`""`: the root), at most `limit` entries.
    ///
    /// # Errors
    ///
    /// As [`ArtifactStore::list`].
    pub async fn list_dir(&self, prefix: &str, limit: usize) -> Result<Directory, Error> {
        check_prefix(prefix)?;
        let listing = self.backend.list_dir(prefix, limit);
        self.within(self.options.list_timeout, "listing", prefix, listing)
            .await
    }

    /// Writes and reads a few bytes outside the tree, both at the same time.
    ///
    /// Costs two requests of a remote store: ask rarely and remember the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the store is gone, cannot be read or does not answer in time.
    pub async fn check(&self) -> Result<StoreHealth, Error> {
        let (read, written) = (self.backend.probe_read(), self.backend.probe_write());
        let timeout = self.options.check_timeout;
        let (read, written) = tokio::join!(
            self.within(timeout, "reading", "a probe", read),
            self.within(timeout, "writing", "a probe", written),
        );
        read.map(|()| match written {
            Ok(()) => StoreHealth::Writable,
            Err(error) => StoreHealth::ReadOnly(error),
        })
    }

    /// Puts a layer between this store and its backend that fails, delays and lies on demand.
    #[cfg(any(test, feature = "test-util"))]
    pub fn with_faults(&self, faults: &Faults) -> Self {
        Self {
            backend: faults.wrap(Arc::clone(&self.backend)),
            ..self.clone()
        }
    }

    /// Builds a store over any backend.
    #[cfg(any(test, feature = "test-util"))]
    pub fn with_backend(backend: Arc<dyn Backend>, options: StoreOptions) -> Self {
        Self {
            scheme: "test",
            backend,
            options: Arc::new(options),
        }
    }

    /// Gives an operation its deadline and its error the words for people.
    async fn within<T>(
        &self,
        deadline: Duration,
        verb: &str,
        path: &str,
        operation: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(deadline, operation).await {
            Ok(outcome) => outcome.map_err(|error| failed(verb, path, error)),
            Err(_) => Err(timed_out(verb, path)),
        }
    }
}

fn failed(verb: &str, path: &str, error: BackendError) -> Error {
    Error::Storage {
        doing: format!("{verb} {path}: {}", error.reason),
        source: error.source,
    }
}

fn timed_out(verb: &str, path: &str) -> Error {
    Error::Storage {
        doing: format!("{verb} {path}: no answer in time"),
        source: None,
    }
}

/// Refuses what is no path of an object in the tree.
fn check_path(path: &str) -> Result<(), Error> {
    let refuse = |reason| Err(Error::invalid_name("object path", path, reason));
    if path
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return refuse("it has an empty, `.` or `..` segment");
    }
    if path.contains(|c: char| c.is_ascii_control() || c == '\\') {
        return refuse("it has a control character or a backslash");
    }
    if path.split('/').next() == Some(STAGING) {
        return refuse("the name is reserved");
    }
    Ok(())
}

fn check_prefix(prefix: &str) -> Result<(), Error> {
    if prefix.is_empty() {
        Ok(())
    } else {
        check_path(prefix)
    }
}

#[cfg(test)]
mod tests;
