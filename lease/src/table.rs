//! `LeaseTable`: exclusive rights with a deadline, and the answers it gives.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{Holder, LeaseError, LeaseKey, LeaseToken, Outcome, Subscription};

/// The largest page that a listing returns; a larger limit is read as this one.
pub const PAGE_LIMIT_MAX: usize = 1_000;

/// How far a holder's work is; shown to followers and operators, never acted on for correctness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Bytes fetched so far; it only rises during one grant.
    pub bytes: u64,
    /// Bytes in all; `None` while that is unknown.
    pub total: Option<u64>,
    /// How many wait for the result on the holder's instance.
    pub waiters: u64,
}

/// The right to work on `key`, until `deadline` unless it is renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What is leased.
    pub key: LeaseKey,
    /// This grant's own name.
    pub token: LeaseToken,
    /// How long the grant and each renewal last.
    pub ttl: Duration,
    /// When the holder must take the lease for lost, on its own monotonic clock.
    ///
    /// Counted from *before* the request was sent, so it never lies after the server's own end,
    /// however long the answer took.
    pub deadline: Instant,
}

impl Grant {
    /// Returns the moment before the request for this grant was sent.
    pub fn sent_at(&self) -> Instant {
        self.deadline.checked_sub(self.ttl).unwrap_or(self.deadline)
    }
}

/// The answer to a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquire {
    /// The lease is the caller's; it ends with a release, or at its deadline.
    Granted(Grant),
    /// Somebody else has it.
    Held(HeldLease),
}

/// A lease that somebody else holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLease {
    /// The grant in force.
    pub token: LeaseToken,
    /// Who has it.
    pub holder: Holder,
    /// How long it still lasts if it is not renewed, by the server's clock; never zero.
    pub expires_in: Duration,
    /// What the holder last said of its work.
    pub progress: Progress,
}

/// The answer to a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It lasts until `deadline`, counted as [`Grant::deadline`] is.
    Renewed {
        /// The new deadline.
        deadline: Instant,
    },
    /// The grant is over; somebody else may have the lease. The work itself may go on.
    Lost,
    /// An operator broke the lease: cancel the work.
    Forced,
}

/// The answer to a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    /// The lease was this grant's and is free now; waiters have been told.
    Released,
    /// The grant was over already; nothing changed and nobody was told.
    NotOwner,
}

/// The answer to an operator's break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForceRelease {
    /// The lease is free, waiters have been told, and the holder's next renewal says so.
    Forced,
    /// Nobody holds it.
    Gone,
    /// Another grant than the one that was shown is in force; nothing changed.
    Moved,
}

/// The answer to an early take-over from a holder that seems dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeOver {
    /// The lease is free, and waiters have been told that it was abandoned. Compete for it now.
    Freed,
    /// This key was taken over within the last TTL already; wait for the lease's end.
    Refused,
    /// Nobody holds it.
    Gone,
    /// Another grant than the one that was shown is in force; nothing changed.
    Moved,
}

/// One lease as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// What is leased.
    pub key: LeaseKey,
    /// The grant in force.
    pub token: LeaseToken,
    /// Who has it.
    pub holder: Holder,
    /// How long ago it was granted, by the server's clock.
    pub age: Duration,
    /// How long it still lasts if it is not renewed; never zero.
    pub expires_in: Duration,
    /// What the holder last said of its work.
    pub progress: Progress,
}

/// Which leases to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseQuery {
    /// Only keys with this text in them, case-sensitive and literal; `None` or empty: all.
    pub contains: Option<String>,
    /// Only keys after this one, usually the previous page's [`LeasePage::next`].
    pub after: Option<LeaseKey>,
    /// The most leases to return, 1 ..= [`PAGE_LIMIT_MAX`]; other values are moved into it.
    pub limit: usize,
}

impl Default for LeaseQuery {
    fn default() -> Self {
        Self {
            contains: None,
            after: None,
            limit: 100,
        }
    }
}

/// Some leases, in the order of their keys' bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeasePage {
    /// The leases. The set may change between two pages; no lease that lasted is left out.
    pub leases: Vec<LeaseView>,
    /// The key to go on after; `None` when there is nothing more.
    pub next: Option<LeaseKey>,
}

/// Exclusive rights with a deadline, one holder per key.
///
/// A table may be shared by many instances, and every answer may be out of date when it arrives.
/// All methods may be called by any task at any time. Cancelling one leaves open whether it took
/// effect; a grant that nobody knows of ends by expiry.
#[async_trait]
pub trait LeaseTable: Send + Sync + Debug + 'static {
    /// Registers for the release events of `key`, locally and at once.
    ///
    /// Call it before [`try_acquire`](Self::try_acquire), or a release in between is missed. An
    /// event that comes before the wait starts is kept.
    fn subscribe(&self, key: &LeaseKey) -> Subscription;

    /// Tries to take the lease for `key`, without waiting.
    ///
    /// A grant lasts `ttl` (whole milliseconds, rounded down), counted by the server from the
    /// moment it grants, and has a new token. A holder that asks again gets
    /// [`Acquire::Held`]: leases are not reentrant.
    ///
    /// # Errors
    ///
    /// - [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: no usable answer; go on without a
    ///   lease. Should the grant have happened, the table undoes it or lets it expire.
    /// - [`LeaseError::InvalidTtl`]: as [`lease_ttl_ms`](crate::lease_ttl_ms) says.
    async fn try_acquire(
        &self,
        key: &LeaseKey,
        holder: &Holder,
        ttl: Duration,
    ) -> Result<Acquire, LeaseError>;

    /// Makes `grant` last for its TTL from now, and publishes `progress`.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: the old deadline stands; try again
    /// before it.
    async fn renew(&self, grant: &Grant, progress: &Progress) -> Result<Renewal, LeaseError>;

    /// Ends `grant`, and tells the subscribers of its key, in one step.
    ///
    /// May be repeated: once it took effect, the answer is [`Released::NotOwner`].
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: the lease may last until its TTL
    /// ends; nothing more needs doing.
    async fn release(&self, grant: &Grant, outcome: Outcome) -> Result<Released, LeaseError>;

    /// Lists leases in the order of their keys' bytes.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: nothing is known.
    async fn list(&self, query: &LeaseQuery) -> Result<LeasePage, LeaseError>;

    /// Shows one lease; `None` when nobody holds it.
    ///
    /// # Errors
    ///
    /// As [`list`](Self::list).
    async fn get(&self, key: &LeaseKey) -> Result<Option<LeaseView>, LeaseError>;

    /// Breaks the grant `token` of `key`, on an operator's order.
    ///
    /// Subscribers get [`Outcome::Forced`], and a mark stays that turns the holder's next renewal
    /// into [`Renewal::Forced`].
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: look at the lease before repeating.
    async fn force_release(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
    ) -> Result<ForceRelease, LeaseError>;

    /// Frees the grant `token` of `key` whose holder seems dead, before its TTL ends.
    ///
    /// Subscribers get [`Outcome::Abandoned`]; the former holder's next renewal says
    /// [`Renewal::Lost`], so its work may go on. Happens at most once per key within `ttl` among
    /// all who share the table: a network that only looks like a dead holder must not make
    /// instances steal from each other for ever.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: wait for the lease's end instead.
    /// [`LeaseError::InvalidTtl`]: as [`lease_ttl_ms`](crate::lease_ttl_ms) says.
    async fn take_over(
        &self,
        key: &LeaseKey,
        token: &LeaseToken,
        ttl: Duration,
    ) -> Result<TakeOver, LeaseError>;
}
