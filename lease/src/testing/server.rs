//! Real servers for tests: started on a free port in a folder of their own, stopped with the test.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::{Clock, TokioClock};

/// How long a server may take to answer its first `PING`.
const START_MAX: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerKind {
    /// `valkey-server`, without TLS.
    Valkey,
    /// `redis-server` 7.0, with TLS.
    Redis,
    /// `valkey-server --sentinel`.
    Sentinel,
}

/// A running server; killed when it is dropped, with its folder.
#[derive(Debug)]
pub struct TestServer {
    kind: ServerKind,
    port: u16,
    folder: PathBuf,
    options: Vec<String>,
    child: Option<Child>,
}

impl TestServer {
    /// Starts a server on a free port of 127.0.0.1, without persistence.
    pub async fn start(kind: ServerKind) -> Self {
        Self::start_with(kind, &[]).await
    }

    /// Starts a server with further options, each as on its command line: `["--maxclients 9"]`.
    ///
    /// # Panics
    ///
    /// When it does not answer in time, with what it printed.
    pub async fn start_with(kind: ServerKind, options: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("corral-server-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the server");
        // Somebody else may take the port between our look and the server's start.
        for _ in 0..5 {
            let mut server = Self {
                kind,
                port: free_port(),
                folder: folder.clone(),
                options: options.iter().map(|option| (*option).to_owned()).collect(),
                child: None,
            };
            server.spawn();
            if server.answers().await {
                return server;
            }
            let output = server.output();
            server.kill();
            // Its folder is still in use by the next try.
            std::mem::forget(server);
            assert!(
                output.contains("Address already in use"),
                "the server did not start: {output}"
            );
        }
        panic!("no free port found");
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL without user and password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Returns the folder that the server runs in; options may name files there.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the process id.
    ///
    /// # Panics
    ///
    /// When the server is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server is running").id()
    }

    /// Kills the server with `SIGKILL` and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server again on the same port, after [`kill`](Self::kill).
    pub async fn restart(&mut self) {
        self.kill();
        let until = TokioClock.now() + START_MAX;
        loop {
            self.spawn();
            if self.answers().await {
                return;
            }
            let output = self.output();
            self.kill();
            assert!(
                TokioClock.now() < until,
                "the server did not start again: {output}"
            );
        }
    }

    /// Stops the server's process without ending it: it accepts connections, and never answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Sends one command, each argument a part of `command` split at white space, on a connection
    /// of its own, and returns the raw answer.
    ///
    /// # Panics
    ///
    /// When the server does not answer.
    pub fn command(&self, command: &str) -> String {
        let parts: Vec<&str> = command.split_whitespace().collect();
        self.parts(&parts).expect("the server answers")
    }

    /// As [`command`](Self::command), with the arguments one by one.
    ///
    /// # Errors
    ///
    /// When there is no answer within a few seconds.
    pub fn parts(&self, parts: &[&str]) -> io::Result<String> {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        self.bytes(&parts)
    }

    /// As [`parts`](Self::parts), with arguments that need not be text.
    ///
    /// # Errors
    ///
    /// When there is no answer within a few seconds.
    pub fn bytes(&self, parts: &[&[u8]]) -> io::Result<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = format!("*{}\r\n", parts.len()).into_bytes();
        for part in parts {
            request.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
            request.extend_from_slice(part);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request)?;
        stream.shutdown(std::net::Shutdown::Write)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .arg(format!("-{signal}"))
            .arg(self.pid().to_string())
            .status()
            .expect("kill runs");
        assert!(status.success(), "no process to signal");
    }

    fn spawn(&mut self) {
        let log = std::fs::File::create(self.folder.join("log")).expect("a log file");
        let errors = log.try_clone().expect("a second handle");
        let mut command = Command::new(binary(self.kind));
        if self.kind == ServerKind::Sentinel {
            // It insists on a file that it can write to.
            let file = self.folder.join("sentinel.conf");
            if !file.exists() {
                std::fs::write(&file, "").expect("a configuration file");
            }
            command.arg(&file).arg("--sentinel");
        }
        command
            .arg("--port")
            .arg(self.port.to_string())
            .args(["--bind", "127.0.0.1"])
            .args(["--dir".as_ref(), self.folder.as_os_str()]);
        if self.kind != ServerKind::Sentinel {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        for option in &self.options {
            command.args(option.split_whitespace());
        }
        let child = command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("the server's program runs; scripts/install-tools test installs it");
        self.child = Some(child);
    }

    async fn answers(&mut self) -> bool {
        let until = TokioClock.now() + START_MAX;
        while TokioClock.now() < until {
            let ended = self.child.as_mut().is_none_or(|child| {
                child.try_wait().is_ok_and(|status| {
                    status
                        .is_some_and(|status| status.code().is_some() || status.signal().is_some())
                })
            });
            if ended {
                return false;
            }
            // Any answer will do: without the right password it is an error.
            let answer = self.parts(&["PING"]).unwrap_or_default();
            if !answer.is_empty() && !answer.starts_with("-LOADING") {
                return true;
            }
            TokioClock.sleep(Duration::from_millis(10)).await;
        }
        false
    }

    fn output(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until `state` holds.
///
/// # Panics
///
/// When it does not within `limit`.
pub async fn eventually(what: &str, limit: Duration, mut state: impl FnMut() -> bool) {
    let until: Instant = TokioClock.now() + limit;
    while !state() {
        assert!(TokioClock.now() < until, "not within {limit:?}: {what}");
        TokioClock.sleep(Duration::from_millis(2)).await;
    }
}

fn binary(kind: ServerKind) -> PathBuf {
    let name = match kind {
        ServerKind::Valkey | ServerKind::Sentinel => "valkey-server",
        ServerKind::Redis => "redis-server",
    };
    let link = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.tools/bin")
        .join(name);
    // One of them is a script that looks for its files beside itself.
    link.canonicalize().unwrap_or(link)
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it is bound").port()
}
