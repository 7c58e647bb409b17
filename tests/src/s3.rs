//! A real S3 protocol server over a folder, with faults in front of it.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{AbortHandle, JoinSet};

use crate::upstream::Gate;

/// The key pair that the server accepts.
const KEY: (&str, &str) = ("corral-test-key", "corral-test-secret");

/// The one bucket.
const BUCKET: &str = "modules";

/// What happens to a write (PUT, POST, DELETE of an object) before the real server sees it.
#[derive(Debug, Clone)]
pub enum WriteFault {
    /// Refused with this status and S3 error code; nothing is written.
    Refuse(u16, String),
    /// Written, but the answer never arrives: the connection is closed instead.
    LoseAnswer,
    /// Waits at the gate, then goes on.
    Hold(Gate),
}

#[derive(Default)]
struct Faults {
    next: Vec<WriteFault>,
    always: Option<WriteFault>,
}

struct Shared {
    service: S3Service,
    faults: Mutex<Faults>,
    writes: AtomicU64,
    requests: AtomicU64,
}

/// The running server; dropping it closes every connection and deletes its folder.
pub struct S3Server {
    addr: SocketAddr,
    root: TempDir,
    shared: Arc<Shared>,
    accepting: Mutex<Option<AbortHandle>>,
}

impl S3Server {
    /// Listens on a free port of 127.0.0.1 with one empty bucket.
    ///
    /// # Panics
    ///
    /// When the folder or the port cannot be had.
    pub async fn start() -> Self {
        let root = tempfile::Builder::new().prefix("corral-s3-").tempdir();
        let root = root.expect("a temporary directory");
        std::fs::create_dir(root.path().join(BUCKET)).expect("a fresh directory takes a folder");
        let files = FileSystem::new(root.path()).expect("the folder exists");
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(KEY.0, KEY.1));
        let shared = Arc::new(Shared {
            service: builder.build(),
            faults: Mutex::default(),
            writes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
        });
        let (addr, accepting) = listen(([127, 0, 0, 1], 0).into(), &shared);
        Self {
            addr,
            root,
            shared,
            accepting: Mutex::new(Some(accepting)),
        }
    }

    /// The value for `--storage`.
    pub fn storage_url(&self) -> String {
        format!("s3://{BUCKET}")
    }

    /// The address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The environment variables that lead an S3 client here.
    pub fn env(&self) -> [(&'static str, String); 6] {
        self.env_through(self.addr)
    }

    /// As [`S3Server::env`], by way of a link.
    pub fn env_through(&self, link: SocketAddr) -> [(&'static str, String); 6] {
        let endpoint = format!("http://{link}");
        [
            ("AWS_ENDPOINT", endpoint.clone()),
            ("AWS_ENDPOINT_URL", endpoint),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.0.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.1.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }

    /// The folder that holds the bucket's objects as files.
    pub fn bucket_dir(&self) -> PathBuf {
        self.root.path().join(BUCKET)
    }

    /// Whether the object of a request path holds exactly these bytes.
    pub fn holds(&self, request_path: &str, bytes: &[u8]) -> bool {
        let file = self
            .bucket_dir()
            .join(Path::new(request_path.trim_start_matches('/')));
        std::fs::read(file).is_ok_and(|stored| stored == bytes)
    }

    /// Writes that arrived so far.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::SeqCst)
    }

    /// Requests that arrived so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// The next `times` writes meet this fault.
    pub fn next_writes(&self, times: usize, fault: WriteFault) {
        let mut faults = self
            .shared
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        faults.next.extend(std::iter::repeat_n(fault, times));
    }

    /// All writes meet this fault; `None` heals.
    pub fn all_writes(&self, fault: Option<WriteFault>) {
        self.shared
            .faults
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .always = fault;
    }

    /// All writes wait until the gate is released.
    pub fn hold_writes(&self) -> Gate {
        let gate = Gate::closed();
        self.all_writes(Some(WriteFault::Hold(gate.clone())));
        gate
    }

    /// Refuses connections until [`S3Server::resume`].
    pub fn stop(&self) {
        let accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(accepting) = accepting {
            accepting.abort();
        }
    }

    /// Listens again on the same port.
    ///
    /// # Panics
    ///
    /// When the port was taken meanwhile.
    pub async fn resume(&self) {
        self.stop();
        let (_, accepting) = listen(self.addr, &self.shared);
        *self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(accepting);
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(addr: SocketAddr, shared: &Arc<Shared>) -> (SocketAddr, AbortHandle) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket
        .bind(addr)
        .unwrap_or_else(|error| panic!("cannot bind {addr}: {error}"));
    let listener = socket.listen(1024).expect("a bound socket can listen");
    let addr = listener
        .local_addr()
        .expect("a bound socket has an address");
    (
        addr,
        tokio::spawn(accept(listener, Arc::clone(shared))).abort_handle(),
    )
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let connection = hyper::server::conn::http1::Builder::new();
                    // An error here is a client that left or an answer that was lost on purpose.
                    let _ = connection.serve_connection(TokioIo::new(stream), service).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<s3s::Body>, LostAnswer>> + Send>>;

/// Makes hyper close the connection without an answer.
#[derive(Debug)]
struct LostAnswer;

impl std::fmt::Display for LostAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the answer is lost on purpose")
    }
}

impl std::error::Error for LostAnswer {}

fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Answer {
    Box::pin(async move {
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let writes = matches!(
            *request.method(),
            Method::PUT | Method::POST | Method::DELETE
        );
        let fault = writes.then(|| take_fault(&shared)).flatten();
        match fault {
            Some(WriteFault::Refuse(status, code)) => return Ok(refusal(status, &code)),
            Some(WriteFault::Hold(gate)) => gate.pass().await,
            Some(WriteFault::LoseAnswer) => {
                let _ = forward(&shared, request).await;
                return Err(LostAnswer);
            }
            None => {}
        }
        let Ok(response) = forward(&shared, request).await;
        Ok(response)
    })
}

async fn forward(
    shared: &Shared,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, Infallible> {
    let request = request.map(s3s::Body::from);
    let response = shared.service.call(request).await;
    Ok(response.unwrap_or_else(|_| refusal(500, "InternalError")))
}

fn take_fault(shared: &Shared) -> Option<WriteFault> {
    shared.writes.fetch_add(1, Ordering::SeqCst);
    let mut faults = shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
    if faults.next.is_empty() {
        faults.always.clone()
    } else {
        Some(faults.next.remove(0))
    }
}

fn refusal(status: u16, code: &str) -> Response<s3s::Body> {
    let text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code>\
         <Message>refused by the test</Message></Error>"
    );
    let mut response = Response::new(s3s::Body::from(text));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT);
    response
}
