//! `ValkeyUrl`: where a server is and who one is there, out of one line of text.
//!
//! Parsed by hand rather than by the `url` crate: a Sentinel or Cluster URL may name several
//! hosts, the socket URLs have no host at all, and a parser that quotes what it could not read
//! would print the password that was not percent-encoded. No error of this file quotes its input.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::Secret;
use crate::LeaseError;

/// What kind of service a URL leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UrlKind {
    /// A server that keeps keys: `redis://`, `rediss://`, `valkey://`, `valkeys://`, `unix://`.
    Server,
    /// Sentinels, which know the server that is primary now: `redis-sentinel://` and the like.
    Sentinel,
    /// Nodes of a Cluster: `redis+cluster://` and the like.
    Cluster,
}

/// One address inside a URL.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UrlAddress {
    /// A host and a port.
    Tcp {
        /// A DNS name in lower case, an IPv4 address, or an IPv6 address without brackets.
        host: String,
        /// 1 ..= 65,535; `None` when the URL names none, so the default of its kind applies.
        port: Option<u16>,
    },
    /// The absolute path of a socket.
    Unix(PathBuf),
}

/// A URL of a Valkey or Redis service, taken apart and checked.
///
/// | form | means |
/// |---|---|
/// | `{redis,rediss,valkey,valkeys}://[user][:password@]host[:port][/db]` | one server; an `s` at the end of the name means TLS; port 6379 by default |
/// | `{unix,redis+unix,valkey+unix}:///path/to/socket[?db=N&user=U&pass=P]` | one server behind a socket |
/// | `redis-sentinel://[user][:password@]host[:port][,host…][/master[/db]]` | the server that these Sentinels call `master`; port 26379 by default |
/// | `redis+cluster://[user][:password@]host[:port][,host…]` | the Cluster that these nodes belong to; port 6379 by default |
///
/// The last two forms take `-` and `+` alike and all four names of the first. User, password and
/// path are percent-decoded; a `?db=N` does the same as `/N`. `Display` and `Debug` show no user
/// and no password.
///
/// ```
/// use lease::ValkeyUrl;
///
/// let url: ValkeyUrl = "rediss://corral:s3cret@cache.internal/2".parse().unwrap();
/// assert_eq!(url.to_string(), "rediss://cache.internal/2");
/// assert!(url.is_tls());
/// assert_eq!(url.database(), Some(2));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ValkeyUrl {
    scheme: &'static str,
    kind: UrlKind,
    tls: bool,
    addresses: Vec<UrlAddress>,
    username: Option<String>,
    password: Option<Secret>,
    database: Option<u32>,
    master: Option<String>,
}

/// Scheme, kind, TLS. `unix` ones have no host; [`parse`] tells them by their name.
const SCHEMES: [(&str, UrlKind, bool); 23] = [
    ("redis", UrlKind::Server, false),
    ("rediss", UrlKind::Server, true),
    ("valkey", UrlKind::Server, false),
    ("valkeys", UrlKind::Server, true),
    ("unix", UrlKind::Server, false),
    ("redis+unix", UrlKind::Server, false),
    ("valkey+unix", UrlKind::Server, false),
    ("redis-sentinel", UrlKind::Sentinel, false),
    ("redis+sentinel", UrlKind::Sentinel, false),
    ("rediss-sentinel", UrlKind::Sentinel, true),
    ("rediss+sentinel", UrlKind::Sentinel, true),
    ("valkey-sentinel", UrlKind::Sentinel, false),
    ("valkey+sentinel", UrlKind::Sentinel, false),
    ("valkeys-sentinel", UrlKind::Sentinel, true),
    ("valkeys+sentinel", UrlKind::Sentinel, true),
    ("redis-cluster", UrlKind::Cluster, false),
    ("redis+cluster", UrlKind::Cluster, false),
    ("rediss-cluster", UrlKind::Cluster, true),
    ("rediss+cluster", UrlKind::Cluster, true),
    ("valkey-cluster", UrlKind::Cluster, false),
    ("valkey+cluster", UrlKind::Cluster, false),
    ("valkeys-cluster", UrlKind::Cluster, true),
    ("valkeys+cluster", UrlKind::Cluster, true),
];

impl ValkeyUrl {
    /// The longest URL, in bytes.
    pub const BYTES_MAX: usize = 8_192;
    /// The most addresses in one URL.
    pub const ADDRESSES_MAX: usize = 64;
    /// The highest database number; servers count in signed 32 bits.
    pub const DATABASE_MAX: u32 = i32::MAX as u32;

    /// Returns what kind of service it leads to.
    pub fn kind(&self) -> UrlKind {
        self.kind
    }

    /// Says whether connections are encrypted.
    pub fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the addresses in the order of the text; never empty.
    pub fn addresses(&self) -> &[UrlAddress] {
        &self.addresses
    }

