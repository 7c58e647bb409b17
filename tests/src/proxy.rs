//! The real `corral` binary: started, watched, killed, started again on the same directories.
//!
//! The binary's part of the contract: on standard output it prints two lines,
//! `listening on http://127.0.0.1:PORT` and `admin on http://127.0.0.1:PORT`, and nothing else.

mod disk;
mod jobs;
mod metrics;
mod process;
mod sockets;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use crate::client::{self, Outcome, Reply, Request};
use crate::upstream::FixtureUpstream;
use crate::wait;

pub use disk::{Tmpfs, bytes_under, files_under, left_in_spool};
pub use jobs::encoded;
pub use metrics::Metrics;
pub use process::{Exit, binary};

use process::Process;

/// The bound on start: ports printed and ready.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How an instance is started; builder methods, then [`Setup::start`].
///
/// The default is an instance of its own: fresh store and spool directories, no checksum
/// database, nothing inherited from the environment.
#[derive(Debug, Clone)]
pub struct Setup {
    home: Arc<TempDir>,
    upstream: Option<String>,
    storage: Option<String>,
    spool: Option<PathBuf>,
    verify: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// An instance with directories of its own and no upstream yet.
    ///
    /// # Panics
    ///
    /// When no temporary directory can be made.
    pub fn new() -> Self {
        let home = tempfile::Builder::new().prefix("corral-e2e-").tempdir();
        Self {
            home: Arc::new(home.expect("a temporary directory")),
            upstream: None,
            storage: None,
            spool: None,
            verify: Some("off".to_owned()),
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// An instance in front of one fixture.
    pub fn before(upstream: &FixtureUpstream) -> Self {
        Self::new().upstream(&upstream.url())
    }

    /// `--upstream LIST`.
    pub fn upstream(mut self, list: &str) -> Self {
        self.upstream = Some(list.to_owned());
        self
    }

    /// `--storage URL` instead of the folder [`Setup::store_dir`].
    pub fn storage(mut self, url: &str) -> Self {
        self.storage = Some(url.to_owned());
        self
    }

    /// `--spool DIR` instead of the folder [`Setup::spool_dir`].
    pub fn spool(mut self, dir: &Path) -> Self {
        self.spool = Some(dir.to_owned());
        self
    }

    /// No `--verify off`: what the configuration says by default.
    pub fn verify_default(mut self) -> Self {
        self.verify = None;
        self
    }

    /// `--set KEY=VALUE`.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.args
            .extend(["--set".to_owned(), format!("{key}={value}")]);
        self
    }

    /// Any further argument of `corral serve`.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// An environment variable; only these and `PATH` and `HOME` are set.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The private directory of this instance.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The folder that `--storage` names by default.
    pub fn store_dir(&self) -> PathBuf {
        self.home.path().join("store")
    }

    /// The folder that `--spool` names.
    pub fn spool_dir(&self) -> PathBuf {
        self.spool
            .clone()
            .unwrap_or_else(|| self.home.path().join("spool"))
    }

    /// The arguments after `corral`.
    pub fn command_line(&self) -> Vec<String> {
        let mut args: Vec<String> = [
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ]
        .map(str::to_owned)
        .into();
        let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
        if let Some(upstream) = &self.upstream {
            flag("--upstream", upstream.clone());
        }
        let folder = || format!("file://{}", self.store_dir().display());
        flag("--storage", self.storage.clone().unwrap_or_else(folder));
        flag("--spool", self.spool_dir().display().to_string());
        if let Some(verify) = &self.verify {
            flag("--verify", verify.clone());
        }
        args.extend(self.args.iter().cloned());
        args
    }

    /// Starts the binary and waits until it says that it is ready.
    ///
    /// # Panics
    ///
    /// With the command line and its log, when it ends or is not ready within 30 s.
    pub async fn start(&self) -> Corral {
        self.start_with(&self.command_line()).await
    }

    /// As [`Setup::start`], with these arguments instead of [`Setup::command_line`].
    ///
    /// # Panics
    ///
    /// As [`Setup::start`].
    pub async fn start_with(&self, args: &[String]) -> Corral {
        let process = Process::spawn(args, self.home.path(), &self.env);
        let mut corral = Corral {
            proxy: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            process,
            setup: self.clone(),
        };
        let ports = corral.process.ports(START_LIMIT).await;
        (corral.proxy, corral.admin) = ports;
        let ready = wait::holds_within(START_LIMIT, async || {
            client::get(corral.admin, "/readyz").await.status == 200
        });
        assert!(
            ready.await,
            "not ready within {START_LIMIT:?}\n{}",
            corral.process.describe()
        );
        corral
    }

    /// Runs the command line expecting it to end by itself, as on a mistake in configuration.
    ///
    /// # Panics
    ///
    /// When it still runs after `bound`.
    pub async fn run_to_end(&self, bound: Duration) -> Exit {
        self.run_args_to_end(&self.command_line(), bound).await
    }

    /// As [`Setup::run_to_end`], with these arguments instead of [`Setup::command_line`].
    ///
    /// # Panics
    ///
    /// When it still runs after `bound`.
    pub async fn run_args_to_end(&self, args: &[String], bound: Duration) -> Exit {
        Process::spawn(args, self.home.path(), &self.env)
            .end(bound)
            .await
    }
}

/// A running instance; dropping it kills exactly its own process.
#[derive(Debug)]
pub struct Corral {
    proxy: SocketAddr,
    admin: SocketAddr,
    process: Process,
    setup: Setup,
}

impl Corral {
    /// Starts an instance in front of `upstream` with all defaults.
    pub async fn before(upstream: &FixtureUpstream) -> Self {
        Setup::before(upstream).start().await
    }

