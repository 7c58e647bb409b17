//! Where this instance listens for the others, and what it tells them.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use lease::UrlAddress;

use crate::config::Config;
use crate::listen::listen;

/// How long the name of a Valkey server may take to resolve; only the advertised address waits
/// for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// The port that stands for a Valkey server that names none. Nothing is sent there.
const ANY_PORT: u16 = 6_379;

/// The internal listener, bound, and the address that leases carry.
#[derive(Debug)]
pub(super) struct InternalAddress {
    /// Bound but not served yet: whoever connects meanwhile waits.
    pub(super) listener: TcpListener,
    /// What other instances are told; `None` if they could not reach it.
    pub(super) advertised: Option<Arc<str>>,
    /// Why it is `None`, or what is likely to be wrong with it: one line that says what to set.
    pub(super) warning: Option<String>,
}

impl InternalAddress {
    /// Binds the listener and finds out how the others reach it.
    ///
    /// # Errors
    ///
    /// The address that could not be bound, and what the operating system said.
    pub(super) async fn bind(config: &Config) -> Result<Self, (SocketAddr, io::Error)> {
        let default = SocketAddr::new(config.admin_listen.ip(), 0);
        let address = config.internal.listen.unwrap_or(default);
        let bound = listen(address)
            .and_then(|listener| Ok((listener.local_addr()?, listener)))
            .map_err(|error| (address, error))?;
        let (real, listener) = bound;
        let (advertised, warning) = advertised(config, real).await;
        Ok(Self {
            listener,
            advertised: advertised.map(Arc::from),
            warning,
        })
    }
}

/// What others are told, and what an operator should know about it.
async fn advertised(config: &Config, real: SocketAddr) -> (Option<String>, Option<String>) {
    if let Some(advertised) = &config.internal.advertise {
        let outside = advertised
            .parse::<SocketAddr>()
            .ok()
            .filter(|address| !is_peer(config, address.ip()));
        return (
            Some(advertised.clone()),
            outside.map(|address| not_a_peer("internal.advertise", address.ip())),
        );
    }
    if real.ip().is_loopback() {
        // Somebody on another machine would ask his own, and take us for dead.
        return match is_valkey_local(config) {
            true => (Some(real.to_string()), None),
            false => (
                None,
                Some(format!(
                    "the internal listener is at {real}, which no other machine reaches, so \
                     others cannot stream from this instance or see that it died: set \
                     internal.listen to an address of this machine, such as \"0.0.0.0:8072\""
                )),
            ),
        };
    }
    let ip = match real.ip().is_unspecified() {
        false => real.ip(),
        true => match towards_valkey(config).await {
            Some(ip) => ip,
            None => {
                let warning = format!(
                    "the internal listener is at {real}, and which address of this machine \
                     others reach is not known, so they cannot stream from this instance or see \
                     that it died: set internal.advertise to HOST:PORT"
                );
                return (None, Some(warning));
            }
        },
    };
    let warning = (!is_peer(config, ip)).then(|| not_a_peer("the internal listener's", ip));
    (Some(SocketAddr::new(ip, real.port()).to_string()), warning)
}

fn is_peer(config: &Config, ip: IpAddr) -> bool {
    let mut peers = config.internal.peers.iter();
    peers.any(|network| network.contains(ip))
}

fn not_a_peer(what: &str, ip: IpAddr) -> String {
    format!(
        "{what} address {ip} is not in internal.peers; instances with the same list will not ask \
         this one: add its network there, on all of them"
    )
}

fn valkey_addresses(config: &Config) -> impl Iterator<Item = &UrlAddress> {
    let client = config.valkey.client.iter();
    client.flat_map(|client| client.urls.iter().flat_map(|url| url.addresses()))
}

/// Whether all servers are on this machine; then so is everybody who shares them.
fn is_valkey_local(config: &Config) -> bool {
    valkey_addresses(config).all(|address| match address {
        UrlAddress::Unix(_) => true,
        UrlAddress::Tcp { host, .. } => match host.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        },
    })
}

/// The address of this machine that leads to Valkey: whoever shares it comes the same way.
async fn towards_valkey(config: &Config) -> Option<IpAddr> {
    for address in valkey_addresses(config) {
        let UrlAddress::Tcp { host, port } = address else {
            continue;
        };
        let port = port.unwrap_or(ANY_PORT);
        let lookup = tokio::net::lookup_host((host.as_str(), port));
        let Ok(Ok(found)) = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await else {
            continue;
        };
        for server in found {
            if let Some(ip) = route_to(server) {
                return Some(ip);
            }
        }
    }
    None
}

/// The address that the system would send from; no packet leaves.
fn route_to(server: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0; 8], 0).into(),
    };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Environment, Flags, Loaded};

    async fn bind(set: &[&str]) -> InternalAddress {
        let base = ["upstream=direct", "storage=memory://", "spool.dir=/spool"];
        let flags = Flags {
            set: base
                .iter()
                .chain(set)
                .map(|text| (*text).to_owned())
                .collect(),
            ..Flags::default()
        };
        let config = Loaded::read(&flags, &Environment::of([])).unwrap().config;
        InternalAddress::bind(&config).await.unwrap()
    }

    fn port(internal: &InternalAddress) -> u16 {
        internal.listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn on_one_machine_nothing_needs_to_be_set() {
        for url in [
            "redis://127.0.0.1:1",
            "redis://localhost",
            "unix:///v.sock",
            "redis://[::1]",
        ] {
            let internal = bind(&[&format!("valkey.url={url}")]).await;
            let expected = format!("127.0.0.1:{}", port(&internal));
            assert_eq!(
                internal.advertised.as_deref(),
                Some(expected.as_str()),
                "{url}"
            );
            assert_eq!(internal.warning, None, "{url}");
        }
    }

    // A follower elsewhere would find nobody at its own loopback address, and steal a live lease.
    #[tokio::test]
    async fn a_loopback_address_is_told_to_no_other_machine() {
        let internal = bind(&["valkey.url=redis://10.255.0.1"]).await;
        assert_eq!(internal.advertised, None);
        assert!(internal.warning.unwrap().contains("set internal.listen"));
    }

    #[tokio::test]
    async fn an_address_that_is_set_is_told_as_it_is() {
        let set = [
            "valkey.url=redis://h",
            "internal.advertise=corral-1.example:8072",
        ];
        let internal = bind(&set).await;
        assert_eq!(
            internal.advertised.as_deref(),
            Some("corral-1.example:8072")
        );
        assert_eq!(internal.warning, None);
        let internal = bind(&[
            "valkey.url=redis://h",
            "internal.advertise=203.0.113.7:8072",
        ])
        .await;
        assert_eq!(internal.advertised.as_deref(), Some("203.0.113.7:8072"));
        assert!(internal.warning.unwrap().contains("add its network"));
    }

    #[tokio::test]
    async fn any_address_means_the_one_towards_valkey() {
        let set = [
            "valkey.url=redis://127.0.0.1:1",
            "internal.listen=0.0.0.0:0",
        ];
        let internal = bind(&set).await;
        let expected = format!("127.0.0.1:{}", port(&internal));
        assert_eq!(internal.advertised.as_deref(), Some(expected.as_str()));
        assert_eq!(internal.warning, None);
    }
}
