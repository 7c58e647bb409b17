//! `Node`: one server (or a service that acts as one), its shared connection and its breaker.
//!
//! Calls use the connection and judge it; one task, the keeper, opens it, looks after it and opens
//! it anew. No call waits longer than the command timeout, and while the server is taken for gone
//! none waits at all: only the keeper's own looks decide that it is back, so that recovery needs
//! no request and costs none.

mod failure;
mod keeper;
mod link;
mod probe;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::ConnectionLike as _;
use redis::{Cmd, Pipeline, RedisResult, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::act::Act;
use super::endpoint::{CommandConnection, DedicatedConnection, Endpoint};
use super::observer::{BreakerState, ValkeyObserver};
use super::scripts::{LeaseScript, Scripts};
use crate::sync::lock;
use crate::{Clock, LeaseError, timeout};
pub(crate) use failure::maybe_applied;
use failure::{Failure, NodeError};
use link::{Link, Open};
pub use probe::ServerInfo;

/// Refusals in a row, such as `LOADING` or `CLUSTERDOWN`, after which the breaker opens.
const REFUSALS_MAX: u32 = 5;

/// How long things may take on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeLimits {
    /// One call, from its start.
    pub(crate) command_timeout: Duration,
    /// Opening one connection, including the first look at the server.
    pub(crate) connect_timeout: Duration,
    /// The time between two looks at a server that answers.
    pub(crate) health_check_interval: Duration,
}

/// One server. Clones share it.
#[derive(Clone)]
pub(crate) struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Arc<dyn Endpoint>,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn ValkeyObserver>,
    limits: NodeLimits,
    scripts: Scripts,
    link: watch::Sender<Link>,
    /// Tells the keeper that a call has judged the connection.
    judged: Notify,
    refusals: AtomicU32,
    /// Whether the server runs scripts; learned by the first look, corrected by any call.
    scripting: AtomicBool,
    /// Whether the server takes `SET … NX GET`.
    set_nx_get: AtomicBool,
    server: Mutex<Option<ServerInfo>>,
    last_error: Mutex<Option<Arc<str>>>,
}

impl Node {
    /// Makes the node; [`keep`](Self::keep) then connects it.
    pub(crate) fn new(
        endpoint: Arc<dyn Endpoint>,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn ValkeyObserver>,
        limits: NodeLimits,
    ) -> Self {
        let scripts = Scripts::new(endpoint.is_cluster());
        observer.breaker(endpoint.address(), BreakerState::HalfOpen);
        Self {
            shared: Arc::new(Shared {
                endpoint,
                observer,
                limits,
                scripts,
                link: watch::Sender::new(Link::Connecting),
                judged: Notify::new(),
                refusals: AtomicU32::new(0),
                scripting: AtomicBool::new(true),
                set_nx_get: AtomicBool::new(true),
                server: Mutex::new(None),
                last_error: Mutex::new(None),
                clock,
            }),
        }
    }

    /// Starts the task that opens the connection and looks after it; abort it to stop.
    pub(crate) fn keep(&self, runtime: &Handle) -> JoinHandle<()> {
        runtime.spawn(keeper::run(Arc::clone(&self.shared)))
    }

    /// Waits until the first attempt to connect has succeeded or failed.
    pub(crate) async fn settled(&self) {
        let mut link = self.shared.link.subscribe();
        // It cannot fail: `self` keeps the sender alive.
        let _ = link
            .wait_for(|link| !matches!(link, Link::Connecting))
            .await;
    }

    /// Waits until calls are sent again.
    pub(crate) async fn up(&self) {
        let mut link = self.shared.link.subscribe();
        let _ = link.wait_for(|link| matches!(link, Link::Up(_))).await;
    }

    /// Waits until calls are not sent, or not at once.
    pub(crate) async fn not_up(&self) {
        let mut link = self.shared.link.subscribe();
        let _ = link.wait_for(|link| !matches!(link, Link::Up(_))).await;
    }

    /// Drops the connection and fails every call from now on; for when the keeper has ended.
    pub(crate) fn close(&self) {
        self.shared.note(&"it was shut down");
        self.shared.set(Link::Down);
    }

    /// Returns the address, without secrets.
    pub(crate) fn address(&self) -> &str {
        self.shared.endpoint.address()
    }

    /// Returns how connections are opened.
    pub(crate) fn endpoint(&self) -> &Arc<dyn Endpoint> {
        &self.shared.endpoint
    }

    /// Returns whom to tell.
    pub(crate) fn observer(&self) -> &Arc<dyn ValkeyObserver> {
        &self.shared.observer
    }

    /// Returns the clock that times are counted on.
    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Returns the limits in force.
    pub(crate) fn limits(&self) -> NodeLimits {
        self.shared.limits
    }

