//! `Router`: a Cluster as one connection, which sends each command to the primary of its slot.
//!
//! The client library has one too. It repeats a command whose connection broke, which turns a
//! `SET … NX` that had been applied into "held by somebody else"; and while it looks for its way
//! again, commands for healthy primaries wait. Here only a command that a server has refused to
//! run (`MOVED`, `ASK`) is sent twice, a primary that does not answer costs its own slots and no
//! others, and what is gone is looked for by a task, never by a command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures::future::{join_all, select_ok};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value,
};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::discovery::{Discovery, Link};
use super::slots::{SlotMap, located, slot_of_command};
use crate::sync::lock;
use crate::valkey::UrlAddress;
use crate::valkey::endpoint::failed;
use crate::{sleep_until, timeout};

/// Most times that one command follows a redirection.
const REDIRECTS_MAX: usize = 3;
/// The time between two looks at a Cluster of which nothing is missing.
const REFRESH_EVERY: Duration = Duration::from_secs(10);
/// The time between two looks for what is missing.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// The shortest time between two looks, however much trouble is reported.
const REFRESH_GAP: Duration = Duration::from_millis(50);

/// A Cluster as one connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    discovery: Arc<Discovery>,
    state: Mutex<State>,
    /// Tells the task that something is missing or has moved.
    trouble: Arc<Notify>,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Default)]
struct State {
    map: SlotMap,
    /// The connections that are open and answer.
    links: BTreeMap<UrlAddress, Link>,
    /// The primaries that the log was told are missing.
    missing: BTreeSet<UrlAddress>,
}

/// What is sent.
#[derive(Clone, Copy)]
enum Request<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
}

/// Where a server says that a slot is.
enum Redirection {
    Moved(u16, UrlAddress),
    Ask(UrlAddress),
}

impl Router {
    /// Finds the Cluster and connects to those of its primaries that answer in good time.
    ///
    /// # Errors
    ///
    /// Not one of them did, or the Cluster serves nobody now: then a connection would only bring
    /// refusals.
    pub(super) async fn connect(discovery: Arc<Discovery>) -> RedisResult<Self> {
        let (told, _) = discovery.map(&[]).await?;
        if !told.healthy {
            return Err(failed(
                "the Cluster is down, so its nodes say",
                String::new(),
            ));
        }
        let shared = Arc::new(Shared {
            discovery,
            state: Mutex::new(State {
                map: told.map,
                ..State::default()
            }),
            trouble: Arc::new(Notify::new()),
            task: Mutex::new(None),
        });
        // One silent primary must not keep the others waiting; the task goes on looking for it.
        let patience = shared.discovery.limits.connect_timeout / 2;
        shared.open_missing(patience).await?;
        let (weak, trouble) = (Arc::downgrade(&shared), Arc::clone(&shared.trouble));
        let task = tokio::spawn(keep(weak, trouble));
        *lock(&shared.task) = Some(task.abort_handle());
        Ok(Self { shared })
    }

    /// Sends `cmd`; an error answer is an `Err`.
    pub(crate) async fn send(&self, cmd: &Cmd) -> RedisResult<Value> {
        let value = match slot_of_command(cmd) {
            Some(slot) => self.shared.to_slot(slot, Request::One(cmd)).await?.pop(),
            None => self.shared.to_all(cmd).await.map(Some)?,
        };
        value.unwrap_or(Value::Nil).extract_error()
    }

    /// Sends `pipeline`, whose keys are all in one slot.
    async fn send_all(&self, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
        match pipeline.cmd_iter().find_map(slot_of_command) {
            Some(slot) => self.shared.to_slot(slot, Request::Many(pipeline)).await,
            None => Err(failure(
                "a pipeline without a key has no place in a Cluster",
                "",
            )),
        }
    }

    /// Returns a connection to each primary that is there.
    pub(super) fn primaries(&self) -> Vec<MultiplexedConnection> {
        let state = lock(&self.shared.state);
        let links = state.links.values().filter(|link| !link.is_lost());
        links.map(|link| link.connection.clone()).collect()
    }

    /// Returns who serves `slot`.
    pub(super) fn primary(&self, slot: u16) -> Option<UrlAddress> {
        lock(&self.shared.state).map.primary(slot).cloned()
    }
}

impl Shared {
    fn link(&self, address: &UrlAddress) -> Option<Link> {
        let state = lock(&self.state);
        state
            .links
            .get(address)
            .filter(|link| !link.is_lost())
            .cloned()
    }

    fn links(&self) -> Vec<(UrlAddress, Link)> {
        let state = lock(&self.state);
        let links = state.links.iter().filter(|(_, link)| !link.is_lost());
        links.map(|(at, link)| (at.clone(), link.clone())).collect()
    }

    /// Gives up `link`, unless another has taken its place.
    fn give_up(&self, address: &UrlAddress, link: &Link) {
        let mut state = lock(&self.state);
        if state.links.get(address).is_some_and(|open| open.is(link)) {
            state.links.remove(address);
        }
        drop(state);
        self.trouble.notify_one();
    }

