//! A loopback server that answers anything, right or wrong, byte by byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a test waits for a state that must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What happens after the bytes of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Waits for the next request on the same connection.
    KeepOpen,
    /// Ends the connection.
    Close,
    /// Sends nothing more until the client goes away.
    Hang,
}

pub(super) struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

/// Exactly these bytes.
pub(super) fn raw(bytes: impl AsRef<[u8]>, then: Then) -> Reply {
    Reply {
        bytes: bytes.as_ref().to_vec(),
        then,
    }
}

/// A well-formed answer with a length.
pub(super) fn reply(status: u16, headers: &str, body: impl AsRef<[u8]>) -> Reply {
    let body = body.as_ref();
    let mut bytes = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    Reply {
        bytes,
        then: Then::KeepOpen,
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    opened: usize,
    closed: usize,
    requests: usize,
}

pub(super) struct Server {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    counts: watch::Receiver<Counts>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves `answer(request head)`, for as many connections as come.
    pub(super) async fn start(answer: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a loopback port");
        let addr = listener.local_addr().expect("a bound port");
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (sender, counts) = watch::channel(Counts::default());
        let answer = Arc::new(answer);
        let seen = Arc::clone(&heads);
        let task = tokio::spawn(async move {
            let sender = Arc::new(sender);
            while let Ok((stream, _)) = listener.accept().await {
                let (answer, seen, sender) =
                    (Arc::clone(&answer), Arc::clone(&seen), Arc::clone(&sender));
                sender.send_modify(|counts| counts.opened += 1);
                tokio::spawn(async move {
                    let note = |head: &str| {
                        seen.lock()
                            .expect("no panic while locked")
                            .push(head.to_owned());
                        sender.send_modify(|counts| counts.requests += 1);
                    };
                    serve(stream, answer.as_ref(), note).await;
                    sender.send_modify(|counts| counts.closed += 1);
                });
            }
        });
        Self {
            addr,
            heads,
            counts,
            task,
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("no panic while locked").clone()
    }

    pub(super) fn requests(&self) -> usize {
        self.counts.borrow().requests
    }

    pub(super) fn connections(&self) -> usize {
        self.counts.borrow().opened
    }

    /// Waits until `count` requests have arrived.
    pub(super) async fn requested(&self, count: usize) {
        self.until(|counts| counts.requests >= count).await;
    }

    /// Waits until `count` connections have ended.
    pub(super) async fn closed(&self, count: usize) {
        self.until(|counts| counts.closed >= count).await;
    }

    async fn until(&self, is_there: impl Fn(&Counts) -> bool) {
        let mut counts = self.counts.clone();
        let reached = timeout(PATIENCE, counts.wait_for(|counts| is_there(counts))).await;
        let _ = reached
            .expect("the state comes in time")
            .expect("the server lives");
    }
}

async fn serve(mut stream: TcpStream, answer: &impl Fn(&str) -> Reply, note: impl Fn(&str)) {
    while let Some(head) = read_head(&mut stream).await {
        note(&head);
        let reply = answer(&head);
        if stream.write_all(&reply.bytes).await.is_err() {
            return;
        }
        match reply.then {
            Then::KeepOpen => {}
            Then::Close => {
                let _ = stream.shutdown().await;
                return;
            }
            Then::Hang => {
                let _ = read_head(&mut stream).await;
                return;
            }
        }
    }
}

/// The next request's head, lower-cased field names included as they were sent.
async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return None,
        }
    }
    Some(String::from_utf8_lossy(&head).into_owned())
}
