//! The GOPROXY protocol as it is served.

pub mod path;
