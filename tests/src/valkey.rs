//! A real Valkey (or Redis) server: started on a free port, paused, killed, started again.

mod resp;

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::bench::machine::workspace_root;
use crate::wait;

pub use resp::{Resp, Value, message};

/// The bound on a start and on one command of the harness.
const LIMIT: Duration = Duration::from_secs(10);

/// Ports that are tried: another process may take one between its choice and the start.
const TRIES: usize = 5;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// Valkey.
    Valkey,
    /// Redis.
    Redis,
}

impl Flavor {
    /// Its program, as `scripts/install-tools test` puts it there.
    ///
    /// # Panics
    ///
    /// When it is not there; the text says how to get it.
    pub fn program(self) -> PathBuf {
        let name = match self {
            Self::Valkey => "valkey-server",
            Self::Redis => "redis-server",
        };
        let program = workspace_root().join(".tools/bin").join(name);
        // By its real path, because a program may look for its parts beside itself.
        program
            .canonicalize()
            .unwrap_or_else(|_| panic!("no {name}: run `scripts/install-tools test` first"))
    }
}

/// A running server without persistence; dropping it kills exactly its own process.
#[derive(Debug)]
pub struct Valkey {
    flavor: Flavor,
    args: Vec<String>,
    addr: SocketAddr,
    dir: TempDir,
    child: Option<Child>,
}

impl Valkey {
    /// Starts a Valkey on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When it does not answer within 10 s.
    pub async fn start() -> Self {
        Self::start_as(Flavor::Valkey, &[]).await
    }

    /// Starts this server with these further arguments, for example `--maxmemory 1mb`.
    ///
    /// # Panics
    ///
    /// As [`Valkey::start`].
    pub async fn start_as(flavor: Flavor, args: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("corral-valkey-").tempdir();
        let mut valkey = Self {
            flavor,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            addr: ([127, 0, 0, 1], 0).into(),
            dir: dir.expect("a temporary directory"),
            child: None,
        };
        for _ in 0..TRIES {
            valkey.addr.set_port(free_port());
            if valkey.try_resume().await {
                return valkey;
            }
        }
        panic!("no server within {LIMIT:?}\n{}", valkey.log());
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `redis://127.0.0.1:PORT`, for `--valkey`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Kills it: connections are reset, data is gone, connects are refused until
    /// [`Valkey::resume`].
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, empty.
    ///
    /// # Panics
    ///
    /// When it does not answer within 10 s.
    pub async fn resume(&mut self) {
        assert!(
            self.try_resume().await,
            "no server within {LIMIT:?}\n{}",
            self.log()
        );
    }

    /// Stops its process where it stands: connects succeed, nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after [`Valkey::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends one command on a connection of its own.
    ///
    /// # Panics
    ///
    /// When there is no answer within 10 s, or a refusal.
    pub async fn command(&self, args: &[&str]) -> Value {
        let answer = tokio::time::timeout(LIMIT, async {
            Resp::open(self.addr).await?.command(args).await
        });
        match answer.await {
            Ok(Ok(Value::Error(error))) => panic!("{args:?} was refused: {error}"),
            Ok(Ok(value)) => value,
            Ok(Err(error)) => panic!("{args:?}: {error}"),
            Err(_) => panic!("{args:?} had no answer within {LIMIT:?}"),
        }
    }

    /// All keys that match a pattern, sorted.
    ///
    /// # Panics
    ///
    /// As [`Valkey::command`].
    pub async fn keys(&self, pattern: &str) -> Vec<String> {
        let mut keys = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let answer = self
                .command(&["SCAN", &cursor, "MATCH", pattern, "COUNT", "1000"])
                .await;
            let [next, page] = answer.items() else {
                panic!("SCAN answered {answer:?}");
            };
            keys.extend(
                page.items()
                    .iter()
                    .filter_map(|key| Some(key.text()?.to_owned())),
            );
            cursor = next.text().unwrap_or("0").to_owned();
            if cursor == "0" {
                break;
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    /// The keys that would stay for ever: all that have no TTL.
    ///
    /// # Panics
    ///
    /// As [`Valkey::command`].
    pub async fn keys_without_end(&self) -> Vec<String> {
        let mut endless = Vec::new();
        for key in self.keys("*").await {
            // -1: it exists and has no TTL; -2: it ended meanwhile.
            if self.command(&["PTTL", &key]).await == Value::Int(-1) {
                endless.push(key);
            }
        }
        endless
    }

    /// Watches every command that clients send from now on.
    ///
    /// # Panics
    ///
    /// As [`Valkey::command`].
    pub async fn watch_commands(&self) -> CommandWatch {
        let mut connection = Resp::open(self.addr).await.expect("the server listens");
        let answer = connection.command(&["MONITOR"]).await;
        assert_eq!(answer.expect("an answer"), Value::Text("OK".to_owned()));
        CommandWatch { connection }
    }

    /// The id of its process.
    ///
    /// # Panics
    ///
    /// When it is stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        // The child is not yet reaped (only `self` does that), so the id is still its own.
        let _ = rustix::process::kill_process(pid.expect("a child's id is positive"), signal);
    }

    /// Whether it answers; a process that ends instead (its port was taken) is cleared away.
    async fn try_resume(&mut self) -> bool {
        self.stop();
        self.child = Some(self.spawn());
        let addr = self.addr;
        let mut ended = false;
        wait::holds_within(LIMIT, async || {
            let child = self.child.as_mut().expect("it was just started");
            ended = !matches!(child.try_wait(), Ok(None));
            ended || answers(addr).await
        })
        .await
            && !ended
    }

    fn spawn(&self) -> Child {
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_file());
        let log = log.expect("a file in our own directory");
        let program = self.flavor.program();
        Command::new(&program)
            .args([
                "--port",
                &self.addr.port().to_string(),
                "--bind",
                "127.0.0.1",
            ])
            .args(["--save", "", "--appendonly", "no", "--dir"])
            .arg(self.dir.path())
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("one more descriptor"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()))
    }
}

