//! Read-only shared mappings of files, and streams over them that never block the worker that
//! polls them.
//!
//! This is the one file that may contain `unsafe` for the sake of memory; ADR-0002 says why.
//!
//! Invariants that make it sound:
//!
//! - A mapped file is **never truncated, and no byte that was handed out is ever rewritten**, by
//!   us. Stored files are immutable, a replaced document is a new inode, and a spool is only
//!   appended to; its unwritten part is mapped but no reference to it is ever formed.
//! - If somebody else truncates a mapped file, a page past the new end cannot be read any more.
//!   Whatever is noticed before a window is handed out becomes an [`io::Error`]; a truncation in
//!   the instant between that check and the copy to the socket raises `SIGBUS`, which ends the
//!   process. Nobody but this process's user should have write access to the store.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{MmapOptions, MmapRaw};

mod growing;
mod stream;

pub use self::growing::GrowingMap;
pub use self::stream::MappedStream;
pub(crate) use self::stream::Pace;

/// The largest piece that a stream of this crate yields, in bytes.
///
/// A larger piece is copied again and again by an HTTP/1 server's write buffer.
pub const CHUNK_BYTES_MAX: usize = 64 << 10;

/// A mapped file above this size gives each part back once it has been read.
///
/// As large as the largest entry of the hot tier by default: what is kept there is meant to stay.
pub const KEPT_RESIDENT_BYTES_MAX: u64 = 32 << 20;

/// A mapped file of at least this size is kept open, too, so that it can be sent by the kernel.
///
/// Each is one of the files that a process may have open: the hot tier's, some 500 of 512 KiB in
/// 256 MiB, and those that are being sent. Below this size a copy costs little more.
pub const KEPT_OPEN_BYTES_MIN: u64 = 512 << 10;

/// A read-only mapping of a whole file that does not change any more.
///
/// Cheap to clone; the mapping lives as long as any clone or any slice of it, whatever happens to
/// the file's name.
#[derive(Clone)]
pub struct MappedFile {
    mapping: Arc<Mapping>,
    whole: Bytes,
    /// Kept open from [`KEPT_OPEN_BYTES_MIN`] on.
    file: Option<Arc<File>>,
}

impl MappedFile {
    /// Maps the first `len` bytes of `file`.
    ///
    /// The file may be closed or unlinked afterwards. The caller promises that nobody of this
    /// project truncates it or rewrites those bytes.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file is shorter than `len`; otherwise what `fstat` or `mmap` said.
    pub fn map(file: &File, len: u64) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if metadata.len() < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file has {} bytes, {len} were expected", metadata.len()),
            ));
        }
        let mapping = Arc::new(Mapping::new(file, 0, to_usize(len)?)?);
        let whole = mapping.share(0..to_usize(len)?);
        let file = if len >= KEPT_OPEN_BYTES_MIN {
            Some(Arc::new(file.try_clone()?))
        } else {
            None
        };
        Ok(Self {
            mapping,
            whole,
            file,
        })
    }

    /// The file itself, for a server that can have the kernel send it without a copy; `None` for
    /// one below [`KEPT_OPEN_BYTES_MIN`].
    ///
    /// Reading it may wait for the disk, as touching the bytes may: take the pieces of
    /// [`MappedFile::stream`] for the sign that their part of it is in memory.
    pub fn file(&self) -> Option<&File> {
        self.file.as_deref()
    }

    /// The number of mapped bytes.
    pub fn len(&self) -> u64 {
        self.whole.len() as u64
    }

    /// Tells whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.whole.is_empty()
    }

    /// Returns a part of the file that shares the mapping; nothing is copied or read.
    ///
    /// Touching the bytes may read from disk. On a worker call [`MappedFile::ready`] first, or
    /// take [`MappedFile::stream`].
    ///
    /// # Panics
    ///
    /// When the range does not lie inside the file.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        let range = checked(range, self.len());
        self.whole.slice(range)
    }

    /// Streams a part of the file in slices of at most [`CHUNK_BYTES_MAX`] bytes.
    ///
    /// # Panics
    ///
    /// When the range does not lie inside the file.
    pub fn stream(&self, range: Range<u64>) -> MappedStream {
        MappedStream::new(self.clone(), range)
    }

    /// Waits until a part of the file is in memory, reading it on a blocking thread if need be.
    ///
    /// Memory pressure may drop the pages again: take parts of a few MiB.
    ///
    /// # Errors
    ///
    /// The disk could not be read, or the file was truncated by somebody else.
    pub async fn ready(&self, range: Range<u64>) -> io::Result<()> {
        self.mapping.ready(checked(range, self.len())).await
    }

    /// Takes a part of the file out of this process's resident memory, for a file above
    /// [`KEPT_RESIDENT_BYTES_MAX`]; a smaller one is left alone.
    ///
    /// The page cache keeps the pages, so the next reader gets them back without the disk. Without
    /// this, a 400 MB body would count as 400 MB of memory while it is sent.
    pub fn forget(&self, range: Range<u64>) {
        if self.len() > KEPT_RESIDENT_BYTES_MAX {
            self.mapping.forget(checked(range, self.len()));
        }
    }

    /// Reads a part of the file into memory on the calling thread, which may block.
    ///
    /// # Errors
    ///
    /// As [`MappedFile::ready`].
    pub(crate) fn fault_in(&self, range: Range<u64>) -> io::Result<()> {
        self.mapping.fault_in(checked(range, self.len()))
    }
}

impl std::fmt::Debug for MappedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MappedFile")
            .field("len", &self.len())
            .finish()
    }
}

/// One `mmap`ed range of a file, possibly longer than the file.
struct Mapping {
    raw: MmapRaw,
    /// Whether the kernel tells this user what of the file is in the page cache.
    residency_known: bool,
}

