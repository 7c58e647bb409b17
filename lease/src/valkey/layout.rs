//! `Layout`: a valid configuration, turned into what the client library connects to.

use std::time::Duration;
use std::{fmt, slice};

use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
};

use super::url::UrlAddress;
use super::{Secret, Topology, ValkeyConfig, ValkeyUrl};
use crate::LeaseError;

/// How long a connection may say nothing before the peer is asked whether it is there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// How long after an unanswered question the next one follows.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// What there is to connect to.
#[derive(Debug, Clone)]
pub(crate) enum Layout {
    /// Independent servers, 1 ..= 64: one is a single server, more are a ring.
    Servers(Vec<Server>),
    /// A primary that is found by asking.
    Sentinel(SentinelLayout),
    /// A Cluster, known by some of its nodes.
    Cluster(ClusterLayout),
}

/// One server.
#[derive(Clone)]
pub(crate) struct Server {
    /// `host:port` or the socket's path, without user and password; the name in logs, metrics and
    /// placement.
    pub(crate) name: String,
    /// Where it is, with its port.
    pub(crate) address: UrlAddress,
    /// How to connect: address, TLS, log-in, database, RESP3.
    pub(crate) info: ConnectionInfo,
}

/// Sentinels, and how to reach the server that they will name.
#[derive(Debug, Clone)]
pub(crate) struct SentinelLayout {
    /// The name that they monitor.
    pub(crate) master: String,
    /// Where they are; never empty.
    pub(crate) sentinels: Vec<Server>,
    /// How to reach what they name.
    pub(crate) access: Access,
}

/// Nodes of a Cluster, and how to reach those that they will name.
#[derive(Debug, Clone)]
pub(crate) struct ClusterLayout {
    /// Where to ask first; never empty.
    pub(crate) seeds: Vec<Server>,
    /// How to reach all of them.
    pub(crate) access: Access,
}

/// What a connection needs beside host and port.
#[derive(Clone)]
pub(crate) struct Access {
    tls: Option<TlsCertificates>,
    login: RedisConnectionInfo,
}

impl ValkeyConfig {
    /// Turns the configuration into what to connect to.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: as [`validate`](Self::validate) says.
    pub(crate) fn layout(&self) -> Result<Layout, LeaseError> {
        self.validate()?;
        match self.topology() {
            Topology::Sentinel => {
                // The Sentinels have a log-in of their own, and no databases.
                let user = self.sentinel_username.as_deref();
                let login = login(user, self.sentinel_password.as_ref(), 0);
                let access = self.access(&self.urls);
                Ok(Layout::Sentinel(SentinelLayout {
                    master: self.master().unwrap_or_default().to_owned(),
                    sentinels: self.servers(|_| access.with_login(login.clone()))?,
                    access,
                }))
            }
            Topology::Cluster => {
                let access = self.access(&self.urls);
                Ok(Layout::Cluster(ClusterLayout {
                    seeds: self.servers(|_| access.clone())?,
                    access,
                }))
            }
            Topology::Auto | Topology::Single | Topology::Ring => {
                let servers = self.servers(|url| self.access(slice::from_ref(url)))?;
                Ok(Layout::Servers(servers))
            }
        }
    }

    /// Returns the name that the Sentinels monitor.
    pub(super) fn master(&self) -> Option<&str> {
        let of_urls = self.urls.iter().find_map(ValkeyUrl::sentinel_master);
        self.sentinel_master.as_deref().or(of_urls)
    }

    fn servers(&self, access: impl Fn(&ValkeyUrl) -> Access) -> Result<Vec<Server>, LeaseError> {
        let addresses = self.addresses();
        addresses
            .map(|(url, address)| access(url).server(&address))
            .collect()
    }

    /// What `urls`, which lead to one service, and the configuration say together.
    fn access(&self, urls: &[ValkeyUrl]) -> Access {
        let user = urls.iter().find_map(ValkeyUrl::username);
        let password = urls.iter().find_map(ValkeyUrl::password);
        let database = urls.iter().find_map(ValkeyUrl::database);
        let tls = urls.iter().any(ValkeyUrl::is_tls);
        Access {
            tls: tls.then(|| self.tls.certificates()),
            login: login(
                user.or(self.username.as_deref()),
                password.or(self.password.as_ref()),
                database.or(self.database).unwrap_or_default(),
            ),
        }
    }
}

fn login(user: Option<&str>, password: Option<&Secret>, database: u32) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("corral", env!("CARGO_PKG_VERSION"))
        .set_db(i64::from(database));
    if let Some(user) = user.filter(|user| !user.is_empty()) {
        login = login.set_username(user);
    }
    if let Some(password) = password.filter(|password| !password.is_empty()) {
        login = login.set_password(password.expose());
    }
    login
}

impl Access {
    fn with_login(&self, login: RedisConnectionInfo) -> Self {
        let tls = self.tls.clone();
        Self { tls, login }
    }

    /// Describes the server at `address`, which has a port unless it is a socket.
    pub(crate) fn server(&self, address: &UrlAddress) -> Result<Server, LeaseError> {
        let name = address.to_string();
        let at = match address {
            UrlAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
            UrlAddress::Tcp { host, port } => {
                let (host, port) = (host.clone(), port.unwrap_or(6_379));
                match self.tls {
                    None => ConnectionAddr::Tcp(host, port),
                    Some(_) => ConnectionAddr::TcpTls {
                        host,
                        port,
                        insecure: false,
                        tls_params: None,
                    },
                }
            }
        };
        let invalid = |error: redis::RedisError| LeaseError::InvalidConfig {
            field: "url",
            reason: error.to_string(),
        };
        let encrypted = matches!(at, ConnectionAddr::TcpTls { .. });
        let mut info = at
            .into_connection_info()
            .map_err(invalid)?
            .set_redis_settings(self.login.clone())
            .set_tcp_settings(tcp_settings());
        // Only a client takes certificates, so one is made for the sake of its description.
        if encrypted && let Some(certificates) = &self.tls {
            let client = Client::build_with_tls(info, certificates.clone()).map_err(invalid)?;
            info = client.get_connection_info().clone();
        }
        let address = address.clone();
        Ok(Server {
            name,
            address,
            info,
        })
    }
}

/// Small messages leave at once, and a peer that vanished without a word is noticed even while
/// nothing is being sent.
fn tcp_settings() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.name)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("tls", &self.tls.is_some())
            .field("login", &self.login)
            .finish()
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) mod connections;
