//! The `corral` server: HTTP, configuration and process life.

pub mod cli;
pub mod config;
pub mod goproxy;
pub mod limits;
pub mod telemetry;
