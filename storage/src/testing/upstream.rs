//! `FakeUpstream`: an upstream that follows a script and counts what it is asked.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{Reply, soon};
use crate::error::Error;
use crate::upstream::{FetchRequest, Fetched, Upstream};

/// An upstream in this process: for each path, the replies that it gives and the fetches it got.
///
/// A path without a script is answered 404, as by a proxy that has no such module.
#[derive(Debug)]
pub struct FakeUpstream {
    name: Arc<str>,
    scripts: Mutex<HashMap<String, Script>>,
    /// Fetches begun, all paths together.
    begun: watch::Sender<usize>,
    under_way: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Reply>,
    standing: Option<Reply>,
    requests: Vec<FetchRequest>,
}

/// Counts an exchange as under way until it is dropped.
struct UnderWay(watch::Sender<usize>);

impl UnderWay {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl FakeUpstream {
    /// Makes an upstream called `name` that has nothing.
    pub fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            scripts: Mutex::default(),
            begun: watch::Sender::new(0),
            under_way: watch::Sender::new(0),
        })
    }

    /// Answers every fetch of `path` (percent-encoded, without a leading slash) with `reply` from
    /// now on.
    pub fn serve(&self, path: &str, reply: Reply) {
        self.scripts().entry(path.to_owned()).or_default().standing = Some(reply);
    }

    /// Answers the next fetch of `path` with `reply`, behind those that were ordered before; then
    /// what [`FakeUpstream::serve`] was told applies again.
    pub fn serve_next(&self, path: &str, reply: Reply) {
        self.scripts()
            .entry(path.to_owned())
            .or_default()
            .next
            .push_back(reply);
    }

    /// How many fetches of `path` began.
    pub fn fetches(&self, path: &str) -> usize {
        self.requests(path).len()
    }

    /// How many fetches began, all paths together.
    pub fn fetches_in_all(&self) -> usize {
        *self.begun.borrow()
    }

    /// What was asked for `path`, in order.
    pub fn requests(&self, path: &str) -> Vec<FetchRequest> {
        self.scripts()
            .get(path)
            .map_or_else(Vec::new, |script| script.requests.clone())
    }

    /// How many exchanges were begun and neither ended nor dropped.
    pub fn under_way(&self) -> usize {
        *self.under_way.borrow()
    }

    /// Waits until `count` fetches have begun, all paths together.
    ///
    /// # Panics
    ///
    /// When they do not begin within [`PATIENCE`](super::PATIENCE).
    pub async fn asked(&self, count: usize) {
        let mut begun = self.begun.subscribe();
        // It cannot fail: `self` keeps the sender alive.
        let _ = soon("fetches", begun.wait_for(|begun| *begun >= count)).await;
    }

    /// Waits until no exchange is under way.
    ///
    /// # Panics
    ///
    /// When one goes on for longer than [`PATIENCE`](super::PATIENCE).
    pub async fn idle(&self) {
        let mut under_way = self.under_way.subscribe();
        let _ = soon("an idle upstream", under_way.wait_for(|count| *count == 0)).await;
    }

    fn scripts(&self) -> MutexGuard<'_, HashMap<String, Script>> {
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Upstream for FakeUpstream {
    async fn fetch(&self, request: &FetchRequest) -> Result<Fetched, Error> {
        let under_way = UnderWay::new(&self.under_way);
        let reply = {
            let mut scripts = self.scripts();
            let script = scripts.entry(request.path.clone()).or_default();
            script.requests.push(request.clone());
            script.next.pop_front().or_else(|| script.standing.clone())
        };
        self.begun.send_modify(|begun| *begun += 1);
        let reply = reply.unwrap_or_else(|| Reply::not_found(false, "not found: no such path"));
        reply.perform(self.name.clone(), request, under_way).await
    }
}
