//! The way of one process to the others: questions about grants, and relays.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use lease::LeaseToken;

use super::fleet::{Fleet, Instance};
use super::host::Host;
use super::world::World;
use crate::error::Error;
use crate::peers::{PeerError, Peers, RelayAsk, RelayReply, Relayed};
use crate::relay::Relaying;

/// The longest that a message travels in one direction, in milliseconds.
const TRAVEL_MAX_MS: u64 = 1;

/// How long an answer is waited for that does not come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The other instances as one of them reaches them.
#[derive(Debug)]
pub(super) struct Neighbours {
    pub(super) world: Arc<World>,
    pub(super) host: Arc<Host>,
    pub(super) fleet: Weak<Fleet>,
}

impl Neighbours {
    /// Brings a question to the process at `address`.
    async fn reach(&self, address: &str) -> Result<Arc<Instance>, PeerError> {
        self.host.gate().await;
        tokio::time::sleep(self.world.up_to_ms(TRAVEL_MAX_MS)).await;
        let fleet = self.fleet.upgrade();
        let Some(target) = fleet.and_then(|fleet| fleet.by_address(address)) else {
            return Err(PeerError::unreachable("there is no such address"));
        };
        // A machine that lives on refuses for its dead process; one that died with it is silent.
        let is_silent = target.host.is_dead() && target.host.is_machine_dead();
        if is_silent || self.world.chance(self.world.trouble().peer_silent) {
            return self.silence().await;
        }
        if target.host.is_dead() || target.host.refuses() {
            self.host.gate().await;
            return Err(PeerError::Refused);
        }
        Ok(target)
    }

    async fn silence<T>(&self) -> Result<T, PeerError> {
        tokio::time::sleep(ANSWER_TIMEOUT).await;
        self.host.gate().await;
        Err(PeerError::unreachable("no answer in time"))
    }

    async fn back(&self) {
        tokio::time::sleep(self.world.up_to_ms(TRAVEL_MAX_MS)).await;
        self.host.gate().await;
    }
}

#[async_trait]
impl Peers for Neighbours {
    async fn unknown(
        &self,
        address: &str,
        tokens: &[LeaseToken],
    ) -> Result<Vec<LeaseToken>, PeerError> {
        let target = self.reach(address).await?;
        if target.host.is_paused() {
            return self.silence().await;
        }
        let unknown = tokens
            .iter()
            .filter(|token| !target.link.knows(token))
            .copied()
            .collect();
        self.back().await;
        Ok(unknown)
    }

    async fn open(&self, address: &str, ask: &RelayAsk) -> Result<RelayReply, PeerError> {
        let target = self.reach(address).await?;
        target.host.gate().await;
        let link = target.link.clone();
        let grants = move |token: &LeaseToken| link.knows(token);
        let found = tokio::select! {
            biased;
            () = target.host.died.cancelled() => {
                self.host.gate().await;
                return Err(PeerError::unreachable("the connection was reset"));
            }
            found = target.warmer.relay(&ask.unit, &ask.token, &grants) => found,
        };
        target.host.gate().await;
        self.back().await;
        match found {
            Ok(Relaying::Whole { body, origin }) => {
                let unit = self.world.unit_named(&ask.unit);
                self.world.note(self.host.number, "is relayed it", unit, 0);
                let len = body.len();
                let rest = body.stream(ask.from.min(len)..len).map(|piece| {
                    piece.map_err(|source| Error::storage("reading a whole body", source))
                });
                Ok(RelayReply::Arriving(Relayed {
                    len: Some(len),
                    origin,
                    body: rest.boxed(),
                }))
            }
            Ok(Relaying::Unknown) => Ok(RelayReply::Unknown),
            // Only small bodies are simulated, so none is relayed while it arrives.
            Ok(Relaying::Nothing | Relaying::Arriving { .. }) => Ok(RelayReply::Nothing),
            Err(_) => Err(PeerError::unreachable("status 503")),
        }
    }
}
