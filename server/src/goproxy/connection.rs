//! One client's connection: warm hits are answered here, everything else by actix-http.
//!
//! A warm hit needs next to nothing of what an HTTP library brings, and costs a third less without
//! it (ADR-0015). So this looks at the head of each request first. A small file in memory, asked
//! for plainly, is written to the socket at once. Any other request goes to a dispatcher of
//! actix-http that sees a connection with this one request on it; then it is this one's turn
//! again. Whatever is not a whole head of a request without a body makes the connection the
//! library's for good: incomplete heads, bodies, upgrades, HTTP/1.0, nonsense.
//!
//! Runs on the HTTP worker that accepted the connection, and blocks nothing. Dropping it closes
//! the connection. A server that stops ends it between two requests.

mod input;
mod passed_on;
mod request_head;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::ServiceConfig;
use actix_http::error::DispatchError;
use actix_web::web::Data;
use bytes::BytesMut;
use futures::future::LocalBoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use self::input::Input;
use self::passed_on::After;
use self::request_head::RequestHead;
use super::handlers::{self, Hit};
use super::listener::{KEEP_ALIVE, REQUEST_HEAD_TIMEOUT};
use super::response;
use crate::metrics::ConnectionCount;
use crate::state::AppState;

pub(super) use self::passed_on::PassedOn;

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
    // The last piece of an answer must not wait until the one before is acknowledged.
    let _ = stream.set_nodelay(true);
    let connection = Connection {
        worker,
        stream: Rc::new(RefCell::new(stream)),
        input: Input::default(),
        was_asked: false,
    };
    // What is left to say of an error: the client went away, or its answer was cut, which the
    // library has logged.
    let _ = connection
        .run(pin!(stopping), pin!(sleep(REQUEST_HEAD_TIMEOUT)))
        .await;
}

struct Connection {
    worker: Rc<Worker>,
    /// Shared with the library's dispatcher while that has a request.
    stream: Rc<RefCell<TcpStream>>,
    /// What was received and not answered yet.
    input: Input,
    /// Whether there was a request before.
    was_asked: bool,
}

impl Connection {
    async fn run(
        mut self,
        mut stopping: Pin<&mut impl Future<Output = ()>>,
        mut timer: Pin<&mut Sleep>,
    ) -> io::Result<()> {
        loop {
            if self.input.is_empty() && !self.receive(stopping.as_mut(), timer.as_mut()).await? {
                return Ok(());
            }
            let len = match request_head::read(self.input.bytes()) {
                RequestHead::Plain { len, path } => {
                    if let Some(hit) = handlers::hit(path, &self.worker.state) {
                        self.input.skip(len);
                        self.answer(&hit, timer.as_mut()).await?;
                        self.was_asked = true;
                        continue;
                    }
                    len
                }
                RequestHead::WithoutBody { len } => len,
                RequestHead::Other => {
                    let input = self.input.take(self.input.bytes().len());
                    return self.pass_on(input, After::GoesOn).await;
                }
            };
            let request = self.input.take(len);
            self.pass_on(request, After::Ends).await?;
            self.was_asked = true;
        }
    }

    /// Waits for input; `false` when the connection is to end.
    async fn receive(
        &mut self,
        mut stopping: Pin<&mut impl Future<Output = ()>>,
        mut timer: Pin<&mut Sleep>,
    ) -> io::Result<bool> {
        let patience = if self.was_asked {
            KEEP_ALIVE
        } else {
            REQUEST_HEAD_TIMEOUT
        };
        let deadline = Instant::now() + patience;
        poll_fn(|cx| {
            let read = self.input.refill(|room| {
                let mut room = ReadBuf::new(room);
                let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut room);
                (room.filled().len(), read)
            });
            if let Poll::Ready(read) = read {
                return Poll::Ready(read.map(|()| !self.input.is_empty()));
            }
            if stopping.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(false));
            }
            poll_deadline(timer.as_mut(), deadline, cx).map(|()| Ok(false))
        })
        .await
    }

    /// Writes the answer of a hit: into the socket at once, or else as fast as the client reads.
    async fn answer(&self, hit: &Hit, timer: Pin<&mut Sleep>) -> io::Result<()> {
        let rest = {
            let mut head = self.worker.head.borrow_mut();
            head.clear();
            response::write_hit(&mut head, &hit.named, hit.body.len(), &self.worker.dates);
            let pieces = [IoSlice::new(&head), IoSlice::new(&hit.body)];
            let written = match self.stream.borrow().try_write_vectored(&pieces) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                written => written?,
            };
            if written == head.len() + hit.body.len() {
                return Ok(());
            }
            [&head[..], &hit.body[..]].concat().split_off(written)
        };
        self.write(&rest, timer).await
    }

    async fn write(&self, mut bytes: &[u8], mut timer: Pin<&mut Sleep>) -> io::Result<()> {
        while !bytes.is_empty() {
            let deadline = Instant::now() + KEEP_ALIVE;
            let written = poll_fn(|cx| {
                let mut stream = self.stream.borrow_mut();
                if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, bytes) {
                    return Poll::Ready(written);
                }
                ready!(poll_deadline(timer.as_mut(), deadline, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            });
            bytes = &bytes[written.await?..];
        }
        Ok(())
    }

    /// Has the library answer what is in `input`.
    async fn pass_on(&self, input: Vec<u8>, after: After) -> io::Result<()> {
        let passed_on = PassedOn::new(input, Rc::clone(&self.stream), after);
        let mut answered = pin!((self.worker.library)(passed_on));
        // While it waits for a fill, the dispatcher of a single request does not look at the
        // socket. A client that is gone for sure must not keep its seat there.
        let mut is_watched = after == After::Ends;
        poll_fn(|cx| {
            if let Poll::Ready(answered) = answered.as_mut().poll(cx) {
                let cut = |_| io::ErrorKind::ConnectionAborted.into();
                return Poll::Ready(answered.map_err(cut));
            }
            let stream = self.stream.borrow();
            if is_watched && let Poll::Ready(readable) = stream.poll_read_ready(cx) {
                readable?;
                if let Some(reset) = stream.take_error()? {
                    return Poll::Ready(Err(reset));
                }
                // Its next request, or the end of its half: neither is a reason to stop.
                is_watched = false;
            }
            Poll::Pending
        })
        .await
    }
}

/// Ready when it is `deadline`. The timer is moved only when it rings too early: a connection in
/// use has another deadline with every request.
fn poll_deadline(mut timer: Pin<&mut Sleep>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    loop {
        ready!(timer.as_mut().poll(cx));
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
}
