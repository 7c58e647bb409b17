//! Relay: an instance that waits for another's fill streams from it meanwhile.
//!
//! - `auth` proves to both sides that the other belongs to the fleet.
//! - `http` asks other instances; the server crate answers, by what `serve` finds.
//! - `follow` takes the bytes into this instance's own spool, where they are verified like any
//!   others; `kept` does so from an instance that keeps what the store did not take.

mod auth;
pub(crate) mod follow;
mod http;
mod kept;
pub(crate) mod serve;

pub use auth::{Asked, FLEET_SECRET_BYTES_MIN, FleetSecret, Nonce, RelayHead, Verified};
pub use http::{HttpPeers, HttpPeersConfig};
pub(crate) use kept::from_keeper;
pub use serve::Relaying;