    /// Returns the scripts for this server.
    pub(crate) fn scripts(&self) -> &Scripts {
        &self.shared.scripts
    }

    /// Says whether calls are sent.
    pub(crate) fn breaker(&self) -> BreakerState {
        self.shared.link.borrow().breaker()
    }

    /// Returns what the server says of itself; `None` before the first connection.
    pub(crate) fn server(&self) -> Option<ServerInfo> {
        lock(&self.shared.server).clone()
    }

    /// Returns the last failure's text; `None` once the server answers again.
    pub(crate) fn last_error(&self) -> Option<Arc<str>> {
        lock(&self.shared.last_error).clone()
    }

    /// Says whether the server runs scripts, as far as is known.
    pub(crate) fn scripting(&self) -> bool {
        self.shared.scripting.load(Ordering::Relaxed)
    }

    /// Says whether the server takes `SET … NX GET`, as far as is known.
    pub(crate) fn set_nx_get(&self) -> bool {
        self.shared.set_nx_get.load(Ordering::Relaxed)
    }

    /// Remembers that it does not.
    pub(crate) fn no_set_nx_get(&self) {
        self.shared.set_nx_get.store(false, Ordering::Relaxed);
    }

    /// Sends one command.
    ///
    /// # Errors
    ///
    /// [`LeaseError::Unavailable`]: within one command timeout, and at once while the breaker is
    /// not closed.
    pub(crate) async fn send(&self, act: Act<'_>, cmd: &Cmd) -> Result<Value, LeaseError> {
        self.try_send(act, cmd)
            .await?
            .map_err(|refusal| self.refused(act, refusal))
    }

    /// Sends one command, and hands out what the server answered to it, be it an error.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), when there was no answer of the server to this command.
    pub(crate) async fn try_send(
        &self,
        act: Act<'_>,
        cmd: &Cmd,
    ) -> Result<Result<Value, redis::RedisError>, LeaseError> {
        self.exchange(act, async |connection| connection.send(cmd).await)
            .await
    }

    /// Does `work` on the shared connection, all of it within one command timeout, and hands out
    /// what the server answered, be it an error.
    async fn exchange<T, F>(
        &self,
        act: Act<'_>,
        work: F,
    ) -> Result<Result<T, redis::RedisError>, LeaseError>
    where
        F: AsyncFnOnce(&mut CommandConnection) -> RedisResult<T>,
    {
        let generation = &mut None;
        let work = async {
            let mut open = self.open().await?;
            *generation = Some(open.generation);
            work(&mut open.connection).await.map_err(NodeError::from)
        };
        let answer = self.limited(work).await;
        self.judge(act, *generation, answer)
    }

    /// Sends several commands that all belong to one slot in one round trip. An error among the
    /// answers is handed out in its place.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), when the round trip failed.
    pub(crate) async fn send_all(
        &self,
        act: Act<'_>,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, LeaseError> {
        let sending = async |connection: &mut CommandConnection| {
            connection
                .req_packed_commands(pipeline, 0, pipeline.len())
                .await
        };
        self.exchange(act, sending)
            .await?
            .map_err(|refusal| self.refused(act, refusal))
    }

