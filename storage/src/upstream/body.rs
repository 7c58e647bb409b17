//! The body of an answer as a stream that cannot end quietly before its time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use reqwest::Response;
use tokio::time::timeout;

use super::gate::Place;
use super::observer::{Attempt, FetchOutcome};
use crate::error::Error;

/// A body under way; dropping it closes the exchange and frees the place.
pub(super) struct Body {
    pub(super) response: Response,
    pub(super) attempt: Attempt,
    pub(super) _place: Place,
    pub(super) unit: String,
    pub(super) upstream: Arc<str>,
    pub(super) stall_timeout: Duration,
    pub(super) bytes_max: u64,
    /// Bytes of the whole that are known to be here, those before a resumed body included.
    pub(super) received: u64,
    /// The length of the whole.
    pub(super) len: Option<u64>,
}

/// The error for more bytes than `bytes_max`.
pub(super) fn too_large(unit: &str, bytes_max: u64) -> Error {
    Error::TooLarge {
        unit: unit.to_owned(),
        bytes_max,
    }
}

impl Body {
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.next().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            // The clock runs only while somebody waits: a slow reader is not a stalled upstream.
            match timeout(self.stall_timeout, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) if chunk.is_empty() => {}
                Ok(Ok(Some(chunk))) => {
                    self.count(chunk.len())?;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) => return self.end(),
                Ok(Err(source)) => return Err(self.broken(Some(source))),
                Err(_) => {
                    self.attempt.set(FetchOutcome::TimedOut);
                    return Err(Error::TimedOut {
                        upstream: self.upstream.to_string(),
                        reason: format!(
                            "no byte of {} for {:?} after {} bytes",
                            self.unit, self.stall_timeout, self.received
                        ),
                    });
                }
            }
        }
    }

    fn count(&mut self, more: usize) -> Result<(), Error> {
        self.received = self
            .received
            .saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        if self.received > self.bytes_max {
            self.attempt.set(FetchOutcome::TooLarge);
            return Err(too_large(&self.unit, self.bytes_max));
        }
        if self.len == Some(self.received) {
            // A reader that knows the length may stop here without asking for the end.
            self.attempt.set(FetchOutcome::Ok);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<Option<Bytes>, Error> {
        if self.len.is_some_and(|len| len != self.received) {
            return Err(self.broken(None));
        }
        self.attempt.set(FetchOutcome::Ok);
        Ok(None)
    }

    fn broken(&mut self, source: Option<reqwest::Error>) -> Error {
        self.attempt.set(FetchOutcome::Truncated);
        let of = self.len.map(|len| format!(" of {len}")).unwrap_or_default();
        Error::Upstream {
            upstream: self.upstream.to_string(),
            reason: format!("{} broke off after {}{of} bytes", self.unit, self.received),
            source: source.map(|source| Arc::new(source.without_url()) as _),
        }
    }
}
