//! Benchmarks: concurrent maps, and corral beside nginx and Varnish on the same machine.
//!
//! Everything here runs on the loopback device, is bounded in count and time, and reports ratios
//! between candidates that were measured interleaved in the same run. Absolute figures belong to
//! the machine named in the report's header.

pub mod content;
pub mod load;
pub mod machine;
pub mod maps;
pub mod origin;
pub mod parts;
pub mod plots;
pub mod process;
pub mod progress;
pub mod report;
pub mod results;
pub mod servers;
pub mod table;
pub mod targets;
