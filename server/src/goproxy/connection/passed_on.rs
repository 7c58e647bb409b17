//! A connection as actix-http sees it: with some input that was read before.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::socket::WRITE_STALL_MAX;

/// What the library reads after the input that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing, as if the client had closed its half; and closing the connection changes nothing.
    /// So the dispatcher ends with its answer, or without one if it is told to stop before it has
    /// read, and the connection is as it was.
    Nothing,
    /// What the client sends: the connection is the library's from here on.
    Stream,
}

/// The reader and writer that a dispatcher of the library gets.
#[derive(Debug)]
pub(in crate::goproxy) struct PassedOn {
    input: Vec<u8>,
    read: usize,
    stream: Rc<RefCell<TcpStream>>,
    after: After,
    /// Rings when the client has taken nothing for too long; only there while it takes nothing.
    stall: Option<Pin<Box<Sleep>>>,
}

impl PassedOn {
    pub(super) fn new(input: Vec<u8>, stream: Rc<RefCell<TcpStream>>, after: After) -> Self {
        Self {
            input,
            read: 0,
            stream,
            after,
            stall: None,
        }
    }
}

impl AsyncRead for PassedOn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &self.input[self.read..];
        if !rest.is_empty() {
            let len = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..len]);
            self.read += len;
            return Poll::Ready(Ok(()));
        }
        match self.after {
            After::Nothing => Poll::Ready(Ok(())),
            After::Stream => Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PassedOn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf);
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        // The dispatcher has no timer for this.
        let new = || Box::pin(sleep(WRITE_STALL_MAX));
        ready!(self.stall.get_or_insert_with(new).as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.after {
            After::Nothing => Poll::Ready(Ok(())),
            After::Stream => Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx),
        }
    }
}