    /// The proxy listener's address.
    pub fn addr(&self) -> SocketAddr {
        self.proxy
    }

    /// The admin listener's address.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// `http://127.0.0.1:PORT`, for `GOPROXY`.
    pub fn url(&self) -> String {
        format!("http://{}", self.proxy)
    }

    /// How it was started.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// The id of its process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// What it wrote on standard output so far, line by line.
    pub fn stdout(&self) -> Vec<String> {
        self.process.stdout()
    }

    /// The most memory that the process ever had resident, in bytes.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    pub fn resident_bytes_max(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("the process lives");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("the kernel tells VmHWM in KiB") * 1024
    }

    /// Whom the process is connected to, or tries to connect to, by TCP; clients that came to
    /// its listeners are left out.
    ///
    /// # Panics
    ///
    /// When the process is gone.
    pub fn connected_to(&self) -> Vec<SocketAddr> {
        sockets::connected_to(self.pid(), &[self.proxy.port(), self.admin.port()])
    }

    /// `GET target` on the proxy listener.
    pub async fn get(&self, target: &str) -> Reply {
        client::get(self.proxy, target).await
    }

    /// Sends a request to the proxy listener.
    pub async fn send(&self, request: &Request) -> Reply {
        request.send(self.proxy).await
    }

    /// `count` clients ask the proxy listener for `target` at the same moment.
    pub async fn herd(&self, count: usize, target: &str) -> Vec<Outcome> {
        client::herd(self.proxy, count, target).await
    }

    /// `GET target` on the admin listener.
    pub async fn admin(&self, target: &str) -> Reply {
        client::get(self.admin, target).await
    }

    /// `GET target` on the admin listener, as JSON.
    ///
    /// # Panics
    ///
    /// When the answer is no whole 200 with JSON.
    pub async fn admin_json(&self, target: &str) -> serde_json::Value {
        let reply = self.admin(target).await.expect_status(200);
        let parsed = serde_json::from_slice(&reply.body);
        parsed.unwrap_or_else(|error| panic!("{target} is no JSON ({error}): {}", reply.text()))
    }

