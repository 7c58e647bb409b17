//! `LossyLeases`: a lease table whose release events get lost, doubled or late, by a seed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::{
    Acquire, Clock, ForceRelease, Grant, Holder, LeaseError, LeaseKey, LeasePage, LeaseQuery,
    LeaseTable, LeaseToken, LeaseView, Outcome, Progress, Released, Renewal, Subscription,
    TakeOver, Wake, WakeSource,
};

/// What becomes of events on their way; each chance is 0.0 ..= 1.0, and one event may meet all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventFaults {
    /// The chance that an event is lost.
    pub lost: f64,
    /// The chance that one that is not lost comes twice.
    pub doubled: f64,
    /// The chance that each of these comes late.
    pub late: f64,
    /// How late at most.
    pub late_max: Duration,
}

impl EventFaults {
    /// Every event is lost, as with a subscription that silently failed.
    pub const DEAF: Self = Self {
        lost: 1.0,
        doubled: 0.0,
        late: 0.0,
        late_max: Duration::ZERO,
    };
}

/// A lease table whose events misbehave; all else is the inner table's.
///
/// The same seed and the same order of subscriptions and events give the same faults.
#[derive(Debug)]
pub struct LossyLeases {
    inner: Arc<dyn LeaseTable>,
    clock: Arc<dyn Clock>,
    faults: EventFaults,
    seed: u64,
    subscriptions: AtomicU64,
}

impl LossyLeases {
    /// Wraps `inner`; lateness is counted by `clock`.
    pub fn new(
        inner: Arc<dyn LeaseTable>,
        clock: Arc<dyn Clock>,
        faults: EventFaults,
        seed: u64,
    ) -> Self {
        Self {
            inner,
            clock,
            faults,
            seed,
            subscriptions: AtomicU64::new(0),
        }
    }
}

struct LossySource {
    inner: Subscription,
    clock: Arc<dyn Clock>,
    faults: EventFaults,
    random: StdRng,
    ready: VecDeque<Wake>,
    /// At most as many as the inner subscription brings within `late_max`.
    late: Vec<(BoxFuture<'static, ()>, Wake)>,
}

impl LossySource {
    fn arrive(&mut self, wake: Wake) {
        if matches!(wake, Wake::Reconnected) {
            self.ready.push_back(wake);
            return;
        }
        if self.random.random_bool(self.faults.lost) {
            return;
        }
        for _ in 0..1 + u8::from(self.random.random_bool(self.faults.doubled)) {
            if self.random.random_bool(self.faults.late) {
                let by = self
                    .faults
                    .late_max
                    .mul_f64(self.random.random_range(0.0..=1.0));
                self.late.push((self.clock.sleep(by), wake.clone()));
            } else {
                self.ready.push_back(wake.clone());
            }
        }
    }
}

impl WakeSource for LossySource {
    fn poll_woken(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        while let Poll::Ready(wake) = self.inner.poll_woken(cx) {
            self.arrive(wake);
        }
        let mut at = 0;
        while at < self.late.len() {
            if self.late[at].0.as_mut().poll(cx).is_ready() {
                let (_, wake) = self.late.remove(at);
                self.ready.push_back(wake);
            } else {
                at += 1;
            }
        }
        self.ready.pop_front().map_or(Poll::Pending, Poll::Ready)
    }

    fn is_live(&self) -> bool {
        self.inner.is_live()
    }
}

#[async_trait]
impl LeaseTable for LossyLeases {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        let nth = self.subscriptions.fetch_add(1, Ordering::Relaxed);
        Subscription::new(LossySource {
            inner: self.inner.subscribe(key),
            clock: Arc::clone(&self.clock),
            faults: self.faults,
            random: StdRng::seed_from_u64(self.seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9))),
            ready: VecDeque::new(),
            late: Vec::new(),
        })
    }

    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError> {
        self.inner.try_acquire(key, holder, ttl).await
    }

    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError> {
        self.inner.renew(grant, progress).await
    }

    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError> {
        self.inner.release(grant, outcome).await
    }

    async fn list(&self, query: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        self.inner.list(query).await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        self.inner.get(key).await
    }

    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        self.inner.force_release(key, token).await
    }

    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError> {
        self.inner.take_over(key, token, ttl).await
    }
}
