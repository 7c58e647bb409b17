//! What corral caches and how it gets there: modules, artifacts, the object store, and the cache
//! warmer that wraps it.
//!
//! This crate knows `lease`'s traits and nothing of HTTP serving, Valkey or the environment.

mod error;

pub use error::{Error, ErrorKind, FailureRecord};
