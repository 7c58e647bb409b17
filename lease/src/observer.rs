//! `LeaseObserver`: where the life of leases is counted, without this crate knowing any metric.

use std::fmt::Debug;
use std::time::Duration;

use crate::{LeaseErrorKind, LeaseKey, Outcome};

/// Why a holder no longer has its lease. The work itself may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LostReason {
    /// Its time ran out: it reached `held_max`, or the process was paused past the deadline.
    Expired,
    /// The table says, before the deadline, that the grant is over: somebody took it over, or the
    /// server lost its memory.
    NotOwner,
    /// No renewal got through until the deadline.
    Unreachable,
}

impl LostReason {
    /// Every reason, for counters that start at zero.
    pub const ALL: [Self; 3] = [Self::Expired, Self::NotOwner, Self::Unreachable];

    /// Returns the word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::NotOwner => "not_owner",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What became of one release. None of it is an error for whoever waited for the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReleaseEnd {
    /// The lease is free, and its waiters were told.
    Released,
    /// The grant was over before.
    NotOwner,
    /// No answer: it ends by expiry, and its waiters find out by looking.
    Failed,
}

impl ReleaseEnd {
    /// Every end, for counters that start at zero.
    pub const ALL: [Self; 3] = [Self::Released, Self::NotOwner, Self::Failed];

    /// Returns the word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::NotOwner => "not_owner",
            Self::Failed => "failed",
        }
    }
}

/// Gets told what happens to held leases; every method does nothing by default.
///
/// Called from the tasks that keep the leases: count and return, do not block.
pub trait LeaseObserver: Send + Sync + Debug + 'static {
    /// A renewal succeeded.
    fn renewed(&self, _key: &LeaseKey) {}

    /// A renewal failed or got no answer in time; it will be tried again until the deadline.
    fn renewal_failed(&self, _key: &LeaseKey, _kind: LeaseErrorKind) {}

    /// The lease is lost; told once per grant.
    fn lost(&self, _key: &LeaseKey, _reason: LostReason) {}

    /// The holder learned that an operator broke the lease; told once per grant.
    fn forced(&self, _key: &LeaseKey) {}

    /// A release ended; `held` is the time since the grant was asked for.
    fn released(&self, _key: &LeaseKey, _outcome: Outcome, _end: ReleaseEnd, _held: Duration) {}
}

/// The observer that counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl LeaseObserver for NoObserver {}
