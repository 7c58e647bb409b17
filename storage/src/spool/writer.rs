//! The writing side of a body in the spool.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use lease::Clock;
use tokio::time::Instant;
use uuid::Uuid;

#[cfg(any(test, feature = "test-util"))]
use super::DiskFaults;
use super::reader::WINDOW_BYTES;
use super::{
    Budget, Filling, HELD_BACK_BYTES, NEWS_AGE, NEWS_BYTES, SharedSpace, Spool, spool_failed,
};
use crate::error::Error;
use crate::mapped::{GrowingMap, MappedFile};

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
    /// Begins with the head, which is in memory.
    pub(super) fn new(spool: &Spool, filling: Filling, clock: Arc<dyn Clock>) -> Self {
        let name = Uuid::new_v4().simple().to_string();
        Self {
            written: filling.head.len() as u64,
            filling: Arc::new(filling),
            file: None,
            path: SpoolPath(spool.budget.dir().join(name)),
            budget: spool.budget.clone(),
            #[cfg(any(test, feature = "test-util"))]
            faults: spool.faults.clone(),
            told: 0,
            news_since: None,
            clock,
        }
    }

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
