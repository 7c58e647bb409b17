//! A raw HTTP/1.1 client that can misbehave, and that tells a whole answer from a cut one.

mod connection;
mod herd;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

pub use connection::{Connection, exchange};
pub use herd::{Outcome, herd, herd_of};

/// How an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Status line, headers and the whole body as announced.
    Complete,
    /// The connection ended first: short of `Content-Length`, no final chunk, a reset.
    Cut(String),
    /// This client left on purpose.
    Left,
    /// The request's time limit passed.
    TimedOut,
}

/// One answer as it was seen on the wire.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status; 0 when no status line came.
    pub status: u16,
    /// Header fields in order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body with chunk framing removed; empty after [`Request::hash_only`].
    pub body: Bytes,
    /// Bytes of body that arrived.
    pub body_bytes: u64,
    /// Hexadecimal SHA-256 of the body bytes that arrived; empty when the body itself is kept.
    pub sha256: String,
    /// Time from sending the request to the first body byte.
    pub first_byte: Option<Duration>,
    /// Time from sending the request to the end.
    pub elapsed: Duration,
    /// How it ended.
    pub ending: Ending,
}

impl Reply {
    /// The first value of a header field; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Whether the whole answer arrived.
    pub fn complete(&self) -> bool {
        self.ending == Ending::Complete
    }

    /// Whether this is a whole 200: what a careless client would believe.
    pub fn whole_success(&self) -> bool {
        self.complete() && self.status == 200
    }

    /// Asserts a whole answer with this status, and returns the reply.
    #[track_caller]
    pub fn expect_status(self, status: u16) -> Self {
        assert!(
            self.complete() && self.status == status,
            "expected a whole {status}, got {} ({:?}): {}",
            self.status,
            self.ending,
            self.text().chars().take(300).collect::<String>()
        );
        self
    }

    /// Asserts a whole 200 with exactly this body.
    #[track_caller]
    pub fn expect_body(self, body: &[u8]) -> Self {
        let reply = self.expect_status(200);
        assert!(
            reply.body == body,
            "expected {} bytes of body, got {} other ones: {:?}",
            body.len(),
            reply.body.len(),
            reply.text().chars().take(200).collect::<String>()
        );
        reply
    }
}

/// What has arrived of one answer so far, for those who watch.
#[derive(Debug, Default)]
pub struct Arrival {
    body_bytes: AtomicU64,
    first_byte_us: AtomicU64,
}

impl Arrival {
    /// Bytes of body.
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Time from sending the request to the first body byte; `None` before it.
    pub fn first_byte(&self) -> Option<Duration> {
        let us = self.first_byte_us.load(Ordering::Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    fn note(&self, body_bytes: u64, first_byte: Duration) {
        let us = u64::try_from(first_byte.as_micros()).unwrap_or(u64::MAX);
        self.first_byte_us.store(us.max(1), Ordering::Relaxed);
        self.body_bytes.store(body_bytes, Ordering::Relaxed);
    }
}

/// A request under construction.
#[derive(Debug, Clone)]
pub struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    http10: bool,
    read_rate: Option<u64>,
    stop_after: Option<u64>,
    keep_body: bool,
    time_limit: Duration,
    arrival: Option<Arc<Arrival>>,
}

impl Request {
    /// `GET target`, sent as given: escape it yourself.
    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// Any method.
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            http10: false,
            read_rate: None,
            stop_after: None,
            keep_body: true,
            time_limit: Duration::from_secs(60),
            arrival: None,
        }
    }

    /// What is asked for.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Adds a header field.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends this body with its length.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Speaks HTTP/1.0: the body may end with the connection.
    pub fn http10(mut self) -> Self {
        self.http10 = true;
        self
    }

    /// Reads at most this many body bytes per second, with a small receive buffer, so that the
    /// server feels it.
    pub fn read_rate(mut self, bytes_per_second: u64) -> Self {
        self.read_rate = Some(bytes_per_second);
        self
    }

    /// Hangs up once this many body bytes have arrived (0: once the headers have).
    pub fn stop_after(mut self, body_bytes: u64) -> Self {
        self.stop_after = Some(body_bytes);
        self
    }

    /// Keeps only length and hash of the body, for many large answers at once.
    pub fn hash_only(mut self) -> Self {
        self.keep_body = false;
        self
    }

    /// The time from sending to the end of the answer; default 60 s.
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = limit;
        self
    }

    /// Lets `arrival` be told of every piece of the answer's body.
    pub fn watched(mut self, arrival: &Arc<Arrival>) -> Self {
        self.arrival = Some(Arc::clone(arrival));
        self
    }

    /// Sends on a connection of its own. Trouble is reported in [`Reply::ending`].
    pub async fn send(&self, addr: SocketAddr) -> Reply {
        match Connection::open_for(addr, self).await {
            Ok(mut connection) => connection.send(self).await,
            Err(error) => Reply::cut(format!("cannot connect: {error}")),
        }
    }
}

/// `GET target`, whole body kept.
pub async fn get(addr: SocketAddr, target: &str) -> Reply {
    Request::get(target).send(addr).await
}

/// Hexadecimal SHA-256.
pub fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    hex(&sha2::Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
