//! `SentinelEndpoint`: the server that Sentinels call primary, found anew for each connection.
//!
//! Sentinels are asked, not believed: one that was cut off still names the old primary, so of
//! several answers the one of the latest election counts, and the server that it names must say
//! itself that it is primary. Following a failover needs nothing else: the old primary's end or its
//! first `READONLY` costs the connection, and the next one is opened here.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::{Client, RedisResult, Value, cmd, from_redis_value};
use tokio::sync::Notify;

use super::plain::plain;
use super::single::connection_config;
use super::{
    Channels, CommandConnection, DedicatedConnection, Endpoint, PoolSizes, PushSender,
    SingleEndpoint, SubscriberConnection, failed,
};
use crate::sync::lock;
use crate::valkey::UrlAddress;
use crate::valkey::layout::{SentinelLayout, Server};
use crate::{Clock, timeout};

/// How long the other Sentinels may still answer once one did: time for an answer on a network
/// that works, since one Sentinel that is gone must not cost a whole connect timeout.
const OTHERS_GRACE: Duration = Duration::from_millis(150);

/// The primary that Sentinels name.
pub(crate) struct SentinelEndpoint {
    address: String,
    layout: SentinelLayout,
    sizes: PoolSizes,
    connect_timeout: Duration,
    clock: Arc<dyn Clock>,
    /// The primary that commands went to last, with its pool.
    current: Mutex<Option<Arc<SingleEndpoint>>>,
    /// For as long as there is none.
    no_disconnects: Arc<Notify>,
}

/// What one Sentinel says of the primary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Named {
    address: UrlAddress,
    /// The number of the election that made it primary; 0 when the Sentinel does not tell.
    epoch: u64,
}

impl SentinelEndpoint {
    /// Makes the endpoint. Opens nothing yet.
    pub(crate) fn new(
        layout: SentinelLayout,
        sizes: PoolSizes,
        connect_timeout: Duration,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let sentinels: Vec<_> = layout.sentinels.iter().map(|at| at.name.as_str()).collect();
        Self {
            address: format!("{}@{}", layout.master, sentinels.join(",")),
            layout,
            sizes,
            connect_timeout,
            clock,
            current: Mutex::new(None),
            no_disconnects: Arc::new(Notify::new()),
        }
    }

    fn current(&self) -> Option<Arc<SingleEndpoint>> {
        lock(&self.current).clone()
    }

    /// Finds the primary; returns it with the connection on which it said so.
    async fn primary(&self) -> RedisResult<(Arc<SingleEndpoint>, CommandConnection)> {
        let named = self.ask_all().await?;
        let mut refused = None;
        for Named { address, .. } in named {
            match self.verified(&address).await {
                Ok(found) => return Ok(found),
                Err(error) => refused = Some((address, error)),
            }
        }
        let error = match refused {
            Some((address, error)) => format!("{address}: {error}"),
            None => format!("no Sentinel monitors {}", self.layout.master),
        };
        Err(failed(
            "the Sentinels name no primary that can be used",
            error,
        ))
    }

    /// Returns the servers that Sentinels name, those of the latest election first.
    ///
    /// # Errors
    ///
    /// Not one of them answered.
    async fn ask_all(&self) -> RedisResult<Vec<Named>> {
        let sentinels = self.layout.sentinels.iter();
        let mut answers: FuturesUnordered<_> = sentinels.map(|at| self.ask(at)).collect();
        let mut named: Vec<Named> = Vec::new();
        let (mut answered, mut error) = (false, None);
        loop {
            let next = match answered {
                false => answers.next().await,
                // Whoever is late now is left out.
                true => match timeout(&*self.clock, OTHERS_GRACE, answers.next()).await {
                    Some(next) => next,
                    None => break,
                },
            };
            match next {
                Some(Ok(answer)) => {
                    answered = true;
                    named.extend(answer);
                }
                Some(Err(failure)) => error = Some(failure),
                None => break,
            }
        }
        match error {
            Some(error) if !answered => Err(error),
            _ => {
                named.sort_by_key(|named| std::cmp::Reverse(named.epoch));
                let mut seen = Vec::new();
                named.retain(|named| {
                    let new = !seen.contains(&named.address);
                    seen.push(named.address.clone());
                    new
                });
                Ok(named)
            }
        }
    }

