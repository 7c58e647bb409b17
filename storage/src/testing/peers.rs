//! `FakePeers`: the instances of a scene as they reach each other, and what is wrong on the way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lease::LeaseToken;
use tokio::sync::watch;

use crate::error::Error;
use crate::peers::{PeerError, Peers, RelayAsk, RelayReply, Relayed};
use crate::relay::Relaying;
use crate::warmer::Warmer;

/// How an address behaves towards those who ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerState {
    /// It answers.
    #[default]
    Up,
    /// Its process is gone: connections are refused, and those that were open have broken.
    Refusing,
    /// Its host is silent: nothing is refused and nothing comes.
    Silent,
    /// It answers, and knows no grant and no fill.
    Forgetful,
    /// It answers, and some byte of each relay is wrong.
    Corrupting,
}

/// Instances by address, without a network.
#[derive(Debug, Default)]
pub struct FakePeers {
    hosts: Mutex<HashMap<String, Host>>,
}

#[derive(Debug, Clone)]
struct Host {
    warmer: Weak<Warmer>,
    state: Arc<watch::Sender<PeerState>>,
    /// Questions about grants, and relays, that came.
    asked: Arc<watch::Sender<(usize, usize)>>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            warmer: Weak::new(),
            state: Arc::new(watch::Sender::new(PeerState::Up)),
            asked: Arc::new(watch::Sender::new((0, 0))),
        }
    }
}

impl FakePeers {
    /// Puts `warmer` behind `address`.
    pub fn attach(&self, address: &str, warmer: &Arc<Warmer>) {
        self.hosts().entry(address.to_owned()).or_default().warmer = Arc::downgrade(warmer);
    }

    /// Makes `address` behave as `state` from now on, open relays included.
    pub fn set(&self, address: &str, state: PeerState) {
        let host = self.hosts().entry(address.to_owned()).or_default().clone();
        host.state.send_replace(state);
    }

    /// How often `address` was asked about grants.
    pub fn questions(&self, address: &str) -> usize {
        self.hosts()
            .get(address)
            .map_or(0, |host| host.asked.borrow().0)
    }

    /// How many relays `address` was asked for.
    pub fn relays(&self, address: &str) -> usize {
        self.hosts()
            .get(address)
            .map_or(0, |host| host.asked.borrow().1)
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<String, Host>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, address: &str) -> Result<Host, PeerError> {
        let host = self.hosts().get(address).cloned();
        host.ok_or_else(|| PeerError::unreachable("there is no such address"))
    }
}

impl Host {
    async fn reach(&self) -> Result<PeerState, PeerError> {
        let state = *self.state.borrow();
        match state {
            PeerState::Refusing => Err(PeerError::Refused),
            PeerState::Silent => {
                // As long as a caller's own limit would take to pass.
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Err(PeerError::unreachable("no answer in time"))
            }
            up => Ok(up),
        }
    }
}

#[async_trait]
impl Peers for FakePeers {
    async fn unknown(
        &self,
        address: &str,
        tokens: &[LeaseToken],
    ) -> Result<Vec<LeaseToken>, PeerError> {
        let host = self.host(address)?;
        host.asked.send_modify(|asked| asked.0 += 1);
        Ok(match host.reach().await? {
            PeerState::Forgetful => tokens.to_vec(),
            _ => Vec::new(),
        })
    }

    async fn open(&self, address: &str, ask: &RelayAsk) -> Result<RelayReply, PeerError> {
        let host = self.host(address)?;
        host.asked.send_modify(|asked| asked.1 += 1);
        let state = host.reach().await?;
        let Some(warmer) = host
            .warmer
            .upgrade()
            .filter(|_| state != PeerState::Forgetful)
        else {
            return Ok(RelayReply::Unknown);
        };
        let mut states = host.state.subscribe();
        let found = tokio::select! {
            found = warmer.relay(&ask.unit, &ask.token, &|_: &LeaseToken| true) => found,
            _ = states.wait_for(|state| *state == PeerState::Refusing) => {
                return Err(PeerError::unreachable("the connection was reset"));
            }
        };
        let found = found.map_err(|error| PeerError::unreachable(error.to_string()))?;
        let (len, origin, body) = match found {
            Relaying::Nothing => return Ok(RelayReply::Nothing),
            Relaying::Unknown => return Ok(RelayReply::Unknown),
            Relaying::Arriving { body, origin } => {
                let len = body.announced_len();
                (len, origin, body.stream(ask.from..u64::MAX))
            }
            Relaying::Whole { body, origin } => {
                let len = body.len();
                let rest = body.stream(ask.from.min(len)..len);
                let rest = rest.map(|piece| {
                    piece.map_err(|source| Error::storage("reading a whole body", source))
                });
                (Some(len), origin, rest.boxed())
            }
        };
        Ok(RelayReply::Arriving(Relayed {
            len,
            origin,
            body: over_the_wire(body, states),
        }))
    }
}

/// `body` as it comes through a connection to a host that changes its mind.
fn over_the_wire(
    body: BoxStream<'static, Result<Bytes, Error>>,
    states: watch::Receiver<PeerState>,
) -> BoxStream<'static, Result<Bytes, Error>> {
    stream::unfold(Some((body, states)), |state| async move {
        let (mut body, mut states) = state?;
        let reset = || Error::Upstream {
            upstream: "fake peer".to_owned(),
            reason: "the connection was reset".to_owned(),
            source: None,
        };
        loop {
            let now = *states.borrow_and_update();
            if now == PeerState::Refusing {
                return Some((Err(reset()), None));
            }
            tokio::select! {
                biased;
                changed = states.changed() => if changed.is_err() {
                    return Some((Err(reset()), None));
                },
                piece = body.next(), if now != PeerState::Silent => {
                    return match piece? {
                        Ok(piece) if now == PeerState::Corrupting => {
                            Some((Ok(with_a_wrong_byte(&piece)), Some((body, states))))
                        }
                        Ok(piece) => Some((Ok(piece), Some((body, states)))),
                        // A cut body tells nothing of its cause.
                        Err(_) => Some((Err(reset()), None)),
                    };
                }
            }
        }
    })
    .boxed()
}

fn with_a_wrong_byte(piece: &Bytes) -> Bytes {
    let mut wrong = piece.to_vec();
    if let Some(last) = wrong.last_mut() {
        *last ^= 0x20;
    }
    wrong.into()
}
