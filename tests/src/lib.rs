//! Harness of the end-to-end tests: a misbehaving upstream, the real binary, raw clients.
//!
//! Everything listens on 127.0.0.1 with a port that the system picks, and every instance has
//! directories of its own, so tests run in parallel. Waiting is always for a state, with a bound.

pub mod bench;
pub mod client;
pub mod fault_proxy;
pub mod fleet;
pub mod go;
pub mod growth;
pub mod mayhem;
pub mod proxy;
pub mod real_upstream;
pub mod s3;
pub mod stores;
pub mod upstream;
pub mod valkey;
pub mod wait;
