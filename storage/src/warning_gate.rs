//! A gate for one kind of warning, or other act, that an outage would otherwise repeat with every
//! request.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lease::Clock;
use tokio::time::Instant;

/// Lets one warning through in a while, and says how many it kept back.
#[derive(Debug)]
pub(crate) struct WarningGate {
    clock: Arc<dyn Clock>,
    every: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    warned: Option<Instant>,
    kept_back: u64,
}

impl WarningGate {
    /// Makes a gate that lets one warning through per `every`.
    pub(crate) fn new(clock: Arc<dyn Clock>, every: Duration) -> Self {
        Self {
            clock,
            every,
            state: Mutex::default(),
        }
    }

    /// Says whether a warning may be written now: `Some` with the number of those that were kept
    /// back since the last one.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = self.clock.now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = state
            .warned
            .is_none_or(|warned| now.saturating_duration_since(warned) >= self.every);
        if !is_due {
            state.kept_back += 1;
            return None;
        }
        state.warned = Some(now);
        Some(std::mem::take(&mut state.kept_back))
    }
}