impl Drop for Valkey {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One command as the server saw it.
#[derive(Debug, Clone)]
pub struct SeenCommand {
    /// The client's end of its connection.
    pub client: SocketAddr,
    /// The command and its arguments as the server quotes them: `"SET" "corral:…" …`.
    pub text: String,
}

/// The commands that clients send, in the order of their arrival; those that a script runs inside
/// the server are left out.
#[derive(Debug)]
pub struct CommandWatch {
    connection: Resp,
}

impl CommandWatch {
    /// The next command.
    ///
    /// # Errors
    ///
    /// When the server is gone.
    pub async fn next(&mut self) -> std::io::Result<SeenCommand> {
        loop {
            let value = self.connection.next().await?;
            if let Some(seen) = value.text().and_then(seen_command) {
                return Ok(seen);
            }
        }
    }

    /// All commands until `bound` has passed without one.
    pub async fn until_quiet(&mut self, bound: Duration) -> Vec<SeenCommand> {
        let mut seen = Vec::new();
        while let Ok(Ok(command)) = tokio::time::timeout(bound, self.next()).await {
            seen.push(command);
        }
        seen
    }
}

/// Reads `1700000000.123456 [0 127.0.0.1:5000] "SET" "key" …`.
fn seen_command(line: &str) -> Option<SeenCommand> {
    let (_, rest) = line.split_once(" [")?;
    let (origin, text) = rest.split_once("] ")?;
    // The address is `lua` for commands that a script runs.
    let client = origin.split_once(' ')?.1.parse().ok()?;
    Some(SeenCommand {
        client,
        text: text.to_owned(),
    })
}

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Panics
///
/// When the system has none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener
        .local_addr()
        .expect("a bound socket has an address")
        .port()
}

async fn answers(addr: SocketAddr) -> bool {
    let Ok(mut connection) = Resp::open(addr).await else {
        return false;
    };
    // A refusal for want of a password is an answer too.
    let answer = tokio::time::timeout(LIMIT, connection.command(&["PING"])).await;
    matches!(answer, Ok(Ok(Value::Text(_))))
        || matches!(answer, Ok(Ok(Value::Error(text))) if !text.starts_with("LOADING"))
}

#[cfg(test)]
mod tests {
    use super::seen_command;

    #[test]
    fn a_watched_line_names_its_client_unless_a_script_ran_it() {
        let line = r#"1700000000.5 [0 127.0.0.1:5000] "SET" "a [b] c" "1""#;
        let seen = seen_command(line).expect("a command");
        assert_eq!(seen.client.port(), 5000);
        assert_eq!(seen.text, r#""SET" "a [b] c" "1""#);
        assert!(seen_command(r#"1700000000.5 [0 lua] "DEL" "a""#).is_none());
        assert!(seen_command("OK").is_none());
    }
}
