//! The keys under `valkey`: how a fleet's servers are reached, and the files those keys name.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lease::LeaseError;
use toml::Value;

use super::check::Notice;
use super::load::Loaded;
use super::mistake::Mistake;
use super::secret::{Secret, SecretUrl};
use super::{OnGetError, Topology};

/// Valkey, which instances of a fleet share; all that is needed is [`url`](Self::url).
///
/// Meanings, ranges and prices stand with the fields of [`lease::ValkeyConfig`].
#[derive(Clone, Debug)]
pub struct ValkeyConfig {
    /// Where the servers are, `redis://` or `valkey://`, with an `s` for TLS. Empty: none is
    /// used, and no connection is attempted.
    pub url: Vec<SecretUrl>,
    /// How several servers belong together. Default `auto`: what the URLs say.
    pub topology: Topology,
    /// The name that the Sentinels have for the primary.
    pub sentinel_master: Option<String>,
    /// The user of URLs that name none.
    pub username: Option<String>,
    /// The password of URLs that have none.
    pub password: Option<Secret>,
    /// File with that password.
    pub password_file: Option<PathBuf>,
    /// The user at the Sentinels themselves.
    pub sentinel_username: Option<String>,
    /// The password at the Sentinels themselves.
    pub sentinel_password: Option<Secret>,
    /// File with that password.
    pub sentinel_password_file: Option<PathBuf>,
    /// The database of URLs that name none. `None`: 0.
    pub database: Option<u32>,
    /// Certificates for the URLs that ask for TLS.
    pub tls: ValkeyTlsConfig,
    /// What every key starts with. Default `corral`.
    pub key_prefix: String,
    /// Most connections to one server. Default 20.
    pub pool_max: usize,
    /// Most connections that stay open unused. Default 10, and never above `pool_max`.
    pub pool_idle_max: usize,
    /// Connections kept open in reserve. Default 5, and never above `pool_idle_max`.
    pub pool_idle_min: usize,
    /// Longest wait for a connection, TLS and log-in included. Default 2 s.
    pub connect_timeout: Duration,
    /// Longest wait for an answer. Default 250 ms.
    pub command_timeout: Duration,
    /// Time between two looks at a server that nothing else asks. Default 1 s.
    pub health_check_interval: Duration,
    /// Where a document is looked for when reading it from Valkey fails. Default `l1`.
    pub on_get_error: OnGetError,
    /// All of the above as the client takes it; `None` without a URL.
    pub client: Option<lease::ValkeyConfig>,
}

/// Files with certificates, PEM each.
#[derive(Clone, Debug, Default)]
pub struct ValkeyTlsConfig {
    /// The authorities to trust, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// This client's certificate.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
}

impl Default for ValkeyConfig {
    fn default() -> Self {
        let client = lease::ValkeyConfig::default();
        Self {
            url: Vec::new(),
            topology: Topology::Auto,
            sentinel_master: None,
            username: None,
            password: None,
            password_file: None,
            sentinel_username: None,
            sentinel_password: None,
            sentinel_password_file: None,
            database: None,
            tls: ValkeyTlsConfig::default(),
            key_prefix: client.key_prefix,
            pool_max: client.pool_max,
            pool_idle_max: client.pool_idle_max,
            pool_idle_min: client.pool_idle_min,
            connect_timeout: client.connect_timeout,
            command_timeout: client.command_timeout,
            health_check_interval: client.health_check_interval,
            on_get_error: OnGetError::L1,
            client: None,
        }
    }
}

/// Reads the files that the keys name, and makes the client's configuration of all of it.
pub(super) fn complete(loaded: &mut Loaded, mistakes: &mut Vec<Mistake>) {
    if loaded.config.valkey.url.is_empty() {
        warn_of_what_has_no_effect(loaded);
        return;
    }
    fit_pool(loaded);
    let before = mistakes.len();
    let files = Files::read(loaded, mistakes);
    // A file that cannot be read is one mistake; that its content is missing is no second one.
    if mistakes.len() > before {
        return;
    }
    match client(&loaded.config.valkey, files) {
        Ok(client) => {
            let found = client.mistakes();
            mistakes.extend(found.iter().map(|error| mistake(loaded, error)));
            loaded.config.valkey.client = Some(client);
        }
        Err(error) => mistakes.push(mistake(loaded, &error)),
    }
}

/// A smaller pool has smaller reserves, unless those were asked for.
fn fit_pool(loaded: &mut Loaded) {
    let (idle_max, idle_min) = (
        loaded.is_explicit("valkey.pool_idle_max"),
        loaded.is_explicit("valkey.pool_idle_min"),
    );
    let valkey = &mut loaded.config.valkey;
    if !idle_max {
        valkey.pool_idle_max = valkey.pool_idle_max.min(valkey.pool_max);
    }
    if !idle_min {
        valkey.pool_idle_min = valkey.pool_idle_min.min(valkey.pool_idle_max);
    }
}

