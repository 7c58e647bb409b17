//! The spool: a growing file that one fill writes and any number of clients read meanwhile.
//!
//! Invariants:
//! - Readers share the file's mapping; a reader costs a position and a wake-up, no buffer.
//! - The last [`HELD_BACK_BYTES`] (of the announced length, else of what has arrived) are shown to nobody until the writer says
//!   that the whole has been verified, so no client ever has a complete body of a bad file.
//! - A writer that goes away without a word is a failure for its readers, never a clean end.
//! - Bytes on disk are counted against `spool.bytes_max` until the last reader is gone.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lease::Clock;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::error::Error;
use crate::instance_dir::InstanceDir;
use crate::mapped::{GrowingMap, MappedFile};

mod reader;

use reader::{Reader, WINDOW_BYTES};

/// How much of what has arrived stays hidden until the whole is verified.
pub const HELD_BACK_BYTES: u64 = 64 * 1024;

/// Readers are woken when this much is new…
const NEWS_BYTES: u64 = 256 * 1024;

/// …or when the oldest news is this old. Without the two, a thousand waiters would be woken for
/// every network packet.
const NEWS_AGE: Duration = Duration::from_millis(5);

/// A reader that has its first piece lets the others of a herd begin for at most this long…
const OTHERS_BEGIN_MAX: Duration = Duration::from_millis(250);

/// …and looks this often whether they have.
const OTHERS_BEGIN_LOOK: Duration = Duration::from_millis(25);

/// The directory of spool files and its budget.
#[derive(Debug)]
pub struct Spool {
    dir: Arc<InstanceDir>,
    bytes_max: u64,
    used_bytes: Arc<AtomicU64>,
}

impl Spool {
    /// Opens this process's part of the spool below `parent` and sweeps what dead processes left.
    ///
    /// `bytes_max` bounds the sum of all spool files of this process (`spool.bytes_max`).
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: `parent` cannot be made or written; the process cannot start.
    pub fn open(parent: &Path, bytes_max: u64) -> Result<Self, Error> {
        Ok(Self {
            dir: Arc::new(InstanceDir::open(parent, "spool.dir")?),
            bytes_max,
            used_bytes: Arc::new(AtomicU64::new(0)),
        })
    }

    /// A spool with a budget of its own in the same directory, for simulations of more instances
    /// than there could be open lock files.
    #[cfg(feature = "test-util")]
    pub fn beside(&self) -> Self {
        Self {
            dir: self.dir.clone(),
            bytes_max: self.bytes_max,
            used_bytes: Arc::default(),
        }
    }

    /// Bytes that spool files take on disk now.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Begins the spool of a body of `len` bytes (`None`: not announced) of which `head` is here.
    ///
    /// Readers can have the head at once, from memory; [`FillingWriter::open`] makes the file,
    /// before which nothing can be appended.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: the budget is used up; come back later.
    pub fn begin(
        &self,
        unit: &str,
        len: Option<u64>,
        head: Bytes,
        clock: Arc<dyn Clock>,
    ) -> Result<FillingWriter, Error> {
        let mut space = Space {
            used_bytes: self.used_bytes.clone(),
            max: self.bytes_max,
            held: 0,
        };
        let written = head.len() as u64;
        space.grow_to(len.unwrap_or(0).max(written))?;
        let (state, _) = watch::channel(FillState {
            readable: 0,
            end: None,
        });
        let filling = Filling {
            unit: unit.to_owned(),
            len,
            head,
            map: OnceLock::new(),
            state,
            space: Mutex::new(space),
            begun: AtomicU64::new(0),
        };
        let mut writer = FillingWriter {
            filling: Arc::new(filling),
            file: None,
            path: SpoolPath(self.dir.path().join(Uuid::new_v4().simple().to_string())),
            written,
            told: 0,
            news_since: None,
            clock,
        };
        writer.tell();
        Ok(writer)
    }
}

fn spool_failed(doing: &str, unit: &str, source: std::io::Error) -> Error {
    Error::storage(format!("{doing} {unit}"), source)
}

/// A share of the spool's budget; given back when dropped.
#[derive(Debug)]
struct Space {
    used_bytes: Arc<AtomicU64>,
    max: u64,
    held: u64,
}

impl Space {
    fn grow_to(&mut self, bytes: u64) -> Result<(), Error> {
        let more = bytes.saturating_sub(self.held);
        let taken = self
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(more).filter(|sum| *sum <= self.max)
            });
        match taken {
            Ok(_) => {
                self.held += more;
                Ok(())
            }
            Err(_) => Err(Error::Overloaded {
                limit: "spool.bytes_max",
            }),
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.used_bytes.fetch_sub(self.held, Ordering::Relaxed);
    }
}

/// What readers know of a fill.
#[derive(Debug, Clone)]
pub struct FillState {
    /// Bytes from the start that may be shown.
    pub readable: u64,
    /// `None` while bytes are still to come; then the whole length, or why there is no more.
    pub end: Option<Result<u64, Error>>,
}

