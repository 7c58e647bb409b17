//! `HttpPeers`: asks other instances over their internal listeners.
//!
//! | question | answer |
//! |---|---|
//! | `GET /internal/v1/fills?unit=U&token=T&from=N` | 200 and the bytes from N on; 204: nothing to stream; 404: no such fill |
//! | `POST /internal/v1/grants` `{"tokens":["T",…]}` | 200 `{"unknown":["T",…]}` |
//!
//! Every question carries `corral-nonce` and `corral-mac`, every answer that counts `corral-mac`;
//! a 200 to the first also `corral-len`, `corral-upstream` and `corral-etag` where they are known.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt};
use lease::LeaseToken;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::auth::{Asked, FleetSecret, Nonce, RelayHead};
use crate::error::Error;
use crate::peers::{Origin, PeerError, Peers, RelayAsk, RelayReply, Relayed};

/// The largest answer about grants: as many tokens as a question may have, and some room.
const GRANTS_BYTES_MAX: usize = 64 * 1024;

/// How an instance asks others.
#[derive(Clone)]
pub struct HttpPeersConfig {
    /// The fleet's secret; while it is absent nobody is asked.
    pub secret: FleetSecret,
    /// Which addresses may be asked (`internal.peers`).
    pub allowed: Arc<dyn Fn(IpAddr) -> bool + Send + Sync>,
    /// Resolving a name, and opening a connection. Default 500 ms.
    pub connect_timeout: Duration,
    /// A question about grants, as a whole. Default 1 s.
    pub grants_timeout: Duration,
    /// From asking for a fill until its head is here: longer than [`Relaying::WAIT_MAX`], which
    /// the other side takes to wait for its own upstream. Default 15 s.
    ///
    /// [`Relaying::WAIT_MAX`]: super::Relaying::WAIT_MAX
    pub head_timeout: Duration,
    /// Relays that are received at once; further fills wait for the release instead. Default 256.
    pub streams_max: usize,
}

impl HttpPeersConfig {
    /// The defaults, for a fleet with this secret and these allowed addresses.
    pub fn new(
        secret: FleetSecret,
        allowed: impl Fn(IpAddr) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            secret,
            allowed: Arc::new(allowed),
            connect_timeout: Duration::from_millis(500),
            grants_timeout: Duration::from_secs(1),
            head_timeout: Duration::from_secs(15),
            streams_max: 256,
        }
    }
}

impl fmt::Debug for HttpPeersConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpPeersConfig")
            .field("secret", &self.secret)
            .field("streams_max", &self.streams_max)
            .finish_non_exhaustive()
    }
}

/// The other instances of the fleet, over HTTP.
#[derive(Debug)]
pub struct HttpPeers {
    config: HttpPeersConfig,
    client: Client,
    streams: Arc<Semaphore>,
}

#[derive(Serialize)]
struct GrantsQuestion<'a> {
    tokens: &'a [LeaseToken],
}

#[derive(Deserialize)]
struct GrantsAnswer {
    unknown: Vec<LeaseToken>,
}

impl HttpPeers {
    /// Prepares the client; opens no connection.
    ///
    /// It follows no redirect and uses no proxy: a lease's address leads to an instance or nowhere.
    ///
    /// # Errors
    ///
    /// [`Error::Config`]: the system refused a client.
    pub fn new(config: HttpPeersConfig) -> Result<Self, Error> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .user_agent(concat!("corral/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .referer(false)
            .no_proxy()
            .no_gzip()
            .http1_only()
            // Plain HTTP only, so no certificate is needed; some machines have none.
            .tls_certs_only([])
            .connect_timeout(config.connect_timeout)
            .pool_max_idle_per_host(8)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(5));
        let client = builder.build().map_err(|source| {
            Error::Config(format!("internal: no client for other instances: {source}"))
        })?;
        Ok(Self {
            streams: Arc::new(Semaphore::new(config.streams_max)),
            config,
            client,
        })
    }

    /// The socket address behind `address`, if it may be asked.
    ///
    /// A name is resolved here and the result is what is connected to, so that it cannot resolve
    /// to something else behind the check.
    async fn resolve(&self, address: &str) -> Result<SocketAddr, PeerError> {
        let usable = |addr: &SocketAddr| {
            let ip = addr.ip().to_canonical();
            addr.port() != 0
                && !ip.is_unspecified()
                && !ip.is_multicast()
                && (self.config.allowed)(ip)
        };
        let found = match address.parse::<SocketAddr>() {
            Ok(addr) => Some(addr).filter(usable),
            Err(_) => {
                let lookup = tokio::net::lookup_host(address);
                let found = timeout(self.config.connect_timeout, lookup).await;
                let found = found
                    .map_err(|_| PeerError::unreachable("its name was not resolved in time"))?
                    .map_err(|error| PeerError::unreachable(format!("its name: {error}")))?;
                found.into_iter().find(usable)
            }
        };
        found.ok_or_else(|| PeerError::unreachable("its address is not in internal.peers"))
    }

    fn signature(&self, asked: Asked<'_>, nonce: Nonce) -> Result<String, PeerError> {
        let mac = self.config.secret.sign_request(asked, nonce);
        mac.ok_or_else(|| PeerError::unreachable("the fleet has no secret yet"))
    }

