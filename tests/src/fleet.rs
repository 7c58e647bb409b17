//! Several real instances over one store and one Valkey, each behind breakable links of its own.

mod remains;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::client::{self, Outcome};
use crate::fault_proxy::FaultProxy;
use crate::proxy::{Corral, Setup, files_under};
use crate::upstream::FixtureUpstream;
use crate::valkey::{Valkey, free_port};
use crate::wait;

/// How a fleet is started; builder methods, then [`Plan::start`].
#[derive(Debug, Clone)]
pub struct Plan {
    size: usize,
    ttl: Duration,
    storage: Option<String>,
    direct: bool,
    peer_links: bool,
    alone: Vec<usize>,
    settings: Vec<(String, String)>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Plan {
    /// `size` instances over one folder, leases of one second.
    pub fn of(size: usize) -> Self {
        Self {
            size,
            ttl: Duration::from_secs(1),
            storage: None,
            direct: false,
            peer_links: false,
            alone: Vec::new(),
            settings: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// `lease.ttl`.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// `--storage URL` with these variables, instead of a folder.
    pub fn storage(mut self, url: &str, env: &[(&str, String)]) -> Self {
        self.storage = Some(url.to_owned());
        for (name, value) in env {
            self.env.push(((*name).to_owned(), value.clone()));
        }
        self
    }

    /// `--set KEY=VALUE` for every instance.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Any further argument for every instance.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Lets the instances reach Valkey and the upstream without links, for measurements.
    pub fn direct(mut self) -> Self {
        self.direct = true;
        self
    }

    /// Lets the instances reach each other through links of their own, see [`Member::peers`].
    ///
    /// Such a link takes connects even when its instance is dead, and resets them.
    pub fn peer_links(mut self) -> Self {
        self.peer_links = true;
        self
    }

    /// Starts this instance without Valkey.
    pub fn without_valkey(mut self, index: usize) -> Self {
        self.alone.push(index);
        self
    }

    /// Starts a Valkey and the instances in front of `upstream`.
    ///
    /// # Panics
    ///
    /// When something does not start.
    pub async fn start(self, upstream: &FixtureUpstream) -> Fleet {
        let valkey = Valkey::start().await;
        self.start_over(upstream, valkey).await
    }

    /// As [`Plan::start`], over this Valkey, which may be stopped.
    ///
    /// # Panics
    ///
    /// When an instance does not start.
    pub async fn start_over(self, upstream: &FixtureUpstream, valkey: Valkey) -> Fleet {
        self.start_before(upstream.addr(), valkey).await
    }

    /// As [`Plan::start_over`], in front of whatever listens at `upstream`.
    ///
    /// # Panics
    ///
    /// When an instance does not start.
    pub async fn start_before(self, upstream: SocketAddr, valkey: Valkey) -> Fleet {
        let home = tempfile::Builder::new().prefix("corral-fleet-").tempdir();
        let mut fleet = Fleet {
            members: Vec::new(),
            valkey,
            plan: self,
            home: Arc::new(home.expect("a temporary directory")),
        };
        for index in 0..fleet.plan.size {
            let member = fleet.member(index, upstream).await;
            fleet.members.push(member);
        }
        fleet
    }
}

/// One instance and its links.
#[derive(Debug)]
pub struct Member {
    /// The instance.
    pub corral: Corral,
    /// Its way to Valkey.
    pub valkey: FaultProxy,
    /// Its way to the upstream.
    pub upstream: FaultProxy,
    /// The others' way to its internal listener, after [`Plan::peer_links`].
    pub peers: Option<FaultProxy>,
}

/// The running fleet.
#[derive(Debug)]
pub struct Fleet {
    /// The instances, in the order of their start.
    pub members: Vec<Member>,
    /// What they share.
    pub valkey: Valkey,
    plan: Plan,
    home: Arc<TempDir>,
}

impl Fleet {
    async fn member(&self, index: usize, upstream: SocketAddr) -> Member {
        let plan = &self.plan;
        let to_valkey = FaultProxy::to(self.valkey.addr()).await;
        let to_upstream = FaultProxy::to(upstream).await;
        let (valkey_addr, upstream_addr) = if plan.direct {
            (self.valkey.addr(), upstream)
        } else {
            (to_valkey.addr(), to_upstream.addr())
        };
        let mut setup = Setup::new()
            .upstream(&format!("http://{upstream_addr}"))
            .storage(&self.storage())
            .set("lease.ttl", &format!("{}ms", plan.ttl.as_millis()));
        let mut peers = None;
        if !plan.alone.contains(&index) {
            setup = setup.arg("--valkey").arg(&format!("redis://{valkey_addr}"));
            if plan.peer_links {
                let port = free_port();
                let link = FaultProxy::to(([127, 0, 0, 1], port).into()).await;
                setup = setup
                    .set("internal.listen", &format!("127.0.0.1:{port}"))
                    .set("internal.advertise", &link.addr().to_string());
                peers = Some(link);
            }
        }
        for (key, value) in &plan.settings {
            setup = setup.set(key, value);
        }
        for arg in &plan.args {
            setup = setup.arg(arg);
        }
        for (name, value) in &plan.env {
            setup = setup.env(name, value);
        }
        Member {
            corral: setup.start().await,
            valkey: to_valkey,
            upstream: to_upstream,
            peers,
        }
    }

    fn storage(&self) -> String {
        let folder = || format!("file://{}", self.store_dir().display());
        self.plan.storage.clone().unwrap_or_else(folder)
    }

    /// How many instances there are.
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// The TTL of their leases.
    pub fn ttl(&self) -> Duration {
        self.plan.ttl
    }

    /// The folder that all store into, unless the plan names another store.
    pub fn store_dir(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// One instance.
    pub fn corral(&self, index: usize) -> &Corral {
        &self.members[index].corral
    }

    /// `clients` clients at each instance ask for `target` at the same moment.
    pub fn herd(&self, clients: usize, target: &str) -> Herd {
        let everybody: Vec<usize> = (0..self.size()).collect();
        self.herd_at(&everybody, clients, target)
    }

    /// As [`Fleet::herd`], at some of the instances.
    pub fn herd_at(&self, instances: &[usize], clients: usize, target: &str) -> Herd {
        let herd = |&index: &usize| {
            let (addr, target) = (self.corral(index).addr(), target.to_owned());
            let herd = async move { client::herd(addr, clients, &target).await };
            (index, tokio::spawn(herd))
        };
        Herd {
            parts: instances.iter().map(herd).collect(),
        }
    }

    /// Waits until each of these instances has one flight with so many waiters.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`].
    pub async fn boarded(&self, instances: &[usize], waiters: u64) {
        for &index in instances {
            self.corral(index).boarded(waiters).await;
        }
    }

    /// The sum of a metric over the instances that run.
    pub async fn metric(&mut self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut sum = 0.0;
        for member in &mut self.members {
            if member.corral.running() {
                sum += member.corral.metric(name, labels).await;
            }
        }
        sum
    }

    /// Commits over the instances that run: new ones, those that found the same bytes, and those
    /// that found others.
    pub async fn commits(&mut self) -> [f64; 3] {
        let mut commits = [0.0; 3];
        for (sum, result) in commits
            .iter_mut()
            .zip(["created", "exists_same", "conflict"])
        {
            *sum = self
                .metric("corral_commit_total", &[("result", result)])
                .await;
        }
        commits
    }

    /// Waits until the shared folder holds exactly these bytes.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`].
    pub async fn stored(&self, request_path: &str, bytes: &[u8]) {
        let file = self.store_dir().join(request_path.trim_start_matches('/'));
        let what = format!("{request_path} is stored");
        wait::until(&what, wait::PATIENCE, async || {
            std::fs::read(&file).is_ok_and(|stored| stored == bytes)
        })
        .await;
    }

    /// Kills an instance that runs and starts it again on its directories and links.
    pub async fn restart(&mut self, index: usize) {
        let member = &mut self.members[index];
        member.corral.kill9().await;
        let setup = member.corral.setup().clone();
        member.corral = setup.start().await;
    }

    /// The files below the shared folder.
    pub fn stored_files(&self) -> Vec<(String, u64)> {
        files_under(&self.store_dir())
    }

    /// The spool folder of an instance.
    pub fn spool_dir(&self, index: usize) -> PathBuf {
        self.corral(index).setup().spool_dir()
    }

    /// The directory that lives as long as the fleet.
    pub fn home(&self) -> &Path {
        self.home.path()
    }
}

/// Clients under way.
#[derive(Debug)]
pub struct Herd {
    parts: Vec<(usize, JoinHandle<Vec<Outcome>>)>,
}

impl Herd {
    /// Waits for all of them: what the clients of each instance saw.
    ///
    /// # Panics
    ///
    /// When a client panics.
    pub async fn finish(self) -> Vec<(usize, Vec<Outcome>)> {
        let mut all = Vec::new();
        for (index, part) in self.parts {
            all.push((index, part.await.expect("a herd's client does not panic")));
        }
        all
    }

    /// As [`Herd::finish`], without saying which instance each asked.
    pub async fn outcomes(self) -> Vec<Outcome> {
        let all = self.finish().await;
        all.into_iter().flat_map(|(_, outcomes)| outcomes).collect()
    }

    /// Whether all clients have their answer.
    pub fn is_finished(&self) -> bool {
        self.parts.iter().all(|(_, part)| part.is_finished())
    }
}
