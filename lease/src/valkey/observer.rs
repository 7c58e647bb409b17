//! `ValkeyObserver`: where the life of servers, events and records is counted, without this crate
//! knowing any metric.

use std::fmt::Debug;
use std::time::Duration;

use crate::LeaseErrorKind;

/// Whether calls to a server are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakerState {
    /// Calls are sent.
    Closed,
    /// One call got no answer in time, or the connection is being opened: others fail at once, or
    /// wait briefly for the connection, until a look at the server decides.
    HalfOpen,
    /// The server is taken for gone: every call fails at once, and only the background look at the
    /// server closes the breaker again.
    Open,
}

impl BreakerState {
    /// Every state, for metrics that start complete.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// Returns the word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Gets told what happens between this instance and its servers; every method does nothing by
/// default.
///
/// `node` is the server's address without secrets; there are as many as are configured. Called
/// from requests and from background tasks: count and return, do not block.
pub trait ValkeyObserver: Send + Sync + Debug + 'static {
    /// A connection for commands is open, and the server answers.
    fn connected(&self, _node: &str) {}

    /// That connection is lost or was given up.
    fn disconnected(&self, _node: &str) {}

    /// The breaker changed.
    fn breaker(&self, _node: &str, _state: BreakerState) {}

    /// A call failed; `act` is one of a few words, such as `acquire`.
    fn command_failed(&self, _node: &str, _act: &'static str, _kind: LeaseErrorKind) {}

    /// Release events flow from this server, or no longer do.
    fn subscribed(&self, _node: &str, _live: bool) {}

    /// A canary came back, so long after it was published.
    fn canary(&self, _node: &str, _lag: Duration) {}

    /// A canary did not come back in time: events may be lost, so waiters look for themselves.
    fn canary_missed(&self, _node: &str) {}

    /// A release event came.
    fn event(&self, _node: &str) {}

    /// Events were dropped, since they came faster than they could be read; waiters were woken.
    fn events_overflowed(&self, _node: &str) {}

    /// A payload could not be read, or only in part: another version wrote it.
    fn unreadable(&self, _node: &str) {}

    /// A shared record was read and there.
    fn record_hit(&self) {}

    /// A shared record was read and not there: `valkey_miss`.
    fn record_miss(&self) {}

    /// A shared record was written or deleted.
    fn record_write(&self) {}

    /// An operation on a shared record failed.
    fn record_error(&self, _kind: LeaseErrorKind) {}

    /// A read failed, and this process's copy was asked instead: `valkey_get_fallback`.
    fn record_get_fallback(&self) {}

    /// A write failed, and this process kept the record instead: `valkey_set_fallback`.
    fn record_set_fallback(&self) {}
}

/// The observer that counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoValkeyObserver;

impl ValkeyObserver for NoValkeyObserver {}
