//! `Seldom`: lets one log line through per minute, and says how many it held back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

use crate::Clock;
use crate::sync::lock;

/// The least time between two lines.
const EVERY: Duration = Duration::from_secs(60);

/// A gate for one kind of log line that a fault would otherwise repeat with every request.
#[derive(Debug)]
pub(crate) struct Seldom {
    clock: Arc<dyn Clock>,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            state: Mutex::new((None, 0)),
        }
    }

    /// Says whether a line may be written now: `Some` with the number of those that were held back
    /// since the last one.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        let (last, held_back) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            *held_back += 1;
            return None;
        }
        *last = Some(now);
        Some(std::mem::take(held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    #[test]
    fn one_line_a_minute() {
        let clock = ManualClock::new();
        let seldom = Seldom::new(Arc::new(clock.clone()));
        let seen: Vec<_> = (0..3).map(|_| seldom.due()).collect();
        assert_eq!(seen, [Some(0), None, None]);
        clock.advance(EVERY);
        assert_eq!((seldom.due(), seldom.due()), (Some(2), None));
    }
}
