//! The delay queue: jobs that are done later, once, by whoever has time, and that survive whoever
//! asked for them.
//!
//! [`DelayQueue`] is the trait. [`LocalQueue`] keeps the jobs of one process in memory and, given a
//! path, in a file beside it; the fleet's queue lives in Valkey
//! ([`Valkey::queue`](crate::Valkey::queue)); [`JournaledQueue`] puts the one behind the other, so
//! that neither the fall of Valkey nor of an instance loses a job.

mod answers;
mod core;
mod delay_queue;
mod file;
mod job;
mod journaled;
mod local;
mod stored;

pub use answers::{
    Changed, JobPage, JobQuery, JobState, JobView, Pushed, QueueStats, Restored, Review, Settled,
};
pub use delay_queue::DelayQueue;
pub use job::{
    Backup, DELAY_MAX, DoneJob, JOB_ERROR_BYTES_MAX, JOB_PAYLOAD_BYTES_MAX, JobId, JobInfo, JobRef,
    JobSerial, LIFE_MAX, NewJob, QueueLimits, Receipt, TakenJob, VISIBILITY_MAX,
};
pub(crate) use job::{bounded_error, check_name, clamped_ms};
pub use journaled::{JournalHealth, JournaledQueue};
pub use local::{FileHealth, LocalQueue};
pub(crate) use stored::StoredPayload;
