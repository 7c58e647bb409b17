//! `FaultyLeases` and `FaultyRecords`: implementations whose calls fail, hang or lie on demand.

use std::collections::{HashMap, VecDeque};
use std::fmt::Debug;
use std::future::{Future, pending};
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::sync::lock;
use crate::{
    Acquire, Clock, ForceRelease, Grant, Holder, LeaseError, LeaseKey, LeasePage, LeaseQuery,
    LeaseTable, LeaseToken, LeaseView, Outcome, Progress, Record, RecordPage, Records, Released,
    Renewal, Subscription, TakeOver,
};

/// What is wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails at once, and nothing happened.
    Fails,
    /// It takes effect, and then the reply is lost.
    ReplyLost,
    /// It takes effect at once, and the reply comes this much later.
    ReplyLate(Duration),
    /// It takes effect this much later.
    Late(Duration),
    /// It never answers, and nothing happened.
    Hangs,
    /// It fails at once with an answer that makes no sense.
    Garbles,
}

/// The calls of a [`LeaseTable`] that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseOp {
    /// [`LeaseTable::try_acquire`].
    TryAcquire,
    /// [`LeaseTable::renew`].
    Renew,
    /// [`LeaseTable::release`].
    Release,
    /// [`LeaseTable::list`].
    List,
    /// [`LeaseTable::get`].
    Get,
    /// [`LeaseTable::force_release`].
    ForceRelease,
    /// [`LeaseTable::take_over`].
    TakeOver,
}

/// The calls of a [`Records`] that can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordOp {
    /// [`Records::get`].
    Get,
    /// [`Records::set`].
    Set,
    /// [`Records::set_if_absent`].
    SetIfAbsent,
    /// [`Records::delete`].
    Delete,
    /// [`Records::list`].
    List,
}

/// What goes wrong next, and what was called so far.
#[derive(Debug)]
struct Plan<Op> {
    clock: Arc<dyn Clock>,
    state: Mutex<PlanState<Op>>,
}

#[derive(Debug)]
struct PlanState<Op> {
    next: HashMap<Op, VecDeque<Fault>>,
    always: Option<Fault>,
    calls: HashMap<Op, u64>,
}

impl<Op: Copy + Eq + Hash + Debug> Plan<Op> {
    fn new(clock: Arc<dyn Clock>) -> Self {
        let state = PlanState {
            next: HashMap::new(),
            always: None,
            calls: HashMap::new(),
        };
        Self {
            clock,
            state: Mutex::new(state),
        }
    }

    async fn run<T>(
        &self,
        op: Op,
        call: impl Future<Output = Result<T, LeaseError>> + Send,
    ) -> Result<T, LeaseError> {
        let fault = {
            let mut state = lock(&self.state);
            *state.calls.entry(op).or_default() += 1;
            let next = state.next.get_mut(&op).and_then(VecDeque::pop_front);
            next.or(state.always)
        };
        let doing = || format!("{op:?} (by order of the test)");
        match fault {
            None => call.await,
            Some(Fault::Fails) => Err(LeaseError::unavailable(doing())),
            Some(Fault::ReplyLost) => {
                call.await?;
                Err(LeaseError::unavailable(doing()))
            }
            Some(Fault::ReplyLate(by)) => {
                let answer = call.await;
                self.clock.sleep(by).await;
                answer
            }
            Some(Fault::Late(by)) => {
                self.clock.sleep(by).await;
                call.await
            }
            Some(Fault::Hangs) => pending().await,
            Some(Fault::Garbles) => Err(LeaseError::Protocol {
                doing: doing(),
                detail: "garbled".to_owned(),
            }),
        }
    }
}

