//! What a delay queue answers.

use std::sync::Arc;
use std::time::Duration;

use super::job::{JobId, JobInfo, JobSerial};

/// The answer to a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It is in the queue.
    Queued,
    /// A job of this id is there. If it waits, it stands for this push from now on, and keeps its
    /// due time unless the push [hurries](crate::NewJob::hurries) and is due earlier; if it is
    /// being worked on, it stands for the push once that has failed.
    AlreadyQueued {
        /// The push that the job stands for, or will.
        serial: JobSerial,
    },
    /// A job of this id was given up and stays so until somebody requeues or drops it.
    Dead {
        /// The push that the job stands for.
        serial: JobSerial,
    },
    /// The queue is full; nothing changed.
    Full,
}

/// The answer to an operation with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It is done.
    Settled,
    /// The receipt is out of date: another worker has the job, or it is gone. Nothing changed.
    Stale,
}

/// The answer to an operator's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It is done.
    Changed,
    /// The job is being worked on; nothing changed.
    Taken,
    /// There is no such job in a state that the order is for.
    Gone,
    /// There is no room for it; nothing changed.
    Full,
}

/// Where a job is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// It waits.
    Queued {
        /// How long until it is due; zero when it is.
        due_in: Duration,
    },
    /// Somebody works on it.
    Taken {
        /// Which instance.
        worker: Arc<str>,
        /// How long until it comes back if it is not settled.
        returns_in: Duration,
    },
    /// It was given up.
    Dead {
        /// How long ago.
        since: Duration,
    },
}

/// One job as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    /// What is known of it.
    pub info: JobInfo,
    /// Where it is.
    pub state: JobState,
}

/// Which jobs to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobQuery {
    /// The dead ones; otherwise those that wait or are being worked on.
    pub dead: bool,
    /// Only ids with this text in them, case-sensitive and literal; `None` or empty: all.
    pub contains: Option<String>,
    /// Only ids after this one, usually the previous page's [`JobPage::next`].
    pub after: Option<JobId>,
    /// The most jobs to return, 1 ..= [`PAGE_LIMIT_MAX`](crate::PAGE_LIMIT_MAX); other values are
    /// moved into it.
    pub limit: usize,
}

impl Default for JobQuery {
    fn default() -> Self {
        Self {
            dead: false,
            contains: None,
            after: None,
            limit: 100,
        }
    }
}

impl JobQuery {
    /// Says whether `id` is asked for, apart from the limit.
    pub(crate) fn wants(&self, id: &JobId) -> bool {
        let contains = self.contains.as_deref().unwrap_or("");
        id.as_str().contains(contains) && self.after.as_ref().is_none_or(|after| id > after)
    }
}

/// Some jobs, in the order of their ids' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobPage {
    /// The jobs; there may be none although more follow. The set may change between two pages; no
    /// job that stayed is left out.
    pub jobs: Vec<JobView>,
    /// The id to go on after; `None` when there is nothing more.
    pub next: Option<JobId>,
}

/// How full a queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Jobs that wait.
    pub queued: usize,
    /// Jobs that are being worked on.
    pub taken: usize,
    /// Jobs that were given up.
    pub dead: usize,
    /// How late the most overdue job is; zero when none is due.
    pub lag: Duration,
    /// Dead jobs that left for want of room, as far as this process made them leave.
    pub dead_dropped: u64,
}

/// What a queue knows of one push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Review {
    /// It waits.
    Queued {
        /// How often it was taken.
        attempts: u32,
        /// How long until it is due.
        due_in: Duration,
    },
    /// Somebody works on it.
    Taken {
        /// How often it was taken.
        attempts: u32,
        /// How long until it comes back if it is not settled.
        returns_in: Duration,
    },
    /// It was given up.
    Dead {
        /// How often it was taken.
        attempts: u32,
    },
    /// It was done, dropped, or left for want of room.
    Done,
    /// The job of this id stands for another push.
    Other {
        /// That push.
        serial: JobSerial,
    },
    /// Nothing is known of it.
    Unknown,
}

impl Review {
    pub(crate) fn is_other(self) -> bool {
        matches!(self, Self::Other { .. })
    }

    /// Returns how often the push was taken, if it is there.
    pub(crate) fn attempts(self) -> Option<u32> {
        match self {
            Self::Queued { attempts, .. }
            | Self::Taken { attempts, .. }
            | Self::Dead { attempts } => Some(attempts),
            Self::Done | Self::Other { .. } | Self::Unknown => None,
        }
    }
}

/// The answer to bringing a job back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// It was lost and is there again.
    Added,
    /// The queue knew of it; if it waited, it has the higher number of attempts now.
    Known(Review),
    /// There is no room for it; nothing changed.
    Full,
}