/// A body that is arriving: read it at your own pace.
#[derive(Debug)]
pub struct Filling {
    unit: String,
    len: Option<u64>,
    /// The first bytes, in memory for as long as anybody reads.
    head: Bytes,
    /// Set before anything beyond the head is readable.
    map: OnceLock<GrowingMap>,
    state: watch::Sender<FillState>,
    /// Lives with the readers: an unlinked file takes its place on disk until they are gone.
    space: Mutex<Space>,
    /// Readers that have had a piece.
    begun: AtomicU64,
}

impl Filling {
    /// The announced length; `None` when upstream sent none.
    pub fn announced_len(&self) -> Option<u64> {
        self.len
    }

    /// The state now.
    pub fn state(&self) -> FillState {
        self.state.borrow().clone()
    }

    /// Waits until a byte at `position` or beyond can be read, or the fill has ended.
    ///
    /// # Errors
    ///
    /// Whatever ended the fill, the same for all its readers.
    pub async fn readable_beyond(&self, position: u64) -> Result<FillState, Error> {
        let mut states = self.state.subscribe();
        let state = states
            .wait_for(|state| state.readable > position || state.end.is_some())
            .await
            .map_err(|_| Error::Internal {
                unit: self.unit.clone(),
                source: None,
            })?
            .clone();
        match state.end {
            // What can be read is shown even when the fill has failed since: the error follows
            // behind the last byte that was readable.
            Some(Err(error)) if state.readable <= position => Err(error),
            _ => Ok(state),
        }
    }

    /// Waits until the whole body has arrived and is verified; returns its length.
    ///
    /// # Errors
    ///
    /// Whatever ended the fill.
    pub async fn whole(&self) -> Result<u64, Error> {
        let mut states = self.state.subscribe();
        let state = states
            .wait_for(|state| state.end.is_some())
            .await
            .map_err(|_| Error::Internal {
                unit: self.unit.clone(),
                source: None,
            })?;
        state.end.clone().unwrap_or(Err(Error::Internal {
            unit: self.unit.clone(),
            source: None,
        }))
    }

    /// Counts a reader that has its first piece, then waits until as many have as `waiters` says
    /// there are, or for [`OTHERS_BEGIN_MAX`].
    ///
    /// Without it the first of a thousand readers take the machine with their later pieces while
    /// the last have nothing yet, and a client counts its patience to the first byte.
    pub(crate) async fn let_others_begin(&self, waiters: impl Fn() -> u64) {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed) + 1;
        if begun >= waiters() {
            return;
        }
        // By the machine's own time: this is about its load, and no rule depends on it.
        let patience_end = Instant::now() + OTHERS_BEGIN_MAX;
        while self.begun.load(Ordering::Relaxed) < waiters() && Instant::now() < patience_end {
            tokio::time::sleep(OTHERS_BEGIN_LOOK).await;
        }
    }

    fn head_piece(&self, start: u64, end: u64) -> Bytes {
        let index = |at: u64| {
            usize::try_from(at)
                .unwrap_or(usize::MAX)
                .min(self.head.len())
        };
        self.head.slice(index(start)..index(end))
    }

    /// Streams `range` of the body as it becomes readable, in pieces of at most 32 KiB.
    ///
    /// An end beyond the body's length means its end. A failed fill is an error in the stream,
    /// behind the last readable byte. Dropping the stream disturbs nobody.
    pub fn stream(self: &Arc<Self>, range: Range<u64>) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::try_unfold(Reader::new(self, range), Reader::next).boxed()
    }
}

/// The writing side of a [`Filling`]; there is exactly one.
///
/// Dropped without [`FillingWriter::complete`] or [`FillingWriter::fail`], it fails its readers.
#[derive(Debug)]
pub struct FillingWriter {
    filling: Arc<Filling>,
    file: Option<Arc<File>>,
    path: SpoolPath,
    written: u64,
    told: u64,
    news_since: Option<Instant>,
    clock: Arc<dyn Clock>,
}

