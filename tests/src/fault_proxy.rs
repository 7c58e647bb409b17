//! A breakable TCP link: passes bytes on, holds them, delays them, loses messages, cuts.
//!
//! A network that loses packets delivers them later, so a held direction delivers what it held
//! when it is let go; what must never arrive is held first and then cut.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use futures::future::Either;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::valkey::message;

/// Pending connections that the kernel keeps for us.
const BACKLOG: u32 = 4096;

/// Bytes that one read takes.
const PIECE_BYTES: usize = 64 * 1024;

/// What happens to the bytes of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// They travel.
    Pass,
    /// Each piece travels this much later.
    Delay(Duration),
    /// Nothing travels, no end of a connection either, until the link changes.
    Hold,
    /// RESP messages that contain this text are lost; the others travel.
    Without(String),
    /// Both ends are reset once this many bytes of a connection have travelled.
    CutAfter(u64),
}

/// The two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the side that connects.
    ToServer,
    /// From the side that listens.
    ToClient,
}

#[derive(Debug)]
struct Switches {
    target: SocketAddr,
    to_server: watch::Sender<Link>,
    to_client: watch::Sender<Link>,
    /// Counts the cuts; every connection that was open before the latest is reset.
    cuts: watch::Sender<u64>,
    connections: AtomicU64,
    open: AtomicU64,
    /// This side's ends of the connections to the server, in the order they were made.
    own_ends: Mutex<Vec<SocketAddr>>,
}

/// A link to one server; dropping it ends all its connections.
#[derive(Debug)]
pub struct FaultProxy {
    addr: SocketAddr,
    switches: Arc<Switches>,
    accepting: Mutex<Option<AbortHandle>>,
}

impl FaultProxy {
    /// A link that passes everything on to `target`, which need not listen yet.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    pub async fn to(target: SocketAddr) -> Self {
        let switches = Arc::new(Switches {
            target,
            to_server: watch::Sender::new(Link::Pass),
            to_client: watch::Sender::new(Link::Pass),
            cuts: watch::Sender::new(0),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            own_ends: Mutex::default(),
        });
        let (addr, accepting) = listen(([127, 0, 0, 1], 0).into(), &switches);
        Self {
            addr,
            switches,
            accepting: Mutex::new(Some(accepting)),
        }
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes one direction, for open connections and new ones.
    pub fn set(&self, direction: Direction, link: Link) {
        let sender = match direction {
            Direction::ToServer => &self.switches.to_server,
            Direction::ToClient => &self.switches.to_client,
        };
        sender.send_replace(link);
    }

    /// Changes both directions.
    pub fn set_both(&self, link: &Link) {
        self.set(Direction::ToServer, link.clone());
        self.set(Direction::ToClient, link.clone());
    }

    /// Holds both directions: connects succeed, nothing is ever answered.
    pub fn black_hole(&self) {
        self.set_both(&Link::Hold);
    }

