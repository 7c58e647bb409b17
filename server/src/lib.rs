//! The `corral` server: HTTP, configuration and process life.

pub mod goproxy;
