//! `LeaseGuard`, one held lease that renews itself, and `LeaseKeeper`, which owns its tasks.

mod renewal;

use std::fmt;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;

use crate::{
    Clock, Grant, LeaseConfig, LeaseError, LeaseKey, LeaseObserver, LeaseTable, LeaseToken,
    LostReason, NoObserver, Outcome, Progress, ReleaseEnd, Released, timeout,
};

/// Keeps leases: makes guards and owns the tasks behind them. Clones share everything.
///
/// A renewal task lives as long as its guard. A release task ends by its own deadline; whoever
/// shuts down drops its guards and then waits for [`settled`](Self::settled), or the runtime ends
/// under the last releases and those leases end by expiry.
#[derive(Clone)]
pub struct LeaseKeeper {
    shared: Arc<Shared>,
}

struct Shared {
    table: Arc<dyn LeaseTable>,
    clock: Arc<dyn Clock>,
    config: LeaseConfig,
    runtime: Handle,
    observer: Arc<dyn LeaseObserver>,
    /// Releases under way: at most one per guard that ended within `release_timeout`.
    releasing: watch::Sender<usize>,
}

/// Where a grant is in its life, as its holder knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Held {
        deadline: Instant,
    },
    Lost(LostReason),
    Forced,
    /// Given back or forgotten by the holder itself: nothing to tell any more.
    Ended,
}

impl LeaseKeeper {
    /// Makes a keeper of leases of `table`, whose tasks run on `runtime`.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: as [`LeaseConfig::validate`] says.
    pub fn new(
        table: Arc<dyn LeaseTable>,
        clock: Arc<dyn Clock>,
        config: LeaseConfig,
        runtime: Handle,
        observer: Arc<dyn LeaseObserver>,
    ) -> Result<Self, LeaseError> {
        config.validate()?;
        let releasing = watch::Sender::new(0);
        let shared = Shared {
            table,
            clock,
            config,
            runtime,
            observer,
            releasing,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Makes a keeper that tells no observer; otherwise as [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn unobserved(
        table: Arc<dyn LeaseTable>,
        clock: Arc<dyn Clock>,
        config: LeaseConfig,
        runtime: Handle,
    ) -> Result<Self, LeaseError> {
        Self::new(table, clock, config, runtime, Arc::new(NoObserver))
    }

    /// Returns the table whose leases are kept.
    pub fn table(&self) -> &Arc<dyn LeaseTable> {
        &self.shared.table
    }

    /// Returns the times that are kept.
    pub fn config(&self) -> &LeaseConfig {
        &self.shared.config
    }

    /// Starts to renew `grant`, every third of its TTL, with what `progress` says each time.
    ///
    /// `progress` is called from the renewal task: read a few numbers, do not block.
    pub fn hold(
        &self,
        grant: Grant,
        progress: impl Fn() -> Progress + Send + Sync + 'static,
    ) -> LeaseGuard {
        let state = Arc::new(watch::Sender::new(State::Held {
            deadline: grant.deadline,
        }));
        let renewal = renewal::run(
            Arc::clone(&self.shared),
            grant.clone(),
            Arc::clone(&state),
            Box::new(progress),
        );
        let renewal = self.shared.runtime.spawn(renewal).abort_handle();
        LeaseGuard {
            shared: Arc::clone(&self.shared),
            grant,
            state,
            renewal,
            ended: false,
        }
    }

    /// Gives back a grant that needs no guard, such as when another look right after it finds the
    /// work done. Otherwise as [`LeaseGuard::release`].
    pub fn give_back(
        &self,
        grant: Grant,
        outcome: Outcome,
    ) -> impl Future<Output = ReleaseEnd> + Send + 'static + use<> {
        let task = spawn_release(&self.shared, grant, outcome);
        async move { task.await.unwrap_or(ReleaseEnd::Failed) }
    }

    /// Returns the number of releases under way.
    pub fn releasing(&self) -> usize {
        *self.shared.releasing.borrow()
    }

    /// Waits until no release is under way; each takes at most `release_timeout`.
    pub async fn settled(&self) {
        let mut releasing = self.shared.releasing.subscribe();
        // It cannot fail: `self` keeps the sender alive.
        let _ = releasing.wait_for(|count| *count == 0).await;
    }
}

impl fmt::Debug for LeaseKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseKeeper")
            .field("table", &self.shared.table)
            .field("config", &self.shared.config)
            .field("releasing", &self.releasing())
            .finish_non_exhaustive()
    }
}

/// A held lease. It renews itself until it is released, forgotten, dropped or lost.
///
/// Losing it ends the renewals and nothing else; the holder decides what that means for its work.
/// Dropping it without a release gives it back as [`Outcome::Abandoned`], as well as that goes.
pub struct LeaseGuard {
    shared: Arc<Shared>,
    grant: Grant,
    state: Arc<watch::Sender<State>>,
    renewal: AbortHandle,
    ended: bool,
}

impl LeaseGuard {
    /// Returns what is leased.
    pub fn key(&self) -> &LeaseKey {
        &self.grant.key
    }