/// What the files hold that the keys name.
struct Files {
    password: Option<Secret>,
    sentinel_password: Option<Secret>,
    ca_pem: Option<String>,
    cert_pem: Option<String>,
    key_pem: Option<String>,
}

impl Files {
    fn read(loaded: &Loaded, mistakes: &mut Vec<Mistake>) -> Self {
        let valkey = &loaded.config.valkey;
        let mut password = |key: &str, given: &Option<Secret>, file: &Option<PathBuf>| {
            let key_file = format!("{key}_file");
            if given.is_some() && file.is_some() {
                let problem = format!("{key} is set too; leave one of them out");
                mistakes.push(Mistake::new(&loaded.origin(&key_file), &key_file, problem));
            }
            match loaded.secret_in(&key_file, file.as_deref()) {
                Ok(secret) => given.clone().or(secret),
                Err(mistake) => {
                    mistakes.push(mistake);
                    None
                }
            }
        };
        let (main, sentinel) = (
            password("valkey.password", &valkey.password, &valkey.password_file),
            password(
                "valkey.sentinel_password",
                &valkey.sentinel_password,
                &valkey.sentinel_password_file,
            ),
        );
        let mut pem = |key, file: &Option<PathBuf>| {
            read_pem(loaded, key, file.as_deref())
                .map_err(|mistake| mistakes.push(mistake))
                .unwrap_or_default()
        };
        let tls = &valkey.tls;
        Self {
            password: main,
            sentinel_password: sentinel,
            ca_pem: pem("valkey.tls.ca_file", &tls.ca_file),
            cert_pem: pem("valkey.tls.cert_file", &tls.cert_file),
            key_pem: pem("valkey.tls.key_file", &tls.key_file),
        }
    }
}

fn read_pem(loaded: &Loaded, key: &str, file: Option<&Path>) -> Result<Option<String>, Mistake> {
    let Some(file) = file else { return Ok(None) };
    std::fs::read_to_string(file).map(Some).map_err(|error| {
        let value = Value::from(file.to_string_lossy().into_owned());
        let problem = format!("must be a file that can be read: {error}");
        Mistake::value(&loaded.origin(key), key, &value, &problem)
    })
}

fn client(valkey: &ValkeyConfig, files: Files) -> Result<lease::ValkeyConfig, LeaseError> {
    let secret = |secret: Secret| lease::Secret::new(secret.expose());
    let base = lease::ValkeyConfig::from_urls(valkey.url.iter().map(SecretUrl::expose))?;
    Ok(lease::ValkeyConfig {
        topology: match valkey.topology {
            Topology::Auto => lease::Topology::Auto,
            Topology::Single => lease::Topology::Single,
            Topology::Ring => lease::Topology::Ring,
            Topology::Sentinel => lease::Topology::Sentinel,
            Topology::Cluster => lease::Topology::Cluster,
        },
        sentinel_master: valkey.sentinel_master.clone(),
        username: valkey.username.clone(),
        password: files.password.map(secret),
        sentinel_username: valkey.sentinel_username.clone(),
        sentinel_password: files.sentinel_password.map(secret),
        database: valkey.database,
        tls: lease::ValkeyTls {
            ca_pem: files.ca_pem,
            cert_pem: files.cert_pem,
            key_pem: files.key_pem.map(lease::Secret::new),
        },
        key_prefix: valkey.key_prefix.clone(),
        pool_max: valkey.pool_max,
        pool_idle_max: valkey.pool_idle_max,
        pool_idle_min: valkey.pool_idle_min,
        connect_timeout: valkey.connect_timeout,
        command_timeout: valkey.command_timeout,
        health_check_interval: valkey.health_check_interval,
        ..base
    })
}

/// The client's complaint about a field, as one about the key of the same name.
fn mistake(loaded: &Loaded, error: &LeaseError) -> Mistake {
    match error {
        LeaseError::InvalidConfig { field, reason } => {
            let key = format!("valkey.{field}");
            match loaded.is_explicit(&key) {
                true => Mistake::new(&loaded.origin(&key), &key, reason.clone()),
                false => Mistake::missing(&key, reason.clone()),
            }
        }
        other => Mistake::new(&loaded.origin("valkey.url"), "valkey", other.to_string()),
    }
}

/// Keys that mean nothing without a URL are likely to be a URL forgotten.
fn warn_of_what_has_no_effect(loaded: &mut Loaded) {
    let set: Vec<&str> = super::keys::KEYS
        .iter()
        .map(|key| key.name)
        .filter(|name| {
            name.starts_with("valkey.")
                || name.starts_with("internal.")
                || *name == "fleet.secret_file"
        })
        .filter(|name| loaded.is_explicit(name))
        .collect();
    if !set.is_empty() {
        let (keys, have) = (set.join(", "), if set.len() == 1 { "has" } else { "have" });
        loaded.notices.push(Notice::warning(format!(
            "{keys} {have} no effect without valkey.url: this instance shares nothing with others"
        )));
    }
}

#[cfg(test)]
mod tests;
