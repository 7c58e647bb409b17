//! Whose turn it is to fetch a unit: ours, with the lease, or somebody else's, who is waited for.
//!
//! The order is what makes it free of races: subscribe, then try, then look, then wait. A release
//! event is a hint and the store is the truth, so every wake-up looks.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lease::{
    Acquire, Clock, HeldLease, Holder, LeaseGuard, LeaseKeeper, LeaseKey, LeaseToken, Outcome,
    Subscription, TakeOver, Wake,
};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::config::{OnWaitTimeout, WarmerConfig};
use crate::error::Error;
use crate::flight::{FlightStatus, Phase};
use crate::holder_watch::{Followed, HolderWatch};
use crate::metrics::StorageMetrics;
use crate::warning_gate::WarningGate;

/// Leases of others that may end with nothing stored before a follower stops waiting.
///
/// Source: the fill algorithm's rule 4; without a bound a unit that always fails would send its
/// followers round for ever.
pub(crate) const ROUNDS_MAX: u32 = 8;

/// When followers wake after a lease's expiry: late enough that the server agrees that it has
/// expired, spread so that they do not ask all at once, and early enough that the next fetch
/// begins within 250 ms.
const EXPIRY_MARGIN: Duration = Duration::from_millis(5);
/// See [`EXPIRY_MARGIN`].
const EXPIRY_JITTER_MAX: Duration = Duration::from_millis(145);

/// The least time between two warnings that leases are out of reach.
pub(crate) const OUTAGE_WARN_EVERY: Duration = Duration::from_secs(10);

/// Everything that taking turns needs; shared by all fills.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) keeper: LeaseKeeper,
    pub(crate) holder: Holder,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<StorageMetrics>,
    pub(crate) watch: HolderWatch,
    /// Fetches without a lease after waiting in vain.
    pub(crate) unleased: Arc<Semaphore>,
    /// Warns that leases are out of reach; let through every [`OUTAGE_WARN_EVERY`].
    pub(crate) outage: WarningGate,
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

/// What a look may find.
pub(crate) trait Finding {
    /// What its being there tells those who wait behind our grant.
    fn outcome(&self) -> Outcome {
        Outcome::Stored
    }
}

/// How far a look goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Is the result there?
    Result,
    /// Is it, or else has somebody written down that it does not exist?
    ResultOrAbsence,
    /// Is it, or else has somebody written down why not? Costs a question to the shared records.
    ResultOrFailure,
}

/// A follower's wait, as what goes on beside it sees it: a relay from the holder.
#[derive(Debug)]
pub(crate) struct Wait {
    held: watch::Sender<Option<HeldLease>>,
    nudge: Notify,
    relaying: AtomicBool,
    served: AtomicBool,
}

impl Default for Wait {
    fn default() -> Self {
        Self {
            held: watch::Sender::new(None),
            nudge: Notify::new(),
            relaying: AtomicBool::new(false),
            served: AtomicBool::new(false),
        }
    }
}

impl Wait {
    /// Whom the follower waits for; `None` before it waits.
    pub(crate) fn held(&self) -> watch::Receiver<Option<HeldLease>> {
        self.held.subscribe()
    }

    /// Tells whether the follower has waited for anybody.
    pub(crate) fn has_followed(&self) -> bool {
        self.held.borrow().is_some()
    }

    /// Wakes the follower: there is a hint that its holder has ended.
    pub(crate) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Says whether bytes come in beside the wait: their number is then what operators see.
    pub(crate) fn set_relaying(&self, relaying: bool) {
        self.relaying.store(relaying, Ordering::Relaxed);
    }

    /// Says that no client waits any more, so there is no patience to lose.
    pub(crate) fn set_served(&self) {
        self.served.store(true, Ordering::Relaxed);
    }
}

