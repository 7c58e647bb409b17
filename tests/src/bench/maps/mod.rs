//! Comparison of concurrent maps over one interface, for the table of flights and the hot tier.
//!
//! Three measurements: writing a map full, working on a full map, and the second less the first.
//! Two more have corral's own shape. [`run`] does all of them and writes table, values and plots.

pub mod candidates;
mod hot_tier;
pub mod plots;
pub mod report;
pub mod run;
pub mod workload;
