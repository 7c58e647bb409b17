//! `Discovery`: how the nodes of a Cluster are found and reached.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{Client, PushInfo, PushKind, RedisError, RedisResult, Value};
use tokio::sync::Notify;

use super::slots::SlotMap;
use crate::sync::lock;
use crate::valkey::UrlAddress;
use crate::valkey::endpoint::plain::plain;
use crate::valkey::endpoint::single::connection_config;
use crate::valkey::endpoint::{PushSender, failed};
use crate::valkey::layout::{ClusterLayout, Server};
use crate::{Clock, timeout};

/// How long the other nodes may still answer once one did.
const OTHERS_GRACE: Duration = Duration::from_millis(150);
/// Most nodes that are remembered beside the configured ones; a Cluster has at most a thousand.
const KNOWN_MAX: usize = 1_000;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClusterLimits {
    /// Opening one connection.
    pub(crate) connect_timeout: Duration,
    /// One call, as the caller counts it: one node's share of it is shorter, so that its silence
    /// is not taken for that of the whole Cluster.
    pub(crate) command_timeout: Duration,
}

/// Finds the nodes of one Cluster and opens connections to them.
pub(super) struct Discovery {
    layout: ClusterLayout,
    pub(super) limits: ClusterLimits,
    pub(super) clock: Arc<dyn Clock>,
    /// Primaries seen so far: the configured nodes may all have been replaced since.
    known: Mutex<BTreeSet<UrlAddress>>,
    /// Notified when a connection that was opened for commands has ended.
    pub(super) disconnects: Arc<Notify>,
}

/// A connection to one node, which many may use.
#[derive(Clone)]
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    lost: Arc<AtomicBool>,
}

/// What one node says of the Cluster.
pub(super) struct Told {
    /// Whether it takes the Cluster for able to work; one that was cut off does not.
    pub(super) healthy: bool,
    /// The number of the latest election it knows of.
    epoch: u64,
    pub(super) map: SlotMap,
}

impl Discovery {
    pub(super) fn new(layout: ClusterLayout, limits: ClusterLimits, clock: Arc<dyn Clock>) -> Self {
        Self {
            layout,
            limits,
            clock,
            known: Mutex::new(BTreeSet::new()),
            disconnects: Arc::new(Notify::new()),
        }
    }

    pub(super) fn seeds(&self) -> &[Server] {
        &self.layout.seeds
    }

    /// Opens a connection to `address`, for commands; when it ends, `trouble` is notified too.
    pub(super) async fn open(
        &self,
        address: &UrlAddress,
        trouble: &Arc<Notify>,
    ) -> RedisResult<Link> {
        let lost = Arc::new(AtomicBool::new(false));
        let (flag, trouble) = (Arc::clone(&lost), Arc::clone(trouble));
        let disconnects = Arc::clone(&self.disconnects);
        let config = connection_config(self.limits.connect_timeout).set_push_sender(
            move |push: PushInfo| {
                if push.kind == PushKind::Disconnection {
                    flag.store(true, Ordering::Release);
                    trouble.notify_one();
                    disconnects.notify_one();
                }
                Ok::<_, RedisError>(())
            },
        );
        let client = self.client(address)?;
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        let connection = self.within(address, opening).await?;
        Ok(Link { connection, lost })
    }

    /// Opens a connection to `address` for one caller, whose pushes go to `pushes`.
    pub(super) async fn open_for(
        &self,
        address: &UrlAddress,
        pushes: Option<PushSender>,
    ) -> RedisResult<MultiplexedConnection> {
        let mut config = connection_config(self.limits.connect_timeout);
        if let Some(pushes) = pushes {
            config = config.set_push_sender(pushes);
        }
        let client = self.client(address)?;
        let opening = client.get_multiplexed_async_connection_with_config(&config);
        self.within(address, opening).await
    }