/// What one follower remembers between its looks.
struct Following {
    subscription: Subscription,
    began: Instant,
    patience_from: Instant,
    rounds: u32,
    seen: Option<(LeaseToken, u64)>,
    followed: Option<Followed>,
    /// The grant that was not, or cannot be, taken over early: its end is waited for.
    not_taken: Option<LeaseToken>,
    /// How soon to look next while events do not flow.
    deaf_poll: Duration,
}

/// Why a follower woke.
enum Woken {
    Event(Outcome),
    Reconnect,
    Expiry,
    Poll,
    Relay,
    Gone,
}

impl Woken {
    fn cause(&self) -> &'static str {
        match self {
            Self::Event(_) => "event",
            Self::Reconnect => "reconnect",
            Self::Expiry => "expiry",
            Self::Poll => "poll",
            Self::Relay => "relay",
            Self::Gone => "gone",
        }
    }

    /// How far to look: what is written down is worth a question only where there is a sign of it.
    /// Where there is none, whoever gets the lease next asks.
    fn look(&self) -> Look {
        match self {
            Self::Event(Outcome::Failed | Outcome::Spooled) | Self::Reconnect | Self::Relay => {
                Look::ResultOrFailure
            }
            Self::Event(_) | Self::Expiry | Self::Poll | Self::Gone => Look::Result,
        }
    }
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
        wait: &Wait,
        look: F,
    ) -> Result<Turn<T>, Error>
    where
        T: Finding,
        F: Fn(Look) -> Fut,
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
        let now = self.clock.now();
        let mut following = Following {
            subscription: leases.subscribe(&key),
            began: now,
            patience_from: now,
            rounds: 0,
            seen: None,
            followed: None,
            not_taken: None,
            deaf_poll: config.follow_poll_deaf,
        };
        loop {
            let asked = leases.try_acquire(&key, &self.holder, config.lease_ttl);
            let held = match asked.await {
                Ok(Acquire::Granted(grant)) => {
                    self.metrics.count_acquire("granted");
                    let progress = status.clone();
                    let guard = self.keeper.hold(grant, move || progress.lease_progress());
                    return found_or_ours(guard, look(Look::ResultOrFailure).await);
                }
                Ok(Acquire::Held(held)) => held,
                Err(error) => {
                    self.metrics.count_acquire("unavailable");
                    if let Some(kept_back) = self.outage.due() {
                        tracing::warn!(
                            unit,
                            %error,
                            kept_back,
                            "leases are unavailable; fetching without"
                        );
                    }
                    return Ok(Turn::Ours {
                        guard: None,
                        _unleased: None,
                    });
                }
            };
            self.metrics.count_acquire("held");
            status.enter(Phase::Following);
            if !wait.relaying.load(Ordering::Relaxed) {
                status.progress(held.progress.bytes, held.progress.total);
            }
            let is_another = self.note(&mut following, &held);
            if is_another {
                wait.held.send_replace(Some(held.clone()));
                // What was stored before the subscription began sends no event.
                if let Some(found) = look(Look::Result).await? {
                    return Ok(Turn::Theirs(found));
                }
            }
            let now = self.clock.now();
            let waited = now.saturating_duration_since(following.patience_from);
            let is_impatient = waited >= config.wait_max && !wait.served.load(Ordering::Relaxed);
            if following.rounds >= ROUNDS_MAX
                || is_impatient
                || now.saturating_duration_since(following.began) >= config.fill_max
            {
                return self.give_up(unit, waited, config);
            }
            let woken = self
                .woken(&mut following, &held, config, wait, waited)
                .await;
            self.metrics.count_wake(woken.cause());
            if let Woken::Gone = woken {
                self.take_over(&key, held.token, config).await;
                following.not_taken = Some(held.token);
                // If it is free now, whoever gets it looks.
                continue;
            }
            if let Some(found) = look(woken.look()).await? {
                return Ok(Turn::Theirs(found));
            }
        }
    }

    /// Notes who has the lease now; tells whether it is another grant than before.
    fn note(&self, following: &mut Following, held: &HeldLease) -> bool {
        let now = self.clock.now();
        let is_another = match following.seen {
            Some((token, _)) if token != held.token => {
                following.rounds += 1;
                true
            }
            Some((_, bytes)) => {
                if held.progress.bytes > bytes {
                    following.patience_from = now;
                }
                false
            }
            None => true,
        };
        following.seen = Some((held.token, held.progress.bytes));
        if is_another {
            following.followed = None;
        }
        let is_ours = held.holder.instance == self.holder.instance;
        if following.followed.is_none() && following.not_taken != Some(held.token) && !is_ours {
            let address = held.holder.address.as_ref();
            following.followed = address.and_then(|address| self.watch.follow(address, held.token));
        }
        is_another
    }

    /// Waits for whatever comes first: an event, the lease's end, the next look in any case, the
    /// relay's end, the holder's.
    async fn woken(
        &self,
        following: &mut Following,
        held: &HeldLease,
        config: &WarmerConfig,
        wait: &Wait,
        waited: Duration,
    ) -> Woken {
        let expiry = held.expires_in + EXPIRY_MARGIN + self.clock.jitter(EXPIRY_JITTER_MAX);
        let poll = if following.subscription.is_live() {
            following.deaf_poll = config.follow_poll_deaf;
            config.follow_poll
        } else {
            let poll = following.deaf_poll.min(config.follow_poll);
            following.deaf_poll = (poll * 2).min(config.follow_poll);
            poll
        };
        let mut pause = expiry.min(poll);
        if !wait.served.load(Ordering::Relaxed) {
            pause = pause.min(config.wait_max - waited);
        }
        let gone = async {
            match &mut following.followed {
                Some(followed) => followed.gone().await,
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            // What says most comes first when several come in the same moment.
            biased;
            wake = following.subscription.woken() => match wake {
                Wake::Event(event) => Woken::Event(event.outcome),
                Wake::Reconnected => Woken::Reconnect,
            },
            () = gone => Woken::Gone,
            () = wait.nudge.notified() => Woken::Relay,
            () = self.clock.sleep(pause) => {
                if pause == expiry { Woken::Expiry } else { Woken::Poll }
            }
        };
        match (&woken, &following.followed) {
            (Woken::Gone, _) => following.followed = None,
            // The relay ended before the fill did: perhaps the holder has.
            (Woken::Relay, Some(followed)) => followed.ask_soon(),
            _ => {}
        }
        woken
    }

    /// Takes the lease from a holder that is gone. Whatever comes of it, the next thing to do is
    /// to compete for the lease, or to wait for its end.
    async fn take_over(&self, key: &LeaseKey, token: LeaseToken, config: &WarmerConfig) {
        let leases = self.keeper.table();
        let answer = leases.take_over(key, &token, config.lease_ttl).await;
        self.metrics.count_take_over(match &answer {
            Ok(TakeOver::Freed) => "freed",
            Ok(TakeOver::Refused) => "refused",
            Ok(TakeOver::Gone) => "gone",
            Ok(TakeOver::Moved) => "moved",
            Err(_) => "failed",
        });
        match answer {
            Ok(TakeOver::Freed) => {
                tracing::warn!(unit = %key, %token, "a lease's holder is gone; it is taken over");
            }
            Ok(TakeOver::Refused) => {
                tracing::info!(unit = %key, %token, "a holder is gone; its lease's end is awaited");
            }
            Ok(TakeOver::Gone | TakeOver::Moved) => {}
            Err(error) => tracing::debug!(unit = %key, %error, "an early take-over failed"),
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

/// What a grant is good for, after the look behind it.
fn found_or_ours<T: Finding>(
    guard: LeaseGuard,
    looked: Result<Option<T>, Error>,
) -> Result<Turn<T>, Error> {
    match looked {
        Ok(None) => Ok(Turn::Ours {
            guard: Some(guard),
            _unleased: None,
        }),
        Ok(Some(found)) => {
            drop(guard.release(found.outcome()));
            Ok(Turn::Theirs(found))
        }
        Err(error) => {
            drop(guard.release(Outcome::Failed));
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