    /// Resets every open connection; what was held is lost. New ones are served as before.
    pub fn cut(&self) {
        self.switches.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Refuses connects and resets what is open, until [`FaultProxy::heal`].
    pub fn refuse(&self) {
        let accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(accepting) = accepting {
            accepting.abort();
        }
    }

    /// Passes everything on again; connections that are open go on where they were held.
    ///
    /// # Panics
    ///
    /// When the port was taken meanwhile.
    pub fn heal(&self) {
        self.set_both(&Link::Pass);
        let mut accepting = self
            .accepting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if accepting.is_none() {
            *accepting = Some(listen(self.addr, &self.switches).1);
        }
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> u64 {
        self.switches.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        self.switches.open.load(Ordering::SeqCst)
    }

    /// Whether the server's client at `addr` came through this link.
    pub fn carries(&self, addr: SocketAddr) -> bool {
        let ends = self
            .switches
            .own_ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ends.contains(&addr)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn listen(addr: SocketAddr, switches: &Arc<Switches>) -> (SocketAddr, AbortHandle) {
    let socket = TcpSocket::new_v4().expect("a socket");
    // Without it a healed link could not bind while old connections linger.
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket
        .bind(addr)
        .unwrap_or_else(|error| panic!("cannot bind {addr}: {error}"));
    let listener = socket.listen(BACKLOG).expect("a bound socket can listen");
    let addr = listener
        .local_addr()
        .expect("a bound socket has an address");
    let accepting = tokio::spawn(accept(listener, Arc::clone(switches)));
    (addr, accepting.abort_handle())
}

async fn accept(listener: TcpListener, switches: Arc<Switches>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                switches.connections.fetch_add(1, Ordering::SeqCst);
                // Subscribed here and not in the task: a cut from now on is this connection's.
                let cuts = switches.cuts.subscribe();
                connections.spawn(carry(client, Arc::clone(&switches), cuts));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Why a direction ended.
enum End {
    /// The sender closed in an orderly way, and the receiver was told.
    Closed,
    /// The other direction must not go on either.
    Broken,
}

/// Both sides of one connection: reset when dropped, unless both ended in an orderly way.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    orderly: bool,
}

impl Drop for Pair {
    fn drop(&mut self) {
        if !self.orderly {
            let _ = self.client.set_zero_linger();
            let _ = self.server.set_zero_linger();
        }
    }
}

async fn carry(client: TcpStream, switches: Arc<Switches>, mut cuts: watch::Receiver<u64>) {
    let Ok(server) = TcpStream::connect(switches.target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let _open = Open::count(&switches);
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let mut pair = Pair {
        client,
        server,
        orderly: false,
    };
    if let Ok(own) = pair.server.local_addr() {
        let mut ends = switches
            .own_ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        ends.push(own);
    }
    let (from_client, to_client) = pair.client.split();
    let (from_server, to_server) = pair.server.split();
    let up = std::pin::pin!(pump(from_client, to_server, switches.to_server.subscribe()));
    let down = std::pin::pin!(pump(from_server, to_client, switches.to_client.subscribe()));
    let both = async {
        match futures::future::select(up, down).await {
            Either::Left((End::Closed, down)) => down.await,
            Either::Right((End::Closed, up)) => up.await,
            _ => End::Broken,
        }
    };
    pair.orderly = tokio::select! {
        end = both => matches!(end, End::Closed),
        _ = cuts.changed() => false,
    };
}

/// Counts a connection as open while it lives.
struct Open(Arc<Switches>);

impl Open {
    fn count(switches: &Arc<Switches>) -> Self {
        switches.open.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(switches))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut link: watch::Receiver<Link>,
) -> End {
    let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
    let mut travelled = 0;
    loop {
        // Bytes of an incomplete message stay in the buffer when the link changes to another.
        let read = tokio::select! {
            read = from.read_buf(&mut buffer) => Some(read),
            changed = link.changed() => match changed {
                Ok(()) => None,
                Err(_) => return End::Broken,
            },
        };
        let now = match link.wait_for(|link| *link != Link::Hold).await {
            Ok(now) => now.clone(),
            Err(_) => return End::Broken,
        };
        let closed = match read {
            Some(Ok(0)) => true,
            Some(Ok(_)) | None => false,
            Some(Err(_)) => return End::Broken,
        };
        if let Link::Delay(delay) = now
            && read.is_some()
        {
            // A link that changes lets go at once of what it had delayed.
            let _ = tokio::time::timeout(delay, link.changed()).await;
        }
        let mut broken = false;
        let passing = match now {
            Link::Without(text) if !closed => without(&mut buffer, text.as_bytes()),
            Link::CutAfter(limit) => {
                let left = usize::try_from(limit.saturating_sub(travelled)).unwrap_or(usize::MAX);
                broken = buffer.len() >= left;
                buffer.split_to(left.min(buffer.len()))
            }
            _ => buffer.split(),
        };
        travelled += passing.len() as u64;
        if to.write_all(&passing).await.is_err() || broken {
            return End::Broken;
        }
        if closed {
            return match to.shutdown().await {
                Ok(()) => End::Closed,
                Err(_) => End::Broken,
            };
        }
    }
}

/// Takes the whole messages out of the buffer and returns those that do not contain `text`.
fn without(buffer: &mut BytesMut, text: &[u8]) -> BytesMut {
    let mut passing = BytesMut::new();
    loop {
        match message(buffer) {
            Ok(Some((_, length))) => {
                let contains = buffer[..length]
                    .windows(text.len().max(1))
                    .any(|window| window == text);
                if !contains {
                    passing.extend_from_slice(&buffer[..length]);
                }
                buffer.advance(length);
            }
            Ok(None) => return passing,
            // No RESP: nothing to choose from, so all of it travels.
            Err(_) => {
                passing.extend_from_slice(&buffer.split());
                return passing;
            }
        }
    }
}
