//! The spool's budget: what its files may take together, and what the disk must keep free.
//!
//! Space is promised before it is written, so an announced body that was let in has its place.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::instance_dir::{InstanceDir, available_bytes};

/// The disk is asked for its free space at most this often.
const MEASURED_EVERY: Duration = Duration::from_secs(1);

/// The longest that a fill waits for that answer before it goes by the last one.
const MEASURING_MAX: Duration = Duration::from_millis(100);

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

/// What all spool files of this process take, and may take.
#[derive(Debug)]
pub(crate) struct Budget {
    dir: Arc<InstanceDir>,
    limits: SpoolLimits,
    /// Promised, written or not.
    used_bytes: AtomicU64,
    /// What of that is on disk.
    written_bytes: AtomicU64,
    /// Everything that was ever written; only grows.
    ever_written_bytes: AtomicU64,
    measuring: AtomicBool,
    measured: Mutex<Option<Measured>>,
}

/// An answer of the disk.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// By the machine's own time: this is about its disk, and no rule depends on it.
    at: Instant,
    free_bytes: u64,
    /// [`Budget::ever_written_bytes`] at that moment.
    ever_written_bytes: u64,
}

impl Budget {
    /// Begins with nothing used. Asks the disk, which blocks.
    pub(super) fn new(dir: Arc<InstanceDir>, limits: SpoolLimits) -> Self {
        let budget = Self {
            dir,
            limits,
            used_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            ever_written_bytes: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
            measured: Mutex::new(None),
        };
        budget.measure();
        budget
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn limits(&self) -> SpoolLimits {
        self.limits
    }

    /// The directory and the limits again, with nothing used.
    #[cfg(feature = "test-util")]
    pub(super) fn beside(&self) -> Self {
        Self::new(self.dir.clone(), self.limits)
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// What the disk has left by its last answer; `None` when it never gave one.
    pub(super) fn free_bytes(&self) -> Option<u64> {
        let measured = (*self.lock_measured())?;
        let ever_written = self.ever_written_bytes.load(Ordering::Relaxed);
        let since = ever_written.saturating_sub(measured.ever_written_bytes);
        Some(measured.free_bytes.saturating_sub(since))
    }

    fn lock_measured(&self) -> std::sync::MutexGuard<'_, Option<Measured>> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_due(&self) -> bool {
        self.lock_measured()
            .is_none_or(|measured| measured.at.elapsed() >= MEASURED_EVERY)
    }

    /// Asks the disk on a blocking thread if its last answer is old, and waits a moment for it.
    pub(super) async fn measured(self: &Arc<Self>) {
        if self.limits.free_bytes_min == 0
            || !self.is_due()
            || self.measuring.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let budget = self.clone();
        let asking = tokio::task::spawn_blocking(move || {
            budget.measure();
            budget.measuring.store(false, Ordering::Relaxed);
        });
        // A disk that hangs keeps the last answer in force; the thread goes on by itself.
        let _ = tokio::time::timeout(MEASURING_MAX, asking).await;
    }

    /// Asks the disk if its last answer is old; blocks.
    pub(super) fn measure_if_due(&self) {
        if self.is_due() {
            self.measure();
        }
    }

    fn measure(&self) {
        let ever_written_bytes = self.ever_written_bytes.load(Ordering::Relaxed);
        match available_bytes(self.dir.path()) {
            Ok(free_bytes) => {
                *self.lock_measured() = Some(Measured {
                    at: Instant::now(),
                    free_bytes,
                    ever_written_bytes,
                });
            }
            // Writing will tell.
            Err(error) => tracing::debug!(%error, "the disk does not say what it has left"),
        }
    }

    /// Takes `bytes` more, if the budget and the disk have room for them.
    fn promise(&self, bytes: u64) -> Result<(), Error> {
        let taken = self
            .used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes)
                    .filter(|sum| *sum <= self.limits.bytes_max)
            });
        let Ok(used_before) = taken else {
            return Err(Error::Overloaded {
                limit: "spool.bytes_max",
            });
        };
        let written = self.written_bytes.load(Ordering::Relaxed);
        let to_come = (used_before + bytes).saturating_sub(written);
        let needed = self.limits.free_bytes_min.saturating_add(to_come);
        if self.free_bytes().is_some_and(|free| free < needed) {
            self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Error::Overloaded {
                limit: "spool.free_bytes_min",
            });
        }
        Ok(())
    }
}

/// A share of the budget, for one file; given back when dropped.
#[derive(Debug)]
pub(crate) struct Space {
    budget: Arc<Budget>,
    held: u64,
    written: u64,
}

/// A file's share, held by everybody who keeps the file on disk: an unlinked file takes its place
/// until its last reader is gone.
pub(crate) type SharedSpace = Arc<Mutex<Space>>;

impl Space {
    /// Takes no bytes yet.
    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self {
            budget: budget.clone(),
            held: 0,
            written: 0,
        }
    }

    /// Takes what is on disk already, whether or not there is room for it.
    pub(crate) fn of_existing(budget: &Arc<Budget>, bytes: u64) -> Self {
        budget.used_bytes.fetch_add(bytes, Ordering::Relaxed);
        budget.written_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self {
            budget: budget.clone(),
            held: bytes,
            written: bytes,
        }
    }

    /// Makes sure of `bytes` in all.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: the budget, or the disk, has no room for them.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), Error> {
        let more = bytes.saturating_sub(self.held);
        if more > 0 {
            self.budget.promise(more)?;
            self.held += more;
        }
        Ok(())
    }

    /// Notes that `bytes` in all are on disk.
    pub(crate) fn wrote_to(&mut self, bytes: u64) {
        let more = bytes.min(self.held).saturating_sub(self.written);
        self.written += more;
        self.budget.written_bytes.fetch_add(more, Ordering::Relaxed);
        self.budget
            .ever_written_bytes
            .fetch_add(more, Ordering::Relaxed);
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // In this order nobody sees more written than promised.
        self.budget
            .written_bytes
            .fetch_sub(self.written, Ordering::Relaxed);
        self.budget
            .used_bytes
            .fetch_sub(self.held, Ordering::Relaxed);
    }
}
