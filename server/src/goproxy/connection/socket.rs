//! A connection's socket, with a bound on every wait.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use std::future::poll_fn;

use rustix::fs::sendfile;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::input::Input;

/// How long a client may read nothing of an answer that waits for it. Far longer than the slowest
/// takes to make room: a full socket takes more only when a third of it is free again.
pub(super) const WRITE_STALL_MAX: Duration = Duration::from_secs(60 * 60);

/// The stream of a connection, which a dispatcher of the library may share, and its one timer.
pub(super) struct Socket {
    stream: Rc<RefCell<TcpStream>>,
    timer: Pin<Box<Sleep>>,
}

impl Socket {
    /// `patience` is how long the first wait may last, as far as is known.
    pub(super) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream: Rc::new(RefCell::new(stream)),
            timer: Box::pin(sleep(patience)),
        }
    }

    pub(super) fn stream(&self) -> &Rc<RefCell<TcpStream>> {
        &self.stream
    }

    /// Waits for input, `patience` at most and until `stopping` ends; `false` when there will be
    /// none. What is in `input` is dropped.
    pub(super) async fn receive(
        &mut self,
        input: &mut Input,
        patience: Duration,
        mut stopping: Pin<&mut impl Future<Output = ()>>,
    ) -> io::Result<bool> {
        let deadline = Instant::now() + patience;
        poll_fn(|cx| {
            let read = input.refill(|room| {
                let mut room = ReadBuf::new(room);
                let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut room);
                (room.filled().len(), read)
            });
            if let Poll::Ready(read) = read {
                return Poll::Ready(read.map(|()| !input.is_empty()));
            }
            if stopping.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(false));
            }
            poll_deadline(self.timer.as_mut(), deadline, cx).map(|()| Ok(false))
        })
        .await
    }

    /// Writes what the socket takes at once of two pieces; returns how many bytes that was.
    pub(super) fn try_write(&self, first: &[u8], second: &[u8]) -> io::Result<usize> {
        let stream = self.stream.borrow();
        let written = if second.is_empty() {
            stream.try_write(first)
        } else {
            stream.try_write_vectored(&[IoSlice::new(first), IoSlice::new(second)])
        };
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            written => written,
        }
    }

    /// Writes all of `bytes`, as fast as the client reads.
    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let deadline = Instant::now() + WRITE_STALL_MAX;
            let written = poll_fn(|cx| {
                let mut stream = self.stream.borrow_mut();
                if let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(cx, bytes) {
                    return Poll::Ready(written);
                }
                ready!(poll_deadline(self.timer.as_mut(), deadline, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            });
            bytes = &bytes[written.await?..];
        }
        Ok(())
    }

    /// Has the kernel send `len` bytes of `file` from `position` on, as fast as the client reads.
    ///
    /// They should be in memory, or this waits for the disk on the worker's thread.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the file is shorter; otherwise what the socket said.
    pub(super) async fn send_file(
        &mut self,
        file: &File,
        mut position: u64,
        len: usize,
    ) -> io::Result<()> {
        let end = position + len as u64;
        while position < end {
            let deadline = Instant::now() + WRITE_STALL_MAX;
            let sent = poll_fn(|cx| {
                let stream = self.stream.borrow();
                while let Poll::Ready(writable) = stream.poll_write_ready(cx) {
                    writable?;
                    let left = usize::try_from(end - position).unwrap_or(len);
                    let sent = stream.try_io(Interest::WRITABLE, || {
                        Ok(sendfile(&*stream, file, Some(&mut position), left)?)
                    });
                    match sent {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        sent => return Poll::Ready(sent),
                    }
                }
                ready!(poll_deadline(self.timer.as_mut(), deadline, cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            });
            if sent.await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Sends the end of an answer in pieces now, which else waits until what was sent before it is
    /// acknowledged. Without that wait between the pieces each would be a packet of its own, at a
    /// quarter more CPU time for a zip of 1 MB.
    pub(super) fn push(&self) -> io::Result<()> {
        let stream = self.stream.borrow();
        stream.set_nodelay(true)?;
        stream.set_nodelay(false)
    }

    /// Ready when the client has sent something or has gone. In the second case what is said is an
    /// error, if it has gone for sure.
    pub(super) fn poll_heard(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.stream.borrow();
        ready!(stream.poll_read_ready(cx))?;
        Poll::Ready(match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }
}

/// Ready when it is `deadline`. A timer that rings too early is not moved before it rings: a
/// connection in use has another deadline with every request.
fn poll_deadline(mut timer: Pin<&mut Sleep>, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
    if timer.deadline() > deadline {
        timer.as_mut().reset(deadline);
    }
    loop {
        ready!(timer.as_mut().poll(cx));
        if Instant::now() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_timer_serves_deadlines_in_any_order() {
        let mut timer = Box::pin(sleep(Duration::from_secs(15)));
        for seconds in [75, 3600, 15, 75, 0, 3600] {
            let (began, patience) = (Instant::now(), Duration::from_secs(seconds));
            poll_fn(|cx| poll_deadline(timer.as_mut(), began + patience, cx)).await;
            assert!(began.elapsed() >= patience);
            assert!(
                began.elapsed() < patience + Duration::from_secs(1),
                "{seconds}"
            );
        }
        // One that was given up for an earlier one.
        let began = Instant::now();
        let mut late =
            poll_fn(|cx| poll_deadline(timer.as_mut(), began + Duration::from_secs(3600), cx));
        assert!(futures::FutureExt::now_or_never(&mut late).is_none());
        let patience = Duration::from_secs(75);
        poll_fn(|cx| poll_deadline(timer.as_mut(), began + patience, cx)).await;
        assert!(began.elapsed() < patience + Duration::from_secs(1));
    }
}