macro_rules! steering {
    ($wrapper:ident, $inner:path, $op:ident) => {
        impl $wrapper {
            /// Wraps `inner`; delays are counted by `clock`.
            pub fn new(inner: Arc<dyn $inner>, clock: Arc<dyn Clock>) -> Self {
                Self {
                    inner,
                    plan: Plan::new(clock),
                }
            }

            /// Makes the next `calls` of `op` go wrong, after those that were ordered before.
            pub fn next(&self, op: $op, calls: usize, fault: Fault) {
                let mut state = lock(&self.plan.state);
                state
                    .next
                    .entry(op)
                    .or_default()
                    .extend(std::iter::repeat_n(fault, calls));
            }

            /// Makes every call go wrong that was not ordered otherwise; `None` ends that.
            pub fn always(&self, fault: Option<Fault>) {
                lock(&self.plan.state).always = fault;
            }

            /// Returns how often `op` was called, whatever came of it.
            pub fn calls(&self, op: $op) -> u64 {
                lock(&self.plan.state).calls.get(&op).copied().unwrap_or(0)
            }
        }
    };
}

// After the macro, which it uses.
mod queue;

pub use queue::{FaultyQueue, QueueOp};

/// A lease table whose calls go wrong on demand. Subscriptions are the inner table's.
#[derive(Debug)]
pub struct FaultyLeases {
    inner: Arc<dyn LeaseTable>,
    plan: Plan<LeaseOp>,
}

/// A record store whose calls go wrong on demand.
#[derive(Debug)]
pub struct FaultyRecords {
    inner: Arc<dyn Records>,
    plan: Plan<RecordOp>,
}

steering!(FaultyLeases, LeaseTable, LeaseOp);
steering!(FaultyRecords, Records, RecordOp);

#[async_trait]
impl LeaseTable for FaultyLeases {
    fn subscribe(&self, key: &LeaseKey) -> Subscription {
        self.inner.subscribe(key)
    }

    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError> {
        // The inner table counts from when it is called, so a late call must not shift the
        // deadline: a real one counts from before it sent the request.
        let sent = self.plan.clock.now();
        let answer = self.plan.run(
            LeaseOp::TryAcquire,
            self.inner.try_acquire(key, holder, ttl),
        );
        Ok(match answer.await? {
            Acquire::Granted(mut grant) => {
                grant.deadline = grant.deadline.min(sent + grant.ttl);
                Acquire::Granted(grant)
            }
            held @ Acquire::Held(_) => held,
        })
    }

    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError> {
        let sent = self.plan.clock.now();
        let answer = self
            .plan
            .run(LeaseOp::Renew, self.inner.renew(grant, progress))
            .await?;
        Ok(match answer {
            Renewal::Renewed { deadline } => Renewal::Renewed {
                deadline: deadline.min(sent + grant.ttl),
            },
            other => other,
        })
    }

    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError> {
        self.plan
            .run(LeaseOp::Release, self.inner.release(grant, outcome))
            .await
    }

    async fn list(&self, query: &LeaseQuery) -> Result<LeasePage, LeaseError> {
        self.plan.run(LeaseOp::List, self.inner.list(query)).await
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError> {
        self.plan.run(LeaseOp::Get, self.inner.get(key)).await
    }

    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError> {
        self.plan
            .run(LeaseOp::ForceRelease, self.inner.force_release(key, token))
            .await
    }

    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError> {
        self.plan
            .run(LeaseOp::TakeOver, self.inner.take_over(key, token, ttl))
            .await
    }
}

#[async_trait]
impl Records for FaultyRecords {
    async fn get(&self, key: &str) -> Result<Option<Record>, LeaseError> {
        self.plan.run(RecordOp::Get, self.inner.get(key)).await
    }

    async fn set(&self, key: &str, value: Bytes, ttl: Duration) -> Result<(), LeaseError> {
        self.plan
            .run(RecordOp::Set, self.inner.set(key, value, ttl))
            .await
    }

    async fn set_if_absent(
        &self,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<bool, LeaseError> {
        let call = self.inner.set_if_absent(key, value, ttl);
        self.plan.run(RecordOp::SetIfAbsent, call).await
    }

    async fn delete(&self, key: &str) -> Result<bool, LeaseError> {
        self.plan
            .run(RecordOp::Delete, self.inner.delete(key))
            .await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<RecordPage, LeaseError> {
        self.plan
            .run(RecordOp::List, self.inner.list(prefix, after, limit))
            .await
    }
}
