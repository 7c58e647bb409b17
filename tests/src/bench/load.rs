//! The load generator: one thread, readiness events, and as little work per byte as the kernel
//! allows.
//!
//! It shares the machine with what it measures, so bodies are dropped inside the kernel unless a
//! connection is told to check them. All connections are opened before the first request.

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::net::RecvFlags;
use sha2::{Digest, Sha256};

use super::content::File;

/// Connections that may be on their way at once: fewer than any server's backlog.
const CONNECTING_MAX: usize = 256;

/// Bytes that one connection may take before the others have their turn.
const TURN_BYTES: usize = 1 << 20;

/// An answer's head may be this long.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Something to ask for, and what must come back.
#[derive(Debug, Clone)]
pub struct Target {
    request: Vec<u8>,
    /// Request target.
    pub path: String,
    /// Length of the body.
    pub length: u64,
    sha256: [u8; 32],
}

impl Target {
    /// A `GET` of `file`.
    pub fn get(file: &File) -> Self {
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: proxy.example.com\r\nUser-Agent: Go-http-client/1.1\r\n\r\n",
            file.path
        );
        Self {
            request: request.into_bytes(),
            path: file.path.clone(),
            length: file.body.len() as u64,
            sha256: file.sha256,
        }
    }
}

/// One answered (or failed) request.
#[derive(Debug)]
pub struct Answer {
    /// Which connection, counted from 0.
    pub connection: usize,
    /// Which target.
    pub target: usize,
    /// When the request was handed to the kernel.
    pub sent: Instant,
    /// When the first byte of the body was seen.
    pub first_byte: Option<Instant>,
    /// When the last byte was seen, or the failure noticed.
    pub done: Instant,
    /// Why it failed; `None` when status and length (and content, where checked) were right.
    pub failure: Option<String>,
}

/// What a connection does next, and what becomes of the answers.
pub trait Script {
    /// The target that `connection` asks for after `done` answers; `None` ends its work.
    fn next(&mut self, connection: usize, done: usize) -> Option<usize>;
    /// Whether the content of this connection's answers is checked, which costs CPU time.
    fn checks(&self, connection: usize) -> bool;
    /// Takes an answer.
    fn answer(&mut self, answer: Answer);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Idle,
    Head,
    Body { left: u64 },
    Closed,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    phase: Phase,
    done: usize,
    target: usize,
    sent: Instant,
    first_byte: Option<Instant>,
    head: Vec<u8>,
    hash: Option<Sha256>,
}

/// Open connections to one server.
#[derive(Debug)]
pub struct Load {
    poll: Poll,
    connections: Vec<Connection>,
    buffer: Vec<u8>,
}

impl Load {
    /// Opens `count` connections and waits until all are established.
    ///
    /// # Errors
    ///
    /// When a connection is refused, or not all are open after `patience`.
    pub fn connect(address: SocketAddr, count: usize, patience: Duration) -> anyhow::Result<Self> {
        Self::connect_to(&[address], count, patience)
    }

