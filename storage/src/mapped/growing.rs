//! A mapping that follows a file while one writer appends to it.
#![deny(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::{KEPT_RESIDENT_BYTES_MAX, MappedFile, Mapping, checked, to_usize};

/// How much address space one segment of a [`GrowingMap`] covers.
const SEGMENT_BYTES: u64 = 64 << 20;

/// A mapping of a file that one writer appends to, in segments that are mapped when first needed.
///
/// Readers on any thread call [`GrowingMap::slice`] with the watermark that the writer published
/// after its `write` returned. Bytes below the watermark never change.
#[derive(Debug)]
pub struct GrowingMap {
    file: File,
    segment_bytes: u64,
    segments: RwLock<Vec<Option<Arc<Mapping>>>>,
}

impl GrowingMap {
    /// Takes a file that is open for reading; nothing is mapped yet.
    pub fn new(file: File) -> Self {
        Self::with_segment_bytes(file, SEGMENT_BYTES)
    }

    pub(super) fn with_segment_bytes(file: File, segment_bytes: u64) -> Self {
        Self {
            file,
            segment_bytes,
            segments: RwLock::default(),
        }
    }

    /// Returns the written bytes from `range.start` on that share one segment: the whole range, or
    /// what of it lies before the segment's end. Nothing is copied.
    ///
    /// `written` is the writer's watermark in bytes. What was written lately is in memory; for a
    /// reader far behind the writer call [`GrowingMap::ready`] first.
    ///
    /// # Errors
    ///
    /// What `mmap` said.
    ///
    /// # Panics
    ///
    /// When the range does not lie below the watermark.
    pub fn slice(&self, range: Range<u64>, written: u64) -> io::Result<Bytes> {
        checked(range.clone(), written);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let (mapping, within) = self.locate(range)?;
        Ok(mapping.share(within))
    }

    /// Waits until what [`GrowingMap::slice`] would return for this range is in memory, reading it
    /// on a blocking thread if need be.
    ///
    /// # Errors
    ///
    /// What `mmap` or the disk said.
    ///
    /// # Panics
    ///
    /// When the range does not lie below the watermark.
    pub async fn ready(&self, range: Range<u64>, written: u64) -> io::Result<()> {
        checked(range.clone(), written);
        if range.is_empty() {
            return Ok(());
        }
        let (mapping, within) = self.locate(range)?;
        mapping.ready(within).await
    }

    /// Takes written bytes out of this process's resident memory, beyond the first
    /// [`KEPT_RESIDENT_BYTES_MAX`]; see [`MappedFile::forget`].
    pub fn forget(&self, range: Range<u64>) {
        if range.start < KEPT_RESIDENT_BYTES_MAX || range.is_empty() {
            return;
        }
        // The part in the next segment, if any, is given back with that segment's next window.
        if let Ok((mapping, within)) = self.locate(range) {
            mapping.forget(within);
        }
    }

    /// Maps the finished file whole.
    ///
    /// # Errors
    ///
    /// As [`MappedFile::map`].
    pub fn freeze(&self, len: u64) -> io::Result<MappedFile> {
        MappedFile::map(&self.file, len)
    }

    /// Finds, or maps, the segment in which a range starts, and the range's part inside it.
    fn locate(&self, range: Range<u64>) -> io::Result<(Arc<Mapping>, Range<usize>)> {
        let index = to_usize(range.start / self.segment_bytes)?;
        let base = index as u64 * self.segment_bytes;
        let within = to_usize(range.start - base)?
            ..to_usize(range.end.min(base + self.segment_bytes) - base)?;
        let known = |segments: &[Option<Arc<Mapping>>]| segments.get(index).cloned().flatten();

        if let Some(mapping) = known(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
        {
            return Ok((mapping, within));
        }
        let mut segments = self
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(mapping) = known(&segments) {
            return Ok((mapping, within));
        }
        let mapping = Arc::new(Mapping::new(
            &self.file,
            base,
            to_usize(self.segment_bytes)?,
        )?);
        if segments.len() <= index {
            segments.resize(index + 1, None);
        }
        segments[index] = Some(Arc::clone(&mapping));
        Ok((mapping, within))
    }
}
