//! Trying again what failed for a passing reason.
//!
//! A fill that fails leaves a job behind ([`Retries`]) before anybody is told; the worker takes
//! the jobs that are due and runs each as a normal flight. What becomes of a job then is decided
//! in one place, which is pure: `decision`.

mod backoff;
mod decision;
mod history;
mod jobs;
mod pauses;
mod retries;
#[cfg(test)]
mod tests;
mod worker;

pub use backoff::{Delays, RetryPolicy};
pub use jobs::unit_of_job;
pub(crate) use jobs::{Job, JobKind};
pub(crate) use retries::{PUSH_MAX, Retries, RetriesParts};
pub(crate) use worker::{Worker, WorkerParts, sample_queue};
