//! RESP as the harness speaks it: commands out, values in, and where a message ends.
//!
//! A client of its own, so that what the product's client believes is checked from outside.

use std::io;
use std::net::SocketAddr;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Values inside values; a server nests three deep at most.
const DEPTH_MAX: usize = 8;

/// What a server says. Texts that are no UTF-8 are shown with replacement characters.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// No value.
    Nil,
    /// A number.
    Int(i64),
    /// A text of any kind.
    Text(String),
    /// A refusal.
    Error(String),
    /// Any collection, a map as keys and values in turn, and pushed messages.
    List(Vec<Value>),
}

impl Value {
    /// The text; `None` for everything else.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number; `None` for everything else.
    pub fn int(&self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The items of a collection; none for everything else.
    pub fn items(&self) -> &[Self] {
        match self {
            Self::List(items) => items,
            _ => &[],
        }
    }
}

/// Reads the first message: its value and its length in bytes; `None` while it is incomplete.
///
/// # Errors
///
/// When the bytes are no RESP.
pub fn message(bytes: &[u8]) -> io::Result<Option<(Value, usize)>> {
    value(bytes, 0, DEPTH_MAX)
}

fn value(bytes: &[u8], start: usize, depth: usize) -> io::Result<Option<(Value, usize)>> {
    let Some((line, mut at)) = line(bytes, start) else {
        return Ok(None);
    };
    let (Some(kind), Some(rest)) = (line.first(), line.get(1..)) else {
        return Err(io::Error::other("an empty line is no RESP"));
    };
    let text = String::from_utf8_lossy(rest).into_owned();
    let number = || -> io::Result<i64> {
        text.parse()
            .map_err(|_| io::Error::other(format!("{text:?} is no number")))
    };
    let value = match kind {
        b'+' | b',' | b'(' => Value::Text(text),
        b'-' => Value::Error(text),
        b':' => Value::Int(number()?),
        b'#' => Value::Int(i64::from(text == "t")),
        b'_' => Value::Nil,
        b'$' | b'=' | b'!' => {
            let Ok(length) = usize::try_from(number()?) else {
                return Ok(Some((Value::Nil, at)));
            };
            let Some(body) = bytes.get(at..at + length + 2) else {
                return Ok(None);
            };
            at += length + 2;
            let body = String::from_utf8_lossy(&body[..length]).into_owned();
            if *kind == b'!' {
                Value::Error(body)
            } else {
                Value::Text(body)
            }
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let Ok(count) = usize::try_from(number()?) else {
                return Ok(Some((Value::Nil, at)));
            };
            let depth = depth
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("a message nests too deep"))?;
            let count = if matches!(kind, b'%' | b'|') {
                2 * count
            } else {
                count
            };
            let mut items = Vec::new();
            for _ in 0..count {
                let Some((item, end)) = self::value(bytes, at, depth)? else {
                    return Ok(None);
                };
                items.push(item);
                at = end;
            }
            Value::List(items)
        }
        other => return Err(io::Error::other(format!("{other} begins no message"))),
    };
    Ok(Some((value, at)))
}

/// The line from `start` and the position after its end.
fn line(bytes: &[u8], start: usize) -> Option<(&[u8], usize)> {
    let rest = bytes.get(start..)?;
    let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
    Some((&rest[..end], start + end + 2))
}

/// One connection to a server.
#[derive(Debug)]
pub struct Resp {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Resp {
    /// Connects.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub async fn open(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// Sends a command and reads its answer.
    ///
    /// # Errors
    ///
    /// When the connection breaks; a refusal is a value.
    pub async fn command(&mut self, args: &[&str]) -> io::Result<Value> {
        let mut bytes = format!("*{}\r\n", args.len());
        for arg in args {
            bytes.push_str(&format!("${}\r\n{arg}\r\n", arg.len()));
        }
        self.stream.write_all(bytes.as_bytes()).await?;
        self.next().await
    }

    /// Reads one message.
    ///
    /// # Errors
    ///
    /// When the connection breaks or the server speaks no RESP.
    pub async fn next(&mut self) -> io::Result<Value> {
        loop {
            if let Some((value, length)) = message(&self.buffer)? {
                self.buffer.advance(length);
                return Ok(value);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::Error::other("the server closed the connection"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{Value, message};

    #[test]
    fn messages_of_both_versions_are_read_whole_or_not_at_all() {
        let text = |text: &str| Value::Text(text.to_owned());
        let push = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n+OK\r\n";
        let whole = push.len() - 5;
        let expected = Value::List(vec![text("message"), text("c"), text("hi")]);
        assert_eq!(message(push).unwrap(), Some((expected, whole)));
        for cut in 0..whole {
            assert_eq!(message(&push[..cut]).unwrap(), None, "{cut}");
        }
        let map = b"%1\r\n+a\r\n*2\r\n:1\r\n_\r\n";
        let inner = Value::List(vec![Value::Int(1), Value::Nil]);
        let expected = Value::List(vec![text("a"), inner]);
        assert_eq!(message(map).unwrap(), Some((expected, map.len())));
        assert_eq!(message(b"$-1\r\n").unwrap(), Some((Value::Nil, 5)));
        assert!(message(b"HTTP/1.1 400 Bad Request\r\n").is_err());
    }
}
