//! The implementations inside this process: no server, no I/O, never unavailable.

mod expiring;
mod leases;
mod records;

pub use leases::LocalLeases;
pub use records::{LocalRecords, RecordLimits, RecordStats};
