//! The fleet on stage, its clients, and what can be seen of them at any moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::client::{self, Arrival, Outcome, Reply, Request};
use e2e::fleet::{Fleet, Plan};
use e2e::upstream::{FixtureModule, FixtureUpstream, Path};
use serde_json::Value;
use tokio::task::JoinHandle;

use super::picture::{InstanceNow, LeaseNow, Now, Role};

/// The module that everybody wants.
const MODULE: &str = "example.com/engine";

/// Names of the instances.
const NAMES: [char; 3] = ['A', 'B', 'C'];

/// How long a client waits for its file; the slowest needs a third of it.
const CLIENT_LIMIT: Duration = Duration::from_secs(90);

/// How large and how fast everything is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Clients at each instance.
    pub(crate) clients: usize,
    /// Size of the file.
    pub(crate) file_bytes: usize,
    /// What upstream sends in a second.
    pub(crate) bytes_per_s: u64,
    /// A pause in which a person reads.
    pub(crate) pause: Duration,
}

/// Three instances, what they share, and the upstream.
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) scale: Scale,
    upstream: FixtureUpstream,
    /// Each instance's answer about itself, by which a lease's holder is recognised.
    selves: Vec<Value>,
    dead: [bool; 3],
}

impl Stage {
    /// Starts everything; `versions` are what the acts are about.
    pub(crate) async fn set(scale: Scale, versions: &[&str]) -> Self {
        let mut module = FixtureModule::new(MODULE);
        for version in versions {
            module = module.version_sized(version, scale.file_bytes);
        }
        let upstream = FixtureUpstream::with([module]).await;
        // The lease lasts as long as it does by default: what is seen is no feat of short TTLs.
        let fleet = Plan::of(NAMES.len())
            .ttl(Duration::from_secs(6))
            .start(&upstream)
            .await;
        let mut stage = Self {
            fleet,
            scale,
            upstream,
            selves: vec![Value::Null; NAMES.len()],
            dead: [false; 3],
        };
        for index in 0..NAMES.len() {
            stage.introduce(index).await;
        }
        stage
    }

    async fn introduce(&mut self, index: usize) {
        self.selves[index] = self.ask(index, "/admin/v1/instance").await;
    }

    /// The request path of a version's zip.
    pub(crate) fn file(version: &str) -> String {
        e2e::upstream::file_path(MODULE, version, "zip")
    }

    /// Upstream's side of a file, paced.
    pub(crate) fn at_upstream(&self, file: &str) -> Path {
        let path = self.upstream.path(file);
        path.bytes_per_second(self.scale.bytes_per_s);
        path
    }

    /// The bytes that every client must get.
    pub(crate) fn content(&self, file: &str) -> bytes::Bytes {
        self.upstream.body(file)
    }

    /// An answer of the admin listener; `null` when there is none.
    async fn ask(&self, index: usize, target: &str) -> Value {
        if self.dead[index] {
            return Value::Null;
        }
        let request = Request::get(target).time_limit(Duration::from_secs(2));
        let reply = request.send(self.fleet.corral(index).admin_addr()).await;
        let whole = Some(reply).filter(Reply::whole_success);
        whole
            .and_then(|reply| serde_json::from_slice(&reply.body).ok())
            .unwrap_or_default()
    }

    /// Sends the herd: the same file, everywhere, at the same moment.
    pub(crate) fn send_herd(&self, file: &str) -> Crowd {
        let parts = (0..NAMES.len()).map(|index| {
            let arrivals: Vec<Arc<Arrival>> = (0..self.scale.clients)
                .map(|_| Arc::new(Arrival::default()))
                .collect();
            let request = Request::get(file).hash_only().time_limit(CLIENT_LIMIT);
            let requests = arrivals
                .iter()
                .map(|arrival| request.clone().watched(arrival))
                .collect();
            let herd = client::herd_of(self.fleet.corral(index).addr(), requests);
            CrowdPart {
                arrivals,
                task: Some(tokio::spawn(herd)),
                replies: Vec::new(),
            }
        });
        Crowd {
            started: Instant::now(),
            parts: parts.collect(),
        }
    }