    /// Returns the grant's own name.
    pub fn token(&self) -> LeaseToken {
        self.grant.token
    }

    /// Returns until when the lease is held for certain, on the keeper's clock; `None` once it is
    /// lost or broken.
    pub fn deadline(&self) -> Option<Instant> {
        match *self.state.borrow() {
            State::Held { deadline } => Some(deadline),
            State::Lost(_) | State::Forced | State::Ended => None,
        }
    }

    /// Checks that the lease is not known to be lost or broken, say before an expensive step.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Lost`]: somebody else may be doing the same work.
    pub fn ensure_held(&self) -> Result<(), LeaseError> {
        match self.deadline() {
            Some(deadline) if self.shared.clock.now() < deadline => Ok(()),
            _ => Err(LeaseError::Lost {
                token: self.grant.token,
            }),
        }
    }

    /// Returns a future that ends when the lease is lost, with the reason.
    ///
    /// It borrows nothing, and never ends when the lease is broken or given back first: wait for
    /// it beside the work. A renewal that merely fails is no loss.
    pub fn lost(&self) -> impl Future<Output = LostReason> + Send + 'static + use<> {
        self.when(|state| match state {
            State::Lost(reason) => Some(reason),
            State::Held { .. } | State::Forced | State::Ended => None,
        })
    }

    /// Returns a future that ends when the holder learns that an operator broke the lease:
    /// cancel the work then. Otherwise as [`lost`](Self::lost).
    pub fn forced(&self) -> impl Future<Output = ()> + Send + 'static + use<> {
        self.when(|state| (state == State::Forced).then_some(()))
    }

    fn when<T, F>(&self, choose: F) -> impl Future<Output = T> + Send + 'static + use<T, F>
    where
        T: Send + 'static,
        F: Fn(State) -> Option<T> + Send + 'static,
    {
        let mut state = self.state.subscribe();
        async move {
            loop {
                let now = *state.borrow_and_update();
                if let Some(value) = choose(now) {
                    return value;
                }
                if state.changed().await.is_err() {
                    // The guard has ended otherwise, so what was waited for never comes.
                    pending::<()>().await;
                }
            }
        }
    }

    /// Gives the lease back and tells its waiters how the work ended.
    ///
    /// Starts at once, on a task of its own with `release_timeout` to live: dropping the future
    /// does not stop it. A failure is logged and told to the observer, and means nothing for the
    /// caller: the lease then ends by expiry.
    pub fn release(
        mut self,
        outcome: Outcome,
    ) -> impl Future<Output = ReleaseEnd> + Send + 'static + use<> {
        self.stop();
        let task = spawn_release(&self.shared, self.grant.clone(), outcome);
        async move { task.await.unwrap_or(ReleaseEnd::Failed) }
    }

    /// Stops renewing and says nothing to anybody: the lease ends by expiry, as after a crash.
    pub fn forget(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        self.ended = true;
        // Before the abort, so that the renewal's own end is not taken for a loss.
        self.state.send_if_modified(|state| {
            let held = matches!(state, State::Held { .. });
            if held {
                *state = State::Ended;
            }
            held
        });
        self.renewal.abort();
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if !self.ended {
            self.stop();
            spawn_release(&self.shared, self.grant.clone(), Outcome::Abandoned);
        }
    }
}

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseGuard")
            .field("grant", &self.grant)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

/// Counts a release as under way until it is dropped, by its task or with a runtime that ended.
struct Pending(Arc<Shared>);

impl Pending {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.releasing.send_modify(|count| *count += 1);
        Self(Arc::clone(shared))
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.releasing.send_modify(|count| *count -= 1);
    }
}

fn spawn_release(shared: &Arc<Shared>, grant: Grant, outcome: Outcome) -> JoinHandle<ReleaseEnd> {
    let pending = Pending::new(shared);
    shared.runtime.spawn(async move {
        let shared = &pending.0;
        let limit = shared.config.release_timeout;
        let call = shared.table.release(&grant, outcome);
        let end = match timeout(&*shared.clock, limit, call).await {
            Some(Ok(Released::Released)) => ReleaseEnd::Released,
            Some(Ok(Released::NotOwner)) => ReleaseEnd::NotOwner,
            Some(Err(error)) => {
                log_failed_release(&grant, outcome, &error);
                ReleaseEnd::Failed
            }
            None => {
                let error = LeaseError::unavailable(format!("answer a release within {limit:?}"));
                log_failed_release(&grant, outcome, &error);
                ReleaseEnd::Failed
            }
        };
        let held: Duration = shared
            .clock
            .now()
            .saturating_duration_since(grant.sent_at());
        shared.observer.released(&grant.key, outcome, end, held);
        end
    })
}

fn log_failed_release(grant: &Grant, outcome: Outcome, error: &LeaseError) {
    tracing::warn!(
        lease.key = %grant.key,
        lease.token = %grant.token,
        lease.outcome = %outcome,
        error = error as &dyn std::error::Error,
        "a lease was not released; it ends by expiry",
    );
}

#[cfg(test)]
mod tests;