    /// As [`Load::connect`], `each` connections to every one of these servers: the first
    /// server's connections come first, and so on.
    ///
    /// # Errors
    ///
    /// As [`Load::connect`].
    pub fn connect_to(
        servers: &[SocketAddr],
        each: usize,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        let count = each * servers.len();
        let mut poll = Poll::new().context("open an event queue")?;
        let mut events = Events::with_capacity(CONNECTING_MAX);
        let mut connections: Vec<Connection> = Vec::with_capacity(count);
        let mut established = 0;
        let give_up = Instant::now() + patience;
        while established < count {
            while connections.len() < count && connections.len() - established < CONNECTING_MAX {
                let address = servers[connections.len() / each];
                let mut stream = TcpStream::connect(address).context("open a connection")?;
                let token = Token(connections.len());
                poll.registry()
                    .register(&mut stream, token, Interest::WRITABLE)?;
                connections.push(Connection::new(stream));
            }
            let left = give_up.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero(),
                "{established} of {count} connections after {patience:?}"
            );
            wait(&mut poll, &mut events, left)?;
            for event in &events {
                let connection = &mut connections[event.token().0];
                if connection.phase != Phase::Connecting {
                    continue;
                }
                if let Some(error) = connection.stream.take_error()? {
                    let address = servers[event.token().0 / each];
                    bail!("connect to {address}: {error}");
                }
                connection.stream.set_nodelay(true)?;
                let registry = poll.registry();
                registry.reregister(&mut connection.stream, event.token(), Interest::READABLE)?;
                connection.phase = Phase::Idle;
                established += 1;
            }
        }
        Ok(Self {
            poll,
            connections,
            buffer: vec![0; TURN_BYTES],
        })
    }

    /// Sends every connection's first request at once and goes on until the script ends.
    ///
    /// Requests that are unanswered after `patience` are failed. Returns the time from the first
    /// request to the last answer.
    ///
    /// # Errors
    ///
    /// When the event queue fails; a failing connection is an answer, not an error.
    pub fn run(
        &mut self,
        targets: &[Target],
        script: &mut dyn Script,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let start = Instant::now();
        let give_up = start + patience;
        let mut busy = 0;
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            connection.done = 0;
            busy += usize::from(connection.ask(index, targets, script));
        }
        let mut events = Events::with_capacity(1024);
        let (mut ready, mut next_ready) = (Vec::new(), Vec::new());
        while busy > 0 {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let pause = if ready.is_empty() {
                left
            } else {
                Duration::ZERO
            };
            wait(&mut self.poll, &mut events, pause)?;
            let waiting = std::mem::take(&mut ready);
            for index in waiting
                .into_iter()
                .chain(events.iter().map(|event| event.token().0))
            {
                let connection = &mut self.connections[index];
                match connection.read(index, targets, script, &mut self.buffer) {
                    Turn::Waits => {}
                    Turn::More => next_ready.push(index),
                    Turn::Ended => busy -= 1,
                }
            }
            std::mem::swap(&mut ready, &mut next_ready);
        }
        for (index, connection) in self.connections.iter_mut().enumerate() {
            if !matches!(connection.phase, Phase::Idle | Phase::Closed) {
                connection.fail(
                    index,
                    script,
                    format!("no complete answer after {patience:?}"),
                );
            }
        }
        Ok(start.elapsed())
    }
}

