//! Whose turn it is to fetch a unit: ours, with the lease, or somebody else's, who is waited for.
//!
//! The order is what makes it free of races: subscribe, then try, then look, then wait. A release
//! event is a hint and the store is the truth, so every wake-up looks.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lease::{Acquire, Clock, Holder, LeaseGuard, LeaseKeeper, LeaseKey, LeaseToken, Outcome, Wake};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::{OnWaitTimeout, WarmerConfig};
use crate::error::Error;
use crate::flight::{FlightStatus, Phase};
use crate::metrics::StorageMetrics;

/// Leases of others that may end with nothing stored before a follower stops waiting.
///
/// Source: the fill algorithm's rule 4; without a bound a unit that always fails would send its
/// followers round for ever.
pub(crate) const ROUNDS_MAX: u32 = 8;

/// Spread of the wake-ups at a lease's expiry, so that followers do not ask all at once.
const EXPIRY_JITTER_MAX: Duration = Duration::from_millis(250);

/// Everything that taking turns needs; shared by all fills.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) keeper: LeaseKeeper,
    pub(crate) holder: Holder,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<StorageMetrics>,
    /// Fetches without a lease after waiting in vain.
    pub(crate) unleased: Arc<Semaphore>,
}

/// The outcome of [`Turns::take`].
pub(crate) enum Turn<T> {
    /// Fetch it. The guard is `None` when leases are out of reach: sharing then ends at this
    /// process, which costs a duplicate fetch and never a wrong byte.
    Ours {
        guard: Option<LeaseGuard>,
        _unleased: Option<OwnedSemaphorePermit>,
    },
    /// Somebody else did.
    Theirs(T),
}

impl Turns {
    /// Waits until `look` finds something, or until it is our turn to fetch `unit`.
    ///
    /// `look` is asked again after every grant and every wake-up; `Ok(None)` means absent, and an
    /// error (a remembered failure, a store that cannot be read) ends the wait for everybody.
    /// Cancelling leaves at most a grant behind, which its guard gives back.
    ///
    /// # Errors
    ///
    /// What `look` returns; [`Error::WaitedTooLong`] or [`Error::Overloaded`] by
    /// `fill.on_wait_timeout`.
    pub(crate) async fn take<T, F, Fut>(
        &self,
        unit: &str,
        status: &Arc<FlightStatus>,
        config: &WarmerConfig,
        look: F,
    ) -> Result<Turn<T>, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Option<T>, Error>>,
    {
        let Ok(key) = LeaseKey::new(unit) else {
            // Longer than any lease key may be: shared in this process only.
            return Ok(Turn::Ours {
                guard: None,
                _unleased: None,
            });
        };
        let leases = self.keeper.table();
        let mut subscription = leases.subscribe(&key);
        let began = self.clock.now();
        let mut patience_from = began;
        let mut rounds = 0;
        let mut seen: Option<(LeaseToken, u64)> = None;
        loop {
            let held = match leases
                .try_acquire(&key, &self.holder, config.lease_ttl)
                .await
            {
                Ok(Acquire::Granted(grant)) => {
                    self.metrics.count_acquire("granted");
                    let progress = status.clone();
                    let guard = self.keeper.hold(grant, move || progress.lease_progress());
                    return match look().await {
                        Ok(None) => Ok(Turn::Ours {
                            guard: Some(guard),
                            _unleased: None,
                        }),
                        Ok(Some(found)) => {
                            drop(guard.release(Outcome::Stored));
                            Ok(Turn::Theirs(found))
                        }
                        Err(error) => {
                            drop(guard.release(Outcome::Failed));
                            Err(error)
                        }
                    };
                }
                Ok(Acquire::Held(held)) => held,
                Err(error) => {
                    self.metrics.count_acquire("unavailable");
                    tracing::warn!(unit, %error, "leases are unavailable; fetching without one");
                    return Ok(Turn::Ours {
                        guard: None,
                        _unleased: None,
                    });
                }
            };
            self.metrics.count_acquire("held");
            status.enter(Phase::Following);
            status.progress(held.progress.bytes, held.progress.total);
            let now = self.clock.now();
            match seen {
                Some((token, _)) if token != held.token => rounds += 1,
                Some((_, bytes)) if held.progress.bytes > bytes => patience_from = now,
                _ => {}
            }
            seen = Some((held.token, held.progress.bytes));
            if let Some(found) = look().await? {
                return Ok(Turn::Theirs(found));
            }
            let waited = now.saturating_duration_since(patience_from);
            if rounds >= ROUNDS_MAX
                || waited >= config.wait_max
                || now.saturating_duration_since(began) >= config.fill_max
            {
                return self.give_up(unit, waited, config);
            }
            let expiry = held.expires_in + self.clock.jitter(EXPIRY_JITTER_MAX);
            let pause = expiry.min(config.follow_poll).min(config.wait_max - waited);
            let cause = tokio::select! {
                // An event says more than a pause that ends in the same moment.
                biased;
                wake = subscription.woken() => match wake {
                    Wake::Event(_) => "event",
                    Wake::Reconnected => "reconnect",
                },
                () = self.clock.sleep(pause) => if pause == expiry { "expiry" } else { "poll" },
            };
            self.metrics.count_wake(cause);
            if let Some(found) = look().await? {
                return Ok(Turn::Theirs(found));
            }
        }
    }

    fn give_up<T>(
        &self,
        unit: &str,
        waited: Duration,
        config: &WarmerConfig,
    ) -> Result<Turn<T>, Error> {
        self.metrics.lease_rounds_exhausted.inc();
        match config.on_wait_timeout {
            OnWaitTimeout::Error => Err(Error::WaitedTooLong {
                unit: unit.to_owned(),
                waited_s: waited.as_secs(),
            }),
            OnWaitTimeout::Fetch => match self.unleased.clone().try_acquire_owned() {
                Ok(permit) => Ok(Turn::Ours {
                    guard: None,
                    _unleased: Some(permit),
                }),
                Err(_) => Err(Error::Overloaded {
                    limit: "fill.unleased_max",
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests;
