//! `LocalLeases`: the lease table of one process.

use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::expiring::Expiring;
use crate::sync::lock;
use crate::ttl::{lease_ttl_ms, whole};
use crate::{
    Acquire, Clock, Fanout, ForceRelease, Grant, HeldLease, Holder, LeaseConfig, LeaseError,
    LeaseKey, LeasePage, LeaseQuery, LeaseTable, LeaseToken, LeaseView, Outcome, PAGE_LIMIT_MAX,
    Progress, ReleaseEvent, Released, Renewal, Subscription, TakeOver,
};

/// Most leases at a time; far above what one process can work on.
const LEASES_MAX: usize = 65_536;
/// Most marks of broken leases that wait for their holder; then the one that ends soonest goes.
const FORCED_MAX: usize = 4_096;
/// How long such a mark waits: as long as any grant lasts without a renewal.
const FORCED_TTL: Duration = LeaseConfig::TTL_MAX;
/// Most ended entries that one write clears away, so that no write pays for all.
const SWEEP_MAX: usize = 32;
/// Keys that a listing looks at before it lets others at the table.
const LIST_STEP: usize = 1_024;

/// The lease table of one process; clones would share it, so it is handed about in an `Arc`.
///
/// Expiry is lazy: it needs no task. Nothing here waits, fails, or is slow.
#[derive(Debug)]
pub struct LocalLeases {
    clock: Arc<dyn Clock>,
    fanout: Fanout,
    leases_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    leases: Expiring<LeaseKey, Lease>,
    /// Grants that an operator broke, until their holders have had the time to ask.
    forced: Expiring<LeaseToken, ()>,
    /// Keys that were taken over early, for one TTL each.
    taken_over: Expiring<LeaseKey, ()>,
}

#[derive(Debug)]
struct Lease {
    token: LeaseToken,
    holder: Holder,
    granted: Instant,
    progress: Progress,
}

/// Whether the grant that was shown is the one in force.
enum Shown {
    InForce,
    Gone,
    Moved,
}

impl LocalLeases {
    /// Makes an empty table that counts time by `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_fanout(clock, Fanout::new(true))
    }

    /// Makes an empty table that sends its events to `fanout`, which others may feed too.
    pub fn with_fanout(clock: Arc<dyn Clock>, fanout: Fanout) -> Self {
        let state = State {
            leases: Expiring::new(),
            forced: Expiring::new(),
            taken_over: Expiring::new(),
        };
        Self {
            clock,
            fanout,
            leases_max: LEASES_MAX,
            state: Mutex::new(state),
        }
    }

    /// Returns the registry of this table's subscriptions.
    pub fn fanout(&self) -> &Fanout {
        &self.fanout
    }

    /// Returns the number of leases in memory: those in force, and ended ones not yet cleared.
    pub fn len(&self) -> usize {
        lock(&self.state).leases.len()
    }

    /// Says whether no lease is in memory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends the lease if `token` is the grant in force; `also` runs under the same lock and may
    /// refuse.
    fn end(
        &self,
        key: &LeaseKey,
        token: LeaseToken,
        outcome: Outcome,
        also: impl FnOnce(&mut State, Instant) -> bool,
    ) -> Result<bool, Shown> {
        {
            let now = self.clock.now();
            let mut state = lock(&self.state);
            match state.shown(key, token, now) {
                Shown::InForce => {}
                other => return Err(other),
            }
            if !also(&mut state, now) {
                return Ok(false);
            }
            state.leases.remove(key);
        }
        // Outside the lock: whoever is woken comes straight back for the lease.
        self.fanout.publish(&ReleaseEvent {
            key: key.clone(),
            token,
            outcome,
        });
        Ok(true)
    }
}

impl State {
    fn shown(&self, key: &LeaseKey, token: LeaseToken, now: Instant) -> Shown {
        match self.leases.get(key, now) {
            Some((lease, _)) if lease.token == token => Shown::InForce,
            Some(_) => Shown::Moved,
            None => Shown::Gone,
        }
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP_MAX {
            let lease = self.leases.pop_ended(now).is_some();
            let forced = self.forced.pop_ended(now).is_some();
            let taken_over = self.taken_over.pop_ended(now).is_some();
            if !(lease || forced || taken_over) {
                return;
            }
        }
    }
}

fn view(key: &LeaseKey, lease: &Lease, ends: Instant, now: Instant) -> LeaseView {
    LeaseView {
        key: key.clone(),
        token: lease.token,
        holder: lease.holder.clone(),
        age: now.saturating_duration_since(lease.granted),
        expires_in: ends.saturating_duration_since(now),
        progress: lease.progress,
    }
}

