//! The simulated upstream: artifacts that arrive slowly, late, broken or not at all.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::time::Instant;

use super::host::Host;
use super::ledger::RequestKind;
use super::server::Server;
use super::world::{World, lock};
use crate::error::Error;
use crate::upstream::{CacheControl, FetchRequest, Fetched, FetchedBody, Upstream};

/// Pieces of a body.
const PIECES: u32 = 4;

/// After this long without a byte a client of upstream gives up; as in the product.
const STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// What upstream is like for all instances.
#[derive(Debug)]
pub(super) struct Origin {
    out_until: Mutex<Instant>,
}

impl Origin {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            out_until: Mutex::new(Instant::now()),
        })
    }

    pub(super) fn go_out(&self, duration: Duration) {
        let mut until = lock(&self.out_until);
        *until = (*until).max(Instant::now() + duration);
    }

    fn is_out(&self) -> bool {
        Instant::now() < *lock(&self.out_until)
    }
}

/// The way of one process to upstream.
#[derive(Debug)]
pub(super) struct HostUpstream {
    pub(super) world: Arc<World>,
    pub(super) host: Arc<Host>,
    pub(super) origin: Arc<Origin>,
    pub(super) server: Arc<Server>,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Broken,
    Stalled,
    Short,
}

/// A request on its way. What ends without having been whole has failed.
struct Exchange {
    world: Arc<World>,
    host: Arc<Host>,
    unit: usize,
    kind: RequestKind,
    whole: bool,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.whole && !self.host.is_dead() {
            self.world
                .note(self.host.number, "did not get it", Some(self.unit), 0);
            self.world
                .ledger()
                .request_failed(self.host.number, self.unit, self.kind);
        }
    }
}

impl HostUpstream {
    fn begin(&self, unit: usize) -> Exchange {
        let in_force = self.server.get(&self.world.units[unit].lease).is_some();
        self.world
            .note(self.host.number, "asks upstream", Some(unit), 0);
        let (now, number) = (self.world.now(), self.host.number);
        let asked = self.world.ledger().request(now, number, unit, in_force);
        let kind = asked.unwrap_or_else(|rule| {
            self.world.violated(Some(unit), rule);
            RequestKind::Unleased
        });
        Exchange {
            world: self.world.clone(),
            host: self.host.clone(),
            unit,
            kind,
            whole: false,
        }
    }

    fn failure(&self) -> Error {
        let upstream = "simulated".to_owned();
        match self.world.pick(4) {
            0 => Error::Unreachable {
                upstream,
                reason: "connection refused".to_owned(),
                source: None,
            },
            1 => Error::Throttled {
                upstream,
                status: 429,
                retry_after: Some(Duration::from_secs(1 + self.world.pick(3) as u64)),
            },
            _ => Error::Upstream {
                upstream,
                reason: "status 500".to_owned(),
                source: None,
            },
        }
    }
}

fn stalled() -> Error {
    Error::TimedOut {
        upstream: "simulated".to_owned(),
        reason: "nothing came".to_owned(),
    }
}

#[async_trait]
impl Upstream for HostUpstream {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        self.host.gate().await;
        let unit = self.world.unit_at(&request.path).ok_or(Error::Refused {
            upstream: "simulated".to_owned(),
            status: 400,
            text: "nothing like that is simulated".to_owned(),
        })?;
        let exchange = self.begin(unit);
        let trouble = self.world.trouble();
        let whole = self
            .world
            .between(self.world.plan.fetch_max / 2, self.world.plan.fetch_max);
        let pace = whole / (PIECES + 1);
        if self.origin.is_out() || self.world.chance(trouble.upstream_fails) {
            tokio::time::sleep(pace).await;
            self.host.gate().await;
            return Err(self.failure());
        }
        if self.world.chance(trouble.upstream_hangs) {
            let limit = Instant::now() + STALL_TIMEOUT;
            let limit = request
                .first_byte_deadline
                .map_or(limit, |at| at.min(limit));
            tokio::time::sleep_until(limit).await;
            self.host.gate().await;
            return Err(stalled());
        }
        tokio::time::sleep(pace).await;
        self.host.gate().await;
        let body = self.world.units[unit].current();
        let end = if self.world.chance(trouble.upstream_breaks) {
            [End::Broken, End::Stalled, End::Short][self.world.pick(3)]
        } else {
            End::Whole
        };
        let pieces = match end {
            End::Whole => PIECES,
            _ => u32::try_from(self.world.pick(PIECES as usize)).unwrap_or(0),
        };
        Ok(Fetched {
            upstream: "simulated".into(),
            len: Some(body.len() as u64),
            etag: None,
            last_modified: None,
            cache_control: CacheControl::default(),
            content_type: None,
            resumed: false,
            body: FetchedBody::Modified(send(exchange, body, pieces, pace, end).boxed()),
        })
    }
}

/// Sends the first `pieces` pieces of `body`, then its `end`.
fn send(
    exchange: Exchange,
    body: Bytes,
    pieces: u32,
    pace: Duration,
    end: End,
) -> impl futures::Stream<Item = Result<Bytes, Error>> + Send + 'static {
    let host = exchange.host.clone();
    let size = body.len().div_ceil(PIECES as usize);
    let sending = Some((exchange, body, pieces));
    stream::unfold(sending, move |sending| {
        let host = host.clone();
        async move {
            let (mut exchange, mut rest, left) = sending?;
            if left > 0 {
                tokio::time::sleep(pace).await;
                host.gate().await;
                let piece = rest.split_to(size.min(rest.len()));
                exchange.whole = rest.is_empty();
                return Some((Ok(piece), Some((exchange, rest, left - 1))));
            }
            match end {
                End::Whole | End::Short => None,
                End::Broken => {
                    let error = Error::Upstream {
                        upstream: "simulated".to_owned(),
                        reason: "the connection broke".to_owned(),
                        source: None,
                    };
                    Some((Err(error), None))
                }
                End::Stalled => {
                    tokio::time::sleep(STALL_TIMEOUT).await;
                    host.gate().await;
                    Some((Err(stalled()), None))
                }
            }
        }
    })
}
