//! One connection: writes requests, reads answers, paces, breaks off.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use sha2::Digest as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{Arrival, Ending, Reply, Request, hex};

/// The receive buffer of a slow reader; the kernel doubles it.
const SLOW_RECEIVE_BYTES: u32 = 4096;

/// Time that a connect may take; the target is on this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// An open connection to one server, for keep-alive and pipelining.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    ///
    /// What the system says; also when 20 s pass.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::connect(addr, None).await
    }

    pub(super) async fn open_for(addr: SocketAddr, request: &Request) -> io::Result<Self> {
        Self::connect(addr, request.read_rate.map(|_| SLOW_RECEIVE_BYTES)).await
    }

    async fn connect(addr: SocketAddr, receive_bytes: Option<u32>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let stream = tokio::time::timeout(CONNECT_LIMIT, socket.connect(addr)).await??;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// Writes exactly these bytes.
    ///
    /// # Errors
    ///
    /// When the server closed the connection.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Sends a request and reads its answer.
    pub async fn send(&mut self, request: &Request) -> Reply {
        let mut reply = Reply::cut("no answer".to_owned());
        let bytes = request.bytes();
        let started = Instant::now();
        let work = async {
            // A server that answers early (405, 431) may reset the rest of a request; its answer
            // counts all the same.
            let _ = self.write(&bytes).await;
            self.read_into(&mut reply, request, started).await
        };
        let ending = tokio::time::timeout(request.time_limit, work).await;
        reply.ending = match ending {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => Ending::Cut(error.to_string()),
            Err(_) => Ending::TimedOut,
        };
        reply.elapsed = started.elapsed();
        reply
    }

    /// Reads one answer to a request that was written with [`Connection::write`].
    pub async fn read_reply(&mut self, request: &Request) -> Reply {
        let mut reply = Reply::cut("no answer".to_owned());
        let started = Instant::now();
        let work = self.read_into(&mut reply, request, started);
        reply.ending = match tokio::time::timeout(request.time_limit, work).await {
            Ok(Ok(ending)) => ending,
            Ok(Err(error)) => Ending::Cut(error.to_string()),
            Err(_) => Ending::TimedOut,
        };
        reply.elapsed = started.elapsed();
        reply
    }

    /// Ends the connection as a process does that dies with input unread: by a reset.
    pub fn reset(self) {
        // Then closing it is one.
        let _ = self.stream.set_zero_linger();
    }

    /// Whether the server closes the connection within `bound`, sending nothing more.
    pub async fn closed_within(&mut self, bound: Duration) -> bool {
        let read = tokio::time::timeout(bound, self.stream.read_buf(&mut self.buffer)).await;
        self.buffer.is_empty() && matches!(read, Ok(Ok(0) | Err(_)))
    }

    async fn read_into(
        &mut self,
        reply: &mut Reply,
        request: &Request,
        started: Instant,
    ) -> io::Result<Ending> {
        loop {
            let head = self.read_head().await?;
            parse_head(&head, reply)?;
            // Interim answers (100 Continue) precede the real one.
            if reply.status >= 200 {
                break;
            }
        }
        let mut sink = Sink::new(request, started);
        let ending = self.read_body(reply, request, &mut sink).await;
        reply.body_bytes = sink.len;
        reply.first_byte = sink.first_byte;
        if !request.keep_body {
            reply.sha256 = hex(&sink.hash.finalize());
        }
        reply.body = sink.kept.freeze();
        ending
    }

    async fn read_head(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self
                .buffer
                .windows(4)
                .position(|window| window == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 4);
                return Ok(head);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("closed before the end of the headers"));
            }
        }
    }

    async fn read_body(
        &mut self,
        reply: &Reply,
        request: &Request,
        sink: &mut Sink,
    ) -> io::Result<Ending> {
        if request.method == "HEAD" || reply.status == 204 || reply.status == 304 {
            return Ok(Ending::Complete);
        }
        if reply
            .header("transfer-encoding")
            .is_some_and(|v| v.eq_ignore_ascii_case("chunked"))
        {
            return self.read_chunks(sink).await;
        }
        let Some(length) = reply.header("content-length") else {
            return self.read_to_end(sink).await;
        };
        let length: u64 = length
            .parse()
            .map_err(|_| io::Error::other("bad Content-Length"))?;
        self.read_exactly(length, sink).await
    }

    /// Moves `count` bytes into the sink.
    async fn read_exactly(&mut self, count: u64, sink: &mut Sink) -> io::Result<Ending> {
        let mut left = count;
        loop {
            if sink.wants_to_leave() {
                return Ok(Ending::Left);
            }
            if left == 0 {
                return Ok(Ending::Complete);
            }
            if self.buffer.is_empty() && self.read_some(sink).await? == 0 {
                return Ok(Ending::Cut(format!(
                    "closed {left} of {count} bytes too early"
                )));
            }
            let take = left.min(self.buffer.len() as u64).min(sink.piece_max());
            sink.take(&self.buffer.split_to(take as usize)).await;
            left -= take;
        }
    }

    async fn read_to_end(&mut self, sink: &mut Sink) -> io::Result<Ending> {
        loop {
            if sink.wants_to_leave() {
                return Ok(Ending::Left);
            }
            if self.buffer.is_empty() && self.read_some(sink).await? == 0 {
                return Ok(Ending::Complete);
            }
            let take = (self.buffer.len() as u64).min(sink.piece_max());
            sink.take(&self.buffer.split_to(take as usize)).await;
        }
    }

    async fn read_chunks(&mut self, sink: &mut Sink) -> io::Result<Ending> {
        loop {
            let line = self.read_line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16)
                .map_err(|_| io::Error::other(format!("bad chunk size {line:?}")))?;
            if size == 0 {
                // Trailer fields, if any, end with an empty line.
                while !self.read_line().await?.is_empty() {}
                return Ok(Ending::Complete);
            }
            let ending = self.read_exactly(size, sink).await?;
            if ending != Ending::Complete {
                return Ok(ending);
            }
            if !self.read_line().await?.is_empty() {
                return Err(io::Error::other("a chunk is longer than announced"));
            }
        }
    }

    async fn read_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.advance(end + 2);
                return Ok(line);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("closed without the final chunk"));
            }
        }
    }

    async fn read_some(&mut self, sink: &Sink) -> io::Result<usize> {
        let piece = sink.piece_max().min(64 * 1024) as usize;
        self.buffer.reserve(piece);
        (&mut self.stream)
            .take(piece as u64)
            .read_buf(&mut self.buffer)
            .await
    }
}

