//! `OddServer`: speaks enough RESP to be taken for a server, and answers oddly on demand.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::sync::lock;

/// How one command is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Odd {
    /// With these bytes, be they RESP or not.
    Raw(Vec<u8>),
    /// Not at all; the connection stays open.
    Silence,
    /// By closing the connection.
    Close,
}

impl Odd {
    /// Answers with the error `text`, such as `LOADING …`.
    pub fn error(text: &str) -> Self {
        Self::Raw(format!("-{text}\r\n").into_bytes())
    }

    /// Answers with these bytes.
    pub fn raw(text: &str) -> Self {
        Self::Raw(text.as_bytes().to_vec())
    }
}

type Answer = Arc<dyn Fn(&[String]) -> Option<Odd> + Send + Sync>;

/// A server on a free port of 127.0.0.1, without any memory: nothing is ever there, everything can
/// be done. Ends when it is dropped.
pub struct OddServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    calls: HashMap<String, usize>,
}

impl OddServer {
    /// Starts it.
    ///
    /// # Panics
    ///
    /// When there is no free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            // Dropped with the task, which ends all connections.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Answers from now on with what `answer` says to a command and its arguments; as usual where
    /// it says `None`.
    pub fn answer(&self, answer: impl Fn(&[String]) -> Option<Odd> + Send + Sync + 'static) {
        lock(&self.state).answer = Some(Arc::new(answer));
    }

    /// Answers `command` (in capitals) with `odd` from now on, and all else as usual.
    pub fn answer_to(&self, command: &'static str, odd: Odd) {
        self.answer(move |parts| (parts[0] == command).then(|| odd.clone()));
    }

    /// Answers as usual from now on.
    pub fn behave(&self) {
        lock(&self.state).answer = None;
    }

    /// Returns how often `command` (in capitals) came.
    pub fn calls(&self, command: &str) -> usize {
        lock(&self.state).calls.get(command).copied().unwrap_or(0)
    }
}

impl Drop for OddServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for OddServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OddServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufReader::new(stream);
    while let Ok(mut parts) = request(&mut stream).await {
        parts[0].make_ascii_uppercase();
        let answer = {
            let mut state = lock(&state);
            *state.calls.entry(parts[0].clone()).or_default() += 1;
            state.answer.clone()
        };
        let bytes = match answer.and_then(|answer| answer(&parts)) {
            None => usual(&parts),
            Some(Odd::Raw(bytes)) => bytes,
            Some(Odd::Silence) => continue,
            Some(Odd::Close) => return,
        };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Reads one request, an array of strings.
async fn request(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let count = number(stream, '*').await?;
    let mut parts = Vec::new();
    for _ in 0..count {
        let mut part = vec![0; number(stream, '$').await? + 2];
        stream.read_exact(&mut part).await?;
        part.truncate(part.len() - 2);
        parts.push(String::from_utf8_lossy(&part).into_owned());
    }
    if parts.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(parts)
}

async fn number(stream: &mut BufReader<TcpStream>, kind: char) -> io::Result<usize> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let digits = line.trim_end().strip_prefix(kind);
    let number = digits.and_then(|digits| digits.parse().ok());
    number
        .filter(|number| *number < 1 << 24)
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Answers as a server without memory would.
fn usual(parts: &[String]) -> Vec<u8> {
    let answer = match parts[0].as_str() {
        "HELLO" => "%1\r\n$5\r\nproto\r\n:3\r\n".to_owned(),
        "PING" => "+PONG\r\n".to_owned(),
        "INFO" => "$22\r\nvalkey_version:9.9.9\r\n\r\n".to_owned(),
        "EVAL" => ":1\r\n".to_owned(),
        "EVALSHA" => "*4\r\n$-1\r\n:0\r\n$-1\r\n:0\r\n".to_owned(),
        "GET" => "$-1\r\n".to_owned(),
        "SET" if parts.iter().any(|part| part == "GET") => "$-1\r\n".to_owned(),
        "DEL" | "PUBLISH" => ":0\r\n".to_owned(),
        "SUBSCRIBE" => parts[1..]
            .iter()
            .enumerate()
            .map(|(n, channel)| {
                let (bytes, n) = (channel.len(), n + 1);
                format!(">3\r\n$9\r\nsubscribe\r\n${bytes}\r\n{channel}\r\n:{n}\r\n")
            })
            .collect(),
        _ => "+OK\r\n".to_owned(),
    };
    answer.into_bytes()
}