    /// Asks one Sentinel; `None` when it does not monitor the primary.
    async fn ask(&self, at: &Server) -> RedisResult<Option<Named>> {
        let work = async {
            let client = Client::open(at.info.clone())?;
            let config = connection_config(self.connect_timeout);
            let mut sentinel = client
                .get_multiplexed_async_connection_with_config(&config)
                .await?;
            let mut questions = redis::pipe();
            for question in ["GET-MASTER-ADDR-BY-NAME", "MASTER"] {
                questions
                    .cmd("SENTINEL")
                    .arg(question)
                    .arg(&self.layout.master);
            }
            questions.ignore_errors();
            let (address, details): (RedisResult<Value>, RedisResult<Value>) =
                questions.query_async(&mut sentinel).await?;
            let address: Option<(String, u16)> = from_redis_value(address?)?;
            // The election's number is a bonus that rights may withhold.
            let details = details.ok().and_then(|map| from_redis_value(map).ok());
            let epoch = details
                .and_then(|map: HashMap<String, String>| map.get("config-epoch")?.parse().ok());
            Ok(address.map(|(host, port)| Named {
                address: UrlAddress::Tcp {
                    host,
                    port: Some(port),
                },
                epoch: epoch.unwrap_or(0),
            }))
        };
        match timeout(&*self.clock, self.connect_timeout, work).await {
            Some(answer) => answer.map_err(|error: redis::RedisError| {
                let error = format!("{}: {}", at.name, plain(error));
                failed("a Sentinel gave no answer", error)
            }),
            None => {
                let error = format!("{}: nothing within {:?}", at.name, self.connect_timeout);
                Err(failed("a Sentinel gave no answer", error))
            }
        }
    }

    /// Connects to `address` if the server there takes itself for primary.
    async fn verified(
        &self,
        address: &UrlAddress,
    ) -> RedisResult<(Arc<SingleEndpoint>, CommandConnection)> {
        let invalid = |error: crate::LeaseError| failed("it cannot be used", error.to_string());
        let server = self.layout.access.server(address).map_err(invalid)?;
        let same = self
            .current()
            .filter(|known| known.address() == server.name);
        let endpoint = match same {
            Some(known) => known,
            None => {
                let Server { name, info, .. } = server;
                let limit = self.connect_timeout;
                Arc::new(SingleEndpoint::new(name, info, self.sizes, limit).map_err(invalid)?)
            }
        };
        let mut connection = endpoint.connect().await?;
        match connection.send(&cmd("ROLE")).await {
            Ok(Value::Array(role)) if is_primary(role.first()) => Ok((endpoint, connection)),
            Ok(_) => Err(failed("it is no primary", String::new())),
            // Rights may withhold the question; a replica then refuses the first write.
            Err(error) if error.code() == Some("NOPERM") => Ok((endpoint, connection)),
            Err(error) => Err(error),
        }
    }
}

fn is_primary(role: Option<&Value>) -> bool {
    match role {
        Some(Value::BulkString(role)) => role == b"master",
        Some(Value::SimpleString(role)) => role == "master",
        _ => false,
    }
}

#[async_trait]
impl Endpoint for SentinelEndpoint {
    fn address(&self) -> &str {
        &self.address
    }

    fn disconnects(&self) -> Arc<Notify> {
        match self.current() {
            Some(primary) => primary.disconnects(),
            None => Arc::clone(&self.no_disconnects),
        }
    }

    async fn connect(&self) -> RedisResult<CommandConnection> {
        let (primary, connection) = self.primary().await?;
        *lock(&self.current) = Some(primary);
        Ok(connection)
    }

    async fn dedicated(&self, key: &str) -> RedisResult<DedicatedConnection> {
        let primary = self.current();
        let none = || failed("no primary was found yet", String::new());
        primary.ok_or_else(none)?.dedicated(key).await
    }

    async fn subscribe(
        &self,
        channels: &Channels,
        pushes: PushSender,
    ) -> RedisResult<SubscriberConnection> {
        // Asked again rather than taken from the last `connect`: a subscription to a primary that
        // was replaced hears nothing, and nothing tells it so but the canary.
        let (primary, _) = self.primary().await?;
        primary.subscribe(channels, pushes).await
    }

    fn tidy(&self) {
        if let Some(primary) = self.current() {
            primary.tidy();
        }
    }

    async fn reserve(&self) {
        if let Some(primary) = self.current() {
            primary.reserve().await;
        }
    }
}

impl fmt::Debug for SentinelEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SentinelEndpoint")
            .field("address", &self.address)
            .field("primary", &self.current().map(|at| at.address().to_owned()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
