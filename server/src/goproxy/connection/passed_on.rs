//! A connection as actix-http sees it: with some input that was read before.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the library reads after the input that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The end, as if the client had closed its half; and closing the connection changes nothing.
    /// So the dispatcher ends with its answer, and the connection is as it was.
    Ends,
    /// Whatever the client sends: the connection is the library's from here on.
    GoesOn,
}

/// The reader and writer that a dispatcher of the library gets.
#[derive(Debug)]
pub(in crate::goproxy) struct PassedOn {
    input: Vec<u8>,
    read: usize,
    stream: Rc<RefCell<TcpStream>>,
    after: After,
}

impl PassedOn {
    pub(super) fn new(input: Vec<u8>, stream: Rc<RefCell<TcpStream>>, after: After) -> Self {
        Self {
            input,
            read: 0,
            stream,
            after,
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
            After::Ends => Poll::Ready(Ok(())),
            After::GoesOn => Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PassedOn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.after {
            After::Ends => Poll::Ready(Ok(())),
            After::GoesOn => Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx),
        }
    }
}
