//! What tests of this crate and of those above it need: an upstream that follows a script, gates
//! that hold things up, and scenes in which several instances share a store, leases and records.

mod gate;
mod peers;
mod reply;
mod scene;
pub mod simulation;
mod upstream;
mod zips;

pub use crate::kept::{Cut, KeptFaults};
pub use crate::spool::DiskFaults;
pub use gate::Gate;
pub use peers::{FakePeers, PeerState};
pub use reply::Reply;
pub use scene::{Instance, InstanceBuilder, Scene, read_answer};
pub use upstream::FakeUpstream;
pub use zips::module_zip;

use std::time::Duration;

/// The longest that a test waits for a state that must come, on the runtime's clock.
///
/// Far above what any of them takes, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `work`, for at most [`PATIENCE`].
///
/// # Panics
///
/// When the time is up: `what` never came.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Lets other tasks run, and paused time pass, until `state` is true, for at most [`PATIENCE`].
///
/// # Panics
///
/// When the time is up: `what` never came true.
pub async fn until(what: &str, mut state: impl FnMut() -> bool) {
    soon(what, async {
        while !state() {
            give_way().await;
        }
    })
    .await;
}

/// Lets others run before the next look at a state.
///
/// By a timer, since a task that only yields keeps the runtime busy, and paused time stands still
/// as long as anybody is.
async fn give_way() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}
