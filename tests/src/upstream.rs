//! A module proxy that misbehaves on command, served byte by byte over plain TCP.
//!
//! It speaks HTTP/1.1 on a raw socket, because the faults that matter (a reset in the middle of a
//! body, a missing final chunk, a length that lies) are what an HTTP library would prevent. Every
//! path has a [`Path`] handle: script it before the requests come, read its counts afterwards.

mod module;
mod script;
mod wire;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{AbortHandle, JoinSet};

pub use module::{
    FixtureModule, FixtureVersion, build_zip, escape, file_path, incompressible, info_text,
    latest_path, list_path,
};
pub use script::{Answer, Gate, Path};

use script::PathState;

/// Pending connections that the kernel keeps for us; a herd connects at once.
const BACKLOG: u32 = 16_384;

/// Requests that the log keeps; later ones are only counted.
const LOG_MAX: usize = 100_000;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct LoggedRequest {
    /// `GET`, `HEAD`, or whatever was sent.
    pub method: String,
    /// The request target, undecoded.
    pub target: String,
    /// Header fields in order; names in lower case.
    pub headers: Vec<(String, String)>,
}

impl LoggedRequest {
    /// The first value of a header field; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Something that a path delivers when nothing is scripted.
#[derive(Debug, Clone)]
struct Content {
    content_type: String,
    body: Bytes,
}

/// What all paths share for which nothing else is scripted.
#[derive(Debug, Clone, Default)]
struct Weather {
    answer: Option<Answer>,
    latency: Option<Duration>,
}

#[derive(Debug, Default)]
struct Shared {
    contents: RwLock<HashMap<String, Content>>,
    paths: RwLock<HashMap<String, Arc<PathState>>>,
    weather: RwLock<Weather>,
    log: Mutex<Vec<LoggedRequest>>,
    requests: AtomicU64,
    connections: AtomicU64,
}

impl Shared {
    fn state(&self, path: &str) -> Arc<PathState> {
        if let Some(state) = self
            .paths
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
        {
            return Arc::clone(state);
        }
        let mut paths = self.paths.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(paths.entry(path.to_owned()).or_default())
    }

    fn content(&self, path: &str) -> Option<Content> {
        self.contents
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(path)
            .cloned()
    }

    fn weather(&self) -> Weather {
        self.weather
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn record(&self, request: LoggedRequest) {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() < LOG_MAX {
            log.push(request);
        }
    }
}

/// The running upstream; dropping it closes every connection.
///
/// Its tasks run on the runtime that called [`FixtureUpstream::start`]: a bench that measures
/// gives it a runtime of its own.
#[derive(Debug)]
pub struct FixtureUpstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: Mutex<Option<AbortHandle>>,
}

impl FixtureUpstream {
    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    pub async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let (addr, accepting) = listen(([127, 0, 0, 1], 0).into(), &shared);
        Self {
            addr,
            shared,
            accepting: Mutex::new(Some(accepting)),
        }
    }

    /// Starts with these modules.
    pub async fn with(modules: impl IntoIterator<Item = FixtureModule>) -> Self {
        let upstream = Self::start().await;
        for module in modules {
            upstream.add(&module);
        }
        upstream
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:PORT`, as one entry of a GOPROXY list.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Serves a module's files; replaces those of the same paths.
    pub fn add(&self, module: &FixtureModule) {
        for (path, content_type, body) in module.files() {
            self.put(&path, content_type, body);
        }
    }

    /// Serves `body` at `path` (decoded, with a leading slash).
    pub fn put(&self, path: &str, content_type: &str, body: impl Into<Bytes>) {
        let content = Content {
            content_type: content_type.to_owned(),
            body: body.into(),
        };
        let mut contents = self
            .shared
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        contents.insert(path.to_owned(), content);
    }

    /// Stops serving `path`: 404 from now on.
    pub fn remove(&self, path: &str) {
        let mut contents = self
            .shared
            .contents
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        contents.remove(path);
    }

    /// The bytes that `path` delivers.
    ///
    /// # Panics
    ///
    /// When there is no such path: the test asks for something that it did not set up.
    pub fn body(&self, path: &str) -> Bytes {
        let content = self.shared.content(path);
        content
            .unwrap_or_else(|| panic!("the fixture serves nothing at {path}"))
            .body
    }

    /// The handle of one path (decoded, with a leading slash); it need not exist as content.
    pub fn path(&self, path: &str) -> Path {
        Path(self.shared.state(path))
    }

    /// All paths for which nothing is scripted get `answer` from now on; `None` heals.
    pub fn everywhere(&self, answer: Option<Answer>) {
        let mut weather = self
            .shared
            .weather
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        weather.answer = answer;
    }

    /// Waits this long before the headers of each answer, on all paths that have no latency of
    /// their own.
    pub fn latency(&self, latency: Duration) {
        let mut weather = self
            .shared
            .weather
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        weather.latency = Some(latency);
    }

    /// Requests to all paths together.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The requests so far, oldest first (the first 100,000).
    pub fn log(&self) -> Vec<LoggedRequest> {
        self.shared
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops listening and closes every connection: connects are refused until
    /// [`FixtureUpstream::resume`].
    pub fn stop(&self) {
        if let Some(accepting) = &*self.accepting() {
            accepting.abort();
        }
    }

    fn accepting_ended(&self) -> bool {
        let accepting = self.accepting();
        accepting.as_ref().is_none_or(AbortHandle::is_finished)
    }

    fn accepting(&self) -> MutexGuard<'_, Option<AbortHandle>> {
        self.accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens again on the same port.
    ///
    /// # Panics
    ///
    /// When the port was taken meanwhile.
    pub async fn resume(&self) {
        self.stop();
        // On a runtime of its own, what was stopped may take a moment to let the port go.
        let is_gone = async || self.accepting_ended();
        crate::wait::until("the old listener is gone", crate::wait::PATIENCE, is_gone).await;
        let (_, accepting) = listen(self.addr, &self.shared);
        *self.accepting() = Some(accepting);
    }
}

impl Drop for FixtureUpstream {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(addr: SocketAddr, shared: &Arc<Shared>) -> (SocketAddr, AbortHandle) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Without it a resumed upstream could not bind while old connections linger.
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket
        .bind(addr)
        .unwrap_or_else(|error| panic!("cannot bind {addr}: {error}"));
    let listener = socket.listen(BACKLOG).expect("a bound socket can listen");
    let addr = listener
        .local_addr()
        .expect("a bound socket has an address");
    (
        addr,
        tokio::spawn(accept(listener, Arc::clone(shared))).abort_handle(),
    )
}

/// Owns the connections' tasks, so that aborting this task ends them all.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here is the peer's (reset before accept) or a full file table;
                // either way the next one may succeed.
                let Ok((stream, _)) = accepted else { continue };
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let shared = Arc::clone(&shared);
                connections.spawn(async move { wire::serve(stream, &shared).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}
