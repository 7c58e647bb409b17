//! Listening sockets that bear a herd.

use std::io;
use std::net::{SocketAddr, TcpListener};

use tokio::net::TcpSocket;

/// Connections that may wait to be accepted: a fleet's worth arrives in one moment, and a server
/// that is busy must not seem to be gone.
const BACKLOG: u32 = 4_096;

/// Binds a socket on which connections wait until somebody serves it.
///
/// Call it inside a runtime. A port of a process that has just ended can be taken.
///
/// # Errors
///
/// What the operating system said: the port is taken, or the address is not this machine's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}
