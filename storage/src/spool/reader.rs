//! Reading a body that is still being written: as it becomes readable, in pieces, in turns.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::{FillState, Filling, spool_failed};
use crate::error::Error;

/// The largest piece that a reader is given at once.
///
/// An HTTP/1 server copies each piece into its write buffer, which then stays as large as the
/// largest piece; with a thousand waiters this figure decides how much memory they cost.
const PIECE_BYTES: u64 = 32 * 1024;

/// After this many bytes in a row a reader lets others run.
const TURN_BYTES: u64 = 256 * 1024;

/// What was written within this distance is taken to be in memory still.
const RECENT_BYTES: u64 = 8 * 1024 * 1024;

/// A reader gives back memory in windows of this size.
pub(super) const WINDOW_BYTES: u64 = 2 * 1024 * 1024;

/// One reader of a [`Filling`], at a pace of its own.
pub(super) struct Reader {
    filling: Arc<Filling>,
    states: watch::Receiver<FillState>,
    position: u64,
    end: u64,
    /// Bytes since this reader last let others run.
    turn: u64,
}

impl Reader {
    pub(super) fn new(filling: &Arc<Filling>, range: Range<u64>) -> Self {
        Self {
            states: filling.state.subscribe(),
            filling: filling.clone(),
            position: range.start,
            end: range.end,
            turn: 0,
        }
    }

    /// The next piece and the reader behind it; `None` at the end of its range or of the body.
    pub(super) async fn next(mut self) -> Result<Option<(Bytes, Self)>, Error> {
        if self.position >= self.end {
            return Ok(None);
        }
        if self.turn >= TURN_BYTES {
            self.turn = 0;
            tokio::task::yield_now().await;
        }
        let position = self.position;
        let (readable, end) = {
            let state = self
                .states
                .wait_for(|state| state.readable > position || state.end.is_some())
                .await
                .map_err(|_| Error::Internal {
                    unit: self.filling.unit.clone(),
                    source: None,
                })?;
            (state.readable, state.end.clone())
        };
        if readable <= position {
            return match end {
                Some(Err(error)) => Err(error),
                _ => Ok(None),
            };
        }
        let failed = |source| spool_failed("reading the spool of", &self.filling.unit, source);
        let upto = readable.min(self.end).min(position + PIECE_BYTES);
        let piece = match self.filling.map.get() {
            _ if position < self.filling.head.len() as u64 => {
                self.filling.head_piece(position, upto)
            }
            Some(map) => {
                if self.turn == 0 && readable - position > RECENT_BYTES {
                    // Far behind the writer: these pages may have left memory, and must not be
                    // awaited by a page fault on an HTTP worker.
                    let window = position..readable.min(position + TURN_BYTES);
                    map.ready(window, readable).await.map_err(failed)?;
                }
                let piece = map.slice(position..upto, readable).map_err(failed)?;
                let border = (position + piece.len() as u64) / WINDOW_BYTES * WINDOW_BYTES;
                if border > position {
                    map.forget(border - WINDOW_BYTES..border);
                }
                piece
            }
            None => {
                return Err(Error::Internal {
                    unit: self.filling.unit.clone(),
                    source: None,
                });
            }
        };
        self.position += piece.len() as u64;
        self.turn += piece.len() as u64;
        Ok(Some((piece, self)))
    }
}