    /// What is to be seen now.
    pub(crate) async fn look(
        &self,
        title: &'static str,
        file: &str,
        crowd: &Crowd,
        sent_before: u64,
    ) -> Now {
        let at_upstream = self.upstream.path(file);
        let file_bytes = self.content(file).len() as u64;
        let mut instances = Vec::new();
        for (index, name) in NAMES.into_iter().enumerate() {
            let flights = self.ask(index, "/admin/v1/flights").await;
            let part = &crowd.parts[index];
            instances.push(InstanceNow {
                name,
                role: self.role(index, &flights, file),
                clients: part.arrivals.len(),
                finished: part.finished(file_bytes),
                first_byte: part.first_byte(),
                share: part.share(file_bytes),
            });
        }
        Now {
            title,
            elapsed: crowd.started.elapsed(),
            file_bytes,
            upstream_requests: at_upstream.requests(),
            upstream_bytes: at_upstream.body_bytes_sent().saturating_sub(sent_before),
            lease: self.lease().await,
            instances,
        }
    }

    fn role(&self, index: usize, flights: &Value, file: &str) -> Role {
        if self.dead[index] {
            return Role::Dead;
        }
        let phase = flights["items"][0]["phase"].as_str();
        let stored = || {
            let path = self.fleet.store_dir().join(file.trim_start_matches('/'));
            if path.is_file() {
                Role::Serves
            } else {
                Role::Idle
            }
        };
        match phase {
            Some("fetching" | "verifying" | "committing" | "backoff") => Role::Holds,
            Some("following" | "relaying") => Role::Follows,
            Some(_) => Role::Idle,
            None => stored(),
        }
    }

    async fn lease(&self) -> Option<LeaseNow> {
        let somebody = self.dead.iter().position(|dead| !dead)?;
        let leases = self.ask(somebody, "/admin/v1/leases").await;
        let lease = &leases["items"][0];
        let instance = lease["instance"].as_str()?;
        let is_it = |own: &Value| {
            let fields = own.as_object();
            fields.is_some_and(|fields| fields.values().any(|value| value == instance))
        };
        let holder = self.selves.iter().position(is_it);
        Some(LeaseNow {
            key: lease["key"].as_str()?.to_owned(),
            holder: holder.map(|index| NAMES[index]),
            age: Duration::from_millis(lease["age_ms"].as_u64()?),
            expires_in: Duration::from_millis(lease["expires_in_ms"].as_u64()?),
        })
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, index: usize) {
        self.dead[index] = true;
        self.fleet.members[index].corral.kill9().await;
    }

    /// Starts a killed instance again, on its old directories.
    pub(crate) async fn revive(&mut self, index: usize) {
        self.fleet.restart(index).await;
        self.dead[index] = false;
        self.introduce(index).await;
    }
}

/// Clients under way, or done.
pub(crate) struct Crowd {
    pub(crate) started: Instant,
    parts: Vec<CrowdPart>,
}

struct CrowdPart {
    arrivals: Vec<Arc<Arrival>>,
    task: Option<JoinHandle<Vec<Reply>>>,
    replies: Vec<Outcome>,
}

impl CrowdPart {
    fn finished(&self, file_bytes: u64) -> usize {
        let whole = |arrival: &&Arc<Arrival>| arrival.body_bytes() >= file_bytes;
        self.arrivals.iter().filter(whole).count()
    }

    fn first_byte(&self) -> Option<Duration> {
        let all: Option<Vec<Duration>> = self.arrivals.iter().map(|a| a.first_byte()).collect();
        all?.into_iter().max()
    }

    fn share(&self, file_bytes: u64) -> f64 {
        let sum: u64 = self.arrivals.iter().map(|a| a.body_bytes()).sum();
        sum as f64 / (file_bytes.max(1) * self.arrivals.len().max(1) as u64) as f64
    }
}

impl Crowd {
    /// Whether every client has its answer or its error.
    pub(crate) async fn is_done(&mut self) -> bool {
        for part in &mut self.parts {
            if let Some(task) = part.task.take_if(|task| task.is_finished()) {
                let replies = task.await.unwrap_or_default();
                part.replies = replies.into_iter().map(Outcome::from).collect();
            }
        }
        self.parts.iter().all(|part| part.task.is_none())
    }

    /// What the clients of an instance saw, once they are done.
    pub(crate) fn outcomes(&self, index: usize) -> &[Outcome] {
        &self.parts[index].replies
    }

    /// The slowest first byte of all clients of these instances.
    pub(crate) fn first_byte(&self, instances: &[usize]) -> Option<Duration> {
        let firsts: Option<Vec<Duration>> = instances
            .iter()
            .map(|&index| self.parts[index].first_byte())
            .collect();
        firsts?.into_iter().max()
    }
}
