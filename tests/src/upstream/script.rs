//! What the fixture upstream does with one path: scripted answers, pace, gates and counts.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use crate::wait::{self, PATIENCE};

/// Requests of one path whose beginnings and ends are kept; later ones are only counted.
const INSTANTS_MAX: usize = 1000;

/// An answer that replaces the plain delivery of a path's content.
///
/// Positions count bytes of the body as it travels, without chunk framing.
#[derive(Debug, Clone)]
pub enum Answer {
    /// The content as if nothing were scripted; useful between faults.
    Plain,
    /// This status and text instead of the content.
    Status {
        /// The HTTP status.
        status: u16,
        /// The body, sent as `text/plain`.
        body: String,
        /// Additional header fields.
        headers: Vec<(String, String)>,
    },
    /// Status 200 with another body: a login page, another version's `.info`.
    Body {
        /// The `Content-Type`.
        content_type: String,
        /// The body.
        body: Bytes,
    },
    /// 302 to this location.
    Redirect(String),
    /// The whole content, chunked and without a length.
    Chunked,
    /// The whole content with `Content-Encoding: gzip`, asked for or not.
    Gzip,
    /// The content with one byte in its middle flipped; the length stays right.
    Corrupt,
    /// The full `Content-Length`, and an orderly close after this many bytes.
    TruncateAt(u64),
    /// Chunked, and an orderly close after this many bytes, without the final chunk.
    TruncateChunkedAt(u64),
    /// A connection reset after this many bytes.
    ResetAt(u64),
    /// Silence after this many bytes, until the client leaves.
    StallAt(u64),
    /// A connection reset instead of an answer.
    ResetBeforeHeaders,
    /// An orderly close instead of an answer.
    CloseBeforeHeaders,
    /// No answer at all, until the client leaves.
    Silent,
}

impl Answer {
    /// A status with a text and no further headers.
    pub fn status(status: u16, body: &str) -> Self {
        Self::Status {
            status,
            body: body.to_owned(),
            headers: Vec::new(),
        }
    }

    /// A status with a text and `Retry-After`, in seconds.
    pub fn retry_after(status: u16, body: &str, seconds: u64) -> Self {
        let headers = vec![("Retry-After".to_owned(), seconds.to_string())];
        Self::Status {
            status,
            body: body.to_owned(),
            headers,
        }
    }

    /// An HTML page with status 200, as captive portals send it.
    pub fn html() -> Self {
        Self::Body {
            content_type: "text/html; charset=utf-8".to_owned(),
            body: Bytes::from_static(b"<!doctype html><title>Sign in</title><p>Please sign in.\n"),
        }
    }

    /// Status 200 with this JSON text.
    pub fn json(text: &str) -> Self {
        Self::Body {
            content_type: "application/json".to_owned(),
            body: Bytes::copy_from_slice(text.as_bytes()),
        }
    }
}

/// A point where answers wait until the test lets them go on.
///
/// Clones are handles to the same gate. Once released it stays open.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Arc<watch::Sender<u64>>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub(crate) fn closed() -> Self {
        Self {
            arrived: Arc::new(watch::Sender::new(0)),
            open: Arc::new(watch::Sender::new(false)),
        }
    }

    /// How many answers have come to this gate so far.
    pub fn arrivals(&self) -> u64 {
        *self.arrived.borrow()
    }

    /// Waits until at least `count` answers have come to this gate.
    ///
    /// # Panics
    ///
    /// After [`PATIENCE`].
    pub async fn wait_arrivals(&self, count: u64) {
        let what = format!("{count} answers stand at the gate");
        wait::until(&what, PATIENCE, async || self.arrivals() >= count).await;
    }

    /// Lets everybody through, now and later.
    pub fn release(&self) {
        self.open.send_replace(true);
    }

    pub(crate) async fn pass(&self) {
        self.arrived.send_modify(|count| *count += 1);
        let mut open = self.open.subscribe();
        // The sender lives in `self`, so the channel cannot close meanwhile.
        let _ = open.wait_for(|open| *open).await;
    }
}

/// The scripted behaviour of a path; read once at the start of each request.
#[derive(Debug, Clone, Default)]
pub(crate) struct Script {
    pub(crate) latency: Option<Duration>,
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) headers_gate: Option<Gate>,
    pub(crate) body_gate: Option<(u64, Gate)>,
    pub(crate) extra_headers: Vec<(String, String)>,
    /// A strong validator; with it, ranges of the content are served.
    pub(crate) etag: Option<String>,
    next: VecDeque<Answer>,
    always: Option<Answer>,
}