impl Mapping {
    fn new(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        // Since Linux 5.2 `mincore` claims that every page is resident unless the caller owns the
        // file or may write to it (it was a side channel). Believing that would block workers.
        let residency_known = cfg!(target_os = "linux")
            && file.metadata()?.uid() == rustix::process::geteuid().as_raw();
        let raw = MmapOptions::new()
            .offset(offset)
            .len(len)
            .map_raw_read_only(file)?;
        Ok(Self {
            raw,
            residency_known,
        })
    }

    /// Hands out written bytes, which keep the mapping alive.
    fn share(self: &Arc<Self>, range: Range<usize>) -> Bytes {
        self.check(&range);
        Bytes::from_owner(Portion {
            mapping: Arc::clone(self),
            range,
        })
    }

    /// What every unsafe block below relies on.
    fn check(&self, range: &Range<usize>) {
        assert!(
            range.start <= range.end && range.end <= self.raw.len(),
            "a range outside the mapping"
        );
    }

    /// Waits until a range is in memory.
    async fn ready(self: &Arc<Self>, range: Range<usize>) -> io::Result<()> {
        if self.is_resident(range.clone()) {
            return Ok(());
        }
        let mapping = Arc::clone(self);
        tokio::task::spawn_blocking(move || mapping.fault_in(range))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
    }

    /// Tells whether touching a range certainly needs no disk; `false` when it is not known.
    #[cfg(target_os = "linux")]
    fn is_resident(&self, range: Range<usize>) -> bool {
        self.check(&range);
        if range.is_empty() {
            return true;
        }
        if !self.residency_known {
            return false;
        }
        let page = rustix::param::page_size();
        let mut states = [0_u8; 512];
        let mut start = range.start / page * page;
        while start < range.end {
            let len = (range.end - start).min(states.len() * page);
            // SAFETY: `start` is a multiple of the page size and the mapping starts on a page;
            // `start + len` does not pass its end, because `check` found the range inside it;
            // `states` has one byte for each page touched by `len`. `mincore` reads no page.
            let status = unsafe {
                let address = self.raw.as_mut_ptr().add(start);
                libc::mincore(address.cast(), len, states.as_mut_ptr())
            };
            if status != 0
                || states[..len.div_ceil(page)]
                    .iter()
                    .any(|state| state & 1 == 0)
            {
                return false;
            }
            start += len;
        }
        true
    }

    #[cfg(not(target_os = "linux"))]
    fn is_resident(&self, range: Range<usize>) -> bool {
        range.is_empty() || self.residency_known
    }

    /// Reads a range into memory; blocks on the disk.
    fn fault_in(&self, range: Range<usize>) -> io::Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        #[cfg(target_os = "linux")]
        loop {
            let populate = memmap2::Advice::PopulateRead;
            match self.raw.advise_range(populate, range.start, range.len()) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A page that would have raised SIGBUS: past the file's end, or unreadable.
                Err(error) if error.raw_os_error() == Some(libc::EFAULT) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file was truncated by somebody else, or the disk cannot read it",
                    ));
                }
                // Kernels before 5.14 do not know this advice.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
                Err(error) => return Err(error),
            }
        }
        self.touch(range);
        Ok(())
    }

    /// Reads one byte of every page of a range.
    fn touch(&self, range: Range<usize>) {
        self.check(&range);
        if range.is_empty() {
            return;
        }
        for position in range
            .clone()
            .step_by(rustix::param::page_size())
            .chain([range.end - 1])
        {
            // SAFETY: the position lies inside the mapping, which is readable and outlives this
            // call; the volatile read forms no reference, so a concurrent append is no conflict.
            let _ = unsafe { self.raw.as_ptr().add(position).read_volatile() };
        }
    }

    /// Unmaps the pages that lie wholly inside a range until they are touched again.
    fn forget(&self, range: Range<usize>) {
        self.check(&range);
        let page = rustix::param::page_size();
        let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
        if start < end {
            let drop_pages = memmap2::UncheckedAdvice::DontNeed;
            // SAFETY: the range lies inside the mapping, which is shared, read-only and backed by
            // a file: dropped pages come back with the same bytes, also under live references.
            // Only advice: a failure costs memory that is given back later.
            let _ = unsafe {
                self.raw
                    .unchecked_advise_range(drop_pages, start, end - start)
            };
        }
    }

    /// Starts reading ahead, as far as the kernel likes.
    fn will_need(&self, range: Range<usize>) {
        if !range.is_empty() {
            // Only advice: a failure costs nothing but the head start.
            let _ = self
                .raw
                .advise_range(memmap2::Advice::WillNeed, range.start, range.len());
        }
    }
}

impl std::fmt::Debug for Mapping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mapping")
            .field("len", &self.raw.len())
            .finish()
    }
}

/// The owner behind a [`Bytes`]: the written bytes of one range, which keep the mapping alive.
struct Portion {
    mapping: Arc<Mapping>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Portion {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `share`, the only constructor, checked that the range lies inside the mapping;
        // its callers hand out written bytes only, which never change (see the invariants of
        // this file), and the mapping lives as long as `self`.
        unsafe {
            std::slice::from_raw_parts(
                self.mapping.raw.as_ptr().add(self.range.start),
                self.range.len(),
            )
        }
    }
}

/// Checks a range against the length that it must lie in, and converts it.
fn checked(range: Range<u64>, len: u64) -> Range<usize> {
    assert!(
        range.start <= range.end && range.end <= len,
        "bytes {range:?} asked of a file that has {len}"
    );
    let index = |value| to_usize(value).expect("a mapped length fits into the address space");
    index(range.start)..index(range.end)
}

fn to_usize(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))
}

#[cfg(test)]
mod tests;
