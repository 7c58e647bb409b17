//! The follower's side of a relay: takes a holder's bytes into this instance's own spool.
//!
//! Runs beside the wait for the release and never instead of it. The bytes are verified here like
//! an upstream's before anybody has all of them, and they stay in this process: the holder writes
//! to the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use lease::{Clock, HeldLease, LeaseToken};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::artifacts::Verdict;
use crate::error::Error;
use crate::flight::Phase;
use crate::intake::{Incoming, Intake};
use crate::peers::{PeerError, RelayAsk, RelayReply, Relayed};
use crate::turn::Wait;
use crate::warmer::Core;

/// A relay that brought bytes this lately is better than a new fetch: when the wait for its holder
/// ends otherwise, it may go on for as long as it never pauses longer.
const MOVING: Duration = Duration::from_secs(1);

/// How often a relay from one holder is opened again after it broke.
const RECONNECTS_MAX: u32 = 1;

/// The pause before a holder that had nothing to stream is asked again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Grants that sent bad bytes and are remembered; more push out the oldest.
const DISTRUSTED_MAX: usize = 64;

/// What the wait beside it has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It goes on: relay whatever the holder has.
    Follow,
    /// It is over: take a body that is arriving to its end, begin no other.
    Finish,
    /// It is over, and nothing more is wanted.
    Stop,
}

/// Grants whose relay sent bytes that failed verification: they are not relayed again.
#[derive(Debug, Default)]
pub(crate) struct Distrusted {
    tokens: Mutex<VecDeque<LeaseToken>>,
}

impl Distrusted {
    pub(super) fn add(&self, token: LeaseToken) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= DISTRUSTED_MAX {
            tokens.pop_front();
        }
        tokens.push_back(token);
    }

    pub(super) fn contains(&self, token: &LeaseToken) -> bool {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.contains(token)
    }
}

/// One follower's relay: of one unit, from whoever holds its lease.
pub(crate) struct Relay<'a> {
    pub(crate) core: &'a Arc<Core>,
    pub(crate) unit: &'a str,
    pub(crate) intake: &'a mut Intake,
    pub(crate) wait: &'a Wait,
    pub(crate) orders: watch::Receiver<Order>,
}

impl Relay<'_> {
    /// Relays until the body is whole and verified, or the wait is over.
    ///
    /// Whatever goes wrong ends a relay and nothing else. Clients who have bytes that failed
    /// verification are cut.
    pub(crate) async fn run(mut self) {
        let core = self.core;
        if !core.config.relay || !core.peers.is_on() {
            return;
        }
        let mut helds = self.wait.held();
        let mut done_with = None;
        loop {
            let held = tokio::select! {
                biased;
                () = ended(&mut self.orders) => return,
                held = next_holder(&mut helds, done_with) => held,
            };
            done_with = Some(held.token);
            let is_ours = held.holder.instance == core.turns.holder.instance;
            if is_ours || core.distrusted.contains(&held.token) {
                continue;
            }
            if let Some(end) = self.relay_from(&held).await {
                core.metrics.count_relay(end);
            }
            self.wait.set_relaying(false);
            if self.intake.whole().is_some() {
                self.wait.set_served();
                return;
            }
            self.wait.nudge();
        }
    }

    /// Relays from one holder, until its body is whole, or it is of no use any more; returns how
    /// that ended, `None` when there was nothing to end.
    async fn relay_from(&mut self, held: &HeldLease) -> Option<&'static str> {
        let core = self.core;
        let address = held.holder.address.clone()?;
        let mut again = 0;
        // What another holder sent is compared with what this one sends, from the beginning.
        let mut from = 0;
        loop {
            let ask = RelayAsk {
                unit: self.unit.to_owned(),
                token: held.token,
                from,
            };
            let reply = tokio::select! {
                biased;
                () = ended(&mut self.orders) => return None,
                reply = core.peers.open(&address, &ask) => reply,
            };
            match reply {
                Ok(RelayReply::Arriving(relayed)) => match self.copy(relayed, from).await {
                    Copied::Whole => return Some("whole"),
                    Copied::Stopped => return Some("stopped"),
                    Copied::Corrupt => {
                        core.distrusted.add(held.token);
                        return Some("corrupt");
                    }
                    Copied::Broken if again < RECONNECTS_MAX => {
                        again += 1;
                        from = self.intake.received();
                        // Perhaps it is gone; the watch asks while we try again.
                        self.wait.nudge();
                        continue;
                    }
                    Copied::Broken => return Some("broken"),
                },
                Ok(RelayReply::Unknown) => return Some("unknown"),
                Err(PeerError::Refused) => return Some("refused"),
                Err(PeerError::Unreachable { reason }) => {
                    tracing::debug!(unit = self.unit, holder = %address, reason, "no relay");
                    if again == RECONNECTS_MAX {
                        return Some("unreachable");
                    }
                    again += 1;
                    self.wait.nudge();
                }
                Ok(RelayReply::Nothing) => {}
            }
            tokio::select! {
                biased;
                () = ended(&mut self.orders) => return None,
                () = core.clock.sleep(ASK_AGAIN_AFTER) => {}
            }
        }
    }

    pub(super) async fn copy(&mut self, relayed: Relayed, from: u64) -> Copied {
        let core = self.core;
        self.wait.set_relaying(true);
        let pace = Pace {
            clock: core.clock.clone(),
            stall_timeout: core.config.relay_stall_timeout,
            orders: self.orders.clone(),
        };
        let incoming = Incoming {
            sender: Arc::from("the holder's relay"),
            origin: relayed.origin,
            from,
            len: relayed.len,
            verdict: Verdict::Relayed,
            deadline: None,
            body: pace.keep(relayed.body),
        };
        if let Err(error) = self.intake.receive(incoming).await {
            tracing::debug!(unit = self.unit, %error, "a relay ended early");
            return match error {
                _ if *self.orders.borrow() != Order::Follow => Copied::Stopped,
                Error::Upstream { .. } | Error::TimedOut { .. } => Copied::Broken,
                // Ours, or no better at the next try.
                _ => Copied::Stopped,
            };
        }
        let verified = self.intake.verify(Verdict::Relayed, false).await;
        self.intake.lead().status().enter(Phase::Following);
        let Err(error) = verified else {
            return Copied::Whole;
        };
        tracing::error!(unit = self.unit, %error, "a relay's bytes failed verification");
        // Not remembered for others: it is no news of the artifact. Clients that have the begin of
        // it must not wait for an end that can never come.
        if self.intake.is_shown() {
            self.intake.cut(&error);
        } else {
            self.intake.discard_unseen();
        }
        Copied::Corrupt
    }
}

