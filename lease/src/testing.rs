//! What tests of this crate and of those above it need: contract suites that hold every
//! implementation to the same behaviour, and wrappers that make a good implementation misbehave.

mod contract;
mod faulty;
mod lease_contract;
mod lossy;
mod records_contract;

pub use faulty::{Fault, FaultyLeases, FaultyRecords, LeaseOp, RecordOp};
pub use lease_contract::{LeaseTableSetup, lease_table_contract};
pub use lossy::{EventFaults, LossyLeases};
pub use records_contract::{RecordsSetup, records_contract};

#[cfg(test)]
mod tests;
