//! The jobs for later: how they are kept, closed, and how well that goes.

use std::path::PathBuf;
use std::sync::Arc;

use lease::{
    Clock, DelayQueue, FileHealth, JournalHealth, JournaledQueue, LocalQueue, QueueLimits,
};
use serde::Serialize;
use storage::StateDir;
use tokio::runtime::Handle;

use crate::fleet::Fleet;
use crate::state::Scope;

/// The queue's file in the directory of what outlives restarts.
const QUEUE_FILE: &str = "queue.redb";

/// The jobs for later: of this process, or of a fleet with this instance's journal behind them.
#[derive(Debug, Clone)]
pub enum Queue {
    /// Of this process.
    Own(LocalQueue),
    /// Of the fleet.
    Shared(Arc<JournaledQueue>),
}

/// How the jobs are kept, as operators see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueView {
    /// The file that a restart reads: all jobs of an instance alone, the journal of one in a fleet.
    pub file: PathBuf,
    /// Why that file could not be opened or written last; `null` while it can.
    pub file_error: Option<String>,
    /// Files that could not be read and were moved out of the way since the start.
    pub set_aside: Vec<PathBuf>,
    /// What only a fleet has.
    pub fleet: Option<JournalView>,
}

/// What an instance of a fleet knows of the shared jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JournalView {
    /// Why the shared queue did not answer; `null` when it did last.
    pub shared_error: Option<String>,
    /// Jobs in this instance's journal, dead ones included.
    pub journaled: usize,
    /// Jobs that the shared queue had lost and that were put there again, since the start.
    pub restored: u64,
    /// Jobs that the shared queue took and the journal could not, since the start.
    pub unjournaled: u64,
}

impl Queue {
    /// Opens the queue in `state_dir`; in a fleet as the journal of the shared one, with a task on
    /// `fills` that holds the two against each other.
    ///
    /// A file that cannot be used does not keep the instance from starting: see
    /// [`degraded`](Self::degraded).
    pub(crate) async fn open(
        state_dir: &StateDir,
        fleet: Option<&Fleet>,
        clock: &Arc<dyn Clock>,
        fills: &Handle,
    ) -> Self {
        let path = state_dir.path().join(QUEUE_FILE);
        let limits = QueueLimits::default();
        let Some(fleet) = fleet else {
            return Self::Own(LocalQueue::open(path, limits, clock.clone()).await);
        };
        let journal = LocalQueue::open_journal(path, limits, clock.clone()).await;
        let shared = fleet.valkey().queue(limits);
        Self::Shared(Arc::new(JournaledQueue::new(
            shared,
            journal,
            clock.clone(),
            fills,
        )))
    }

    /// The queue itself.
    pub(crate) fn jobs(&self) -> Arc<dyn DelayQueue> {
        match self {
            Self::Own(queue) => Arc::new(queue.clone()),
            Self::Shared(queue) => queue.clone(),
        }
    }

    /// Whom the jobs that can be listed now belong to: while the shared queue is away, an instance
    /// of a fleet knows its own alone.
    pub fn scope(&self) -> Scope {
        match self {
            Self::Own(_) => Scope::Instance,
            Self::Shared(queue) => match queue.health().shared_error {
                Some(_) => Scope::Instance,
                None => Scope::Fleet,
            },
        }
    }

    /// How the jobs are kept. Costs no I/O.
    pub fn view(&self) -> Option<QueueView> {
        let (file, fleet) = self.health();
        let FileHealth {
            path,
            last_error,
            set_aside,
        } = file?;
        Some(QueueView {
            file: path,
            file_error: last_error,
            set_aside,
            fleet: fleet.map(|journal| JournalView {
                shared_error: journal.shared_error,
                journaled: journal.journaled,
                restored: journal.restored,
                unjournaled: journal.unjournaled,
            }),
        })
    }

    /// What is not as it should be, on one line without paths; `None` while jobs can be written.
    /// Costs no I/O.
    pub fn degraded(&self) -> Option<String> {
        let (file, _) = self.health();
        file?.last_error?;
        Some(match self {
            Self::Own(_) => "the queue's file cannot be written, so what fails is not tried again \
                             in the background (see /admin/v1/instance)"
                .to_owned(),
            Self::Shared(_) => "the journal's file cannot be written, so jobs are only as safe as \
                                valkey keeps them, and newly kept files wait for it with their \
                                upload (see /admin/v1/instance)"
                .to_owned(),
        })
    }

    fn health(&self) -> (Option<FileHealth>, Option<JournalHealth>) {
        match self {
            Self::Own(queue) => (queue.file_health(), None),
            Self::Shared(queue) => {
                let health = queue.health();
                (health.file.clone(), Some(health))
            }
        }
    }

    /// Writes what is owed and closes the file.
    pub async fn shutdown(&self) {
        match self {
            Self::Own(queue) => queue.close().await,
            Self::Shared(queue) => queue.shutdown().await,
        }
    }
}
