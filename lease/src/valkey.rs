//! `Valkey`: leases and records that a fleet of instances shares over Valkey or Redis servers.
//!
//! Wiring only. One connection per server carries all commands, a second one hears the release
//! events; the tasks behind them live until [`Valkey::shutdown`].

mod act;
mod config;
mod endpoint;
mod fleet;
mod keys;
mod layout;
mod leases;
mod live;
mod node;
mod observer;
mod ops;
mod placement;
mod queue;
mod records;
mod ring;
mod scan;
mod scripts;
mod secret;
mod subscriber;
mod tasks;
mod tls;
mod undo;
mod url;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::future::join_all;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::seldom::Seldom;
use crate::{Clock, DelayQueue, Fanout, LeaseError, LeaseTable, QueueLimits, Records, timeout};
pub use config::{Topology, ValkeyConfig};
use endpoint::{
    ClusterEndpoint, ClusterLimits, Endpoint, PoolSizes, SentinelEndpoint, SingleEndpoint,
};
use fleet::Agreement;
pub use fleet::FleetSecret;
use keys::Keys;
use layout::Layout;
use leases::ValkeyLeases;
pub use live::LiveGrants;
pub use node::ServerInfo;
use node::{Node, NodeLimits};
pub use observer::{BreakerState, NoValkeyObserver, ValkeyObserver};
use ops::Ops;
use queue::ValkeyQueue;
use records::ValkeyRecords;
use ring::{Member, Ring};
pub use secret::Secret;
use subscriber::Subscriber;
use tasks::Tasks;
pub use tls::ValkeyTls;
pub use url::{UrlAddress, UrlKind, ValkeyUrl};

/// Leases and records over Valkey. Clones share everything, and so do the table and the store that
/// they hand out: the last of all of them ends the tasks.
#[derive(Clone)]
pub struct Valkey {
    shared: Arc<Shared>,
}

struct Shared {
    ring: Arc<Ring>,
    leases: Arc<ValkeyLeases>,
    records: Arc<ValkeyRecords>,
    live: Arc<LiveGrants>,
    agreement: Arc<Agreement>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    tasks: Arc<Tasks>,
    keeps_secret: AtomicBool,
}

/// How the servers are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValkeyHealth {
    /// Whether at least one of them does not serve, so that requests go on without it.
    pub degraded: bool,
    /// Each of them, in the order of the configuration.
    pub nodes: Vec<NodeHealth>,
}

/// How one server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHealth {
    /// Where it is, without user and password.
    pub address: String,
    /// What it says of itself; `None` before the first connection.
    pub server: Option<ServerInfo>,
    /// Whether calls to it are tried.
    pub breaker: BreakerState,
    /// Whether release events are known to come from it.
    pub subscribed: bool,
    /// Why calls failed last; `None` once they succeed again.
    pub last_error: Option<String>,
}

