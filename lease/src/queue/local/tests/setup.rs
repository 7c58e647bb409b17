//! Queues and folders for the tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::testing::QueueSetup;

/// A folder that goes with the test.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("corral-queue-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("queue.redb")
    }

    /// Returns the names of what is in it, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap();
        let mut names: Vec<_> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Queues on a clock that is moved by hand.
#[derive(Debug)]
pub(crate) struct Local {
    clock: ManualClock,
    folder: Option<Folder>,
    cases: AtomicU32,
}

impl Local {
    pub(crate) fn in_memory() -> Self {
        Self {
            clock: ManualClock::new(),
            folder: None,
            cases: AtomicU32::new(0),
        }
    }

    pub(crate) fn in_files() -> Self {
        Self {
            folder: Some(Folder::new()),
            ..Self::in_memory()
        }
    }
}

#[async_trait]
impl QueueSetup for Local {
    async fn fresh(&self, limits: QueueLimits) -> [Arc<dyn DelayQueue>; 2] {
        let clock = Arc::new(self.clock.clone());
        let case = self.cases.fetch_add(1, Ordering::Relaxed);
        let queue = match &self.folder {
            Some(folder) => {
                let path = folder.path().join(format!("{case}.redb"));
                LocalQueue::open(path, limits, clock).await
            }
            None => LocalQueue::in_memory(limits, clock),
        };
        [Arc::new(queue.clone()), Arc::new(queue)]
    }

    fn while_(&self) -> Duration {
        Duration::from_secs(7)
    }

    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }
}

pub(crate) fn job(id: &str) -> NewJob {
    let payload = bytes::Bytes::from_static(b"{\"v\":1}");
    NewJob::new(JobId::new(id).unwrap(), "fill", payload)
}
