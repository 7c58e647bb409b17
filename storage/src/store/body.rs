//! A stored object's bytes: in memory, mapped, or streamed from afar.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use super::remote::RemoteBody;
use crate::mapped::{CHUNK_BYTES_MAX, MappedFile, MappedStream, Pace};

/// An object that was found, open for reading.
///
/// It stays readable as it was found even when the object is replaced or deleted meanwhile, except
/// from a remote store, where reading on ends in an error then.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The object's length in bytes.
    pub len: u64,
    /// When it was written, by the store's clock.
    pub modified: SystemTime,
    /// Its bytes.
    pub body: StoredBody,
}

/// Where a stored object's bytes are; cheap to clone.
#[derive(Debug, Clone)]
pub enum StoredBody {
    /// In memory, whole: anything small.
    Bytes(Bytes),
    /// In a mapped local file.
    Mapped(MappedFile),
    /// In a remote store, read as it is streamed.
    Remote(RemoteBody),
}

impl StoredBody {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Mapped(file) => file.len(),
            Self::Remote(body) => body.len(),
        }
    }

    /// Tells whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The local file that has the bytes, at the same positions, if it is kept open; see
    /// [`MappedFile::file`].
    pub fn file(&self) -> Option<&File> {
        match self {
            Self::Mapped(mapped) => mapped.file(),
            Self::Bytes(_) | Self::Remote(_) => None,
        }
    }

    /// Streams a part of the object. A remote part is asked for when the stream is first polled.
    ///
    /// # Panics
    ///
    /// When the range does not lie inside the object.
    pub fn stream(&self, range: Range<u64>) -> ByteStream {
        assert!(
            range.start <= range.end && range.end <= self.len(),
            "bytes {range:?} asked of an object that has {}",
            self.len()
        );
        match self {
            Self::Bytes(bytes) => {
                let index = |value| usize::try_from(value).expect("checked against a usize length");
                ByteStream::from_bytes(bytes.slice(index(range.start)..index(range.end)))
            }
            Self::Mapped(file) => ByteStream {
                remaining: range.end - range.start,
                feed: Feed::Mapped(file.stream(range)),
            },
            Self::Remote(body) => {
                ByteStream::from_stream(range.end - range.start, body.stream(range))
            }
        }
    }

    /// Reads the whole object into memory.
    ///
    /// # Errors
    ///
    /// `FileTooLarge` when it has more than `limit` bytes, before anything is read; otherwise what
    /// the stream ended with.
    pub async fn read(&self, limit: u64) -> io::Result<Bytes> {
        if self.len() > limit {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        if let Self::Bytes(bytes) = self {
            return Ok(bytes.clone());
        }
        let capacity = usize::try_from(self.len()).map_err(io::Error::other)?;
        let mut whole = Vec::with_capacity(capacity);
        let mut stream = self.stream(0..self.len());
        while let Some(chunk) = stream.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole.into())
    }
}

/// A body on its way to a client, in chunks of at most [`CHUNK_BYTES_MAX`] bytes.
///
/// Ends after exactly the announced number of bytes, or with an error: never short and clean. It
/// gives way to other tasks of its thread now and then, even when it always has bytes.
pub struct ByteStream {
    remaining: u64,
    feed: Feed,
}

enum Feed {
    Memory {
        rest: Bytes,
        pace: Pace,
    },
    Mapped(MappedStream),
    Other {
        pieces: BoxStream<'static, io::Result<Bytes>>,
        rest: Bytes,
        pace: Pace,
    },
}

impl ByteStream {
    /// Streams bytes that are in memory.
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self {
            remaining: bytes.len() as u64,
            feed: Feed::Memory {
                rest: bytes,
                pace: Pace::default(),
            },
        }
    }

    /// Streams pieces of any size that together have `len` bytes.
    pub fn from_stream(len: u64, pieces: BoxStream<'static, io::Result<Bytes>>) -> Self {
        Self {
            remaining: len,
            feed: Feed::Other {
                pieces,
                rest: Bytes::new(),
                pace: Pace::default(),
            },
        }
    }

    /// The number of bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }
}

/// Takes the next chunk off the front.
fn cut(rest: &mut Bytes) -> Bytes {
    rest.split_to(rest.len().min(CHUNK_BYTES_MAX))
}

impl Feed {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        match self {
            Self::Memory { rest, pace } => {
                if rest.is_empty() {
                    return Poll::Ready(None);
                }
                ready!(pace.poll_turn(cx));
                let chunk = cut(rest);
                pace.spend(chunk.len());
                Poll::Ready(Some(Ok(chunk)))
            }
            Self::Mapped(stream) => stream.poll_next_unpin(cx),
            Self::Other { pieces, rest, pace } => {
                while rest.is_empty() {
                    match ready!(pieces.poll_next_unpin(cx)) {
                        Some(Ok(piece)) => *rest = piece,
                        end => return Poll::Ready(end),
                    }
                }
                ready!(pace.poll_turn(cx));
                let chunk = cut(rest);
                pace.spend(chunk.len());
                Poll::Ready(Some(Ok(chunk)))
            }
        }
    }
}

impl Stream for ByteStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.remaining == 0 {
            return Poll::Ready(None);
        }
        let chunk = match ready!(self.feed.poll_chunk(cx)) {
            Some(Ok(chunk)) if chunk.len() as u64 <= self.remaining => Ok(chunk),
            Some(Ok(_)) => Err(io::Error::other("the body is longer than announced")),
            Some(Err(error)) => Err(error),
            None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        };
        match &chunk {
            Ok(chunk) => self.remaining -= chunk.len() as u64,
            Err(_) => self.remaining = 0,
        }
        Poll::Ready(Some(chunk))
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteStream")
            .field("remaining", &self.remaining)
            .finish()
    }
}
