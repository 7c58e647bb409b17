//! `Link`: what is known of a node's connection, and how that changes.

use std::fmt;
use std::sync::Arc;

use super::Shared;
use crate::sync::lock;
use crate::valkey::endpoint::CommandConnection;
use crate::valkey::observer::BreakerState;

/// What is known of the connection.
#[derive(Clone)]
pub(super) enum Link {
    /// It is being opened for the first time or again: calls wait for it, within their time.
    Connecting,
    /// It is open, and the server answered last.
    Up(Open),
    /// It is open, but the server let a call wait: calls fail at once until it answers a look.
    Suspect(Open),
    /// The last attempt to open it failed: calls fail at once.
    Down,
}

/// An open connection, and which one it is: a late judgement must not hit its successor.
#[derive(Clone)]
pub(super) struct Open {
    pub(super) connection: CommandConnection,
    pub(super) generation: u64,
}

impl Link {
    pub(super) fn breaker(&self) -> BreakerState {
        match self {
            Self::Up(_) => BreakerState::Closed,
            Self::Connecting | Self::Suspect(_) => BreakerState::HalfOpen,
            Self::Down => BreakerState::Open,
        }
    }
}

impl Shared {
    /// Remembers why calls fail.
    pub(super) fn note(&self, error: &dyn fmt::Display) {
        *lock(&self.last_error) = Some(Arc::from(error.to_string()));
    }

    /// Changes the link, if it is still about the connection `generation`, and wakes the keeper.
    pub(super) fn turn(&self, generation: Option<u64>, change: impl FnOnce(&Open) -> Link) {
        let mut state = None;
        self.link.send_if_modified(|link| {
            let (Link::Up(open) | Link::Suspect(open)) = &*link else {
                return false;
            };
            if Some(open.generation) != generation {
                return false;
            }
            let before = link.breaker();
            let next = change(open);
            state = (next.breaker() != before).then(|| next.breaker());
            *link = next;
            true
        });
        if let Some(state) = state {
            self.observer.breaker(self.endpoint.address(), state);
        }
        self.judged.notify_one();
    }

    /// Takes the server for silent until it answers a look; a connection that did not come up
    /// while a call waited for it is given up.
    pub(super) fn suspect(&self, generation: Option<u64>) {
        if generation.is_some() {
            self.turn(generation, |open| Link::Suspect(open.clone()));
            return;
        }
        let given_up = self.link.send_if_modified(|link| {
            let connecting = matches!(link, Link::Connecting);
            if connecting {
                *link = Link::Down;
            }
            connecting
        });
        if given_up {
            let address = self.endpoint.address();
            self.observer.breaker(address, BreakerState::Open);
        }
    }

    /// Puts the link into another state, as only the keeper may whatever state it was in.
    pub(super) fn set(&self, link: Link) {
        let next = link.breaker();
        let before = self.link.send_replace(link).breaker();
        if before != next {
            self.observer.breaker(self.endpoint.address(), next);
        }
    }
}
