//! A writer that queues log lines for a thread of its own.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Most lines that wait to be written; at a few hundred bytes each, some megabytes.
const LINES_MAX: usize = 16_384;

enum Message {
    Line(Vec<u8>),
    /// Answered when every line before it has been written.
    Flush(SyncSender<()>),
}

/// Queues lines and never waits for the output; drops and counts them when the queue is full.
#[derive(Clone)]
pub(super) struct LineWriter {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl LineWriter {
    /// Starts the thread that writes to `output`. It ends with the last sender, or when the
    /// output is gone for good (a closed pipe); the server goes on without its log then.
    pub(super) fn start(output: impl Write + Send + 'static, json: bool) -> Self {
        let (queue, messages) = mpsc::sync_channel(LINES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            output,
            json,
            dropped: Arc::clone(&dropped),
        };
        let thread = std::thread::Builder::new().name("log".to_owned());
        if thread.spawn(move || writer.run(&messages)).is_err() {
            // Without the thread the queue is closed and all lines count as dropped.
            dropped.fetch_add(1, Ordering::Relaxed);
        }
        Self { queue, dropped }
    }

    /// Waits until everything queued so far is written, for at most `timeout`.
    pub(super) fn flush(&self, timeout: Duration) {
        let (done, answer) = mpsc::sync_channel(1);
        let queue = self.queue.clone();
        // The queue may be full and its output stuck: then this thread is left behind, not ours.
        let ask = move || queue.send(Message::Flush(done));
        if std::thread::Builder::new()
            .name("log-flush".to_owned())
            .spawn(ask)
            .is_ok()
        {
            // No answer means that the output is stuck or closed; there is nobody left to tell.
            let _ = answer.recv_timeout(timeout);
        }
    }

    fn push(&self, line: Vec<u8>) {
        if self.queue.try_send(Message::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            text: Vec::new(),
        }
    }
}

/// One event's text, queued as a whole when it is complete.
pub(super) struct Line<'a> {
    lines: &'a LineWriter,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.text.is_empty() {
            self.lines.push(std::mem::take(&mut self.text));
        }
    }
}

struct Writer<W> {
    output: W,
    json: bool,
    dropped: Arc<AtomicU64>,
}

impl<W: Write> Writer<W> {
    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            match message {
                Message::Line(line) => {
                    if self.output.write_all(&line).is_err() {
                        return;
                    }
                    self.tell_dropped();
                }
                Message::Flush(done) => {
                    self.tell_dropped();
                    let _ = self.output.flush();
                    let _ = done.send(());
                }
            }
        }
    }

    fn tell_dropped(&mut self) {
        let count = self.dropped.swap(0, Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let _ = match self.json {
            true => writeln!(
                self.output,
                r#"{{"level":"WARN","message":"log lines dropped","log.dropped":{count}}}"#
            ),
            false => writeln!(self.output, " WARN log lines dropped log.dropped={count}"),
        };
    }
}