impl Valkey {
    /// Connects to the servers of `config`, with tasks on `runtime`.
    ///
    /// Returns once each server was tried and, where it is there, its release events are heard or
    /// known not to come; after at most twice `connect_timeout`. A server that is not there makes
    /// the start degraded, not fail, and is used as soon as it is.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: names the field and what is allowed.
    pub async fn connect(
        config: ValkeyConfig,
        clock: Arc<dyn Clock>,
        runtime: Handle,
        observer: Arc<dyn ValkeyObserver>,
    ) -> Result<Self, LeaseError> {
        let keys = Keys::new(&config.key_prefix);
        let limits = NodeLimits {
            command_timeout: config.command_timeout,
            connect_timeout: config.connect_timeout,
            health_check_interval: config.health_check_interval,
        };
        let (mut members, mut starts) = (Vec::new(), Vec::new());
        for endpoint in endpoints(&config, &clock)? {
            let node = Node::new(endpoint, Arc::clone(&clock), Arc::clone(&observer), limits);
            let ops = Ops {
                node,
                keys: keys.clone(),
            };
            let (undo, left) = undo::queue();
            let fanout = Fanout::new(false);
            starts.push((ops.clone(), fanout.clone(), left));
            members.push(Member { ops, fanout, undo });
        }
        let seldom = || Seldom::new(Arc::clone(&clock));
        let ring = Arc::new(Ring::new(members, seldom(), seldom()));
        let tasks = Arc::new(Tasks::default());
        let mut heard = Vec::new();
        for (ops, fanout, left) in starts {
            tasks.add(ops.node.keep(&runtime));
            let subscriber = Subscriber::new(ops.clone(), fanout, Arc::clone(&ring.unreadable));
            heard.push((ops.node.clone(), subscriber.settled()));
            tasks.add(subscriber.start(&runtime));
            tasks.add(left.run(ops, &runtime));
        }
        let live = Arc::new(LiveGrants::new(Arc::clone(&clock)));
        let leases = ValkeyLeases::new(
            Arc::clone(&ring),
            Arc::clone(&live),
            Arc::clone(&clock),
            Arc::clone(&tasks),
        );
        let records = ValkeyRecords::new(Arc::clone(&ring), Arc::clone(&tasks));
        let shared = Shared {
            leases: Arc::new(leases),
            records: Arc::new(records),
            live,
            agreement: Arc::new(Agreement::new(Arc::clone(&ring))),
            clock,
            runtime,
            tasks,
            keeps_secret: AtomicBool::new(false),
            ring,
        };
        // Whoever is ready before its ears are misses the first releases; whoever waits for ears
        // that the server denies is never ready.
        let starting = heard.into_iter().map(|(node, mut settled)| async move {
            node.settled().await;
            if node.breaker() == BreakerState::Closed {
                let limit = node.limits().connect_timeout;
                let settling = settled.wait_for(|settled| *settled);
                let _ = timeout(&**node.clock(), limit, settling).await;
            }
        });
        join_all(starting).await;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Returns the lease table.
    pub fn leases(&self) -> Arc<dyn LeaseTable> {
        Arc::clone(&self.shared.leases) as Arc<dyn LeaseTable>
    }

    /// Returns the record store.
    pub fn records(&self) -> Arc<dyn Records> {
        Arc::clone(&self.shared.records) as Arc<dyn Records>
    }

    /// Returns the delay queue, with `limits` that all instances should share.
    ///
    /// It needs scripts; where the server runs none, its calls fail.
    pub fn queue(&self, limits: QueueLimits) -> Arc<dyn DelayQueue> {
        let ring = Arc::clone(&self.shared.ring);
        let tasks = Arc::clone(&self.shared.tasks);
        Arc::new(ValkeyQueue::new(ring, tasks, limits))
    }

    /// Returns which grants this instance holds.
    pub fn live_grants(&self) -> Arc<LiveGrants> {
        Arc::clone(&self.shared.live)
    }

    /// Returns how the servers are; costs no call.
    pub fn health(&self) -> ValkeyHealth {
        let nodes: Vec<_> = self.shared.ring.members().iter().map(health).collect();
        ValkeyHealth {
            degraded: nodes
                .iter()
                .any(|node| node.breaker != BreakerState::Closed),
            nodes,
        }
    }

    /// Returns the secret that all instances of this Valkey agree on; makes one if there is none.
    ///
    /// The agreement is kept from then on: the secret lasts while anybody uses it, and after the
    /// server lost its memory the one that is known here is put back. Two instances that did so at
    /// once may find that another one is in force now: follow [`fleet_secrets`](Self::fleet_secrets).
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`], [`LeaseError::Protocol`]: nothing was agreed on yet; it is
    /// tried again in the background.
    pub async fn fleet_secret(&self) -> Result<FleetSecret, LeaseError> {
        let shared = &self.shared;
        if !shared.keeps_secret.swap(true, Ordering::Relaxed) {
            let keep = Arc::clone(&shared.agreement).keep(Arc::clone(&shared.clock));
            shared.tasks.add(shared.runtime.spawn(keep));
        }
        let known = shared.agreement.watch().borrow().clone();
        match known {
            Some(secret) => Ok(secret),
            None => shared.agreement.agree().await,
        }
    }

    /// Returns the secret as it changes; `None` until [`fleet_secret`](Self::fleet_secret) was
    /// called and got an answer.
    pub fn fleet_secrets(&self) -> watch::Receiver<Option<FleetSecret>> {
        self.shared.agreement.watch()
    }

    /// Ends the tasks and with them the connections. May be repeated; calls fail from then on.
    pub async fn shutdown(&self) {
        self.shared.tasks.shutdown().await;
        for member in self.shared.ring.members() {
            member.fanout.set_live(false);
            member.fanout.wake_all();
            member.ops.node.close();
        }
    }
}

fn health(member: &Member) -> NodeHealth {
    let node = &member.ops.node;
    NodeHealth {
        address: node.address().to_owned(),
        server: node.server(),
        breaker: node.breaker(),
        subscribed: member.fanout.is_live(),
        last_error: node.last_error().map(|error| error.to_string()),
    }
}

/// Makes the endpoints that `config` describes, one for each node.
fn endpoints(
    config: &ValkeyConfig,
    clock: &Arc<dyn Clock>,
) -> Result<Vec<Arc<dyn Endpoint>>, LeaseError> {
    let sizes = PoolSizes {
        max: config.pool_max,
        idle_max: config.pool_idle_max,
        idle_min: config.pool_idle_min,
    };
    let connect_timeout = config.connect_timeout;
    let clock = Arc::clone(clock);
    Ok(match config.layout()? {
        Layout::Servers(servers) => {
            let endpoints = servers.into_iter().map(|server| {
                let endpoint =
                    SingleEndpoint::new(server.name, server.info, sizes, connect_timeout)?;
                Ok(Arc::new(endpoint) as Arc<dyn Endpoint>)
            });
            endpoints.collect::<Result<_, LeaseError>>()?
        }
        Layout::Sentinel(layout) => {
            let endpoint = SentinelEndpoint::new(layout, sizes, connect_timeout, clock);
            vec![Arc::new(endpoint)]
        }
        Layout::Cluster(layout) => {
            let limits = ClusterLimits {
                connect_timeout,
                command_timeout: config.command_timeout,
            };
            vec![Arc::new(ClusterEndpoint::new(layout, limits, clock))]
        }
    })
}

impl fmt::Debug for Valkey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Valkey")
            .field("nodes", &self.health().nodes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
