//! A part of a mapped file as a stream that never blocks and never hogs its thread.
#![deny(unsafe_code)]

use std::future::Future;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use tokio::task::JoinHandle;

use super::{CHUNK_BYTES_MAX, MappedFile, checked};

/// How much of a mapping is checked for residency, and faulted in, at a time.
const WINDOW_BYTES: u64 = 2 << 20;

/// A stream gives way to its neighbours after its first chunk, then after this many bytes.
const TURN_BYTES: usize = 256 << 10;

/// A part of a [`MappedFile`], in slices of at most [`CHUNK_BYTES_MAX`] bytes.
///
/// A window is handed out only when it is in memory; otherwise it is read on a blocking thread of
/// the current runtime while this stream is pending. The stream also gives way to other tasks of
/// its thread, after the first chunk and then every 256 KiB, so that a thousand of them advance
/// together. After an error it ends. Dropping it lets a read under way finish unseen.
pub struct MappedStream {
    file: MappedFile,
    next: u64,
    end: u64,
    /// Bytes before this position were seen in memory.
    ready_until: u64,
    loading: Option<JoinHandle<io::Result<()>>>,
    pace: Pace,
    /// How many windows had to be read.
    loads: u32,
}

impl MappedStream {
    /// Starts at the range's start; the range lies inside the file.
    pub(super) fn new(file: MappedFile, range: Range<u64>) -> Self {
        checked(range.clone(), file.len());
        Self {
            file,
            next: range.start,
            end: range.end,
            ready_until: range.start,
            loading: None,
            pace: Pace::default(),
            loads: 0,
        }
    }

    /// How many windows had to be read so far.
    #[cfg(test)]
    pub(super) fn loads(&self) -> u32 {
        self.loads
    }

    /// The number of bytes that are still to come.
    pub fn remaining(&self) -> u64 {
        self.end - self.next
    }

    /// Waits until the window that starts at `next` is in memory.
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Windows end at multiples of their size, so that all readers of a file ask for the same.
        let window_end = (self.next / WINDOW_BYTES + 1)
            .saturating_mul(WINDOW_BYTES)
            .min(self.end);
        if self.loading.is_none() {
            let passed = self.next.saturating_sub(WINDOW_BYTES) / WINDOW_BYTES * WINDOW_BYTES;
            self.file.forget(passed..self.next);
            let window = checked(self.next..window_end, self.file.len());
            if self.file.mapping.is_resident(window.clone()) {
                self.ready_until = window_end;
                return Poll::Ready(Ok(()));
            }
            let mapping = Arc::clone(&self.file.mapping);
            let ahead = checked(
                window_end..window_end.saturating_add(WINDOW_BYTES).min(self.end),
                self.file.len(),
            );
            self.loads += 1;
            self.loading = Some(tokio::task::spawn_blocking(move || {
                mapping.fault_in(window)?;
                mapping.will_need(ahead);
                Ok(())
            }));
        }
        let Some(loading) = self.loading.as_mut() else {
            return Poll::Ready(Ok(()));
        };
        let outcome = ready!(Pin::new(loading).poll(cx));
        self.loading = None;
        Poll::Ready(
            outcome
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map(|()| {
                    self.ready_until = window_end;
                }),
        )
    }
}

impl Stream for MappedStream {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.next == this.end {
            return Poll::Ready(None);
        }
        if this.next >= this.ready_until
            && let Err(error) = ready!(this.poll_window(cx))
        {
            this.next = this.end;
            return Poll::Ready(Some(Err(error)));
        }
        ready!(this.pace.poll_turn(cx));
        let chunk_end = this.ready_until.min(this.next + CHUNK_BYTES_MAX as u64);
        let chunk = this.file.slice(this.next..chunk_end);
        this.next = chunk_end;
        this.pace.spend(chunk.len());
        Poll::Ready(Some(Ok(chunk)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // An error may end the stream early, and a window's end may cut a chunk short.
        (0, None)
    }
}

/// When a stream that is always ready gives way to its neighbours on the thread.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// Bytes yielded since the last turn; `None` before the first chunk.
    since_turn: Option<usize>,
    turn_due: bool,
}

impl Pace {
    /// Returns `Pending` once, having woken the task, when the stream has had its share.
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.turn_due {
            self.turn_due = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Notes that `bytes` were yielded.
    pub(crate) fn spend(&mut self, bytes: usize) {
        let spent = match self.since_turn {
            // The first chunk should leave at once instead of waiting for a full write buffer.
            None => TURN_BYTES,
            Some(spent) => spent + bytes,
        };
        self.turn_due = spent >= TURN_BYTES;
        self.since_turn = Some(if self.turn_due { 0 } else { spent });
    }
}
