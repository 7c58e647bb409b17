//! One client's connection: warm hits are answered here, everything else by actix-http.
//!
//! A warm hit needs next to nothing of what an HTTP library brings, and costs a third less without
//! it (ADR-0015). So this looks at the head of each request first. A file in memory, asked for
//! plainly, is written to the socket as fast as its client reads. Any other request goes to a
//! dispatcher of actix-http that sees a connection with this one request on it; then it is this
//! one's turn again. Whatever is not a whole head of a request without a body makes the connection
//! the library's for good: incomplete heads, bodies, upgrades, HTTP/1.0, nonsense.
//!
//! Runs on the HTTP worker that accepted the connection, and blocks nothing. Dropping it closes
//! the connection. A server that stops ends it between two requests.

mod input;
mod passed_on;
mod request_head;
mod socket;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use actix_http::ServiceConfig;
use actix_http::error::DispatchError;
use actix_web::web::Data;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use storage::ByteStream;
use tokio::net::TcpStream;

use self::input::Input;
use self::passed_on::After;
use self::request_head::RequestHead;
use self::socket::Socket;
use super::handlers::{self, Hit};
use super::listener::{KEEP_ALIVE, REQUEST_HEAD_TIMEOUT};
use super::response;
use crate::metrics::ConnectionCount;
use crate::state::AppState;

pub(super) use self::passed_on::PassedOn;

/// A body up to this size is copied behind its head: cheaper than a second buffer for the kernel.
const JOINED_BYTES_MAX: usize = 4_096;

/// Serves a connection by the library until it ends.
pub(super) type Library =
    Box<dyn Fn(PassedOn) -> LocalBoxFuture<'static, Result<(), DispatchError>>>;

/// What the connections of one HTTP worker share.
pub(super) struct Worker {
    pub(super) state: Data<AppState>,
    pub(super) library: Library,
    /// Knows the date, and looks at the clock twice a second for all answers.
    pub(super) dates: ServiceConfig,
    /// The head of the answer that is being written; never borrowed across an await.
    pub(super) head: RefCell<BytesMut>,
}

/// Serves a connection until it ends, or, between two requests, until `stopping` does.
pub(super) async fn serve(
    worker: Rc<Worker>,
    stream: TcpStream,
    stopping: impl Future<Output = ()>,
) {
    let _counted = ConnectionCount::new(worker.state.metrics.connections.clone());
    let connection = Connection {
        worker,
        socket: Socket::new(stream, REQUEST_HEAD_TIMEOUT),
        input: Input::default(),
        is_unsent: false,
        patience: REQUEST_HEAD_TIMEOUT,
    };
    // Nothing is left to say of an error: the client went away, or its answer was cut, which was
    // logged where that happened.
    let _ = connection.run(pin!(stopping)).await;
}

struct Connection {
    worker: Rc<Worker>,
    socket: Socket,
    /// What was received and not answered yet.
    input: Input,
    /// Whether the end of an answer may still be held back by the kernel.
    is_unsent: bool,
    /// How long the next request may let us wait.
    patience: Duration,
}

impl Connection {
    async fn run(mut self, mut stopping: Pin<&mut impl Future<Output = ()>>) -> io::Result<()> {
        loop {
            // Some clients end a request with one line end too many, which begins no other.
            self.input.skip_line_ends();
            if self.input.is_empty() {
                if self.is_unsent {
                    self.is_unsent = false;
                    self.socket.push()?;
                }
                let input = &mut self.input;
                let receiving = self.socket.receive(input, self.patience, stopping.as_mut());
                if !receiving.await? {
                    return Ok(());
                }
            }
            self.patience = KEEP_ALIVE;
            let len = match request_head::read(self.input.bytes()) {
                RequestHead::Plain { len, path } => {
                    if let Some(hit) = handlers::hit(path, &self.worker.state) {
                        self.input.skip(len);
                        self.answer(&hit).await?;
                        // Several small answers: the kernel holds all but the first back until
                        // that is acknowledged.
                        self.is_unsent |= !self.input.is_empty();
                        continue;
                    }
                    len
                }
                RequestHead::WithoutBody { len } => len,
                RequestHead::Other => {
                    let input = self.input.take(self.input.bytes().len());
                    return self.pass_on(input, After::Stream).await;
                }
            };
            let request = self.input.take(len);
            self.pass_on(request, After::Nothing).await?;
            self.socket.push()?;
            // A dispatcher that is told to stop before it has read ends without an answer. What
            // was asked after that must not be answered in its place.
            let stopping = poll_fn(|cx| Poll::Ready(stopping.as_mut().poll(cx).is_ready()));
            if stopping.await {
                return Ok(());
            }
        }
    }

    /// Writes the answer of a hit.
    async fn answer(&mut self, hit: &Hit) -> io::Result<()> {
        let mut body = hit.stored.body.stream(0..hit.stored.len);
        let first = next_piece(&mut body, hit).await?;
        let unsent = {
            let mut head = self.worker.head.borrow_mut();
            head.clear();
            response::write_hit(&mut head, &hit.named, hit.stored.len, &self.worker.dates);
            let mut apart = &first[..];
            if apart.len() <= JOINED_BYTES_MAX {
                head.extend_from_slice(apart);
                apart = &[];
            }
            let written = self.socket.try_write(&head, apart)?;
            if written == head.len() + apart.len() {
                Vec::new()
            } else {
                [&head[..], apart].concat().split_off(written)
            }
        };
        self.socket.write(&unsent).await?;
        if body.remaining() == 0 {
            return Ok(());
        }
        while body.remaining() > 0 {
            let position = hit.stored.len - body.remaining();
            let piece = next_piece(&mut body, hit).await?;
            match hit.stored.body.file() {
                Some(file) => {
                    let sent = self.socket.send_file(file, position, piece.len()).await;
                    sent.inspect_err(|error| {
                        if error.kind() == io::ErrorKind::UnexpectedEof {
                            log_cut(hit, error);
                        }
                    })?;
                }
                None => self.socket.write(&piece).await?,
            }
        }
        self.socket.push()
    }

    /// Has the library answer what is in `input`.
    async fn pass_on(&self, input: Vec<u8>, after: After) -> io::Result<()> {
        let passed_on = PassedOn::new(input, Rc::clone(self.socket.stream()), after);
        let mut answered = pin!((self.worker.library)(passed_on));
        // While it waits for a fill, the dispatcher of a single request does not look at the
        // socket. A client that is gone for sure, without having sent more, must not keep its seat.
        let mut is_watched = after == After::Nothing;
        poll_fn(|cx| {
            if let Poll::Ready(answered) = answered.as_mut().poll(cx) {
                let cut = |_| io::ErrorKind::ConnectionAborted.into();
                return Poll::Ready(answered.map_err(cut));
            }
            if is_watched && let Poll::Ready(heard) = self.socket.poll_heard(cx) {
                heard?;
                // Its next request, or the end of its half: neither is a reason to stop.
                is_watched = false;
            }
            Poll::Pending
        })
        .await
    }
}

/// The next piece of a hit's body; empty behind its end.
async fn next_piece(body: &mut ByteStream, hit: &Hit) -> io::Result<Bytes> {
    let piece = body.next().await.transpose();
    let piece = piece.inspect_err(|error| log_cut(hit, error))?;
    Ok(piece.unwrap_or_default())
}

/// Cutting its connection is all that can be said to a client whose answer has begun.
fn log_cut(hit: &Hit, error: &io::Error) {
    let unit = hit.named.key.unit();
    tracing::error!(unit, %error, "an answer was cut: its file cannot be read to its end");
}
