//! `Peers`: what a follower may ask the instance that holds the lease it waits for.

use std::fmt::{self, Debug};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use lease::LeaseToken;

use crate::error::Error;

/// The most grants that one question may be about.
pub const GRANTS_ASKED_MAX: usize = 1_024;

/// Other instances of the fleet, by the internal addresses that their leases carry.
///
/// An address is data from a lease, not trust: an implementation asks only where it is allowed
/// to, and believes only answers that prove to come from the fleet. Every method may be called
/// from any task; cancelling one ends its exchange.
#[async_trait]
pub trait Peers: Send + Sync + Debug + 'static {
    /// Asks which of `tokens` (at most [`GRANTS_ASKED_MAX`]) the instance at `address` does not
    /// know as live grants of its own.
    ///
    /// # Errors
    ///
    /// As [`PeerError`] says; only [`PeerError::Refused`] is a sign of death.
    async fn unknown(
        &self,
        address: &str,
        tokens: &[LeaseToken],
    ) -> Result<Vec<LeaseToken>, PeerError>;

    /// Asks for the bytes of a fill that the instance at `address` does.
    ///
    /// Resolves when the first bytes can be had, or when the instance has waited long enough for
    /// them; that may take many seconds.
    ///
    /// # Errors
    ///
    /// As [`PeerError`] says.
    async fn open(&self, address: &str, ask: &RelayAsk) -> Result<RelayReply, PeerError>;

    /// Tells whether anybody is ever asked; `false` saves followers the trouble.
    fn is_on(&self) -> bool {
        true
    }
}

/// Which bytes a follower asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayAsk {
    /// The unit that is being fetched.
    pub unit: String,
    /// The grant under which it is.
    pub token: LeaseToken,
    /// How many bytes are here already.
    pub from: u64,
}

/// The answer to a [`RelayAsk`].
#[derive(Debug)]
pub enum RelayReply {
    /// The bytes from the asked position on, as they arrive there.
    Arriving(Relayed),
    /// There is nothing to stream yet, or ever: ask again later, or wait for the release.
    Nothing,
    /// No fill runs there under this grant.
    Unknown,
}

/// A body that another instance passes on.
pub struct Relayed {
    /// The length of the whole artifact in bytes; `None` when its upstream sent none.
    pub len: Option<u64>,
    /// Whom the holder fetches it from.
    pub origin: Option<Origin>,
    /// The bytes. It ends in an error unless all bytes came.
    pub body: BoxStream<'static, Result<Bytes, Error>>,
}

impl Debug for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relayed")
            .field("len", &self.len)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// Which upstream sent a body, and what it calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The upstream's name, without credentials.
    pub upstream: Arc<str>,
    /// The `ETag`, quotes included.
    pub etag: Option<String>,
}

/// Why a peer gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// Its address refuses connections: whoever listened there is gone.
    #[error("the connection was refused")]
    Refused,
    /// Anything else. It may well be alive: never take its lease for this.
    #[error("no usable answer: {reason}")]
    Unreachable {
        /// What happened, for the log.
        reason: String,
    },
}

impl PeerError {
    /// Builds [`PeerError::Unreachable`].
    pub fn unreachable(reason: impl Into<String>) -> Self {
        Self::Unreachable {
            reason: reason.into(),
        }
    }
}

/// Nobody to ask: a single process, or an instance without an internal network.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[async_trait]
impl Peers for NoPeers {
    async fn unknown(&self, _: &str, _: &[LeaseToken]) -> Result<Vec<LeaseToken>, PeerError> {
        Err(PeerError::unreachable("there are no peers"))
    }

    async fn open(&self, _: &str, _: &RelayAsk) -> Result<RelayReply, PeerError> {
        Err(PeerError::unreachable("there are no peers"))
    }

    fn is_on(&self) -> bool {
        false
    }
}

/// The grants that this instance may have in force: those it asks for, holds or gives back.
///
/// A token must be known before its acquire is sent and until its release is answered or its
/// deadline has passed, or followers would take a live lease for a dead one.
pub trait KnowsGrants: Send + Sync + 'static {
    /// Tells whether `token` may be in force.
    fn knows(&self, token: &LeaseToken) -> bool;
}

impl<F: Fn(&LeaseToken) -> bool + Send + Sync + 'static> KnowsGrants for F {
    fn knows(&self, token: &LeaseToken) -> bool {
        self(token)
    }
}