/// Where body bytes go: hash, optional copy, pace, and the wish to leave.
struct Sink {
    started: Instant,
    body_started: Option<Instant>,
    first_byte: Option<Duration>,
    hash: sha2::Sha256,
    kept: BytesMut,
    keep: bool,
    len: u64,
    read_rate: Option<u64>,
    stop_after: Option<u64>,
    arrival: Option<Arc<Arrival>>,
}

impl Sink {
    fn new(request: &Request, started: Instant) -> Self {
        Self {
            started,
            body_started: None,
            first_byte: None,
            hash: sha2::Sha256::new(),
            kept: BytesMut::new(),
            keep: request.keep_body,
            len: 0,
            read_rate: request.read_rate,
            stop_after: request.stop_after,
            arrival: request.arrival.clone(),
        }
    }

    fn wants_to_leave(&self) -> bool {
        self.stop_after.is_some_and(|stop| self.len >= stop)
    }

    /// A slow reader takes its bytes in tenths of a second.
    fn piece_max(&self) -> u64 {
        let paced = self.read_rate.map_or(u64::MAX, |rate| (rate / 10).max(1));
        let until_stop = self
            .stop_after
            .map_or(u64::MAX, |stop| (stop - self.len).max(1));
        paced.min(until_stop)
    }

    async fn take(&mut self, bytes: &[u8]) {
        let first_byte = *self
            .first_byte
            .get_or_insert_with(|| self.started.elapsed());
        let body_started = *self.body_started.get_or_insert_with(Instant::now);
        // One of the two is enough to tell, and a debug build hashes slowly.
        if self.keep {
            self.kept.extend_from_slice(bytes);
        } else {
            self.hash.update(bytes);
        }
        self.len += bytes.len() as u64;
        if let Some(arrival) = &self.arrival {
            arrival.note(self.len, first_byte);
        }
        if let Some(rate) = self.read_rate {
            let due = body_started + Duration::from_secs_f64(self.len as f64 / rate as f64);
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

impl Request {
    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!("{} {} HTTP/{version}\r\n", self.method, self.target);
        let has = |name: &str| self.headers.iter().any(|(known, _)| known == name);
        if !has("Host") && !self.http10 {
            head.push_str("Host: 127.0.0.1\r\n");
        }
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.body.is_empty() {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

impl Reply {
    pub(super) fn cut(reason: String) -> Self {
        Self {
            status: 0,
            headers: Vec::new(),
            body: Bytes::new(),
            body_bytes: 0,
            sha256: String::new(),
            first_byte: None,
            elapsed: Duration::ZERO,
            ending: Ending::Cut(reason),
        }
    }
}

fn parse_head(head: &str, reply: &mut Reply) -> io::Result<()> {
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    reply.status = status.ok_or_else(|| io::Error::other(format!("bad status line {first:?}")))?;
    reply.headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(())
}

/// Sends exactly these bytes on a new connection and returns all that comes back until the server
/// closes or `bound` passes.
pub async fn exchange(addr: SocketAddr, bytes: &[u8], bound: Duration) -> Vec<u8> {
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(bound, async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(bytes).await?;
        stream.read_to_end(&mut answer).await
    })
    .await;
    answer
}
