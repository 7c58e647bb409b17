//! `ClusterEndpoint`: a Cluster, whose nodes share the slots and may hand them on at any time.

mod discovery;
mod router;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::future::try_join_all;
use redis::{RedisResult, Value, cmd};
use tokio::sync::Notify;

pub(crate) use self::discovery::ClusterLimits;
pub(crate) use self::router::Router;

use self::discovery::Discovery;
use self::slots::slot_of;
use super::{
    Channels, CommandConnection, DedicatedConnection, Endpoint, PushSender, SubscriberConnection,
    failed,
};
use crate::Clock;
use crate::sync::lock;
use crate::valkey::UrlAddress;
use crate::valkey::layout::ClusterLayout;

/// A Cluster.
pub(crate) struct ClusterEndpoint {
    address: String,
    discovery: Arc<Discovery>,
    /// The router that commands went through last.
    current: Mutex<Option<Router>>,
}

impl ClusterEndpoint {
    /// Makes the endpoint. Opens nothing yet.
    pub(crate) fn new(layout: ClusterLayout, limits: ClusterLimits, clock: Arc<dyn Clock>) -> Self {
        let seeds: Vec<_> = layout.seeds.iter().map(|seed| seed.name.as_str()).collect();
        Self {
            address: seeds.join(","),
            discovery: Arc::new(Discovery::new(layout, limits, clock)),
            current: Mutex::new(None),
        }
    }
}

#[async_trait]
impl Endpoint for ClusterEndpoint {
    fn address(&self) -> &str {
        &self.address
    }

    fn is_cluster(&self) -> bool {
        true
    }

    fn disconnects(&self) -> Arc<Notify> {
        Arc::clone(&self.discovery.disconnects)
    }

    async fn connect(&self) -> RedisResult<CommandConnection> {
        let router = Router::connect(Arc::clone(&self.discovery)).await?;
        *lock(&self.current) = Some(router.clone());
        Ok(CommandConnection::Cluster(router))
    }

    async fn dedicated(&self, key: &str) -> RedisResult<DedicatedConnection> {
        let slot = slot_of(key.as_bytes());
        let primary = lock(&self.current).as_ref().and_then(|at| at.primary(slot));
        let primary = primary.ok_or_else(|| failed("nobody serves the slot", slot.to_string()))?;
        let connection = self.discovery.open_for(&primary, None).await?;
        Ok(DedicatedConnection::Own(connection))
    }

    async fn primaries(&self, shared: &CommandConnection) -> RedisResult<Vec<CommandConnection>> {
        Ok(match shared {
            CommandConnection::Cluster(router) => {
                let primaries = router.primaries().into_iter();
                primaries.map(CommandConnection::Mux).collect()
            }
            other => vec![other.clone()],
        })
    }

    /// One connection to each primary that serves a channel: a slot that moves away ends its
    /// subscription with a message of the server, and all are made anew.
    async fn subscribe(
        &self,
        channels: &Channels,
        pushes: PushSender,
    ) -> RedisResult<SubscriberConnection> {
        let map = self.discovery.map(&[]).await?.0.map;
        let mut by_primary: BTreeMap<UrlAddress, Vec<(&str, &str)>> = BTreeMap::new();
        for (event, canary) in channels.events.iter().zip(&channels.canaries) {
            let slot = slot_of(event.as_bytes());
            let primary = map.primary(slot);
            let nobody = || failed("nobody serves the slot", slot.to_string());
            let served = by_primary.entry(primary.ok_or_else(nobody)?.clone());
            served.or_default().push((event, canary));
        }
        let opening = by_primary.iter().map(|(at, channels)| {
            let pushes = pushes.clone();
            async move {
                let connection = self.discovery.open_for(at, Some(pushes)).await?;
                let canary = channels.first().map(|(_, canary)| *canary);
                let names = channels.iter().map(|(event, _)| *event).chain(canary);
                // One command each: a command must not name channels of two slots.
                let subscribing = names.map(|name| {
                    let mut connection = connection.clone();
                    async move {
                        let mut subscribe = cmd("SSUBSCRIBE");
                        let answer = connection.send_packed_command(subscribe.arg(name)).await;
                        answer.and_then(Value::extract_error)
                    }
                });
                try_join_all(subscribing).await?;
                Ok::<_, redis::RedisError>((connection, canary.map(str::to_owned)))
            }
        });
        let (connections, canaries): (Vec<_>, Vec<_>) =
            try_join_all(opening).await?.into_iter().unzip();
        Ok(SubscriberConnection {
            connections,
            canaries: canaries.into_iter().flatten().collect(),
        })
    }
}

impl fmt::Debug for ClusterEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterEndpoint")
            .field("address", &self.address)
            .field("router", &*lock(&self.current))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