enum Turn {
    Waits,
    More,
    Ended,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            phase: Phase::Connecting,
            done: 0,
            target: 0,
            sent: Instant::now(),
            first_byte: None,
            head: Vec::new(),
            hash: None,
        }
    }

    /// Sends the next request; says whether there is an answer to wait for.
    fn ask(&mut self, index: usize, targets: &[Target], script: &mut dyn Script) -> bool {
        if self.phase == Phase::Closed {
            return false;
        }
        let Some(target) = script.next(index, self.done) else {
            self.phase = Phase::Idle;
            return false;
        };
        self.target = target;
        self.first_byte = None;
        self.head.clear();
        self.hash = script.checks(index).then(Sha256::new);
        self.sent = Instant::now();
        self.phase = Phase::Head;
        // A request is far smaller than an idle connection's send buffer, so one write takes it.
        match self.stream.write(&targets[target].request) {
            Ok(n) if n == targets[target].request.len() => true,
            Ok(n) => {
                self.fail(
                    index,
                    script,
                    format!("only {n} bytes of the request were taken"),
                );
                false
            }
            Err(error) => {
                self.fail(index, script, format!("send: {error}"));
                false
            }
        }
    }

    fn read(
        &mut self,
        index: usize,
        targets: &[Target],
        script: &mut dyn Script,
        buffer: &mut [u8],
    ) -> Turn {
        let mut taken = 0;
        loop {
            if matches!(self.phase, Phase::Idle | Phase::Closed) {
                return Turn::Waits;
            }
            if taken >= TURN_BYTES {
                return Turn::More;
            }
            let got = match self.phase {
                Phase::Body { left } if self.hash.is_none() => {
                    let want = usize::try_from(left).map_or(buffer.len(), |l| l.min(buffer.len()));
                    // TRUNC drops the bytes inside the kernel: nothing is copied to us.
                    rustix::net::recv(&self.stream, &mut buffer[..want], RecvFlags::TRUNC)
                        .map(|(_, dropped)| dropped)
                        .map_err(std::io::Error::from)
                }
                _ => self.stream.read(buffer),
            };
            let count = match got {
                Ok(0) => {
                    self.fail(index, script, format!("closed in {:?}", self.phase));
                    return Turn::Ended;
                }
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Waits,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    self.fail(index, script, format!("receive: {error}"));
                    return Turn::Ended;
                }
            };
            taken += count;
            match self.take(&buffer[..count], count, &targets[self.target]) {
                Ok(false) => {}
                Ok(true) => {
                    self.done += 1;
                    script.answer(self.answer(index, None));
                    // The next answer's arrival is a new event, so there is no read to try now.
                    return if self.ask(index, targets, script) {
                        Turn::Waits
                    } else {
                        Turn::Ended
                    };
                }
                Err(failure) => {
                    self.fail(index, script, failure);
                    return Turn::Ended;
                }
            }
        }
    }

    /// Takes received bytes; says whether the answer is complete.
    fn take(&mut self, bytes: &[u8], count: usize, target: &Target) -> Result<bool, String> {
        let (mut left, body_count, body) = match self.phase {
            Phase::Body { left } => (left, count, bytes),
            _ => {
                let before = self.head.len();
                // The usual case is a head that arrives whole: it is then parsed where it lies.
                let end = if before == 0 {
                    end_of_head(bytes)
                } else {
                    self.head.extend_from_slice(bytes);
                    end_of_head(&self.head)
                };
                let Some(end) = end else {
                    if before == 0 {
                        self.head.extend_from_slice(bytes);
                    }
                    if self.head.len() > HEAD_BYTES_MAX {
                        return Err(format!("a head of more than {HEAD_BYTES_MAX} bytes"));
                    }
                    return Ok(false);
                };
                let head = if before == 0 {
                    &bytes[..end]
                } else {
                    &self.head[..end]
                };
                let length = content_length(head)?;
                if length != target.length {
                    return Err(format!(
                        "Content-Length {length} instead of {}",
                        target.length
                    ));
                }
                let body = &bytes[end - before..];
                (length, body.len(), body)
            }
        };
        if body_count > 0 && self.first_byte.is_none() {
            self.first_byte = Some(Instant::now());
        }
        if let Some(hash) = &mut self.hash {
            hash.update(body);
        }
        left = left
            .checked_sub(body_count as u64)
            .ok_or("more bytes than announced")?;
        self.phase = Phase::Body { left };
        if left > 0 {
            return Ok(false);
        }
        if let Some(hash) = self.hash.take()
            && hash.finalize()[..] != target.sha256
        {
            return Err("the content differs from the upstream's".to_owned());
        }
        Ok(true)
    }

    fn fail(&mut self, index: usize, script: &mut dyn Script, failure: String) {
        script.answer(self.answer(index, Some(failure)));
        self.phase = Phase::Closed;
    }

    fn answer(&self, connection: usize, failure: Option<String>) -> Answer {
        let Self {
            target,
            sent,
            first_byte,
            ..
        } = *self;
        Answer {
            connection,
            target,
            sent,
            first_byte,
            done: Instant::now(),
            failure,
        }
    }
}

