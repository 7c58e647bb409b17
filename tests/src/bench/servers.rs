//! Starting and ending the servers that are measured.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde::Serialize;
use tempfile::TempDir;

use super::process::Tree;

/// How long a server may take from its start to its first answer.
const START_MAX: Duration = Duration::from_secs(20);

/// How long a server may take to end when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(15);

const NGINX_STATIC: &str = include_str!("../../bench/nginx-static.conf");
const NGINX_PROXY: &str = include_str!("../../bench/nginx-proxy.conf");
const VARNISH: &str = include_str!("../../bench/varnish.vcl");

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// corral with its defaults.
    Corral,
    /// corral without a hot tier: every hit is read from the store.
    CorralDisk,
    /// nginx serving a tree of files.
    NginxStatic,
    /// nginx as caching proxy with `proxy_cache_lock`.
    NginxProxy,
    /// Varnish, cache in memory.
    Varnish,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Corral => "corral",
            Self::CorralDisk => "corral, disk",
            Self::NginxStatic => "nginx, static",
            Self::NginxProxy => "nginx, proxy",
            Self::Varnish => "Varnish",
        })
    }
}

/// Where to find programs, files and the upstream.
#[derive(Debug, Clone)]
pub struct Site {
    /// The corral binary; `None` leaves corral out.
    pub corral: Option<PathBuf>,
    /// The upstream of all caches.
    pub origin: SocketAddr,
    /// The tree that nginx serves.
    pub tree: PathBuf,
    /// Files that a server may open.
    pub files_max: u64,
    /// Where servers keep their data; on the disk that is to be measured.
    pub scratch: PathBuf,
}

impl Site {
    /// Whether `kind` can be started here.
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Corral | Kind::CorralDisk => self.corral.is_some(),
            Kind::NginxStatic | Kind::NginxProxy => find("nginx").is_some(),
            Kind::Varnish => find("varnishd").is_some(),
        }
    }

    /// Those of `kinds` that can be started here, in their order.
    pub fn those_here(&self, kinds: &[Kind]) -> Vec<Kind> {
        kinds
            .iter()
            .copied()
            .filter(|kind| self.has(*kind))
            .collect()
    }
}

/// A running server with an empty cache; dropping it ends its processes and removes its files.
#[derive(Debug)]
pub struct Server {
    /// What it is.
    pub kind: Kind,
    /// Where it answers.
    pub address: SocketAddr,
    /// From the start of its process to its first good answer.
    pub ready_after: Duration,
    child: Child,
    directory: TempDir,
}