    /// The items of an admin list, `{"scope": …, "items": […]}`.
    ///
    /// # Panics
    ///
    /// When it is none, or does not say whose view it is.
    pub async fn admin_items(&self, target: &str) -> Vec<serde_json::Value> {
        let answer = self.admin_json(target).await;
        let scope = answer["scope"].as_str();
        assert!(
            matches!(scope, Some("instance" | "fleet")),
            "{target} has no scope: {answer}"
        );
        let items = answer["items"].as_array();
        items
            .unwrap_or_else(|| panic!("{target} is no list: {answer}"))
            .clone()
    }

    /// The flights of this instance now.
    pub async fn flights(&self) -> Vec<serde_json::Value> {
        self.admin_items("/admin/v1/flights").await
    }

    /// All metrics now.
    ///
    /// # Panics
    ///
    /// When the answer is no whole 200.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.admin("/metrics").await.expect_status(200).text())
    }

    /// One metric now: the sum of its series whose labels include `labels`; 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.sum(name, labels).unwrap_or(0.0)
    }

    /// Waits until one flight runs and has exactly this many waiters.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`].
    pub async fn boarded(&self, waiters: u64) {
        let what = format!("one flight has {waiters} waiters");
        wait::until(&what, wait::PATIENCE, async || {
            matches!(self.flights().await.as_slice(), [flight] if flight["waiters"] == waiters)
        })
        .await;
    }

    /// Waits until nothing is being filled any more.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`].
    pub async fn idle(&self) {
        wait::until("no flight is left", wait::PATIENCE, async || {
            self.flights().await.is_empty()
        })
        .await;
    }

    /// Waits until a file of the store folder holds exactly these bytes.
    ///
    /// # Panics
    ///
    /// After [`wait::PATIENCE`].
    pub async fn stored(&self, request_path: &str, bytes: &[u8]) {
        let file = self.store_path(request_path);
        let what = format!("{request_path} is stored");
        wait::until(&what, wait::PATIENCE, async || {
            std::fs::read(&file).is_ok_and(|stored| stored == bytes)
        })
        .await;
    }

    /// Where the store folder keeps a request path.
    pub fn store_path(&self, request_path: &str) -> PathBuf {
        self.setup
            .store_dir()
            .join(request_path.trim_start_matches('/'))
    }

    /// SIGKILL, then waits until the process is gone.
    pub async fn kill9(&mut self) {
        self.process.kill().await;
    }

    /// SIGSTOP: the process stands still, its sockets stay open.
    pub fn freeze(&self) {
        self.process.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT: it goes on after [`Corral::freeze`].
    pub fn thaw(&self) {
        self.process.signal(rustix::process::Signal::CONT);
    }

    /// SIGTERM, without waiting.
    pub fn ask_to_stop(&self) {
        self.process.signal(rustix::process::Signal::TERM);
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Panics
    ///
    /// When it still runs after `bound`.
    pub async fn terminate(&mut self, bound: Duration) -> ExitStatus {
        self.ask_to_stop();
        self.ended(bound).await
    }

    /// Waits for the end of a process that was asked to stop; a second signal would end it at once.
    ///
    /// # Panics
    ///
    /// When it still runs after `bound`.
    pub async fn ended(&mut self, bound: Duration) -> ExitStatus {
        self.process.wait(bound).await
    }

    /// Whether the process still runs.
    pub fn running(&mut self) -> bool {
        self.process.running()
    }

    /// Starts a new process on the same directories, with the same or another setup made from
    /// [`Corral::setup`].
    pub async fn restart_with(mut self, setup: Setup) -> Self {
        self.kill9().await;
        setup.start().await
    }

    /// Kills the process if it runs and starts it again on the same directories.
    pub async fn restart(self) -> Self {
        let setup = self.setup.clone();
        self.restart_with(setup).await
    }
}
