//! `ValkeyConfig`: which servers, as whom, and how patiently.

use std::collections::BTreeSet;
use std::time::Duration;

use super::url::{UrlAddress, UrlKind, ValkeyUrl};
use super::{Secret, ValkeyTls};
use crate::LeaseError;
use crate::config::within;

/// How several servers belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Topology {
    /// What the URLs say: one server → [`Single`](Self::Single), several →
    /// [`Ring`](Self::Ring), Sentinels and Cluster nodes by their schemes.
    #[default]
    Auto,
    /// One server.
    Single,
    /// Independent servers; each key lives on one of them, chosen by its hash.
    Ring,
    /// One primary that Sentinels name, and change when it dies.
    Sentinel,
    /// A Cluster, which spreads the keys itself.
    Cluster,
}

impl Topology {
    /// Every topology, for listing the allowed values.
    pub const ALL: [Self; 5] = [
        Self::Auto,
        Self::Single,
        Self::Ring,
        Self::Sentinel,
        Self::Cluster,
    ];

    /// Returns the word in configuration, logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Single => "single",
            Self::Ring => "ring",
            Self::Sentinel => "sentinel",
            Self::Cluster => "cluster",
        }
    }
}

/// How a fleet reaches its Valkey or Redis; only `urls` is required.
///
/// Every instance of a fleet must be given the same servers under the same names, the same
/// `database` and the same `key_prefix`, or they share nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValkeyConfig {
    /// Where the servers are; 1 ..= 64 URLs, no address twice.
    pub urls: Vec<ValkeyUrl>,
    /// How they belong together; default [`Topology::Auto`].
    pub topology: Topology,
    /// The name that the Sentinels have for the primary; only with Sentinel, there required unless
    /// the URL says it.
    pub sentinel_master: Option<String>,
    /// The user of URLs that name none; needs a password. `None`: the server's default user.
    pub username: Option<String>,
    /// The password of URLs that have none; `None` or empty: no authentication. With Sentinel it
    /// is for the primary.
    pub password: Option<Secret>,
    /// The user at the Sentinels themselves; needs `sentinel_password`.
    pub sentinel_username: Option<String>,
    /// The password at the Sentinels themselves; `None` or empty: they ask for none.
    pub sentinel_password: Option<Secret>,
    /// The database of URLs that name none; `None`: 0. Honoured with and without a password.
    /// A Cluster has database 0 only.
    pub database: Option<u32>,
    /// Certificates for the URLs that ask for TLS. Sentinels and Cluster nodes name servers by what
    /// these announce, an IP address by default, and the servers' certificates must contain it.
    pub tls: ValkeyTls,
    /// What every key starts with; default `corral`, 1 ..= 64 letters, digits and `. _ - : /`.
    ///
    /// Fleets that share a server need different ones. Braces are out, since a Cluster finds the
    /// slot by them.
    pub key_prefix: String,
    /// The most connections to one server; default 20, 1 ..= 1,000.
    ///
    /// Commands share one connection and events come over a second one, whatever this says. The
    /// pool serves the transactions that take the place of scripts on servers that refuse them.
    /// Fewer: those wait for each other. More: the server's `maxclients` is reached sooner.
    pub pool_max: usize,
    /// The most connections that stay open unused; default 10, 0 ..= `pool_max`.
    pub pool_idle_max: usize,
    /// How many connections are kept open in reserve where the pool is used; default 5, 0 ..=
    /// `pool_idle_max`.
    pub pool_idle_min: usize,
    /// How long opening a connection may take, TLS and log-in included; default 2 s, 10 ms ..=
    /// 1 min.
    ///
    /// No request waits for it longer than `command_timeout`. Shorter than a TLS handshake takes:
    /// no connection ever comes up.
    pub connect_timeout: Duration,
    /// How long one command may take, counted from the call; default 250 ms, 10 ms ..= 1 min.
    ///
    /// The most that a request loses to a server that stopped answering. Longer: such a server
    /// delays more. Shorter: a busy server or network looks like a dead one, and files are fetched
    /// once per instance instead of once per fleet.
    pub command_timeout: Duration,
    /// How often a server is asked whether it lives, when nothing else asks; default 1 s, 100 ms
    /// ..= 5 min.
    ///
    /// It bounds how late a server's return is noticed, which is why it may be below the second
    /// that comparable caches demand.
    pub health_check_interval: Duration,
}