/// How a relayed body ended.
pub(super) enum Copied {
    /// All of it is here, and verified.
    Whole,
    /// It is not wanted any more, or there is no room for it.
    Stopped,
    /// It broke off; what came stays good.
    Broken,
    /// It failed verification and was thrown away; nobody had seen any of it.
    Corrupt,
}

/// Waits until the orders are to end.
async fn ended(orders: &mut watch::Receiver<Order>) {
    // Without anybody to give orders there is no fill either.
    let _ = orders.wait_for(|order| *order != Order::Follow).await;
}

/// Waits for a holder that can be asked and that is not `done_with`.
async fn next_holder(
    helds: &mut watch::Receiver<Option<HeldLease>>,
    done_with: Option<LeaseToken>,
) -> HeldLease {
    let is_next = |held: &Option<HeldLease>| {
        held.as_ref()
            .is_some_and(|held| Some(held.token) != done_with && held.holder.address.is_some())
    };
    match helds.wait_for(is_next).await.map(|held| held.clone()) {
        Ok(Some(held)) => held,
        _ => std::future::pending().await,
    }
}

/// Ends a body that stalls, or that is not wanted any more, by an error between two pieces.
struct Pace {
    clock: Arc<dyn Clock>,
    stall_timeout: Duration,
    orders: watch::Receiver<Order>,
}

impl Pace {
    fn keep(
        self,
        body: BoxStream<'static, Result<Bytes, Error>>,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        let last = self.clock.now();
        let state = Some((self, body, last));
        stream::unfold(state, |state| async move {
            let (mut pace, mut body, last) = state?;
            match pace.next(&mut body, last).await {
                Some(Ok(piece)) => {
                    let last = pace.clock.now();
                    Some((Ok(piece), Some((pace, body, last))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => None,
            }
        })
        .boxed()
    }

    async fn next(
        &mut self,
        body: &mut BoxStream<'static, Result<Bytes, Error>>,
        last: Instant,
    ) -> Option<Result<Bytes, Error>> {
        let broken = |reason: &str| Error::Upstream {
            upstream: "the holder's relay".to_owned(),
            reason: reason.to_owned(),
            source: None,
        };
        let began = self.clock.now();
        loop {
            let order = *self.orders.borrow_and_update();
            let until = match order {
                Order::Stop => return Some(Err(broken("it is not wanted any more"))),
                Order::Follow => began + self.stall_timeout,
                Order::Finish => last + MOVING,
            };
            tokio::select! {
                biased;
                piece = body.next() => return piece,
                () = lease::sleep_until(&*self.clock, until) => {
                    return Some(Err(broken("no byte came in time")));
                }
                changed = self.orders.changed() => if changed.is_err() {
                    return Some(Err(broken("its fill has ended")));
                },
            }
        }
    }
}
