//! A part of a remote object as a stream that survives broken and silent connections.

use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::{GetOptions, GetRange};
use tokio::sync::OwnedSemaphorePermit;

use super::{Arc, RemoteBody};

/// How many requests in a row may fail without bringing a byte.
const FAILURES_MAX: u32 = 5;

/// The pause after the first failure; each further one doubles it.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// Another object has the name now, or none: what is missing is gone, and halves of two objects do
/// not belong together.
const REPLACED: io::ErrorKind = io::ErrorKind::InvalidData;

fn replaced() -> io::Error {
    io::Error::new(
        REPLACED,
        "the object was replaced or deleted while it was read",
    )
}

struct State {
    body: RemoteBody,
    next: u64,
    end: u64,
    open: Option<Open>,
    failures: u32,
}

/// A request whose body is being read; at most `streams` of them exist at once.
struct Open {
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    _permit: OwnedSemaphorePermit,
}

pub(super) fn stream(body: RemoteBody, range: Range<u64>) -> BoxStream<'static, io::Result<Bytes>> {
    let state = State {
        body,
        next: range.start,
        end: range.end,
        open: None,
        failures: 0,
    };
    stream::try_unfold(state, |mut state| async move {
        let piece = state.next_piece().await?;
        Ok(piece.map(|piece| (piece, state)))
    })
    .boxed()
}

impl State {
    async fn next_piece(&mut self) -> io::Result<Option<Bytes>> {
        if self.next == self.end {
            return Ok(None);
        }
        let in_head = self.body.head.len() as u64;
        if self.next < in_head {
            let index = |at| usize::try_from(at).expect("checked against a usize length");
            let piece = self
                .body
                .head
                .slice(index(self.next)..index(self.end.min(in_head)));
            self.next += piece.len() as u64;
            return Ok(Some(piece));
        }
        loop {
            let outcome = match self.open.as_mut() {
                None => request(&self.body, self.next..self.end).await.map(|open| {
                    self.open = Some(open);
                    None
                }),
                Some(open) => {
                    match tokio::time::timeout(
                        self.body.remote.stall_timeout,
                        open.pieces.try_next(),
                    )
                    .await
                    {
                        Err(_) => Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "the storage stalled inside a body",
                        )),
                        Ok(Err(error)) => Err(error.into()),
                        Ok(Ok(None)) => Err(io::ErrorKind::UnexpectedEof.into()),
                        Ok(Ok(piece)) => Ok(piece.filter(|piece| !piece.is_empty())),
                    }
                }
            };
            match outcome {
                Ok(None) => {}
                Ok(Some(mut piece)) => {
                    let wanted = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
                    piece.truncate(wanted);
                    self.next += piece.len() as u64;
                    self.failures = 0;
                    if self.next == self.end {
                        // Others may have the connection.
                        self.open = None;
                    }
                    return Ok(Some(piece));
                }
                Err(error) => {
                    self.open = None;
                    self.failures += 1;
                    if error.kind() == REPLACED || self.failures == FAILURES_MAX {
                        return Err(error);
                    }
                    tracing::debug!(%error, at = self.next, "resuming a body from the storage");
                    tokio::time::sleep(PAUSE_FIRST * 2_u32.pow(self.failures - 1)).await;
                }
            }
        }
    }
}

/// Asks for a part of an object.
async fn request(body: &RemoteBody, range: Range<u64>) -> io::Result<Open> {
    let remote = &body.remote;
    let ask = async {
        let permit = Arc::clone(&remote.streams)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let options = GetOptions {
            range: Some(GetRange::Bounded(range.clone())),
            if_match: body.e_tag.clone(),
            ..GetOptions::default()
        };
        let answer = match remote.bulk.get_opts(&body.location, options).await {
            Err(
                object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. },
            ) => return Err(replaced()),
            answer => answer?,
        };
        // Not every server heeds `If-Match`.
        if answer.meta.e_tag != body.e_tag || answer.meta.size != body.len {
            return Err(replaced());
        }
        if answer.range.start != range.start {
            return Err(io::Error::other("the storage answered with another part"));
        }
        Ok(Open {
            pieces: answer.into_stream(),
            _permit: permit,
        })
    };
    tokio::time::timeout(remote.stall_timeout, ask)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
