//! Which TCP connections a process has, as the kernel lists them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// States of the kernel's table: established, and a connect that is not answered yet.
const CONNECTED: [&str; 2] = ["01", "02"];

/// The remote ends of a process's connections whose local port is none of `own`.
pub(super) fn connected_to(pid: u32, own: &[u16]) -> Vec<SocketAddr> {
    let inodes = socket_inodes(pid);
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/{table}"));
        for line in text.expect("the process lives").lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let (Some(local), Some(remote)) = (address(fields[1]), address(fields[2])) else {
                continue;
            };
            let is_its = inodes.iter().any(|inode| inode == fields[9]);
            if is_its && CONNECTED.contains(&fields[3]) && !own.contains(&local.port()) {
                found.push(remote);
            }
        }
    }
    found
}

fn socket_inodes(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process lives");
    entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|target| {
            let target = target.to_str()?.strip_prefix("socket:[")?;
            Some(target.strip_suffix(']')?.to_owned())
        })
        .collect()
}

/// An address as the kernel prints it: words in memory order, in hexadecimal, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<u8>> = (0..ip.len() / 8)
        .map(|at| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok())
        .map(|word| word.map(u32::to_ne_bytes))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let words = words?;
    let ip: IpAddr = match words.len() {
        4 => <[u8; 4]>::try_from(words).map(Ipv4Addr::from).ok()?.into(),
        _ => <[u8; 16]>::try_from(words).map(Ipv6Addr::from).ok()?.into(),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::{address, connected_to};

    #[test]
    fn the_kernels_spelling_is_understood() {
        let loopback = address("0100007F:1F86").expect("an address");
        assert_eq!(loopback.to_string(), "127.0.0.1:8070");
        let six = address("00000000000000000000000001000000:0050").expect("an address");
        assert_eq!(six.to_string(), "[::1]:80");
    }

    #[test]
    fn this_process_finds_its_own_connection() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let _client = std::net::TcpStream::connect(addr).expect("connects");
        let _server = listener.accept().expect("a client");
        let found = connected_to(std::process::id(), &[addr.port()]);
        assert!(found.contains(&addr), "{found:?}");
    }
}