    /// Returns the user; `None` when the URL names none.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// Returns the password; `None` when the URL has none or an empty one.
    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// Returns the database, 0 ..= [`DATABASE_MAX`](Self::DATABASE_MAX); `None` when the URL names
    /// none.
    pub fn database(&self) -> Option<u32> {
        self.database
    }

    /// Returns the name that the Sentinels have for the primary; `None` when the URL has none.
    pub fn sentinel_master(&self) -> Option<&str> {
        self.master.as_deref()
    }
}

impl FromStr for ValkeyUrl {
    type Err = LeaseError;

    fn from_str(text: &str) -> Result<Self, LeaseError> {
        parse(text).map_err(|reason| LeaseError::InvalidConfig {
            field: "url",
            reason,
        })
    }
}

impl UrlAddress {
    /// Returns the address with `port` where it names none.
    pub(crate) fn with_default_port(&self, default: u16) -> Self {
        match self {
            Self::Tcp { host, port } => Self::Tcp {
                host: host.clone(),
                port: Some(port.unwrap_or(default)),
            },
            Self::Unix(path) => Self::Unix(path.clone()),
        }
    }
}

impl fmt::Display for UrlAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => {
                match host.contains(':') {
                    true => write!(f, "[{host}]")?,
                    false => f.write_str(host)?,
                }
                port.map_or(Ok(()), |port| write!(f, ":{port}"))
            }
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for ValkeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://", self.scheme)?;
        for (i, address) in self.addresses.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{address}")?;
        }
        if let Some(master) = &self.master {
            write!(f, "/{master}")?;
        }
        match (self.database, self.addresses.first()) {
            (Some(db), Some(UrlAddress::Unix(_))) => write!(f, "?db={db}"),
            (Some(db), _) => write!(f, "/{db}"),
            (None, _) => Ok(()),
        }
    }
}

impl fmt::Debug for ValkeyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ValkeyUrl({self})")
    }
}

/// A URL's text, cut at its delimiters.
struct Cut<'a> {
    userinfo: Option<&'a str>,
    hosts: &'a str,
    path: &'a str,
    query: Option<&'a str>,
}

fn parse(text: &str) -> Result<ValkeyUrl, String> {
    if text.is_empty() {
        return Err("it is empty; allowed: redis://host[:port][/db]".to_owned());
    }
    if text.len() > ValkeyUrl::BYTES_MAX {
        let (bytes, bytes_max) = (text.len(), ValkeyUrl::BYTES_MAX);
        return Err(format!("it has {bytes} bytes, more than {bytes_max}"));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("it has white space or a control character".to_owned());
    }
    let (scheme, rest) = text.split_once("://").ok_or_else(no_scheme)?;
    let scheme = scheme.to_ascii_lowercase();
    let (scheme, kind, tls) = SCHEMES
        .into_iter()
        .find(|(name, ..)| *name == scheme)
        .ok_or_else(no_scheme)?;
    let cut = cut(rest)?;
    let mut url = ValkeyUrl {
        scheme,
        kind,
        tls,
        addresses: Vec::new(),
        username: None,
        password: None,
        database: None,
        master: None,
    };
    if let Some(userinfo) = cut.userinfo {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        url.username = non_empty(decode(user)?);
        url.set_password(password.unwrap_or_default())?;
    }
    if scheme.ends_with("unix") {
        url.read_socket(&cut)?;
    } else {
        url.addresses = hosts(cut.hosts)?;
        url.read_path(cut.path)?;
    }
    if url.kind == UrlKind::Server && url.addresses.len() > 1 {
        return Err(
            "it names several hosts; give each server a URL of its own (only Sentinel and Cluster \
             URLs take a list)"
                .to_owned(),
        );
    }
    url.read_query(cut.query)?;
    Ok(url)
}

fn no_scheme() -> String {
    "it has no known scheme; allowed: redis://, rediss://, valkey://, valkeys://, unix://, and \
     redis-sentinel://, redis+cluster:// with their TLS forms rediss-sentinel://, rediss+cluster://"
        .to_owned()
}

fn cut(rest: &str) -> Result<Cut<'_>, String> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (userinfo, hosts) = match authority.rsplit_once('@') {
        Some((userinfo, hosts)) => (Some(userinfo), hosts),
        None => (None, authority),
    };
    // An `@` behind the authority: the user information itself contained what ends an authority.
    if tail.contains('@') {
        return Err(
            "a /, ?, # or @ in the user name or password is written percent-encoded (%2F, %3F, \
             %23, %40)"
                .to_owned(),
        );
    }
    if tail.contains('#') {
        return Err(
            "it has a fragment (#…), which means nothing here; unverified TLS is not offered, give \
             the authority's certificate instead"
                .to_owned(),
        );
    }
    let (path, query) = match tail.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (tail, None),
    };
    Ok(Cut {
        userinfo,
        hosts,
        path,
        query,
    })
}

