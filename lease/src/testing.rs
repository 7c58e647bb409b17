//! What tests of this crate and of those above it need: contract suites that hold every
//! implementation to the same behaviour, and wrappers that make a good implementation misbehave.

mod contract;
mod faulty;
mod lease_contract;
#[cfg(test)]
pub(crate) mod log;
mod lossy;
mod odd_server;
mod queue_contract;
mod records_contract;
mod server;
mod topologies;

pub use faulty::{Fault, FaultyLeases, FaultyQueue, FaultyRecords, LeaseOp, QueueOp, RecordOp};
pub use lease_contract::{LeaseTableSetup, lease_table_contract};
pub use lossy::{EventFaults, LossyLeases};
pub use odd_server::{Odd, OddServer};
pub use queue_contract::{QueueSetup, queue_contract};
pub use records_contract::{RecordsSetup, records_contract};
pub use server::{ServerKind, TestServer, eventually};
pub use topologies::{TestCluster, TestSentinels, until};

/// Returns the settings of a property test: `cases`, or more if the environment asks for more.
#[cfg(test)]
pub(crate) fn at_least(cases: u32) -> proptest::test_runner::Config {
    let asked = proptest::test_runner::Config::default();
    proptest::test_runner::Config {
        cases: asked.cases.max(cases),
        ..asked
    }
}

#[cfg(test)]
mod tests;
