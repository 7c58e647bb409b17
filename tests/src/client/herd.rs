//! Many clients that ask at the same moment.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Barrier;

use super::{Connection, Ending, Reply, Request};

/// What one client of a herd saw.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The status; 0 when none came.
    pub status: u16,
    /// Hexadecimal SHA-256 of the body bytes that arrived.
    pub sha256: String,
    /// Bytes of body that arrived.
    pub body_bytes: u64,
    /// From sending the request to the first body byte.
    pub ttfb: Option<Duration>,
    /// From sending the request to the end.
    pub elapsed: Duration,
    /// Whether the whole answer arrived.
    pub finished: bool,
    /// Why not.
    pub error: Option<String>,
}

impl From<Reply> for Outcome {
    fn from(reply: Reply) -> Self {
        let error = match reply.ending {
            Ending::Complete => None,
            Ending::Cut(reason) => Some(reason),
            Ending::Left => Some("the client left".to_owned()),
            Ending::TimedOut => Some("the time limit passed".to_owned()),
        };
        Self {
            status: reply.status,
            sha256: reply.sha256,
            body_bytes: reply.body_bytes,
            ttfb: reply.first_byte,
            elapsed: reply.elapsed,
            finished: error.is_none(),
            error,
        }
    }
}

/// `count` clients ask for `target`: their connections are opened first, then all requests are
/// released together.
pub async fn herd(addr: SocketAddr, count: usize, target: &str) -> Vec<Outcome> {
    let requests = vec![Request::get(target).hash_only(); count];
    herd_of(addr, requests)
        .await
        .into_iter()
        .map(Outcome::from)
        .collect()
}

/// As [`herd`], with a request for each client; the replies come in the same order.
pub async fn herd_of(addr: SocketAddr, requests: Vec<Request>) -> Vec<Reply> {
    let barrier = Arc::new(Barrier::new(requests.len().max(1)));
    let clients: Vec<_> = requests
        .into_iter()
        .map(|request| {
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                let connection = Connection::open_for(addr, &request).await;
                barrier.wait().await;
                match connection {
                    Ok(mut connection) => connection.send(&request).await,
                    Err(error) => Reply::cut(format!("cannot connect: {error}")),
                }
            })
        })
        .collect();
    let mut replies = Vec::with_capacity(clients.len());
    for client in clients {
        replies.push(client.await.expect("a herd's client does not panic"));
    }
    replies
}
