//! One job in memory.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use crate::queue::answers::{JobState, JobView, Review};
use crate::queue::job::{
    Backup, DELAY_MAX, JobId, JobInfo, JobRef, JobSerial, LIFE_MAX, NewJob, Receipt, TakenJob,
    bounded_error, clamped_ms,
};
use crate::queue::stored::Role;

/// One job. Its times are the core's.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: JobId,
    pub(super) serial: JobSerial,
    pub(super) kind: Arc<str>,
    pub(super) payload: Bytes,
    pub(super) owner: Option<Arc<str>>,
    pub(super) created: u64,
    /// When it was pushed last, as the push that it stands for.
    pub(super) pushed: u64,
    pub(super) deadline: u64,
    /// The push that came while somebody works on it.
    pub(super) next: Option<Next>,
    /// The delay that was asked for last.
    pub(super) delay: u64,
    pub(super) attempts: u32,
    pub(super) error: Option<Arc<str>>,
    /// The last taking, until it is settled; it outlives the visibility timeout.
    pub(super) token: Option<Uuid>,
    pub(super) worker: Option<Arc<str>>,
    pub(super) phase: Phase,
    pub(super) role: Role,
    /// Whether it lives since an operator said so here, of which the shared queue has not heard.
    pub(super) revived: bool,
    /// Whether the shared queue may have a later error than this copy.
    pub(super) is_behind: bool,
    /// Where pushes wait to hear whether it got into the file.
    pub(super) arrival: Option<Arrival>,
}

/// A push, and when it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) serial: JobSerial,
    pub(super) pushed: u64,
}

/// Which jobs are given to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Serving {
    /// Those that the shared queue does not serve.
    Own,
    /// Those that it would serve too, and got from here: it is away.
    Alone,
    /// All of them: there is no shared queue, whatever was there when they were written.
    All,
}

/// What becomes of a job on its way into the file: whether it is there, once that is known.
pub(crate) type Arrival = Arc<OnceLock<bool>>;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is not in the file yet, so nobody may rely on it.
    Arriving { due: u64 },
    /// It waits.
    Queued { due: u64 },
    /// Somebody works on it.
    Taken { until: u64 },
    /// It was given up.
    Dead { since: u64 },
}

impl Entry {
    pub(super) fn new(now: u64, job: &NewJob, role: Role, arrives: bool) -> Self {
        let delay = clamped_ms(job.due_in, DELAY_MAX);
        let due = now + delay;
        Self {
            id: job.id.clone(),
            serial: job.serial,
            kind: Arc::clone(&job.kind),
            // Copied, since a slice of a larger buffer would keep all of it alive.
            payload: Bytes::copy_from_slice(&job.payload),
            owner: job.owner.clone(),
            created: now,
            pushed: now,
            next: None,
            deadline: now + clamped_ms(job.deadline_in, LIFE_MAX),
            delay,
            attempts: 0,
            error: job.reason.as_deref().map(bounded_error),
            token: None,
            worker: None,
            phase: match arrives {
                true => Phase::Arriving { due },
                false => Phase::Queued { due },
            },
            role,
            revived: false,
            is_behind: false,
            arrival: arrives.then(Arrival::default),
        }
    }

    /// Begins another life, which lasts as long as the one before.
    pub(super) fn live_again(&mut self, now: u64) {
        let life = self.deadline.saturating_sub(self.created);
        self.created = now;
        self.deadline = now + life.min(clamped_ms(LIFE_MAX, LIFE_MAX));
    }

    /// What it counts for against the limit.
    pub(super) fn bytes(&self) -> usize {
        let error = self.error.as_ref().map_or(0, |error| error.len());
        self.id.as_str().len() + self.payload.len() + error
    }

    pub(super) fn to_ref(&self) -> JobRef {
        JobRef {
            id: self.id.clone(),
            serial: self.serial,
        }
    }

    /// Says whether `worker` may take it.
    pub(super) fn may_take(&self, worker: &str, serving: Serving) -> bool {
        let serves = match self.role {
            Role::Own => true,
            Role::Primary => serving != Serving::Own,
            Role::Backup => serving == Serving::All,
        };
        serves && self.owner.as_deref().is_none_or(|owner| owner == worker)
    }

    /// Where it is at `now`: a worker may have been too slow since anybody looked.
    pub(super) fn phase_at(&self, now: u64) -> Phase {
        match self.phase {
            Phase::Taken { until } if until <= now => Phase::Queued { due: until },
            phase => phase,
        }
    }

    pub(super) fn info(&self, now: u64) -> JobInfo {
        JobInfo {
            id: self.id.clone(),
            serial: self.serial,
            kind: Arc::clone(&self.kind),
            owner: self.owner.clone(),
            attempts: self.attempts,
            age: ms(now.saturating_sub(self.created)),
            deadline_in: ms(self.deadline.saturating_sub(now)),
            last_error: self.error.clone(),
        }
    }

    pub(super) fn view(&self, now: u64) -> JobView {
        let state = match self.phase_at(now) {
            Phase::Arriving { due } | Phase::Queued { due } => JobState::Queued {
                due_in: ms(due.saturating_sub(now)),
            },
            Phase::Taken { until } => JobState::Taken {
                worker: self.worker.clone().unwrap_or_default(),
                returns_in: ms(until.saturating_sub(now)),
            },
            Phase::Dead { since } => JobState::Dead {
                since: ms(now.saturating_sub(since)),
            },
        };
        JobView {
            info: self.info(now),
            state,
        }
    }

    pub(super) fn taken_job(&self, now: u64, token: Uuid) -> TakenJob {
        TakenJob {
            info: self.info(now),
            payload: self.payload.clone(),
            receipt: Receipt {
                job: self.to_ref(),
                token,
            },
        }
    }

    pub(super) fn review(&self, now: u64) -> Review {
        let attempts = self.attempts;
        match self.phase_at(now) {
            Phase::Arriving { due } | Phase::Queued { due } => Review::Queued {
                attempts,
                due_in: ms(due.saturating_sub(now)),
            },
            Phase::Taken { until } => Review::Taken {
                attempts,
                returns_in: ms(until.saturating_sub(now)),
            },
            Phase::Dead { .. } => Review::Dead { attempts },
        }
    }

    pub(super) fn backup(&self, now: u64) -> Backup {
        let due = match self.phase {
            Phase::Arriving { due } | Phase::Queued { due } => due,
            Phase::Taken { until } => until,
            Phase::Dead { .. } => now,
        };
        Backup {
            job: NewJob {
                id: self.id.clone(),
                serial: self.serial,
                kind: Arc::clone(&self.kind),
                payload: self.payload.clone(),
                owner: self.owner.clone(),
                due_in: ms(due.saturating_sub(now)),
                hurries: false,
                deadline_in: ms(self.deadline.saturating_sub(now)),
                reason: None,
            },
            age: ms(now.saturating_sub(self.created)),
            pushed_ago: ms(now.saturating_sub(self.pushed)),
            attempts: self.attempts,
            last_error: self.error.clone(),
            dead: matches!(self.phase, Phase::Dead { .. }),
        }
    }
}

/// Returns so many milliseconds as a duration.
pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