impl Script {
    /// The answer that this path has for the next request; `None` when nothing is scripted.
    pub(crate) fn take_answer(&mut self) -> Option<Answer> {
        self.next.pop_front().or_else(|| self.always.clone())
    }
}

/// Script and counts of one path.
#[derive(Debug, Default)]
pub(crate) struct PathState {
    script: Mutex<Script>,
    begun: Mutex<Vec<Instant>>,
    ended: Mutex<Vec<Instant>>,
    requests: AtomicU64,
    running: AtomicU64,
    running_max: AtomicU64,
    body_bytes: AtomicU64,
}

impl PathState {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        note_now(&self.begun);
        self.requests.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.running_max.fetch_max(running, Ordering::SeqCst);
        Running(Arc::clone(self))
    }

    pub(crate) fn sent(&self, bytes: u64) {
        self.body_bytes.fetch_add(bytes, Ordering::SeqCst);
    }
}

/// One request in progress; dropping it ends the count.
pub(crate) struct Running(Arc<PathState>);

impl Drop for Running {
    fn drop(&mut self) {
        note_now(&self.0.ended);
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

fn note_now(instants: &Mutex<Vec<Instant>>) {
    let mut instants = instants.lock().unwrap_or_else(PoisonError::into_inner);
    if instants.len() < INSTANTS_MAX {
        instants.push(Instant::now());
    }
}

/// A handle on one path of the fixture: script it, read its counts.
///
/// Scripting takes effect for requests that begin afterwards.
#[derive(Debug, Clone)]
pub struct Path(pub(crate) Arc<PathState>);

impl Path {
    /// Requests (GET and HEAD) that began so far.
    pub fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// When each request began, oldest first (the first 1,000).
    pub fn begun(&self) -> Vec<Instant> {
        self.0
            .begun
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// When each answer ended, whole or not, in the order of the ends (the first 1,000).
    pub fn ended(&self) -> Vec<Instant> {
        self.0
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Requests in progress now.
    pub fn running(&self) -> u64 {
        self.0.running.load(Ordering::SeqCst)
    }

    /// The largest number of requests that were in progress at once.
    pub fn running_max(&self) -> u64 {
        self.0.running_max.load(Ordering::SeqCst)
    }

    /// Body bytes handed to the kernel so far, over all requests.
    pub fn body_bytes_sent(&self) -> u64 {
        self.0.body_bytes.load(Ordering::SeqCst)
    }

    /// Waits this long before the headers of each answer.
    pub fn latency(&self, latency: Duration) -> &Self {
        self.0.script().latency = Some(latency);
        self
    }

    /// Paces each answer's body to this many bytes per second.
    pub fn bytes_per_second(&self, rate: u64) -> &Self {
        self.0.script().bytes_per_second = Some(rate);
        self
    }

    /// Adds a header field to each answer.
    pub fn header(&self, name: &str, value: &str) -> &Self {
        self.0
            .script()
            .extra_headers
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives the content this strong validator (quotes included) and serves ranges of it: a
    /// request with `Range: bytes=N-` gets the rest with 206, unless its `If-Range` names another.
    pub fn etag(&self, etag: &str) -> &Self {
        self.0.script().etag = Some(etag.to_owned());
        self
    }

    /// Answers wait before their headers until the gate is released.
    pub fn hold_headers(&self) -> Gate {
        let gate = Gate::closed();
        self.0.script().headers_gate = Some(gate.clone());
        gate
    }

    /// Answers wait after `bytes` bytes of body until the gate is released.
    pub fn hold_body_at(&self, bytes: u64) -> Gate {
        let gate = Gate::closed();
        self.0.script().body_gate = Some((bytes, gate.clone()));
        gate
    }

    /// The next `times` requests get `answer`, after those that are scripted already.
    pub fn next(&self, times: usize, answer: Answer) -> &Self {
        self.0
            .script()
            .next
            .extend(std::iter::repeat_n(answer, times));
        self
    }

    /// All requests get `answer`, once those of [`Path::next`] are used up.
    pub fn always(&self, answer: Answer) -> &Self {
        self.0.script().always = Some(answer);
        self
    }

    /// Forgets every script and gate of this path (open gates stay open); counts stay.
    pub fn heal(&self) -> &Self {
        *self.0.script() = Script::default();
        self
    }
}
