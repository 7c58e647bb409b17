//! Trying again what failed for a passing reason.

mod backoff;

pub use backoff::{Delays, RetryPolicy};
