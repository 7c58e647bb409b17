//! The holder's side of a relay: what it has for a grant of its own.

use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use lease::LeaseToken;
use tokio::sync::Notify;

use crate::artifact::ArtifactKey;
use crate::artifacts::Arriving;
use crate::error::Error;
use crate::fill::Landed;
use crate::peers::{KnowsGrants, Origin};
use crate::store::StoredBody;
use crate::warmer::Warmer;

/// How long a question waits for a fill that is about to begin: its holder looks in the store
/// once more before.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(2);

/// The fills that run under a grant of this instance, by the grant's token.
///
/// As many as there are flights, which are bounded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Granted {
    fills: Arc<DashMap<LeaseToken, GrantedFill>>,
    entered: Arc<Notify>,
}

#[derive(Debug, Clone)]
struct GrantedFill {
    key: ArtifactKey,
    flight: u64,
}

/// Keeps a fill known under its token until it is dropped.
#[derive(Debug)]
pub(crate) struct GrantedEntry {
    granted: Granted,
    token: LeaseToken,
}

impl Granted {
    pub(crate) fn enter(&self, token: LeaseToken, key: &ArtifactKey, flight: u64) -> GrantedEntry {
        let fill = GrantedFill {
            key: key.clone(),
            flight,
        };
        self.fills.insert(token, fill);
        self.entered.notify_waiters();
        GrantedEntry {
            granted: self.clone(),
            token,
        }
    }

    fn get(&self, token: &LeaseToken) -> Option<GrantedFill> {
        self.fills.get(token).map(|fill| fill.value().clone())
    }

    /// The fill under `token`, which may be about to begin; `None` when it does not.
    ///
    /// Followers learn of a grant as soon as its holder does, and may well be quicker to ask for
    /// its fill than the holder is to begin it.
    async fn wait_for(&self, token: &LeaseToken, grants: &dyn KnowsGrants) -> Option<GrantedFill> {
        loop {
            let entered = self.entered.notified();
            if let Some(fill) = self.get(token) {
                return Some(fill);
            }
            if !grants.knows(token) {
                return None;
            }
            entered.await;
        }
    }
}

impl Drop for GrantedEntry {
    fn drop(&mut self) {
        self.granted.fills.remove(&self.token);
    }
}

/// What an instance can pass on of a fill of its own.
#[derive(Debug)]
pub enum Relaying {
    /// The body, while it arrives: its reader counts as one who waits.
    Arriving {
        /// The body.
        body: Arriving,
        /// Where it comes from.
        origin: Option<Origin>,
    },
    /// The whole of a body.
    Whole {
        /// The body, in memory or in a local file.
        body: StoredBody,
        /// Where it comes from.
        origin: Option<Origin>,
    },
    /// Nothing to stream yet, or ever: wait for the release.
    Nothing,
    /// No fill runs here under this grant.
    Unknown,
}

impl Relaying {
    /// How long a question is held open while upstream has not answered.
    pub const WAIT_MAX: Duration = Duration::from_secs(10);
}

impl Warmer {
    /// Finds what this instance can pass on of the fill of `unit` under its grant `token`, or of
    /// what it keeps under it.
    ///
    /// Waits for the first bytes, for at most [`Relaying::WAIT_MAX`]. Cancelling is safe.
    /// `grants` are those of this instance.
    ///
    /// # Errors
    ///
    /// [`Error::Overloaded`]: `fill.waiters_max` is reached, which relays count against too.
    pub async fn relay(
        &self,
        unit: &str,
        token: &LeaseToken,
        grants: &dyn KnowsGrants,
    ) -> Result<Relaying, Error> {
        let core = self.core();
        if let Some(stored) = core.kept.get_by_token(unit, token).await {
            return Ok(Relaying::Whole {
                body: stored.body,
                origin: None,
            });
        }
        let clock = &*core.clock;
        let begun = core.granted.wait_for(token, grants);
        let Some(fill) = lease::timeout(clock, BEGIN_WAIT_MAX, begun).await else {
            return Ok(Relaying::Nothing);
        };
        let Some(fill) = fill.filter(|fill| fill.key.unit() == unit) else {
            return Ok(Relaying::Unknown);
        };
        let Some(seat) = core.flights.join_running(&fill.key)? else {
            return Ok(Relaying::Unknown);
        };
        if seat.status().id() != fill.flight {
            return Ok(Relaying::Unknown);
        }
        let landed = seat.landed(Relaying::WAIT_MAX, clock);
        let Some(landed) = lease::timeout(clock, Relaying::WAIT_MAX, landed).await else {
            return Ok(Relaying::Nothing);
        };
        let origin = seat.status().origin();
        Ok(match landed {
            Ok(Landed::Filling { filling, .. }) => Relaying::Arriving {
                body: Arriving {
                    filling,
                    seat: Arc::new(seat),
                },
                origin,
            },
            Ok(Landed::Stored { stored, .. }) => match stored.body {
                body @ StoredBody::Bytes(_) => Relaying::Whole { body, origin },
                // It was in the store: there the follower finds it, too.
                StoredBody::Mapped(_) | StoredBody::Remote(_) => Relaying::Nothing,
            },
            Ok(Landed::Document(_)) | Err(_) => Relaying::Nothing,
        })
    }
}