impl FillingWriter {
    /// The side that readers share.
    pub fn filling(&self) -> &Arc<Filling> {
        &self.filling
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes the file and writes the head to it, on a blocking thread.
    ///
    /// Cancelling may leave a file behind, which the next start sweeps.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the file could not be made or written; drop the writer.
    pub async fn open(&mut self) -> Result<(), Error> {
        let path = self.path.0.clone();
        let head = self.filling.head.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(path)?;
            (&file).write_all(&head)?;
            let mapped = file.try_clone()?;
            Ok((file, mapped))
        })
        .await;
        let unit = &self.filling.unit;
        let (file, mapped) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(source)) => return Err(spool_failed("creating a spool file for", unit, source)),
            Err(_) => return Err(self.internal()),
        };
        self.file = Some(Arc::new(file));
        // It is empty: `&mut self` has seen to it that this is the only call.
        let _ = self.filling.map.set(GrowingMap::new(mapped));
        Ok(())
    }

    /// Tells whether [`FillingWriter::open`] has made the file.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// Tells whether `bytes` are what was written at `position`.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the spool could not be read. [`Error::Internal`]: not all of that was
    /// written, or the file is not open.
    pub async fn matches(&self, position: u64, bytes: &[u8]) -> Result<bool, Error> {
        let end = position + bytes.len() as u64;
        let map = self.filling.map.get().ok_or_else(|| self.internal())?;
        if end > self.written {
            return Err(self.internal());
        }
        let failed = |source| spool_failed("reading the spool of", &self.filling.unit, source);
        let (mut position, mut rest) = (position, bytes);
        while !rest.is_empty() {
            let upto = end.min(position + WINDOW_BYTES);
            map.ready(position..upto, self.written)
                .await
                .map_err(failed)?;
            let here = map.slice(position..upto, self.written).map_err(failed)?;
            let (now, later) = rest.split_at(here.len());
            if here != now {
                return Ok(false);
            }
            map.forget(position..position + here.len() as u64);
            position += here.len() as u64;
            rest = later;
        }
        Ok(true)
    }

    fn internal(&self) -> Error {
        Error::Internal {
            unit: self.filling.unit.clone(),
            source: None,
        }
    }

    /// Appends `pieces` in order. The file is written on a blocking thread.
    ///
    /// After a cancelled call the length on disk is unknown: drop the writer.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: the budget is used up. [`Error::Storage`]: the disk refused; drop
    /// the writer.
    pub async fn append(&mut self, pieces: Vec<Bytes>) -> Result<(), Error> {
        let more: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.filling
            .space
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .grow_to(self.written + more)?;
        let Some(file) = self.file.clone() else {
            return Err(self.internal());
        };
        let wrote = tokio::task::spawn_blocking(move || {
            pieces
                .iter()
                .try_for_each(|piece| (&*file).write_all(piece))
        })
        .await;
        match wrote {
            Ok(Ok(())) => {}
            Ok(Err(source)) => {
                return Err(spool_failed(
                    "writing the spool of",
                    &self.filling.unit,
                    source,
                ));
            }
            Err(_) => return Err(self.internal()),
        }
        self.written += more;
        let now = self.clock.now();
        let since = *self.news_since.get_or_insert(now);
        let readable = self.readable();
        let is_first = self.told == 0 && readable > 0;
        if is_first
            || readable.saturating_sub(self.told) >= NEWS_BYTES
            || now.saturating_duration_since(since) >= NEWS_AGE
        {
            self.tell();
        }
        Ok(())
    }

    fn readable(&self) -> u64 {
        match self.filling.len {
            // The tail's place is known, so everything before it can be shown as it arrives.
            Some(len) => self.written.min(len.saturating_sub(HELD_BACK_BYTES)),
            None => self.written.saturating_sub(HELD_BACK_BYTES),
        }
    }

    /// When readers must be told of what they do not know yet; `None` when they know all.
    pub fn news_due(&self) -> Option<Instant> {
        (self.readable() > self.told).then_some(())?;
        self.news_since.map(|since| since + NEWS_AGE)
    }

    /// Tells readers what has become readable.
    pub fn tell(&mut self) {
        let readable = self.readable();
        self.news_since = None;
        if readable > self.told {
            self.told = readable;
            self.filling
                .state
                .send_modify(|state| state.readable = readable);
        }
    }

    /// Maps the finished body whole, for verification and commit.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the file could not be mapped.
    pub fn freeze(&self) -> Result<MappedFile, Error> {
        let map = self.filling.map.get().ok_or_else(|| self.internal())?;
        map.freeze(self.written)
            .map_err(|source| spool_failed("reading the spool of", &self.filling.unit, source))
    }

    /// The file's place on disk, for a commit by link; it is removed with this writer.
    pub fn path(&self) -> &Path {
        &self.path.0
    }

    /// Shows everything: call it when the whole body is verified, and not before.
    pub fn complete(&mut self) {
        let len = self.written;
        self.filling.state.send_modify(|state| {
            state.readable = len;
            state.end = Some(Ok(len));
        });
    }

    /// Ends the body with `error` for every reader.
    pub fn fail(&mut self, error: Error) {
        self.filling.state.send_if_modified(|state| {
            let open = state.end.is_none();
            if open {
                state.end = Some(Err(error));
            }
            open
        });
    }
}

impl Drop for FillingWriter {
    fn drop(&mut self) {
        self.fail(Error::Interrupted {
            unit: self.filling.unit.clone(),
        });
    }
}

/// Removes the spool file when dropped.
#[derive(Debug)]
struct SpoolPath(PathBuf);

impl Drop for SpoolPath {
    fn drop(&mut self) {
        // A file that cannot be removed is swept by the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
