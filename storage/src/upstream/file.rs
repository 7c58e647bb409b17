//! An upstream that is a directory: the GOPROXY file tree behind a `file:///` address.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use percent_encoding::percent_decode_str;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, Take};
use tokio::time::timeout;

use super::base::{UpstreamUrl, is_clean};
use super::body::too_large;
use super::observer::{Attempt, FetchObserver, FetchOutcome};
use super::{CacheControl, FetchRequest, Fetched, FetchedBody, Upstream};
use crate::error::Error;

/// How much is read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A local tree such as `GOMODCACHE/cache/download`.
///
/// Answers carry no validators and are always sent whole: asking again is cheap, and a
/// modification time is too coarse to prove that a list is the same.
#[derive(Debug)]
pub struct FileUpstream {
    root: PathBuf,
    name: Arc<str>,
    stall_timeout: Duration,
    observer: Arc<dyn FetchObserver>,
}

impl FileUpstream {
    /// Takes the directory of `base`, which need not exist yet. `stall_timeout` bounds every
    /// single file operation, because the directory may be on a network.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: `base` is no `file` URL with an absolute path.
    pub fn new(
        base: &UpstreamUrl,
        stall_timeout: Duration,
        observer: Arc<dyn FetchObserver>,
    ) -> Result<Self, Error> {
        let name = Arc::clone(base.name());
        let root = base
            .is_file()
            .then(|| base.url().to_file_path().ok())
            .flatten()
            .ok_or_else(|| Error::Config(format!("upstream {name} is no directory")))?;
        Ok(Self {
            root,
            name,
            stall_timeout,
            observer,
        })
    }

    /// The name in messages and metrics.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn path_of(&self, request: &FetchRequest) -> Result<PathBuf, Error> {
        let refused =
            |reason: &'static str| Error::invalid_name("request path", &request.path, reason);
        if !is_clean(&request.path) {
            return Err(refused("it is no path below an upstream"));
        }
        let decoded = percent_decode_str(&request.path)
            .decode_utf8()
            .map_err(|_| refused("it is not UTF-8"))?;
        Ok(self.root.join(Path::new(decoded.as_ref())))
    }

    async fn open(&self, request: &FetchRequest) -> Result<(File, u64, SystemTime), Error> {
        let path = self.path_of(request)?;
        let opened = timeout(self.stall_timeout, async {
            let file = File::open(path).await?;
            let meta = file.metadata().await?;
            if !meta.is_file() {
                return Err(io::Error::from(io::ErrorKind::NotFound));
            }
            Ok((file, meta.len(), meta.modified()?))
        });
        match opened.await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(source)) if is_absent(source.kind()) => Err(Error::NotFound {
                gone: false,
                text: format!("not found: {}", request.unit),
            }),
            Ok(Err(source)) => Err(self.failed("a file could not be opened".to_owned(), source)),
            Err(_) => Err(self.timed_out(&request.unit)),
        }
    }

    fn failed(&self, reason: String, source: io::Error) -> Error {
        Error::Upstream {
            upstream: self.name.to_string(),
            reason,
            source: Some(Arc::new(source)),
        }
    }

    fn timed_out(&self, unit: &str) -> Error {
        Error::TimedOut {
            upstream: self.name.to_string(),
            reason: format!("no byte of {unit} for {:?}", self.stall_timeout),
        }
    }
}

/// Tells whether the tree has no such file. A directory in the place of a file, or the reverse,
/// is absence too; a file that may not be read is not, it is our own trouble.
fn is_absent(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    matches!(
        kind,
        NotFound | NotADirectory | IsADirectory | InvalidFilename
    )
}

#[async_trait]
impl Upstream for FileUpstream {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        let mut attempt = Attempt::start(Arc::clone(&self.observer), Arc::clone(&self.name));
        let (file, len, modified) = self.open(request).await.inspect_err(|error| {
            attempt.set(match error {
                Error::NotFound { .. } => FetchOutcome::NotFound,
                Error::InvalidName { .. } => FetchOutcome::Refused,
                Error::TimedOut { .. } => FetchOutcome::TimedOut,
                _ => FetchOutcome::Failed,
            });
        })?;
        if len > request.bytes_max {
            attempt.set(FetchOutcome::TooLarge);
            return Err(too_large(&request.unit, request.bytes_max));
        }
        let body = FileBody {
            // Not further than announced: a list may grow while it is read.
            file: file.take(len),
            attempt,
            unit: request.unit.clone(),
            name: Arc::clone(&self.name),
            stall_timeout: self.stall_timeout,
        };
        Ok(Fetched {
            upstream: Arc::clone(&self.name),
            body: FetchedBody::Modified(body.into_stream()),
            len: Some(len),
            etag: None,
            last_modified: Some(httpdate::fmt_http_date(modified)),
            cache_control: CacheControl::default(),
            content_type: None,
            resumed: false,
        })
    }
}

struct FileBody {
    file: Take<File>,
    attempt: Attempt,
    unit: String,
    name: Arc<str>,
    stall_timeout: Duration,
}

impl FileBody {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let left = usize::try_from(self.file.limit()).unwrap_or(usize::MAX);
        if left == 0 {
            self.attempt.set(FetchOutcome::Ok);
            return Ok(None);
        }
        let mut chunk = BytesMut::with_capacity(left.min(CHUNK_BYTES));
        match timeout(self.stall_timeout, self.file.read_buf(&mut chunk)).await {
            Ok(Ok(0)) => Err(self.broken("is shorter than announced", None)),
            Ok(Ok(_)) => Ok(Some(chunk.freeze())),
            Ok(Err(source)) => Err(self.broken("could not be read", Some(source))),
            Err(_) => {
                self.attempt.set(FetchOutcome::TimedOut);
                Err(Error::TimedOut {
                    upstream: self.name.to_string(),
                    reason: format!("no byte of {} for {:?}", self.unit, self.stall_timeout),
                })
            }
        }
    }

    fn broken(&mut self, what: &str, source: Option<io::Error>) -> Error {
        self.attempt.set(FetchOutcome::Truncated);
        Error::Upstream {
            upstream: self.name.to_string(),
            reason: format!("{} {what}", self.unit),
            source: source.map(|source| Arc::new(source) as _),
        }
    }
}