    /// Calls a script; `None` when the server runs none, so that the caller does it otherwise.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub(crate) async fn script(
        &self,
        act: Act<'_>,
        script: &LeaseScript,
        keys: &[&str],
        args: &[&str],
    ) -> Result<Option<Value>, LeaseError> {
        if !self.scripting() {
            return Ok(None);
        }
        let calling = async |connection: &mut CommandConnection| {
            let answer = connection.send(&script.by_hash(keys, args)).await;
            if answer.as_ref().is_err_and(failure::is_no_script) {
                // A restart or a flush made the server forget it.
                return connection.send(&script.by_text(keys, args)).await;
            }
            answer
        };
        match self.exchange(act, calling).await? {
            Ok(value) => Ok(Some(value)),
            Err(refusal) if failure::is_forbidden_command(&refusal) => {
                self.shared.scripting.store(false, Ordering::Relaxed);
                tracing::warn!(
                    valkey.node = self.address(),
                    error = &refusal as &dyn std::error::Error,
                    "the server runs no scripts for us; transactions take their place for leases",
                );
                Ok(None)
            }
            Err(refusal) => Err(self.refused(act, refusal)),
        }
    }

    /// Runs `work` on a connection that nobody else uses meanwhile, for `WATCH … EXEC` on `key`.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub(crate) async fn dedicated<T, F>(
        &self,
        act: Act<'_>,
        key: &str,
        work: F,
    ) -> Result<T, LeaseError>
    where
        F: AsyncFnOnce(&mut DedicatedConnection) -> RedisResult<T>,
    {
        let generation = &mut None;
        let work = async {
            *generation = Some(self.open().await?.generation);
            let mut connection = self.shared.endpoint.dedicated(key).await?;
            work(&mut connection).await.map_err(NodeError::from)
        };
        let answer = self.limited(work).await;
        self.judge(act, *generation, answer)?
            .map_err(|refusal| self.refused(act, refusal))
    }

    /// Returns a connection to each primary behind this node.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub(crate) async fn primaries(
        &self,
        act: Act<'_>,
    ) -> Result<Vec<CommandConnection>, LeaseError> {
        let endpoint = &self.shared.endpoint;
        self.exchange(act, async |shared| endpoint.primaries(shared).await)
            .await?
            .map_err(|refusal| self.refused(act, refusal))
    }

    /// Sends one command to one of the [`primaries`](Self::primaries).
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub(crate) async fn send_to(
        &self,
        act: Act<'_>,
        primary: &mut CommandConnection,
        cmd: &Cmd,
    ) -> Result<Value, LeaseError> {
        let answer = self
            .limited(async { primary.send(cmd).await.map_err(NodeError::from) })
            .await;
        self.judge(act, None, answer)?
            .map_err(|refusal| self.refused(act, refusal))
    }

    /// Counts and returns the error for a command that the server answered with `refusal`.
    pub(crate) fn refused(&self, act: Act<'_>, refusal: redis::RedisError) -> LeaseError {
        let error = if failure::is_nonsense(&refusal) {
            act.protocol(refusal.to_string())
        } else {
            act.unavailable(refusal)
        };
        self.count(act, &error);
        error
    }

    /// Counts and returns the error for an answer that means nothing here.
    pub(crate) fn nonsense(&self, act: Act<'_>, detail: impl Into<String>) -> LeaseError {
        let error = act.protocol(detail);
        self.count(act, &error);
        error
    }

    fn count(&self, act: Act<'_>, error: &LeaseError) {
        let observer = &self.shared.observer;
        observer.command_failed(self.address(), act.verb, error.kind());
    }

    /// Returns the open connection; waits for one that is being opened.
    async fn open(&self) -> Result<Open, NodeError> {
        match &*self.shared.link.borrow() {
            Link::Up(open) => return Ok(open.clone()),
            Link::Suspect(_) => return Err(NodeError::Suspect),
            Link::Down => return Err(NodeError::Down(self.last_error())),
            Link::Connecting => {}
        }
        let mut link = self.shared.link.subscribe();
        let settled = link
            .wait_for(|link| !matches!(link, Link::Connecting))
            .await
            .map(|link| link.clone());
        match settled {
            Ok(Link::Up(open)) => Ok(open),
            _ => Err(NodeError::Down(self.last_error())),
        }
    }

    async fn limited<T>(
        &self,
        work: impl Future<Output = Result<T, NodeError>>,
    ) -> Result<T, NodeError> {
        let limit = self.shared.limits.command_timeout;
        match timeout(&*self.shared.clock, limit, work).await {
            Some(answer) => answer,
            None => Err(NodeError::TimedOut(limit)),
        }
    }

    /// Draws the conclusions from a call's end on the connection `generation`: outside, what kept
    /// the call from being answered; inside, the answer or the server's own error to it.
    fn judge<T>(
        &self,
        act: Act<'_>,
        generation: Option<u64>,
        answer: Result<T, NodeError>,
    ) -> Result<Result<T, redis::RedisError>, LeaseError> {
        let error = match answer {
            Ok(value) => {
                if self.shared.refusals.load(Ordering::Relaxed) != 0 {
                    self.shared.refusals.store(0, Ordering::Relaxed);
                }
                return Ok(Ok(value));
            }
            Err(error) => error,
        };
        match error.failure() {
            Failure::Answer => {}
            Failure::Refusal => {
                let refusals = self.shared.refusals.fetch_add(1, Ordering::Relaxed) + 1;
                if refusals >= REFUSALS_MAX {
                    self.shared.note(&error);
                    self.shared.turn(generation, |_| Link::Down);
                }
            }
            Failure::Silence => {
                self.shared.note(&error);
                self.shared.suspect(generation);
            }
            Failure::Lost => {
                self.shared.note(&error);
                self.shared.turn(generation, |_| Link::Connecting);
            }
            Failure::Known => {}
        }
        match error {
            NodeError::Redis(refusal) => Ok(Err(refusal)),
            other => {
                let error = act.unavailable(other);
                self.count(act, &error);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("address", &self.address())
            .field("breaker", &self.breaker())
            .finish_non_exhaustive()
    }
}
