//! What a connection has received and not answered yet, in a buffer of fixed size.

/// The longest head that is looked at; longer ones are the library's. The `go` command's have some
/// 150 bytes, behind a few load balancers some 600.
const INPUT_BYTES_MAX: usize = 2_048;

/// Bytes received, in order.
#[derive(Debug)]
pub(super) struct Input {
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            buffer: vec![0; INPUT_BYTES_MAX].into(),
            begin: 0,
            end: 0,
        }
    }
}

impl Input {
    pub(super) fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.begin..self.end]
    }

    /// Reads more, by `read`, which says how many bytes it put in front of what it was given. What
    /// is here already is dropped, so it is called when everything is answered.
    pub(super) fn refill<T>(&mut self, read: impl FnOnce(&mut [u8]) -> (usize, T)) -> T {
        debug_assert!(self.is_empty(), "input is dropped unanswered");
        let (len, answer) = read(&mut self.buffer);
        (self.begin, self.end) = (0, len);
        answer
    }

    /// Drops the first `len` bytes, which are answered.
    pub(super) fn skip(&mut self, len: usize) {
        self.begin = self.end.min(self.begin + len);
    }

    /// Drops line ends at the front.
    ///
    /// Source: RFC 9112 section 2.2, which asks for one to be ignored.
    pub(super) fn skip_line_ends(&mut self) {
        let is_line_end = |byte: &&u8| matches!(byte, b'\r' | b'\n');
        self.skip(self.bytes().iter().take_while(is_line_end).count());
    }

    /// Takes the first `len` bytes away, for somebody else to answer.
    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let taken = self.bytes()[..len].to_vec();
        self.skip(len);
        taken
    }
}
