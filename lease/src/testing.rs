//! What tests of this crate and of those above it need: contract suites that hold every
//! implementation to the same behaviour, and wrappers that make a good implementation misbehave.

mod contract;
mod lease_contract;
mod records_contract;

pub use lease_contract::{LeaseTableSetup, lease_table_contract};
pub use records_contract::{RecordsSetup, records_contract};