    /// One node's share of a call's time.
    fn limit(&self) -> Duration {
        self.discovery.limits.command_timeout * 4 / 5
    }

    /// Sends to the primary of `slot`, and on to wherever that one sends it.
    async fn to_slot(&self, slot: u16, request: Request<'_>) -> RedisResult<Vec<Value>> {
        let served = lock(&self.state).map.primary(slot).cloned();
        let Some(mut address) = served else {
            self.trouble.notify_one();
            return Err(failed("nobody serves the slot", slot.to_string()));
        };
        let (mut asking, mut redirected) = (false, false);
        for _ in 0..=REDIRECTS_MAX {
            let link = match self.link(&address) {
                Some(link) => link,
                None if redirected => self.open(&address).await?,
                None => {
                    self.trouble.notify_one();
                    return Err(failed(
                        "the slot's primary is not there",
                        address.to_string(),
                    ));
                }
            };
            let values = self.exchange(&address, &link, asking, request).await?;
            redirected = true;
            match redirection(&values, &address) {
                None => return Ok(values),
                Some(Redirection::Moved(slot, to)) => {
                    lock(&self.state).map.moved(slot, to.clone());
                    self.trouble.notify_one();
                    (address, asking) = (to, false);
                }
                Some(Redirection::Ask(to)) => (address, asking) = (to, true),
            }
        }
        Err(failure("the slot is sent round in a circle", slot))
    }

    /// Sends to one server, whose silence or loss is its own.
    async fn exchange(
        &self,
        address: &UrlAddress,
        link: &Link,
        asking: bool,
        request: Request<'_>,
    ) -> RedisResult<Vec<Value>> {
        let limit = self.limit();
        let sending = request.send(link.connection.clone(), asking);
        match timeout(&*self.discovery.clock, limit, sending).await {
            Some(Err(error)) if error.is_io_error() || error.is_connection_dropped() => {
                self.give_up(address, link);
                Err(failure(
                    "the slot's primary was lost",
                    format!("{address}: {error}"),
                ))
            }
            Some(answer) => answer,
            None => {
                self.give_up(address, link);
                let detail = format!("{address}: nothing within {limit:?}");
                Err(failure("the slot's primary does not answer", detail))
            }
        }
    }

    /// Sends what names no key: scripts to be remembered to every server, all else to whoever
    /// answers first.
    async fn to_all(&self, cmd: &Cmd) -> RedisResult<Value> {
        let links = self.links();
        if links.is_empty() {
            self.trouble.notify_one();
            // As a broken connection, which it is: the Cluster has to be found anew.
            return Err(std::io::Error::other("no primary of the Cluster is there").into());
        }
        let everywhere = cmd.args_iter().next().is_some_and(|name| match name {
            redis::Arg::Simple(name) => name.eq_ignore_ascii_case(b"SCRIPT"),
            _ => false,
        });
        let sending = links.iter().map(|(address, link)| {
            let sending = self.exchange(address, link, false, Request::One(cmd));
            sending
                .map(|values| values?.pop().unwrap_or(Value::Nil).extract_error())
                .boxed()
        });
        if everywhere {
            let answers = join_all(sending).await;
            return answers
                .into_iter()
                .reduce(Result::and)
                .unwrap_or(Ok(Value::Nil));
        }
        match select_ok(sending).await {
            Ok((value, _)) => Ok(value),
            Err(error) if self.links().is_empty() => Err(std::io::Error::other(error).into()),
            Err(error) => Err(error),
        }
    }

    async fn open(&self, address: &UrlAddress) -> RedisResult<Link> {
        let link = self.discovery.open(address, &self.trouble).await?;
        let mut state = lock(&self.state);
        state.links.insert(address.clone(), link.clone());
        Ok(link)
    }

    /// Opens what is missing, waiting at most `patience` for the rest once one is there.
    ///
    /// # Errors
    ///
    /// Nothing is there.
    async fn open_missing(&self, patience: Duration) -> RedisResult<()> {
        let wanted = lock(&self.state).map.primaries();
        let missing: Vec<_> = wanted.iter().filter(|at| self.link(at).is_none()).collect();
        let mut opening: FuturesUnordered<_> = missing.iter().map(|at| self.open(at)).collect();
        let (mut error, mut opened) = (None, missing.len() < wanted.len());
        let deadline = self.discovery.clock.now() + patience;
        loop {
            let next = tokio::select! {
                biased;
                next = opening.next() => next,
                () = sleep_until(&*self.discovery.clock, deadline), if opened => break,
            };
            match next {
                Some(Ok(_)) => opened = true,
                Some(Err(failure)) => error = Some(failure),
                None => break,
            }
        }
        match error {
            Some(error) if !opened => Err(error),
            _ => Ok(()),
        }
    }

