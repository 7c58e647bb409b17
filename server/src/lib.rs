//! The `corral` server: HTTP, configuration and process life.

pub mod admin;
mod allocator;
pub mod build;
pub mod cli;
pub mod config;
pub mod error;
pub mod fleet;
pub mod goproxy;
pub mod internal;
pub mod limits;
mod listen;
pub mod metrics;
pub mod queue;
pub mod serve;
pub mod state;
pub mod telemetry;
