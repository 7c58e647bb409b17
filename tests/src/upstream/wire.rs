//! HTTP/1.1 on a raw socket: reads requests, writes answers, breaks off where the script says.

use std::io::{self, Write as _};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::script::{Answer, PathState, Script};
use super::{Content, LoggedRequest, Shared};

/// The longest request head that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// The largest piece of a body that is written at once; also the step of paced bodies, so that
/// even 1 GB/s is paced more often than once a millisecond is long.
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// How a body ends early.
#[derive(Clone, Copy)]
enum Break {
    Close,
    Reset,
    Stall,
}

/// An answer ready to be written.
struct Plan {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
    chunked: bool,
    break_at: Option<(u64, Break)>,
}

/// The part of a content that a request asks for.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    of: usize,
}

/// Serves one connection until the client leaves or a script ends it.
pub(super) async fn serve(mut stream: TcpStream, shared: &Shared) {
    // The answers are written in few large writes; waiting for more data only adds latency.
    let _ = stream.set_nodelay(true);
    let mut buffer = BytesMut::with_capacity(4096);
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        if answer(&mut stream, &mut buffer, shared, request)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Reads one request head; `None` when the client left or sent no HTTP.
async fn read_request(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<LoggedRequest> {
    loop {
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.advance(end + 4);
            return parse(&head);
        }
        if buffer.len() > HEAD_BYTES_MAX || stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

fn parse(head: &str) -> Option<LoggedRequest> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    Some(LoggedRequest {
        method,
        target,
        headers,
    })
}

/// Answers one request; an error ends the connection.
async fn answer(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    shared: &Shared,
    request: LoggedRequest,
) -> io::Result<()> {
    let head_only = request.method == "HEAD";
    let close = request
        .header("connection")
        .is_some_and(|v| v.eq_ignore_ascii_case("close"));
    let path = decode(request.target.split('?').next().unwrap_or_default());
    let asked = RangeAsked::by(&request);
    shared.record(request);
    let state = shared.state(&path);
    let running = state.begin();
    let weather = shared.weather();
    let (answer, mut script) = {
        let mut script = state.script();
        (script.take_answer(), script.clone())
    };
    let answer = answer.or(weather.answer).unwrap_or(Answer::Plain);
    script.latency = script.latency.or(weather.latency);

    if let Some(gate) = &script.headers_gate {
        unless_gone(stream, buffer, gate.pass()).await?;
    }
    if let Some(latency) = script.latency {
        unless_gone(stream, buffer, tokio::time::sleep(latency)).await?;
    }
    match answer {
        Answer::ResetBeforeHeaders => return reset(stream),
        Answer::CloseBeforeHeaders => return Err(io::ErrorKind::ConnectionAborted.into()),
        Answer::Silent => {
            return unless_gone(stream, buffer, std::future::pending()).await;
        }
        _ => {}
    }
    let plan = plan(&answer, shared.content(&path), &script, &asked);
    write(stream, buffer, &state, &script, &plan, head_only).await?;
    drop(running);
    if close {
        Err(io::ErrorKind::ConnectionAborted.into())
    } else {
        Ok(())
    }
}

fn plan(answer: &Answer, content: Option<Content>, script: &Script, asked: &RangeAsked) -> Plan {
    let missing = Content {
        content_type: "text/plain; charset=utf-8".to_owned(),
        body: Bytes::from_static(b"not found: the fixture has no such file\n"),
    };
    let mut status = if content.is_some() { 200 } else { 404 };
    let mut content = content.unwrap_or(missing);
    let mut headers = script.extra_headers.clone();
    let (mut chunked, mut break_at) = (false, None);
    if status == 200
        && let Some(etag) = &script.etag
        && is_content(answer)
    {
        headers.push(("ETag".to_owned(), etag.clone()));
        headers.push(("Accept-Ranges".to_owned(), "bytes".to_owned()));
        if let Some(part) = asked.part(etag, content.body.len()) {
            status = 206;
            let range = format!("bytes {}-{}/{}", part.first, part.of - 1, part.of);
            headers.push(("Content-Range".to_owned(), range));
            content.body = content.body.slice(part.first..);
        }
    }
    match answer {
        Answer::Status {
            status: scripted,
            body,
            headers: more,
        } => {
            status = *scripted;
            content.content_type = "text/plain; charset=utf-8".to_owned();
            content.body = Bytes::copy_from_slice(body.as_bytes());
            headers.extend(more.iter().cloned());
        }
        Answer::Body { content_type, body } => {
            status = 200;
            content = Content {
                content_type: content_type.clone(),
                body: body.clone(),
            };
        }
        Answer::Redirect(location) => {
            status = 302;
            content.body = Bytes::new();
            headers.push(("Location".to_owned(), location.clone()));
        }
        Answer::Gzip => {
            content.body = gzip(&content.body);
            headers.push(("Content-Encoding".to_owned(), "gzip".to_owned()));
        }
        Answer::Corrupt => {
            let mut bytes = content.body.to_vec();
            let middle = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(middle) {
                *byte ^= 0x55;
            }
            content.body = bytes.into();
        }
        Answer::Chunked => chunked = true,
        Answer::TruncateChunkedAt(at) => {
            chunked = true;
            break_at = Some((*at, Break::Close));
        }
        Answer::TruncateAt(at) => break_at = Some((*at, Break::Close)),
        Answer::ResetAt(at) => break_at = Some((*at, Break::Reset)),
        Answer::StallAt(at) => break_at = Some((*at, Break::Stall)),
        Answer::Plain
        | Answer::ResetBeforeHeaders
        | Answer::CloseBeforeHeaders
        | Answer::Silent => {}
    }
    headers.push(("Content-Type".to_owned(), content.content_type));
    Plan {
        status,
        headers,
        body: content.body,
        chunked,
        break_at,
    }
}

/// Whether an answer brings the content itself, whole or broken off.
fn is_content(answer: &Answer) -> bool {
    matches!(
        answer,
        Answer::Plain
            | Answer::Chunked
            | Answer::TruncateAt(_)
            | Answer::TruncateChunkedAt(_)
            | Answer::ResetAt(_)
            | Answer::StallAt(_)
    )
}

/// What a request says about ranges; only `bytes=N-` is understood.
struct RangeAsked {
    first: Option<usize>,
    if_range: Option<String>,
}

impl RangeAsked {
    fn by(request: &LoggedRequest) -> Self {
        let first = request.header("range").and_then(|range| {
            range
                .strip_prefix("bytes=")?
                .strip_suffix('-')?
                .parse()
                .ok()
        });
        Self {
            first,
            if_range: request.header("if-range").map(str::to_owned),
        }
    }

    /// The part to send of `len` bytes; `None` for the whole.
    fn part(&self, etag: &str, len: usize) -> Option<Part> {
        let matches = self.if_range.as_deref().is_none_or(|named| named == etag);
        let first = self.first.filter(|first| matches && *first < len)?;
        Some(Part { first, of: len })
    }
}

async fn write(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    state: &PathState,
    script: &Script,
    plan: &Plan,
    head_only: bool,
) -> io::Result<()> {
    let head = head_of(plan);
    if head_only {
        return stream.write_all(&head).await;
    }
    let gated = script.body_gate.as_ref().map(|(at, _)| *at);
    let small = plan.body.len() as u64 <= PIECE_BYTES_MAX;
    if small && !plan.chunked && plan.break_at.is_none() && gated.is_none() {
        // One write for head and body: the common case, and what a fast upstream does.
        let mut all = head;
        all.extend_from_slice(&plan.body);
        stream.write_all(&all).await?;
        state.sent(plan.body.len() as u64);
        return Ok(());
    }
    stream.write_all(&head).await?;

    let len = plan.body.len() as u64;
    let started = Instant::now();
    let mut at = 0;
    loop {
        if let Some((gate_at, gate)) = &script.body_gate
            && at == (*gate_at).min(len)
        {
            unless_gone(stream, buffer, gate.pass()).await?;
        }
        if let Some((break_at, kind)) = plan.break_at
            && at == break_at.min(len)
        {
            return break_off(stream, buffer, kind).await;
        }
        if at == len {
            break;
        }
        let stops = [gated, plan.break_at.map(|(at, _)| at)];
        let next_stop = stops.into_iter().flatten().filter(|stop| *stop > at).min();
        let end = next_stop
            .unwrap_or(len)
            .min(len)
            .min(at + piece_bytes(script));
        let piece = plan.body.slice(at as usize..end as usize);
        if plan.chunked {
            stream
                .write_all(format!("{:x}\r\n", piece.len()).as_bytes())
                .await?;
        }
        stream.write_all(&piece).await?;
        if plan.chunked {
            stream.write_all(b"\r\n").await?;
        }
        state.sent(end - at);
        at = end;
        if let Some(rate) = script.bytes_per_second {
            // Measured from the start, so that late wake-ups do not add up.
            let due = started + Duration::from_secs_f64(at as f64 / rate as f64);
            unless_gone(stream, buffer, tokio::time::sleep_until(due)).await?;
        }
    }
    if plan.chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

/// A paced body goes out in about a hundred pieces a second, a free one in large ones.
fn piece_bytes(script: &Script) -> u64 {
    script.bytes_per_second.map_or(PIECE_BYTES_MAX, |rate| {
        (rate / 100).clamp(1, PIECE_BYTES_MAX)
    })
}

fn head_of(plan: &Plan) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", plan.status, reason(plan.status)).into_bytes();
    let mut line = |name: &str, value: &str| {
        write!(head, "{name}: {value}\r\n").expect("writing to memory does not fail");
    };
    for (name, value) in &plan.headers {
        line(name, value);
    }
    if plan.chunked {
        line("Transfer-Encoding", "chunked");
    } else {
        line("Content-Length", &plan.body.len().to_string());
    }
    head.extend_from_slice(b"\r\n");
    head
}

async fn break_off(stream: &mut TcpStream, buffer: &mut BytesMut, kind: Break) -> io::Result<()> {
    match kind {
        Break::Close => Err(io::ErrorKind::ConnectionAborted.into()),
        Break::Reset => {
            // A reset discards what the peer has not read; give it the bytes that were promised.
            tokio::time::sleep(Duration::from_millis(20)).await;
            reset(stream)
        }
        Break::Stall => unless_gone(stream, buffer, std::future::pending()).await,
    }
}

/// Makes the close that follows a reset instead of an orderly end.
fn reset(stream: &TcpStream) -> io::Result<()> {
    stream.set_zero_linger()?;
    Err(io::ErrorKind::ConnectionReset.into())
}

/// Waits for `event`, but ends with an error when the client closes its side first.
async fn unless_gone<T>(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    event: impl Future<Output = T>,
) -> io::Result<T> {
    tokio::pin!(event);
    loop {
        tokio::select! {
            biased;
            done = &mut event => return Ok(done),
            // Bytes that arrive meanwhile belong to the next request on this connection.
            read = stream.read_buf(buffer) => {
                if read? == 0 {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// Undoes percent-escapes; a broken one stays as it is.
fn decode(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        match hex
            .filter(|_| bytes[at] == b'%')
            .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(body)
        .expect("writing to memory does not fail");
    encoder
        .finish()
        .expect("writing to memory does not fail")
        .into()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        302 => "Found",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        410 => "Gone",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Scripted",
    }
}