    async fn ask_for_grants(
        &self,
        address: &str,
        tokens: &[LeaseToken],
    ) -> Result<Vec<LeaseToken>, PeerError> {
        let addr = self.resolve(address).await?;
        let body = serde_json::to_vec(&GrantsQuestion { tokens })
            .map_err(|error| PeerError::unreachable(error.to_string()))?;
        let (asked, nonce) = (Asked::Grants { body: &body }, Nonce::random());
        let request = self
            .client
            .post(format!("http://{addr}/internal/v1/grants"))
            .header("content-type", "application/json")
            .header("corral-nonce", nonce.to_string())
            .header("corral-mac", self.signature(asked, nonce)?)
            .body(body.clone());
        let mut response = request.send().await.map_err(failed)?;
        let mac = header(&response, "corral-mac").unwrap_or_default();
        let status = response.status();
        let mut answer = BytesMut::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            answer.extend_from_slice(&piece);
            if answer.len() > GRANTS_BYTES_MAX {
                return Err(PeerError::unreachable("its answer is too long"));
            }
        }
        let head = RelayHead {
            body: Some(&answer),
            ..RelayHead::default()
        };
        self.check(asked, nonce, status, head, &mac)?;
        if status != StatusCode::OK {
            return Err(PeerError::unreachable(format!("it answered {status}")));
        }
        let answer: GrantsAnswer = serde_json::from_slice(&answer)
            .map_err(|error| PeerError::unreachable(format!("its answer: {error}")))?;
        Ok(answer.unknown)
    }

    fn check(
        &self,
        asked: Asked<'_>,
        nonce: Nonce,
        status: StatusCode,
        head: RelayHead<'_>,
        mac: &str,
    ) -> Result<(), PeerError> {
        let secret = &self.config.secret;
        if secret.verify_response(asked, nonce, status.as_u16(), head, mac) {
            return Ok(());
        }
        Err(PeerError::unreachable(format!(
            "it answered {status} and did not prove to be of this fleet"
        )))
    }
}

#[async_trait]
impl Peers for HttpPeers {
    async fn unknown(
        &self,
        address: &str,
        tokens: &[LeaseToken],
    ) -> Result<Vec<LeaseToken>, PeerError> {
        timeout(
            self.config.grants_timeout,
            self.ask_for_grants(address, tokens),
        )
        .await
        .unwrap_or_else(|_| Err(PeerError::unreachable("no answer in time")))
    }

    async fn open(&self, address: &str, ask: &RelayAsk) -> Result<RelayReply, PeerError> {
        let permit = Arc::clone(&self.streams)
            .try_acquire_owned()
            .map_err(|_| PeerError::unreachable("internal.relays_max reached"))?;
        let addr = self.resolve(address).await?;
        let nonce = Nonce::random();
        let asked = Asked::Fill {
            unit: &ask.unit,
            token: &ask.token,
            from: ask.from,
        };
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("unit", &ask.unit)
            .append_pair("token", &ask.token.to_string())
            .append_pair("from", &ask.from.to_string())
            .finish();
        let request = self
            .client
            .get(format!("http://{addr}/internal/v1/fills?{query}"))
            .header("corral-nonce", nonce.to_string())
            .header("corral-mac", self.signature(asked, nonce)?);
        let response = timeout(self.config.head_timeout, request.send())
            .await
            .map_err(|_| PeerError::unreachable("no answer in time"))?
            .map_err(failed)?;
        let text = |name| header(&response, name);
        let (len, upstream, etag) = (
            text("corral-len"),
            text("corral-upstream"),
            text("corral-etag"),
        );
        let head = RelayHead {
            len: len.as_deref(),
            upstream: upstream.as_deref(),
            etag: etag.as_deref(),
            body: None,
        };
        let status = response.status();
        let mac = text("corral-mac").unwrap_or_default();
        self.check(asked, nonce, status, head, &mac)?;
        match status {
            StatusCode::NO_CONTENT => return Ok(RelayReply::Nothing),
            StatusCode::NOT_FOUND => return Ok(RelayReply::Unknown),
            StatusCode::OK => {}
            other => return Err(PeerError::unreachable(format!("it answered {other}"))),
        }
        let len = match &len {
            Some(digits) => Some(
                digits
                    .parse::<u64>()
                    .ok()
                    .filter(|len| *len >= ask.from)
                    .ok_or_else(|| PeerError::unreachable("its length makes no sense"))?,
            ),
            None => None,
        };
        let rest = len.map(|len| len - ask.from);
        if response.content_length() != rest {
            return Err(PeerError::unreachable("its lengths contradict each other"));
        }
        Ok(RelayReply::Arriving(Relayed {
            len,
            origin: upstream.map(|upstream| Origin {
                upstream: upstream.into(),
                etag,
            }),
            body: body(response, address, permit),
        }))
    }
}

/// The bytes of `response`; hyper sees to it that a body cut short is an error.
fn body(
    response: Response,
    address: &str,
    permit: OwnedSemaphorePermit,
) -> BoxStream<'static, Result<Bytes, Error>> {
    let address = address.to_owned();
    let reading = (response, permit, address);
    stream::try_unfold(reading, |(mut response, permit, address)| async move {
        match response.chunk().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, (response, permit, address)))),
            Err(source) => Err(Error::Upstream {
                upstream: format!("instance {address}"),
                reason: "the relay broke off".to_owned(),
                source: Some(Arc::new(source.without_url())),
            }),
        }
    })
    .boxed()
}

fn header(response: &Response, name: &str) -> Option<String> {
    let value = response.headers().get(name)?;
    Some(value.to_str().ok()?.to_owned())
}

fn failed(error: reqwest::Error) -> PeerError {
    let error = error.without_url();
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    let mut reason = String::new();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return PeerError::Refused;
        }
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    PeerError::Unreachable { reason }
}