fn decode(text: &str) -> Result<String, String> {
    let text = percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| "a percent-encoded part is not UTF-8".to_owned())?;
    if text.contains('\0') {
        return Err("a percent-encoded part has a zero byte".to_owned());
    }
    Ok(text.into_owned())
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn hosts(list: &str) -> Result<Vec<UrlAddress>, String> {
    let addresses: Vec<_> = list.split(',').map(host).collect::<Result<_, _>>()?;
    if addresses.len() > ValkeyUrl::ADDRESSES_MAX {
        let addresses_max = ValkeyUrl::ADDRESSES_MAX;
        return Err(format!("it names more than {addresses_max} hosts"));
    }
    Ok(addresses)
}

fn host(text: &str) -> Result<UrlAddress, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6
                .split_once(']')
                .ok_or_else(|| "an IPv6 address lacks its closing bracket".to_owned())?;
            let host: Ipv6Addr = host
                .parse()
                .map_err(|_| "what stands in brackets is no IPv6 address".to_owned())?;
            if host.is_unspecified() {
                return Err("[::] is no address to connect to".to_owned());
            }
            let port = match port.strip_prefix(':') {
                Some(port) => Some(port),
                None if port.is_empty() => None,
                None => return Err("after an IPv6 address comes a colon and a port".to_owned()),
            };
            (host.to_string(), port)
        }
        None => match text.split_once(':') {
            Some((_, port)) if port.contains(':') => {
                return Err("an IPv6 address stands in brackets: [::1]:6379".to_owned());
            }
            Some((host, port)) => (name(host)?, Some(port)),
            None => (name(text)?, None),
        },
    };
    let port = port.map(port_number).transpose()?;
    Ok(UrlAddress::Tcp { host, port })
}

fn port_number(text: &str) -> Result<u16, String> {
    digits(text)
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .ok_or_else(|| "the port is no number in 1 ..= 65535".to_owned())
}

fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a host is missing".to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.len() > 253 || !text.chars().all(allowed) {
        return Err(
            "a host is no DNS name (1 ..= 253 letters, digits, dots, hyphens and underscores) and \
             no IP address"
                .to_owned(),
        );
    }
    if text.parse() == Ok(Ipv4Addr::UNSPECIFIED) {
        return Err("0.0.0.0 is no address to connect to".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// Reads a number of digits only: the library's parser would take a `+` too.
fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn database_number(text: &str) -> Result<u32, String> {
    digits(text)
        .filter(|db| *db <= ValkeyUrl::DATABASE_MAX)
        .ok_or_else(|| {
            let database_max = ValkeyUrl::DATABASE_MAX;
            format!("the database is no number in 0 ..= {database_max}")
        })
}

impl ValkeyUrl {
    fn set_password(&mut self, text: &str) -> Result<(), String> {
        self.password = non_empty(decode(text)?).map(Secret::new);
        Ok(())
    }

    fn set_database(&mut self, text: &str) -> Result<(), String> {
        let database = database_number(text)?;
        match self.database.replace(database) {
            Some(other) if other != database => Err("it names two databases".to_owned()),
            _ => Ok(()),
        }
    }

    fn read_socket(&mut self, cut: &Cut<'_>) -> Result<(), String> {
        if !cut.hosts.is_empty() {
            return Err("a socket's path is absolute: unix:///path/to/socket".to_owned());
        }
        let path = decode(cut.path)?;
        // Linux has room for 108 bytes, the last of which is zero; others have less.
        if !Path::new(&path).is_absolute() || path.len() < 2 || path.len() > 107 {
            return Err("a socket's path is absolute and has 2 ..= 107 bytes".to_owned());
        }
        self.addresses = vec![UrlAddress::Unix(PathBuf::from(path))];
        Ok(())
    }

    fn read_path(&mut self, path: &str) -> Result<(), String> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let mut segments = path.split_terminator('/');
        if self.kind == UrlKind::Sentinel {
            self.master = segments.next().map(decode).transpose()?;
        }
        if let Some(database) = segments.next() {
            self.set_database(database)?;
        }
        match segments.next() {
            Some(_) => Err("the path has more parts than the database's number".to_owned()),
            None => Ok(()),
        }
    }

    fn read_query(&mut self, query: Option<&str>) -> Result<(), String> {
        let socket = matches!(self.addresses.first(), Some(UrlAddress::Unix(_)));
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=') {
                None if pair.is_empty() => {}
                Some(("db", value)) => self.set_database(value)?,
                Some(("user", value)) if socket => {
                    self.username = non_empty(decode(value)?);
                }
                Some(("pass", value)) if socket => self.set_password(value)?,
                _ if socket => {
                    return Err("it has an unknown parameter; allowed: db, user, pass".to_owned());
                }
                _ => return Err("it has an unknown parameter; allowed: db".to_owned()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
