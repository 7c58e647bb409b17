//! The upstream of the cold parts: a small web server of limited bandwidth that counts.
//!
//! It lives in the load generator's process, so that its times and the clients' are of one clock.
//! One thread serves one connection; proxies open few.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Bytes per second that one connection gets at most.
pub const BYTES_PER_SECOND: f64 = 50e6;

/// Pause between a request and its answer's first byte, as a network and a busy upstream have it.
pub const FIRST_BYTE_AFTER: Duration = Duration::from_millis(50);

/// Connections served at once; further ones are closed unanswered.
const CONNECTIONS_MAX: usize = 4096;

/// Bytes written between two looks at the clock: 1.3 ms worth.
const PIECE_BYTES: usize = 64 * 1024;

/// A connection on which nothing is asked for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(120);

/// What happened to one path since the last reset.
#[derive(Debug, Clone, Copy, Default)]
pub struct PathCount {
    /// Requests of any method.
    pub requests: usize,
    /// When the first byte of the first body was handed to the kernel.
    pub first_byte: Option<Instant>,
    /// When the latest request had been read.
    pub last_request: Option<Instant>,
}

#[derive(Debug)]
struct Shared {
    files: HashMap<String, Bytes>,
    counts: Mutex<HashMap<String, PathCount>>,
    open: AtomicUsize,
}

/// A running upstream; its threads end with the process.
#[derive(Debug, Clone)]
pub struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    /// Serves `files` (request target → body) on a port of the loopback device.
    ///
    /// # Errors
    ///
    /// When no port can be opened.
    pub fn start(files: HashMap<String, Bytes>) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            files,
            counts: Mutex::default(),
            open: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { address, shared })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forgets all counts; call it while no request runs.
    pub fn reset(&self) {
        self.shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// The counts of one path since the last reset.
    pub fn count(&self, path: &str) -> PathCount {
        let counts = self
            .shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        counts.get(path).copied().unwrap_or_default()
    }

    /// The counts of every path that was asked for since the last reset, unknown ones included.
    pub fn counts(&self) -> HashMap<String, PathCount> {
        self.shared
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        // A failed accept (out of descriptors) must not spin: wait for something to be closed.
        let Ok(stream) = stream else {
            thread::sleep(Duration::from_millis(10));
            continue;
        };
        if shared.open.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            shared.open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // A client that leaves in the middle is the client's business.
            let _ = serve(&stream, &shared);
            shared.open.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

fn serve(stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_read_timeout(Some(IDLE_MAX))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut words = line.split_ascii_whitespace();
        let head_only = words.next() == Some("HEAD");
        let path = words.next().unwrap_or_default().to_owned();
        let old = words.next() == Some("HTTP/1.0");
        let mut close = old;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let field = line.trim_end().to_ascii_lowercase();
            if field.is_empty() {
                break;
            }
            if let Some(value) = field.strip_prefix("connection:") {
                close = value.trim() == "close" || (old && value.trim() != "keep-alive");
            }
        }
        answer(stream, shared, &path, head_only, close)?;
        if close {
            return Ok(());
        }
    }
}

fn answer(
    mut stream: &TcpStream,
    shared: &Shared,
    path: &str,
    head_only: bool,
    close: bool,
) -> std::io::Result<()> {
    count(shared, path, |count| {
        count.requests += 1;
        count.last_request = Some(Instant::now());
    });
    thread::sleep(FIRST_BYTE_AFTER);
    let connection = if close { "close" } else { "keep-alive" };
    let Some(body) = shared.files.get(path) else {
        let text = format!("not found: {path}\n");
        let head = head("404 Not Found", "text/plain", text.len(), connection);
        stream.write_all(head.as_bytes())?;
        return if head_only {
            Ok(())
        } else {
            stream.write_all(text.as_bytes())
        };
    };
    let head = head("200 OK", content_type(path), body.len(), connection);
    stream.write_all(head.as_bytes())?;
    if head_only {
        return Ok(());
    }
    let start = Instant::now();
    count(shared, path, |count| {
        count.first_byte.get_or_insert(start);
    });
    let mut sent = 0;
    for piece in body.chunks(PIECE_BYTES) {
        stream.write_all(piece)?;
        sent += piece.len();
        let due = start + Duration::from_secs_f64(sent as f64 / BYTES_PER_SECOND);
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() && sent < body.len() {
            thread::sleep(early);
        }
    }
    Ok(())
}

fn count(shared: &Shared, path: &str, change: impl FnOnce(&mut PathCount)) {
    let mut counts = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
    change(counts.entry(path.to_owned()).or_default());
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|p| p.1) {
        Some("info") => "application/json",
        Some("zip") => "application/zip",
        _ => "text/plain; charset=utf-8",
    }
}

fn head(status: &str, content_type: &str, length: usize, connection: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n"
    )
}