    /// Finds out who serves what: from `links` if one of those nodes takes the Cluster for able to
    /// work, otherwise from all nodes that are known. Returns also those that did not answer.
    ///
    /// # Errors
    ///
    /// No node answered, or none serves anything.
    pub(super) async fn map(
        &self,
        links: &[(UrlAddress, Link)],
    ) -> RedisResult<(Told, Vec<UrlAddress>)> {
        let asked = links.iter().map(|(at, link)| {
            let connection = link.connection.clone();
            async move {
                (
                    at,
                    self.ask(at, connection, self.limits.command_timeout).await,
                )
            }
        });
        // All of them are waited for: whoever is silent here would be so for a command too.
        let answers = futures::future::join_all(asked).await;
        let mut silent = Vec::new();
        let mut told = Vec::new();
        for (at, answer) in answers {
            match answer {
                Ok(answer) => told.push(answer),
                Err(_) => silent.push(at.clone()),
            }
        }
        let best = match best(told) {
            Some(best) if best.healthy => best,
            other => match (self.ask_all().await, other) {
                (Ok(best), _) => best,
                // A Cluster with a part missing still serves the others.
                (Err(_), Some(best)) => best,
                (Err(error), None) => return Err(error),
            },
        };
        if best.map.is_empty() {
            let first = self.seeds().first().map_or("", |seed| seed.name.as_str());
            return Err(failed("no slots are served yet", format!("asked {first}")));
        }
        let mut known = lock(&self.known);
        *known = best.map.primaries().into_iter().take(KNOWN_MAX).collect();
        Ok((best, silent))
    }

    /// Asks every node that is known, over connections of their own.
    async fn ask_all(&self) -> RedisResult<Told> {
        let mut nodes: BTreeSet<_> = lock(&self.known).clone();
        nodes.extend(self.layout.seeds.iter().map(|seed| seed.address.clone()));
        let mut answers: FuturesUnordered<_> = nodes
            .iter()
            .map(|at| async move {
                let connection = self.open_for(at, None).await?;
                self.ask(at, connection, self.limits.connect_timeout).await
            })
            .collect();
        let (mut told, mut error) = (Vec::new(), None);
        loop {
            let next = match told.is_empty() {
                true => answers.next().await,
                false => match timeout(&*self.clock, OTHERS_GRACE, answers.next()).await {
                    Some(next) => next,
                    None => break,
                },
            };
            match next {
                Some(Ok(answer)) => told.push(answer),
                Some(Err(failure)) => error = Some(failure),
                None => break,
            }
        }
        let nobody = || failed("no node of the Cluster is known", String::new());
        best(told).ok_or_else(|| error.unwrap_or_else(nobody))
    }

    /// Asks one node.
    async fn ask(
        &self,
        at: &UrlAddress,
        mut connection: MultiplexedConnection,
        limit: Duration,
    ) -> RedisResult<Told> {
        let mut questions = redis::pipe();
        questions
            .cmd("CLUSTER")
            .arg("INFO")
            .cmd("CLUSTER")
            .arg("SLOTS");
        questions.ignore_errors();
        let asking =
            questions.query_async::<(RedisResult<String>, RedisResult<Value>)>(&mut connection);
        let Some(answers) = timeout(&*self.clock, limit, asking).await else {
            return Err(failed(
                "a node gave no answer",
                format!("{at}: nothing within {limit:?}"),
            ));
        };
        let (info, slots) = answers.map_err(|error| about(at, plain(error)))?;
        let slots = slots.map_err(|error| about(at, error))?;
        // Rights may withhold it; then all nodes are believed alike.
        let info = info.unwrap_or_default();
        let field = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        };
        let host = match at {
            UrlAddress::Tcp { host, .. } => host.as_str(),
            UrlAddress::Unix(_) => "",
        };
        Ok(Told {
            healthy: field("cluster_state").is_none_or(|state| state.trim() == "ok"),
            epoch: field("cluster_current_epoch")
                .and_then(|epoch| epoch.trim().parse().ok())
                .unwrap_or(0),
            map: SlotMap::read(&slots, host),
        })
    }

    fn client(&self, address: &UrlAddress) -> RedisResult<Client> {
        let server = self.layout.access.server(address);
        let server = server.map_err(|error| failed("it cannot be used", error.to_string()))?;
        Client::open(server.info)
    }

    async fn within<T>(
        &self,
        at: &UrlAddress,
        opening: impl Future<Output = RedisResult<T>>,
    ) -> RedisResult<T> {
        let limit = self.limits.connect_timeout;
        match timeout(&*self.clock, limit, opening).await {
            Some(opened) => opened.map_err(|error| about(at, plain(error))),
            None => {
                let detail = format!("{at}: nothing within {limit:?}");
                Err(failed("a node could not be reached", detail))
            }
        }
    }
}

/// The answer of a node that takes the Cluster for able to work counts more than that of one that does
/// not; then the later election.
fn best(told: Vec<Told>) -> Option<Told> {
    told.into_iter()
        .filter(|told| !told.map.is_empty())
        .max_by_key(|told| (told.healthy, told.epoch))
}

fn about(at: &UrlAddress, error: RedisError) -> RedisError {
    failed("a node could not be asked", format!("{at}: {error}"))
}

impl Link {
    /// Says whether the connection is known to have ended.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Says whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.lost, &other.lost)
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("seeds", &self.layout.seeds)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
