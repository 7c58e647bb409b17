//! The spool: a growing file that one fill writes and any number of clients read meanwhile.
//!
//! Invariants:
//! - Readers share the file's mapping; a reader costs a position and a wake-up, no buffer.
//! - The last [`HELD_BACK_BYTES`] (of the announced length, else of what has arrived) are shown to nobody until the writer says
//!   that the whole has been verified, so no client ever has a complete body of a bad file.
//! - A writer that goes away without a word is a failure for its readers, never a clean end.
//! - Bytes on disk are counted against [`SpoolLimits`] until the last reader is gone.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
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

#[cfg(any(test, feature = "test-util"))]
mod faults;
mod reader;
mod space;

#[cfg(any(test, feature = "test-util"))]
pub use faults::DiskFaults;
use reader::{Reader, WINDOW_BYTES};
pub(crate) use space::{Budget, SharedSpace, Space};

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

/// How much the spool may take of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Most bytes of all spool files of this process, kept ones included. `spool.bytes_max`,
    /// default 10 GiB.
    pub bytes_max: u64,
    /// What the file system must have left besides; a new file that would take of it is refused.
    /// `spool.free_bytes_min`, default 256 MiB; 0 lets the disk fill up.
    pub free_bytes_min: u64,
    /// How much of `bytes_max` may be kept for a store that does not take it, in percent; the
    /// rest stays free for new fills. `spool.kept_percent_max`, default 50; 0 keeps nothing.
    pub kept_percent_max: u32,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            bytes_max: 10 << 30,
            free_bytes_min: 256 << 20,
            kept_percent_max: 50,
        }
    }
}

/// The directory of spool files and its budget.
#[derive(Debug)]
pub struct Spool {
    budget: Arc<Budget>,
    #[cfg(any(test, feature = "test-util"))]
    faults: DiskFaults,
}

impl Spool {
    /// Opens this process's part of the spool below `parent` and sweeps what dead processes left.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: `parent` cannot be made or written; the process cannot start.
    pub fn open(parent: &Path, limits: SpoolLimits) -> Result<Self, Error> {
        let dir = Arc::new(InstanceDir::open(parent, "spool.dir")?);
        Ok(Self {
            budget: Arc::new(Budget::new(dir, limits)),
            #[cfg(any(test, feature = "test-util"))]
            faults: DiskFaults::default(),
        })
    }

    /// A spool with a budget of its own in the same directory, for simulations of more instances
    /// than there could be open lock files.
    #[cfg(feature = "test-util")]
    pub fn beside(&self) -> Self {
        Self {
            budget: Arc::new(self.budget.beside()),
            faults: DiskFaults::default(),
        }
    }

    /// Makes the disk under this spool fail as `faults` says.
    #[cfg(any(test, feature = "test-util"))]
    #[must_use]
    pub fn with_faults(mut self, faults: &DiskFaults) -> Self {
        self.faults = faults.clone();
        self
    }

    /// Bytes that spool files take on disk now, or will.
    pub fn used_bytes(&self) -> u64 {
        self.budget.used_bytes()
    }

    /// What the disk has left by its last answer; `None` when it never gave one.
    pub fn free_bytes(&self) -> Option<u64> {
        self.budget.free_bytes()
    }

    pub(crate) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn limits(&self) -> SpoolLimits {
        self.budget.limits()
    }

    /// Begins the spool of a body of `len` bytes (`None`: not announced) of which `head` is here.
    ///
    /// Readers can have the head at once, from memory; [`FillingWriter::open`] makes the file,
    /// before which nothing can be appended.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: the budget is used up, or the disk nearly full; come back later.
    pub async fn begin(
        &self,
        unit: &str,
        len: Option<u64>,
        head: Bytes,
        clock: Arc<dyn Clock>,
    ) -> Result<FillingWriter, Error> {
        self.budget.measured().await;
        let mut space = Space::new(&self.budget);
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
            space: Arc::new(Mutex::new(space)),
            begun: AtomicU64::new(0),
        };
        let mut writer = FillingWriter {
            filling: Arc::new(filling),
            file: None,
            path: SpoolPath(self.budget.dir().join(Uuid::new_v4().simple().to_string())),
            budget: self.budget.clone(),
            #[cfg(any(test, feature = "test-util"))]
            faults: self.faults.clone(),
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
    space: SharedSpace,
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
    budget: Arc<Budget>,
    #[cfg(any(test, feature = "test-util"))]
    faults: DiskFaults,
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
        #[cfg(any(test, feature = "test-util"))]
        let faults = self.faults.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(path)?;
            #[cfg(any(test, feature = "test-util"))]
            faults.before_writing(head.len())?;
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
        self.wrote();
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
            .unwrap_or_else(PoisonError::into_inner)
            .grow_to(self.written + more)?;
        let Some(file) = self.file.clone() else {
            return Err(self.internal());
        };
        let budget = self.budget.clone();
        #[cfg(any(test, feature = "test-util"))]
        let faults = self.faults.clone();
        let wrote = tokio::task::spawn_blocking(move || {
            #[cfg(any(test, feature = "test-util"))]
            faults.before_writing(pieces.iter().map(Bytes::len).sum())?;
            pieces
                .iter()
                .try_for_each(|piece| (&*file).write_all(piece))?;
            budget.measure_if_due();
            Ok(())
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
        self.wrote();
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

    /// Notes how much of the promised space is on disk.
    fn wrote(&self) {
        self.filling
            .space
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wrote_to(self.written);
    }

    /// The file's share of the budget, for whoever keeps the file longer than its readers do.
    pub(crate) fn space(&self) -> SharedSpace {
        self.filling.space.clone()
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