    /// Looks who serves what now, and connects to those that are missing; says whether all are
    /// there.
    async fn refresh(&self) -> bool {
        let asked = self.links();
        let (map, silent) = match self.discovery.map(&asked).await {
            Ok((told, silent)) => (told.map, silent),
            Err(error) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "no look at the Cluster"
                );
                return false;
            }
        };
        for (address, link) in &asked {
            if silent.contains(address) {
                self.give_up(address, link);
            }
        }
        {
            let mut state = lock(&self.state);
            let primaries = map.primaries();
            state
                .links
                .retain(|at, link| primaries.contains(at) && !link.is_lost());
            state.map = map;
        }
        let patience = self.discovery.limits.connect_timeout;
        // What could not be opened is told below.
        let _ = self.open_missing(patience).await;
        self.tell_missing()
    }

    /// Tells the log which primaries went missing or came back; says whether all are there.
    fn tell_missing(&self) -> bool {
        let (gone, back, complete) = {
            let mut state = lock(&self.state);
            let mut missing = state.map.primaries();
            missing.retain(|at| state.links.get(at).is_none_or(Link::is_lost));
            let gone: Vec<_> = missing.difference(&state.missing).cloned().collect();
            let back: Vec<_> = state.missing.difference(&missing).cloned().collect();
            let complete = missing.is_empty();
            state.missing = missing;
            (gone, back, complete)
        };
        for address in gone {
            tracing::warn!(valkey.primary = %address, "a primary of the Cluster is not there; its slots go without");
        }
        for address in back {
            tracing::info!(valkey.primary = %address, "a primary of the Cluster is back, or replaced");
        }
        complete
    }
}

/// Looks after the connections until the router is gone.
async fn keep(shared: Weak<Shared>, trouble: Arc<Notify>) {
    let mut complete = match shared.upgrade() {
        Some(shared) => shared.tell_missing(),
        None => return,
    };
    loop {
        let clock = match shared.upgrade() {
            Some(shared) => Arc::clone(&shared.discovery.clock),
            None => return,
        };
        if complete {
            clock.sleep(REFRESH_GAP).await;
            tokio::select! {
                () = trouble.notified() => {}
                () = clock.sleep(REFRESH_EVERY) => {}
            }
        } else {
            // Every call for what is missing reports trouble, which is known.
            clock.sleep(RETRY_EVERY).await;
        }
        match shared.upgrade() {
            Some(shared) => complete = shared.refresh().await,
            None => return,
        }
    }
}

impl Request<'_> {
    /// Sends on `connection`; `ASKING` goes right ahead of it in the same write, since it is about
    /// the next command of a connection that others use too.
    async fn send(
        self,
        mut connection: MultiplexedConnection,
        asking: bool,
    ) -> RedisResult<Vec<Value>> {
        match (self, asking) {
            (Self::One(cmd), false) => Ok(vec![connection.send_packed_command(cmd).await?]),
            (Self::Many(pipeline), false) => {
                let count = pipeline.len();
                connection.send_packed_commands(pipeline, 0, count).await
            }
            (request, true) => {
                let mut asked = redis::pipe();
                let mut count = 0;
                let mut add = |cmd: &Cmd| {
                    asked.cmd("ASKING").add_command(cmd.clone());
                    count += 1;
                };
                match request {
                    Self::One(cmd) => add(cmd),
                    Self::Many(pipeline) => pipeline.cmd_iter().for_each(add),
                }
                let answers = connection
                    .send_packed_commands(&asked, 0, 2 * count)
                    .await?;
                Ok(answers.into_iter().skip(1).step_by(2).collect())
            }
        }
    }
}

/// Returns where the first refused command was sent on to, if one was.
fn redirection(values: &[Value], from: &UrlAddress) -> Option<Redirection> {
    let error = values.iter().find_map(|value| match value {
        Value::ServerError(error) => Some(RedisError::from(error.clone())),
        _ => None,
    })?;
    let (node, slot) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    let asked = match from {
        UrlAddress::Tcp { host, .. } => host.as_str(),
        UrlAddress::Unix(_) => return None,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let to = located(host, port.parse().ok()?, asked)?;
    match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => Some(Redirection::Moved(slot, to)),
        ErrorKind::Server(ServerErrorKind::Ask) => Some(Redirection::Ask(to)),
        _ => None,
    }
}

/// An error about one slot after something was sent: the command may have been carried out. Says
/// nothing about the other slots, so it is none of the connection. What was never sent ends as
/// [`failed`].
fn failure(what: &'static str, about: impl fmt::Display) -> RedisError {
    RedisError::from((ErrorKind::Client, what, about.to_string()))
}

impl ConnectionLike for Router {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.send(cmd).boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let values = self.send_all(pipeline).await?;
            Ok(values.into_iter().skip(offset).take(count).collect())
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(task) = lock(&self.task).take() {
            task.abort();
        }
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = lock(&self.shared.state);
        f.debug_struct("Router")
            .field("primaries", &state.map.primaries())
            .field("links", &state.links.len())
            .finish_non_exhaustive()
    }
}
