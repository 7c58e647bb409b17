//! One child process: its output captured, ended by its own id.

use std::io::{BufRead as _, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::wait;

/// Lines of output that are kept; a run-away log must not fill memory.
const LINES_MAX: usize = 20_000;

/// The binary under test: `CORRAL_BIN`, else `corral` of the build that made this test.
///
/// # Panics
///
/// When there is none; the text says how to get it.
pub fn binary() -> PathBuf {
    if let Some(named) = std::env::var_os("CORRAL_BIN") {
        let path = PathBuf::from(named);
        assert!(
            path.is_file(),
            "CORRAL_BIN names no file: {}",
            path.display()
        );
        return path;
    }
    let exe = std::env::current_exe().expect("a process knows its executable");
    // target/debug/deps/e2e-… stands beside target/debug/corral.
    let found = exe
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("corral"));
    found
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no corral binary beside {}: run `cargo build -p server` first, or set CORRAL_BIN",
                exe.display()
            )
        })
}

/// How a process ended by itself.
#[derive(Debug)]
pub struct Exit {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output, line by line.
    pub stdout: Vec<String>,
    /// Standard error, line by line.
    pub stderr: Vec<String>,
}

type Lines = Arc<Mutex<Vec<String>>>;

#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    command: String,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `corral` with these arguments and a clean environment.
    pub(super) fn spawn(args: &[String], home: &Path, env: &[(String, String)]) -> Self {
        let binary = binary();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut command = Command::new(&binary);
        command
            .args(args)
            .env_clear()
            .env("PATH", path)
            .env("HOME", home)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let text = format!("{} {}", binary.display(), args.join(" "));
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {text}: {error}"));
        let (stdout, read_stdout) = capture(child.stdout.take().expect("stdout is piped"));
        let (stderr, read_stderr) = capture(child.stderr.take().expect("stderr is piped"));
        Self {
            child,
            command: text,
            stdout,
            stderr,
            readers: vec![read_stdout, read_stderr],
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn log(&self) -> String {
        lines(&self.stderr).join("\n")
    }

    pub(super) fn stdout(&self) -> Vec<String> {
        lines(&self.stdout)
    }

    /// Command line and output, for failure texts.
    pub(super) fn describe(&self) -> String {
        let stdout = self.stdout().join("\n");
        format!(
            "command: {}\nstdout:\n{stdout}\nstderr:\n{}",
            self.command,
            self.log()
        )
    }

    /// The proxy's and the admin listener's addresses, once both are printed.
    pub(super) async fn ports(&mut self, bound: Duration) -> (SocketAddr, SocketAddr) {
        let mut ports = None;
        let stdout = Arc::clone(&self.stdout);
        let found = wait::holds_within(bound, async || {
            let lines = lines(&stdout);
            ports = port(&lines, "listening on ").zip(port(&lines, "admin on "));
            ports.is_some() || !self.running()
        })
        .await;
        match ports.filter(|_| found) {
            Some(ports) => ports,
            None => panic!(
                "corral printed no ports within {bound:?}\n{}",
                self.describe()
            ),
        }
    }

    pub(super) fn running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // The child is not yet reaped (only `self` does that), so the id is still its own.
        let _ = rustix::process::kill_process(pid.expect("a child's id is positive"), signal);
    }

    pub(super) async fn kill(&mut self) {
        let _ = self.child.kill();
        self.wait(wait::PATIENCE).await;
    }

    pub(super) async fn wait(&mut self, bound: Duration) -> ExitStatus {
        let mut status = None;
        let ended = wait::holds_within(bound, async || {
            status = self
                .child
                .try_wait()
                .expect("our own child can be waited for");
            status.is_some()
        })
        .await;
        assert!(
            ended,
            "corral still runs after {bound:?}\n{}",
            self.describe()
        );
        status.expect("the loop ended with a status")
    }

    /// Waits for the end and collects all output.
    pub(super) async fn end(mut self, bound: Duration) -> Exit {
        let status = self.wait(bound).await;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        Exit {
            code: status.code(),
            stdout: lines(&self.stdout),
            stderr: lines(&self.stderr),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = lines(&self.stderr);
            let tail = log[log.len().saturating_sub(60)..].join("\n");
            // The test runner shows this only for the test that fails.
            #[allow(clippy::print_stderr)]
            {
                eprintln!("--- {}\n{tail}\n---", self.command);
            }
        }
    }
}

fn capture(stream: impl Read + Send + 'static) -> (Lines, JoinHandle<()>) {
    let kept = Lines::default();
    let lines = Arc::clone(&kept);
    let reader = std::thread::spawn(move || {
        // Read to the end even when the bound is reached: a full pipe would block the child.
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            if lines.len() < LINES_MAX {
                lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
        }
    });
    (kept, reader)
}

fn lines(lines: &Lines) -> Vec<String> {
    lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn port(lines: &[String], prefix: &str) -> Option<SocketAddr> {
    let line = lines.iter().find_map(|line| line.strip_prefix(prefix))?;
    line.strip_prefix("http://")?
        .trim_end_matches('/')
        .parse()
        .ok()
}
