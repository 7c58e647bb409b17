//! `LiveGrants`: which grants this instance holds, or is about to.
//!
//! A peer that doubts a holder asks it whether it knows a token, and takes over early when it does
//! not. So a token is in here before the request for its lease is sent, and stays until its release
//! is answered or its time is over: a live grant is never unknown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::sync::lock;
use crate::{Clock, LeaseToken};

/// Most grants at a time; far above what one process can work on.
pub(super) const GRANTS_MAX: usize = 65_536;
/// Entries below which no sweep is worth it.
const SWEEP_FROM: usize = 256;

/// The grants that this instance holds or has asked for.
#[derive(Debug)]
pub struct LiveGrants {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    grants: HashMap<LeaseToken, Live>,
    /// The size at which ended entries are cleared away, twice what was left after the last time:
    /// the cost of a sweep is spread over the insertions since.
    sweep_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Live {
    /// Which node granted it.
    node: usize,
    ends: Instant,
}

impl LiveGrants {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let state = Mutex::new(State::default());
        Self { clock, state }
    }

    /// Says whether `token` may be a grant in force of this instance.
    pub fn knows(&self, token: &LeaseToken) -> bool {
        let now = self.clock.now();
        let state = lock(&self.state);
        state.grants.get(token).is_some_and(|live| live.ends > now)
    }

    /// Returns the number of grants, those included that have ended but were not cleared yet.
    pub fn len(&self) -> usize {
        lock(&self.state).grants.len()
    }

    /// Says whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Registers `token`, which `node` may grant, until `ends`; says whether there was room.
    pub(super) fn register(&self, token: LeaseToken, node: usize, ends: Instant) -> bool {
        let now = self.clock.now();
        let mut state = lock(&self.state);
        if state.grants.len() >= state.sweep_at.clamp(SWEEP_FROM, GRANTS_MAX) {
            state.grants.retain(|_, live| live.ends > now);
            state.sweep_at = state.grants.len().saturating_mul(2);
        }
        let room = state.grants.len() < GRANTS_MAX;
        if room {
            state.grants.insert(token, Live { node, ends });
        }
        room
    }

    /// Moves the end of `token`, if it is known.
    pub(super) fn extend(&self, token: LeaseToken, ends: Instant) {
        if let Some(live) = lock(&self.state).grants.get_mut(&token) {
            live.ends = ends;
        }
    }

    /// Forgets `token`.
    pub(super) fn forget(&self, token: LeaseToken) {
        lock(&self.state).grants.remove(&token);
    }

    /// Returns the node that granted `token`.
    pub(super) fn node(&self, token: LeaseToken) -> Option<usize> {
        lock(&self.state).grants.get(&token).map(|live| live.node)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::ManualClock;

    #[test]
    fn a_grant_is_known_until_it_ends() {
        let clock = ManualClock::new();
        let live = LiveGrants::new(Arc::new(clock.clone()));
        let [token, other] = [LeaseToken::random(), LeaseToken::random()];
        assert!(live.register(token, 3, clock.now() + Duration::from_secs(2)));
        assert_eq!((live.knows(&token), live.knows(&other)), (true, false));
        clock.advance(Duration::from_secs(1));
        live.extend(token, clock.now() + Duration::from_secs(2));
        clock.advance(Duration::from_millis(1_999));
        assert!(live.knows(&token));
        assert_eq!(live.node(token), Some(3));
        clock.advance(Duration::from_millis(1));
        assert!(!live.knows(&token));
        live.forget(token);
        assert!(live.is_empty());
    }

    #[test]
    fn what_ended_makes_room() {
        let clock = ManualClock::new();
        let live = LiveGrants::new(Arc::new(clock.clone()));
        for _ in 0..3 {
            for _ in 0..GRANTS_MAX {
                let ends = clock.now() + Duration::from_secs(1);
                assert!(live.register(LeaseToken::random(), 0, ends));
            }
            let ends = clock.now() + Duration::from_secs(1);
            assert!(!live.register(LeaseToken::random(), 0, ends));
            clock.advance(Duration::from_secs(1));
        }
        assert!(live.len() <= GRANTS_MAX);
    }
}