impl Default for ValkeyConfig {
    /// The defaults, without the one thing that has none: [`urls`](Self::urls) is empty.
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            topology: Topology::Auto,
            sentinel_master: None,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            database: None,
            tls: ValkeyTls::default(),
            key_prefix: "corral".to_owned(),
            pool_max: 20,
            pool_idle_max: 10,
            pool_idle_min: 5,
            connect_timeout: Duration::from_secs(2),
            command_timeout: Duration::from_millis(250),
            health_check_interval: Duration::from_secs(1),
        }
    }
}

/// A mistake before it is an error: the field, and the rule it breaks.
type Mistake = (&'static str, String);

impl ValkeyConfig {
    /// The most addresses, over all URLs.
    pub const ADDRESSES_MAX: usize = ValkeyUrl::ADDRESSES_MAX;
    /// The longest `key_prefix`, in bytes.
    pub const KEY_PREFIX_BYTES_MAX: usize = 64;
    /// The longest `sentinel_master`, in bytes.
    pub const SENTINEL_MASTER_BYTES_MAX: usize = 256;
    /// The highest `pool_max`.
    pub const POOL_MAX_MAX: usize = 1_000;
    /// The shortest `connect_timeout` and `command_timeout`.
    pub const TIMEOUT_MIN: Duration = Duration::from_millis(10);
    /// The longest `connect_timeout` and `command_timeout`.
    pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);
    /// The shortest `health_check_interval`.
    pub const HEALTH_CHECK_INTERVAL_MIN: Duration = Duration::from_millis(100);
    /// The longest `health_check_interval`.
    pub const HEALTH_CHECK_INTERVAL_MAX: Duration = Duration::from_secs(5 * 60);

    /// Makes a configuration of `urls` and defaults.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: one of them is no URL; says what is wrong without quoting it.
    pub fn from_urls<U: AsRef<str>>(urls: impl IntoIterator<Item = U>) -> Result<Self, LeaseError> {
        let urls = urls.into_iter().map(|url| url.as_ref().parse());
        Ok(Self {
            urls: urls.collect::<Result<_, _>>()?,
            ..Self::default()
        })
    }

    /// Checks every value against its range, and those that depend on each other.
    ///
    /// # Errors
    ///
    /// [`LeaseError::InvalidConfig`]: the first of [`mistakes`](Self::mistakes).
    pub fn validate(&self) -> Result<(), LeaseError> {
        self.mistakes().into_iter().next().map_or(Ok(()), Err)
    }

    /// Returns every mistake as a [`LeaseError::InvalidConfig`] that names the field and what is
    /// allowed; empty when all is well.
    ///
    /// Fields are named as the keys under `valkey.` in the configuration file; those of `tls` are
    /// `tls.ca_file`, `tls.cert_file` and `tls.key_file`. No value of a secret is ever quoted.
    pub fn mistakes(&self) -> Vec<LeaseError> {
        let mut found = Vec::new();
        self.check_urls(&mut found);
        self.check_names(&mut found);
        self.check_logins(&mut found);
        self.check_tls(&mut found);
        self.check_pool(&mut found);
        let invalid = |(field, reason)| LeaseError::InvalidConfig { field, reason };
        let mut found: Vec<_> = found.into_iter().map(invalid).collect();
        found.extend(self.check_times());
        found
    }

    /// Returns the topology that [`Topology::Auto`] stands for; never `Auto`.
    pub fn topology(&self) -> Topology {
        let kind = self.urls.first().map(ValkeyUrl::kind);
        match (self.topology, kind) {
            (Topology::Auto, Some(UrlKind::Sentinel)) => Topology::Sentinel,
            (Topology::Auto, Some(UrlKind::Cluster)) => Topology::Cluster,
            (Topology::Auto, _) if self.urls.len() > 1 => Topology::Ring,
            (Topology::Auto, _) => Topology::Single,
            (explicit, _) => explicit,
        }
    }

    /// Returns the addresses of all URLs, each with its port.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&ValkeyUrl, UrlAddress)> {
        let port = match self.topology() {
            Topology::Sentinel => 26_379,
            _ => 6_379,
        };
        self.urls.iter().flat_map(move |url| {
            let addresses = url.addresses().iter();
            addresses.map(move |address| (url, address.with_default_port(port)))
        })
    }

    fn check_urls(&self, found: &mut Vec<Mistake>) {
        let mut wrong = |reason: &str| found.push(("url", reason.to_owned()));
        if self.urls.is_empty() {
            return wrong("it is missing; allowed: 1 ..= 64 URLs such as redis://host[:port][/db]");
        }
        if self.addresses().count() > Self::ADDRESSES_MAX {
            return wrong("there are more than 64 addresses");
        }
        let kinds: BTreeSet<_> = self.urls.iter().map(|url| url.kind() as u8).collect();
        if kinds.len() > 1 {
            return wrong("servers, Sentinels and Cluster nodes do not go together");
        }
        let topology = self.topology();
        let suits = match self.urls[0].kind() {
            UrlKind::Server => true,
            UrlKind::Sentinel => topology == Topology::Sentinel,
            UrlKind::Cluster => topology == Topology::Cluster,
        };
        if !suits {
            let (url, allowed) = (&self.urls[0], "auto, or a scheme that goes with it");
            let (topology, url) = (topology.as_str(), url.to_string());
            let reason = format!("{topology} does not go with {url}; allowed: {allowed}");
            found.push(("topology", reason));
            return;
        }
        if topology == Topology::Single && self.urls.len() > 1 {
            let reason = "single takes one URL; allowed for several: ring, sentinel, cluster";
            found.push(("topology", reason.to_owned()));
        }
        let mut seen = BTreeSet::new();
        for (_, address) in self.addresses() {
            if !seen.insert(address.clone()) {
                found.push(("url", format!("{address} is named twice")));
            }
        }
        if matches!(topology, Topology::Sentinel | Topology::Cluster) {
            self.check_one_service(topology, found);
        }
    }

    /// Sentinels and Cluster nodes name servers by host and port, so what else a connection needs
    /// must be the same for all.
    fn check_one_service(&self, topology: Topology, found: &mut Vec<Mistake>) {
        let word = topology.as_str();
        let mut wrong = |reason: String| found.push(("url", reason));
        let tls = self.urls[0].is_tls();
        if self.urls.iter().any(|url| url.is_tls() != tls) {
            wrong(format!("{word}: either all URLs ask for TLS or none"));
        }
        let is_socket = |(_, address)| matches!(address, UrlAddress::Unix(_));
        if self.addresses().any(is_socket) {
            wrong(format!("{word}: addresses are hosts, not sockets"));
        }
        for (what, differ) in [
            ("users", differ(self.urls.iter().map(ValkeyUrl::username))),
            (
                "passwords",
                differ(self.urls.iter().map(ValkeyUrl::password)),
            ),
            (
                "databases",
                differ(self.urls.iter().map(ValkeyUrl::database)),
            ),
            (
                "masters",
                differ(self.urls.iter().map(ValkeyUrl::sentinel_master)),
            ),
        ] {
            if differ {
                wrong(format!("{word}: the URLs name different {what}"));
            }
        }
    }

    fn check_names(&self, found: &mut Vec<Mistake>) {
        let sentinel = self.topology() == Topology::Sentinel;
        let given: Vec<_> = self
            .sentinel_master
            .as_deref()
            .into_iter()
            .chain(self.urls.iter().filter_map(ValkeyUrl::sentinel_master))
            .collect();
        let unfit = |name: &&str| {
            name.is_empty()
                || name.len() > Self::SENTINEL_MASTER_BYTES_MAX
                || name.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        let reason = match given.first() {
            None if sentinel => {
                "it is missing; allowed: the name that the Sentinels monitor, here \
                                 or as the URL's path (redis-sentinel://host/name)"
            }
            Some(_) if !sentinel && self.sentinel_master.is_some() => {
                "only Sentinels have one; allowed: nothing, or topology = \"sentinel\""
            }
            Some(_) if given.iter().any(unfit) => "allowed: 1 ..= 256 bytes without white space",
            Some(first) if given.iter().any(|name| name != first) => {
                "the URL names another one; leave one of them out"
            }
            _ => "",
        };
        if !reason.is_empty() {
            found.push(("sentinel_master", reason.to_owned()));
        }
        let fit = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
        let bytes = self.key_prefix.len();
        if !(1..=Self::KEY_PREFIX_BYTES_MAX).contains(&bytes) || !self.key_prefix.chars().all(fit) {
            let reason = "allowed: 1 ..= 64 letters, digits and . _ - : /";
            found.push(("key_prefix", reason.to_owned()));
        }
    }

    /// Returns the URLs in groups that lead to one service each.
    fn services(&self) -> Vec<&[ValkeyUrl]> {
        match self.topology() {
            Topology::Sentinel | Topology::Cluster => vec![&self.urls],
            _ => self.urls.chunks(1).collect(),
        }
    }

    fn check_logins(&self, found: &mut Vec<Mistake>) {
        let mut wrong = [
            (
                "username",
                false,
                "the URL says another; leave one of them out",
            ),
            (
                "password",
                false,
                "the URL says another; leave one of them out",
            ),
            (
                "database",
                false,
                "the URL says another; leave one of them out",
            ),
            ("username", false, USER_NEEDS_PASSWORD),
        ];
        for urls in self.services() {
            let user = urls.iter().find_map(ValkeyUrl::username);
            let password = urls.iter().find_map(ValkeyUrl::password);
            let database = urls.iter().find_map(ValkeyUrl::database);
            wrong[0].1 |= both_and_different(user, self.username.as_deref());
            wrong[1].1 |= both_and_different(password, self.password.as_ref());
            wrong[2].1 |= both_and_different(database, self.database);
            let password = password.or(self.password.as_ref());
            wrong[3].1 |=
                is_set(user.or(self.username.as_deref())) && password.is_none_or(Secret::is_empty);
        }
        let wrong = wrong.into_iter().filter(|(_, wrong, _)| *wrong);
        found.extend(wrong.map(|(field, _, reason)| (field, reason.to_owned())));
        let secret = self.sentinel_password.as_ref();
        if is_set(self.sentinel_username.as_deref()) && secret.is_none_or(Secret::is_empty) {
            found.push(("sentinel_username", USER_NEEDS_PASSWORD.to_owned()));
        }
        let sentinels = self.sentinel_username.is_some() || self.sentinel_password.is_some();
        if sentinels && self.topology() != Topology::Sentinel {
            let field = match self.sentinel_username {
                Some(_) => "sentinel_username",
                None => "sentinel_password",
            };
            found.push((field, "only Sentinels have one".to_owned()));
        }
        let of_urls = self.urls.iter().filter_map(ValkeyUrl::database);
        for database in of_urls.chain(self.database) {
            let cluster = self.topology() == Topology::Cluster;
            if cluster && database != 0 {
                let reason = format!("{database}: a Cluster has database 0 only");
                found.push(("database", reason));
            } else if database > ValkeyUrl::DATABASE_MAX {
                let reason = format!("{database} is outside 0 ..= {}", ValkeyUrl::DATABASE_MAX);
                found.push(("database", reason));
            }
        }
    }

    fn check_tls(&self, found: &mut Vec<Mistake>) {
        found.extend(self.tls.mistake());
        let unused = !self.urls.is_empty() && !self.urls.iter().any(ValkeyUrl::is_tls);
        if unused && let Some(field) = self.tls.first_field() {
            let reason = "no URL asks for TLS; allowed: rediss:// or valkeys:// in url";
            found.push((field, reason.to_owned()));
        }
    }

    fn check_pool(&self, found: &mut Vec<Mistake>) {
        for (field, value, min, max) in [
            ("pool_max", self.pool_max, 1, Self::POOL_MAX_MAX),
            ("pool_idle_max", self.pool_idle_max, 0, self.pool_max),
            ("pool_idle_min", self.pool_idle_min, 0, self.pool_idle_max),
        ] {
            if !(min..=max).contains(&value) {
                found.push((field, format!("{value} is outside {min} ..= {max}")));
            }
        }
    }

    fn check_times(&self) -> impl Iterator<Item = LeaseError> {
        let timeouts = (Self::TIMEOUT_MIN, Self::TIMEOUT_MAX);
        let intervals = (
            Self::HEALTH_CHECK_INTERVAL_MIN,
            Self::HEALTH_CHECK_INTERVAL_MAX,
        );
        [
            ("connect_timeout", self.connect_timeout, timeouts),
            ("command_timeout", self.command_timeout, timeouts),
            (
                "health_check_interval",
                self.health_check_interval,
                intervals,
            ),
        ]
        .into_iter()
        .filter_map(|(field, value, (min, max))| within(field, value, min, max).err())
    }
}

const USER_NEEDS_PASSWORD: &str = "a user needs a password (any, if the server asks for none)";

fn is_set(text: Option<&str>) -> bool {
    text.is_some_and(|text| !text.is_empty())
}

fn both_and_different<T: PartialEq>(a: Option<T>, b: Option<T>) -> bool {
    a.is_some() && b.is_some() && a != b
}

/// Says whether two of those that are set are different.
fn differ<T: PartialEq>(values: impl Iterator<Item = Option<T>>) -> bool {
    let mut values = values.flatten();
    let first = values.next();
    values.any(|value| first.as_ref() != Some(&value))
}

#[cfg(test)]
mod tests;