impl Server {
    /// Starts a server and waits until it answers.
    ///
    /// # Errors
    ///
    /// When the program is missing, ends, or does not answer within 20 s; its own words are in
    /// the error.
    pub fn start(kind: Kind, site: &Site) -> anyhow::Result<Self> {
        let directory = TempDir::new_in(&site.scratch).context("make a server's directory")?;
        // A port that was free a moment ago may be taken by now: then the next one is tried.
        let mut failure = None;
        for _ in 0..3 {
            match try_start(kind, site, directory.path()) {
                Ok((address, ready_after, child)) => {
                    return Ok(Self {
                        kind,
                        address,
                        ready_after,
                        child,
                        directory,
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.expect("three tries leave a failure")).with_context(|| format!("start {kind}"))
    }

    /// Its processes.
    pub fn tree(&self) -> Tree {
        Tree::new(self.child.id())
    }

    /// The last lines that it wrote, for errors.
    pub fn log_end(&self) -> String {
        log_end(self.directory.path())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let tree = Tree::new(child.id());
    if let Ok(None) = child.try_wait() {
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let _ = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
        let give_up = Instant::now() + STOP_MAX;
        while let Ok(None) = child.try_wait() {
            if Instant::now() > give_up {
                // Workers would outlive a parent that is killed alone.
                tree.signal_all(Signal::KILL);
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
    let _ = child.wait();
}

fn try_start(
    kind: Kind,
    site: &Site,
    directory: &Path,
) -> anyhow::Result<(SocketAddr, Duration, Child)> {
    match kind {
        Kind::Corral | Kind::CorralDisk => start_corral(kind, site, directory),
        Kind::NginxStatic => start_nginx(NGINX_STATIC, site, directory),
        Kind::NginxProxy => start_nginx(NGINX_PROXY, site, directory),
        Kind::Varnish => start_varnish(site, directory),
    }
}

fn start_corral(
    kind: Kind,
    site: &Site,
    directory: &Path,
) -> anyhow::Result<(SocketAddr, Duration, Child)> {
    let binary = site.corral.as_ref().context("no corral binary")?;
    let mut command = Command::new(binary);
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin-listen",
            "127.0.0.1:0",
        ])
        .args([
            "--upstream",
            &format!("http://{}", site.origin),
            "--verify",
            "off",
        ])
        .args([
            "--storage",
            &format!("file://{}", directory.join("store").display()),
        ])
        .arg("--spool")
        .arg(directory.join("spool"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log_file(directory)?);
    fs::create_dir_all(directory.join("store"))?;
    fs::create_dir_all(directory.join("spool"))?;
    if kind == Kind::CorralDisk {
        command.args(["--set", "l1.bytes_max=0"]);
    }
    // The caller's environment must not configure what is measured.
    for (name, _) in std::env::vars_os() {
        let own = name.to_string_lossy();
        if own.starts_with("CORRAL_") || ["GOPROXY", "GONOPROXY", "GOPRIVATE"].contains(&&*own) {
            command.env_remove(&name);
        }
    }
    let started = Instant::now();
    let mut child = command
        .spawn()
        .with_context(|| format!("run {}", binary.display()))?;
    let lines = read_lines(child.stdout.take().context("corral's output")?);
    let ready = (|| {
        let (mut proxy, mut admin) = (None, None);
        while proxy.is_none() || admin.is_none() {
            let left = START_MAX.saturating_sub(started.elapsed());
            let line = lines
                .recv_timeout(left)
                .context("corral printed no addresses")?;
            proxy = proxy.or(address_after(&line, "listening on http://"));
            admin = admin.or(address_after(&line, "admin on http://"));
        }
        let (proxy, admin) = proxy.zip(admin).context("both addresses were printed")?;
        wait_for_answer(&mut child, admin, "/readyz", started)?;
        Ok((proxy, started.elapsed()))
    })();
    finish(ready, child, directory)
}

fn start_nginx(
    template: &str,
    site: &Site,
    directory: &Path,
) -> anyhow::Result<(SocketAddr, Duration, Child)> {
    let port = free_port()?;
    let user = if rustix::process::getuid().is_root() {
        "user root;"
    } else {
        ""
    };
    let text = template
        .replace("@user@", user)
        .replace("@files@", &site.files_max.min(65_536).to_string())
        .replace("@dir@", &directory.display().to_string())
        .replace("@root@", &site.tree.display().to_string())
        .replace("@port@", &port.to_string())
        .replace("@origin@", &site.origin.to_string());
    let file = directory.join("nginx.conf");
    fs::write(&file, text)?;
    let mut command = Command::new(find("nginx").context("nginx is not installed")?);
    command.arg("-p").arg(directory).arg("-c").arg(&file);
    command.arg("-e").arg(directory.join("error.log"));
    start_on_port(command, port, "/", directory)
}

fn start_varnish(site: &Site, directory: &Path) -> anyhow::Result<(SocketAddr, Duration, Child)> {
    let port = free_port()?;
    let text = VARNISH
        .replace("@origin_host@", &site.origin.ip().to_string())
        .replace("@origin_port@", &site.origin.port().to_string());
    let file = directory.join("cache.vcl");
    fs::write(&file, text)?;
    let mut command = Command::new(find("varnishd").context("varnishd is not installed")?);
    command
        .arg("-F")
        .arg("-n")
        .arg(directory.join("varnish"))
        .arg("-f")
        .arg(&file);
    command.args([
        "-a",
        &format!("127.0.0.1:{port}"),
        "-T",
        "none",
        "-j",
        "none",
    ]);
    command.args(["-s", "malloc,2G"]);
    // A streaming waiter holds a thread, so there must be as many threads as clients; made
    // beforehand, as an operator who expects a herd would.
    for parameter in [
        "thread_pools=2",
        "thread_pool_min=600",
        "thread_pool_max=6000",
        "thread_queue_limit=20000",
        "listen_depth=4096",
        "timeout_idle=300",
    ] {
        command.args(["-p", parameter]);
    }
    // The first answer may be a 404 of the upstream: the cache works then.
    start_on_port(command, port, "/", directory)
}

fn start_on_port(
    mut command: Command,
    port: u16,
    path: &str,
    directory: &Path,
) -> anyhow::Result<(SocketAddr, Duration, Child)> {
    let log = log_file(directory)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    let started = Instant::now();
    let mut child = command.spawn().context("run the server")?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let ready = wait_for_answer(&mut child, address, path, started);
    finish(
        ready.map(|()| (address, started.elapsed())),
        child,
        directory,
    )
}

fn finish(
    ready: anyhow::Result<(SocketAddr, Duration)>,
    mut child: Child,
    directory: &Path,
) -> anyhow::Result<(SocketAddr, Duration, Child)> {
    match ready {
        Ok((address, after)) => Ok((address, after, child)),
        Err(error) => {
            end(&mut child);
            Err(error).with_context(|| log_end(directory))
        }
    }
}

/// Asks for `path` until there is an answer that is no server error.
fn wait_for_answer(
    child: &mut Child,
    address: SocketAddr,
    path: &str,
    started: Instant,
) -> anyhow::Result<()> {
    loop {
        if let Ok(status) = status_of(address, path)
            && status < 500
        {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("it ended: {status}");
        }
        ensure!(
            started.elapsed() < START_MAX,
            "no answer on {address} after {START_MAX:?}"
        );
        thread::sleep(Duration::from_micros(500));
    }
}

/// The status of a `GET`, read from a connection of its own.
fn status_of(address: SocketAddr, path: &str) -> anyhow::Result<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(std::str::from_utf8(&start[9..])?.parse()?)
}

/// Hands on a child's lines; goes on reading to the end, so that the child never blocks.
fn read_lines(output: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

fn address_after(line: &str, start: &str) -> Option<SocketAddr> {
    line.split_once(start)?
        .1
        .split(['/', ' '])
        .next()?
        .parse()
        .ok()
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")
        .context("find a free port")?
        .local_addr()?
        .port())
}

fn log_file(directory: &Path) -> anyhow::Result<fs::File> {
    let path = directory.join("server.log");
    fs::File::options()
        .append(true)
        .create(true)
        .open(path)
        .context("open a server's log")
}

fn log_end(directory: &Path) -> String {
    let mut end = String::new();
    for name in ["server.log", "error.log"] {
        let text = fs::read_to_string(directory.join(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(8).collect();
        end.extend(lines.iter().rev().map(|line| format!("  {line}\n")));
    }
    format!("the server's last lines:\n{end}")
}

/// Finds a program in `PATH` or where distributions put servers; `None` when it is not there.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path)
        .chain(usual)
        .map(|place| place.join(program));
    places.find(|file| file.is_file())
}
