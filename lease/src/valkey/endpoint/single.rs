//! `SingleEndpoint`: one server at a fixed address.

use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use async_trait::async_trait;
use deadpool_redis::{Connection, Manager, Pool, PoolError, Runtime, Timeouts};
use futures::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, PushInfo, PushKind, RedisError, RedisResult,
};
use tokio::sync::Notify;

use super::plain::plain;
use super::{
    Channels, CommandConnection, DedicatedConnection, Endpoint, PushSender, SubscriberConnection,
};
use crate::LeaseError;

/// Requests that wait in a connection's own queue before senders wait for room in it.
const PIPELINE_QUEUE_MAX: usize = 1_024;

/// How many connections the pool behind an endpoint holds. Commands need none of them but the one
/// that they share; the others serve `WATCH … EXEC`, one caller each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolSizes {
    /// Most connections in use or idle.
    pub(crate) max: usize,
    /// Most connections that stay open while nobody uses them.
    pub(crate) idle_max: usize,
    /// How many are kept open ahead of their use, where the server runs no scripts for us and they
    /// are used.
    pub(crate) idle_min: usize,
}

/// One server at a fixed address.
pub(crate) struct SingleEndpoint {
    address: String,
    client: Client,
    pool: Pool,
    sizes: PoolSizes,
    disconnects: Arc<Notify>,
}

impl SingleEndpoint {
    /// Makes the endpoint at `info`, which carries user, password, database and TLS material, and
    /// speaks RESP3. Opens nothing yet.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: `info` does not fit together.
    pub(crate) fn new(
        address: String,
        info: ConnectionInfo,
        sizes: PoolSizes,
        connect_timeout: Duration,
    ) -> Result<Self, LeaseError> {
        let invalid = |reason: String| LeaseError::InvalidConfig {
            field: "url",
            reason,
        };
        let disconnects = Arc::new(Notify::new());
        let lost = Arc::clone(&disconnects);
        let config = connection_config(connect_timeout).set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                lost.notify_one();
            }
            Ok::<_, RedisError>(())
        });
        let client = Client::open(info.clone()).map_err(|error| invalid(error.to_string()))?;
        let manager =
            Manager::new_with_config(info, config).map_err(|error| invalid(error.to_string()))?;
        let pool = Pool::builder(manager)
            .max_size(sizes.max)
            .timeouts(Timeouts {
                wait: Some(connect_timeout),
                create: Some(connect_timeout),
                recycle: Some(connect_timeout),
            })
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self {
            address,
            client,
            pool,
            sizes,
            disconnects,
        })
    }

    async fn pooled(&self) -> RedisResult<Connection> {
        self.pool.get().await.map_err(|error| match error {
            PoolError::Backend(error) => plain(error),
            PoolError::Timeout(_) => {
                let told = "it did not answer in time, or all connections to it are in use";
                RedisError::from(io::Error::new(io::ErrorKind::TimedOut, told))
            }
            other => RedisError::from(io::Error::other(other)),
        })
    }
}

/// What every connection has in common: no time limit on answers, since the caller has its own.
pub(crate) fn connection_config(connect_timeout: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(None)
        .set_pipeline_buffer_size(PIPELINE_QUEUE_MAX)
}

#[async_trait]
impl Endpoint for SingleEndpoint {
    fn address(&self) -> &str {
        &self.address
    }

    fn disconnects(&self) -> Arc<Notify> {
        Arc::clone(&self.disconnects)
    }

    async fn connect(&self) -> RedisResult<CommandConnection> {
        // Taken out of the pool for good: were it lent again, a `WATCH` would share its connection
        // with every other command.
        let connection = Connection::take(self.pooled().await?);
        Ok(CommandConnection::Mux(connection))
    }

    async fn dedicated(&self, _key: &str) -> RedisResult<DedicatedConnection> {
        Ok(DedicatedConnection::Pooled(self.pooled().await?))
    }

    async fn subscribe(
        &self,
        channels: &Channels,
        pushes: PushSender,
    ) -> RedisResult<SubscriberConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(plain)?;
        let canaries: Vec<String> = channels.canaries.first().cloned().into_iter().collect();
        connection.subscribe(&canaries).await?;
        connection.subscribe(&channels.events).await?;
        Ok(SubscriberConnection {
            connections: vec![connection],
            canaries,
        })
    }

    async fn reserve(&self) {
        if self.pool.status().size < self.sizes.idle_min {
            // Held side by side, so that each is another one; dropped, they are in the pool.
            let connections = (0..self.sizes.idle_min).map(|_| self.pool.get());
            join_all(connections).await;
        }
    }

    fn tidy(&self) {
        let idle = self.pool.status().available;
        let mut surplus = idle.saturating_sub(self.sizes.idle_max);
        if surplus > 0 {
            self.pool.retain(|_, _| {
                let close = surplus > 0;
                surplus = surplus.saturating_sub(1);
                !close
            });
        }
    }
}

impl fmt::Debug for SingleEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleEndpoint")
            .field("address", &self.address)
            .field("sizes", &self.sizes)
            .finish_non_exhaustive()
    }
}
