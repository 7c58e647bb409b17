//! The spool: a growing file that one fill writes and any number of clients read meanwhile.
//!
//! Invariants:
//! - Readers share the file's mapping; a reader costs a position and a wake-up, no buffer.
//! - The last [`HELD_BACK_BYTES`] (of the announced length, else of what has arrived) are shown to
//!   nobody until the writer says that the whole has been verified, so no client ever has a
//!   complete body of a bad file.
//! - A writer that goes away without a word is a failure for its readers, never a clean end.
//! - Bytes on disk are counted against [`SpoolLimits`] until the last reader is gone.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lease::Clock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::instance_dir::InstanceDir;
use crate::mapped::GrowingMap;

#[cfg(any(test, feature = "test-util"))]
mod faults;
mod reader;
mod space;
mod writer;

#[cfg(any(test, feature = "test-util"))]
pub use faults::DiskFaults;
use reader::Reader;
pub use space::SpoolLimits;
pub(crate) use space::{Budget, SharedSpace, Space};
pub use writer::FillingWriter;

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
        let mut writer = FillingWriter::new(self, filling, clock);
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

#[cfg(test)]
mod tests;
