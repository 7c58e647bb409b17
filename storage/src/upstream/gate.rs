//! The places at one upstream: a fixed number, a bounded queue before them, first come first
//! served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::config::UpstreamConfig;
use super::observer::{FetchObserver, Level, LevelKind};
use crate::error::Error;

/// Admits fetches to one upstream.
#[derive(Debug)]
pub(super) struct Gate {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// A place at an upstream; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    _level: Level,
    _permit: OwnedSemaphorePermit,
}

impl Gate {
    pub(super) fn new(config: &UpstreamConfig) -> Self {
        Self {
            places: Arc::new(Semaphore::new(config.concurrency_max)),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Waits for a place, at most until `deadline`. Cancelling leaves the queue.
    pub(super) async fn enter(
        &self,
        config: &UpstreamConfig,
        deadline: Option<Instant>,
        observer: &Arc<dyn FetchObserver>,
        upstream: &Arc<str>,
    ) -> Result<Place, Error> {
        let level = |kind| Level::raise(Arc::clone(observer), Arc::clone(upstream), kind);
        // The semaphore hands freed permits to those who wait, so this cannot overtake anybody.
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Ok(Place {
                _level: level(LevelKind::InFlight),
                _permit: permit,
            });
        }
        let _waiting = Waiting::join(&self.waiting, config.queue_max)?;
        let _queued = level(LevelKind::Queued);
        let patience = Instant::now() + config.queue_timeout;
        let until = deadline.map_or(patience, |deadline| deadline.min(patience));
        match timeout_at(until, Arc::clone(&self.places).acquire_owned()).await {
            Ok(permit) => {
                let permit = permit.expect("this semaphore is never closed");
                Ok(Place {
                    _level: level(LevelKind::InFlight),
                    _permit: permit,
                })
            }
            Err(_) => Err(Error::Overloaded {
                limit: UpstreamConfig::CONCURRENCY_KEY,
            }),
        }
    }
}

/// One that waits; counted while it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(count: &'a AtomicUsize, max: usize) -> Result<Self, Error> {
        let before = count.fetch_add(1, Ordering::Relaxed);
        let joined = Self(count);
        if before >= max {
            return Err(Error::Overloaded {
                limit: UpstreamConfig::QUEUE_KEY,
            });
        }
        Ok(joined)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