fn wait(poll: &mut Poll, events: &mut Events, pause: Duration) -> anyhow::Result<()> {
    match poll.poll(events, Some(pause)) {
        Err(error) if error.kind() != ErrorKind::Interrupted => {
            Err(error).context("wait for events")
        }
        _ => Ok(()),
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// Reads status and length; anything but a 200 of known length is a failure.
fn content_length(head: &[u8]) -> Result<u64, String> {
    let text = std::str::from_utf8(head).map_err(|_| "a head that is no text".to_owned())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("status line {status:?}"));
    }
    let value = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim())
    });
    let value = value.ok_or("an answer without Content-Length")?;
    value
        .parse()
        .map_err(|_| format!("Content-Length {value:?}"))
}

/// Lets this process (and its children) open as many files as the system allows.
///
/// Returns the limit that is now in force.
pub fn raise_file_limit(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let have = getrlimit(Resource::Nofile);
    let lift = |maximum: Option<u64>| {
        let limit = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, limit).is_ok()
    };
    // Only a privileged process may lift the hard limit; the others get all of it.
    if have.maximum.is_some_and(|m| m < wanted) && lift(Some(wanted)) {
        return wanted;
    }
    lift(have.maximum);
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::bench::content::Module;
    use crate::bench::origin::Origin;

    /// Three connections: one checks, one does not, one asks for what is not there.
    #[derive(Default)]
    struct Three {
        answers: Vec<Answer>,
    }

    impl Script for Three {
        fn next(&mut self, connection: usize, done: usize) -> Option<usize> {
            let lists: [&[usize]; 3] = [&[0, 1, 0], &[1, 0], &[2]];
            lists[connection].get(done).copied()
        }

        fn checks(&self, connection: usize) -> bool {
            connection == 0
        }

        fn answer(&mut self, answer: Answer) {
            self.answers.push(answer);
        }
    }

    fn run(origin: &Origin, targets: &[Target]) -> Vec<Answer> {
        let patience = Duration::from_secs(20);
        let mut load = Load::connect(origin.address(), 3, patience).expect("connections");
        let mut script = Three::default();
        load.run(targets, &mut script, patience).expect("a run");
        script.answers
    }

    #[test]
    fn answers_are_timed_and_wrong_ones_are_failures() {
        let module = Module::new("a/b", 300_000).expect("a module");
        let strange = Module::new("a/c", 300_000).expect("a module");
        let files = module.files().map(|f| (f.path.clone(), f.body.clone()));
        let origin = Origin::start(HashMap::from(files)).expect("an upstream");
        let mut targets: Vec<Target> = [&module.zip, &module.info, &strange.zip]
            .map(Target::get)
            .into();

        let good = run(&origin, &targets);
        assert_eq!(good.len(), 6, "every request has one answer");
        for answer in &good {
            assert_eq!(answer.failure.is_some(), answer.target == 2, "{answer:?}");
            assert!(
                answer
                    .first_byte
                    .is_none_or(|at| at >= answer.sent && at <= answer.done)
            );
        }
        let counts = origin.counts();
        assert_eq!(counts[&module.zip.path].requests, 3);
        assert!(counts[&module.zip.path].first_byte.is_some());
        assert!(counts[&strange.zip.path].first_byte.is_none());

        // Only the connection that checks can see that the bytes are others.
        targets[0].sha256 = targets[2].sha256;
        let wrong = run(&origin, &targets);
        let failed = |connection, target| {
            wrong
                .iter()
                .any(|a| (a.connection, a.target) == (connection, target) && a.failure.is_some())
        };
        assert!(failed(0, 0) && !failed(1, 0));
        targets[1].length += 1;
        assert!(
            run(&origin, &targets)
                .iter()
                .all(|a| a.target != 1 || a.failure.is_some())
        );
    }

    #[test]
    fn an_answer_needs_a_good_status_and_a_length() {
        let of = |text: &str| content_length(text.as_bytes());
        assert_eq!(of("HTTP/1.1 200 OK\r\ncontent-LENGTH: 7\r\n\r\n"), Ok(7));
        assert!(of("HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\n").is_err());
        assert!(of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(of("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").is_err());
    }
}
