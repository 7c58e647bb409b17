//! `Gate`: holds up whoever comes to it until a test opens it.

use std::sync::Arc;

use tokio::sync::watch;

use super::soon;

/// A gate that is closed at first; once opened it stays open. Clones are the same gate.
///
/// It counts who came, so that a test can wait until somebody stands before it instead of hoping.
#[derive(Debug, Clone, Default)]
pub struct Gate {
    state: Arc<watch::Sender<State>>,
}

#[derive(Debug, Default)]
struct State {
    open: bool,
    came: usize,
}

impl Gate {
    /// Makes a closed gate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens the gate for all who wait and all to come.
    pub fn open(&self) {
        self.state.send_modify(|state| state.open = true);
    }

    /// Counts the caller and waits until the gate is open.
    pub async fn pass(&self) {
        self.state.send_modify(|state| state.came += 1);
        self.wait_for(|state| state.open).await;
    }

    /// How many came so far, whether or not they have passed.
    pub fn came(&self) -> usize {
        self.state.borrow().came
    }

    /// Waits until `count` have come.
    ///
    /// # Panics
    ///
    /// When they do not come within [`PATIENCE`](super::PATIENCE).
    pub async fn reached(&self, count: usize) {
        soon(
            "arrivals at a gate",
            self.wait_for(|state| state.came >= count),
        )
        .await;
    }

    async fn wait_for(&self, state: impl FnMut(&State) -> bool) {
        // It cannot fail: `self` keeps the sender alive.
        let _ = self.state.subscribe().wait_for(state).await;
    }
}
