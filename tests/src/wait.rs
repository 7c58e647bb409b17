//! Waiting for a state with a bound; the only place of the harness that polls.

use std::time::{Duration, Instant};

/// Time between two looks at a state.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The bound of most waits: far longer than any of them takes, so that a slow machine passes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `state` is true.
///
/// # Panics
///
/// When `bound` passes first; the text names `what`.
pub async fn until(what: &str, bound: Duration, state: impl AsyncFnMut() -> bool) {
    let holds = holds_within(bound, state).await;
    assert!(holds, "waited {bound:?} in vain until {what}");
}

/// Whether `state` becomes true within `bound`; the negative form is how a test shows that
/// something does *not* happen.
pub async fn holds_within(bound: Duration, mut state: impl AsyncFnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if state().await {
            return true;
        }
        if started.elapsed() >= bound {
            return false;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
