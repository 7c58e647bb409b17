//! Refreshes that run behind stale answers: a bounded queue and its one worker.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::artifact::ArtifactKey;
use crate::warmer::Core;

/// The bounded queue of refreshes that run behind stale answers.
#[derive(Debug)]
pub(crate) struct Revalidations {
    queue: mpsc::Sender<ArtifactKey>,
    /// What is queued, so that ten thousand stale hits queue one refresh.
    queued: Mutex<HashSet<ArtifactKey>>,
}

impl Revalidations {
    pub(crate) fn new(depth_max: usize) -> (Self, mpsc::Receiver<ArtifactKey>) {
        let (queue, queued) = mpsc::channel(depth_max.max(1));
        (
            Self {
                queue,
                queued: Mutex::new(HashSet::new()),
            },
            queued,
        )
    }

    pub(crate) fn depth(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Queues a refresh; `false` when the queue is full.
    pub(crate) fn push(&self, key: &ArtifactKey) -> bool {
        let mut queued = self
            .queued
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if queued.contains(key) {
            return true;
        }
        let taken = self.queue.try_send(key.clone()).is_ok();
        if taken {
            queued.insert(key.clone());
        }
        taken
    }

    fn begin(&self, key: &ArtifactKey) {
        self.queued
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .remove(key);
    }
}

/// The one worker that refreshes documents behind stale answers.
pub(crate) async fn revalidate_queued(core: Arc<Core>, mut queue: mpsc::Receiver<ArtifactKey>) {
    while let Some(key) = queue.recv().await {
        core.revalidations.begin(&key);
        if let Err(error) = core.board(&key).await {
            tracing::debug!(unit = %key.unit(), %error, "a refresh behind a stale answer failed");
        }
    }
}