#[async_trait]
impl LeaseTable for LocalLeases {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        self.fanout.subscribe(key)
    }

    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError> {
        let ttl = whole(lease_ttl_ms(ttl)?);
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.sweep(now);
        if let Some((lease, ends)) = state.leases.get(key, now) {
            return Ok(Acquire::Held(HeldLease {
                token: lease.token,
                holder: lease.holder.clone(),
                expires_in: ends.saturating_duration_since(now),
                progress: lease.progress,
            }));
        }
        if state.leases.len() >= self.leases_max && state.leases.remove(key).is_none() {
            let doing = format!(
                "lease {:?}: all {} places are taken",
                key.as_str(),
                self.leases_max
            );
            return Err(LeaseError::unavailable(doing));
        }
        let grant = Grant {
            key: key.clone(),
            token: LeaseToken::random(),
            ttl,
            deadline: now + ttl,
        };
        let lease = Lease {
            token: grant.token,
            holder: holder.clone(),
            granted: now,
            progress: Progress::default(),
        };
        state.leases.insert(key.clone(), lease, grant.deadline);
        Ok(Acquire::Granted(grant))
    }

    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError> {
        let ttl = whole(lease_ttl_ms(grant.ttl)?);
        let now = self.clock.now();
        let mut state = lock(&self.state);
        state.sweep(now);
        match state.shown(&grant.key, grant.token, now) {
            Shown::InForce => {
                let deadline = now + ttl;
                if let Some(lease) = state.leases.extend(&grant.key, deadline, now) {
                    lease.progress = *progress;
                }
                Ok(Renewal::Renewed { deadline })
            }
            Shown::Gone | Shown::Moved => Ok(match state.forced.get(&grant.token, now) {
                Some(_) => Renewal::Forced,
                None => Renewal::Lost,
            }),
        }
    }

    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError> {
        Ok(
            match self.end(&grant.key, grant.token, outcome, |_, _| true) {
                Ok(_) => Released::Released,
                Err(_) => Released::NotOwner,
            },
        )
    }

    async fn list(&self, query: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        let limit = query.limit.clamp(1, PAGE_LIMIT_MAX);
        let wanted = query.contains.as_deref().unwrap_or("");
        let mut page = LeasePage::default();
        let mut after = query.after.clone();
        loop {
            let now = self.clock.now();
            let state = lock(&self.state);
            let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let mut looked_at = None;
            for (key, lease, ends) in state.leases.range(start).take(LIST_STEP) {
                looked_at = Some(key.clone());
                if ends <= now || !key.as_str().contains(wanted) {
                    continue;
                }
                if page.leases.len() == limit {
                    page.next = page.leases.last().map(|last| last.key.clone());
                    return Ok(page);
                }
                page.leases.push(view(key, lease, ends, now));
            }
            if looked_at.is_none() {
                return Ok(page);
            }
            after = looked_at;
        }
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        let now = self.clock.now();
        let state = lock(&self.state);
        Ok(state
            .leases
            .get(key, now)
            .map(|(lease, ends)| view(key, lease, ends, now)))
    }

    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        let ended = self.end(key, *token, Outcome::Forced, |state, now| {
            state.sweep(now);
            if state.forced.len() >= FORCED_MAX {
                state.forced.pop_soonest();
            }
            state.forced.insert(*token, (), now + FORCED_TTL);
            true
        });
        Ok(match ended {
            Ok(_) => ForceRelease::Forced,
            Err(Shown::Moved) => ForceRelease::Moved,
            Err(Shown::Gone | Shown::InForce) => ForceRelease::Gone,
        })
    }

    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError> {
        let ttl = whole(lease_ttl_ms(ttl)?);
        let ended = self.end(key, *token, Outcome::Abandoned, |state, now| {
            state.sweep(now);
            let full = state.taken_over.len() >= self.leases_max;
            if full || state.taken_over.get(key, now).is_some() {
                return false;
            }
            state.taken_over.insert(key.clone(), (), now + ttl);
            true
        });
        Ok(match ended {
            Ok(true) => TakeOver::Freed,
            Ok(false) => TakeOver::Refused,
            Err(Shown::Moved) => TakeOver::Moved,
            Err(Shown::Gone | Shown::InForce) => TakeOver::Gone,
        })
    }
}

#[cfg(test)]
mod tests;
