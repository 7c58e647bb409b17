//! What ties this instance to the others of its fleet: Valkey, the fleet's secret and name, and
//! the address at which the others reach it. Only where `valkey.url` is set.

mod address;
mod name;

use std::fmt;
use std::net::TcpListener;
use std::sync::Arc;

use lease::{BreakerState, Clock, NodeHealth, Valkey, ValkeyHealth, ValkeyObserver};
use serde::Serialize;
use sha2::{Digest, Sha256};
use storage::{FleetSecret, HttpPeers, HttpPeersConfig, Peers};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::config::Config;
use crate::serve::{ServeError, cannot_listen};
use address::InternalAddress;
pub use name::FleetName;

/// How many hexadecimal digits the agreed name has: enough that two fleets differ.
const AGREED_NAME_DIGITS: usize = 16;

/// This instance's membership in a fleet.
pub struct Fleet {
    valkey: Valkey,
    secret: FleetSecret,
    secret_source: SecretSource,
    advertised: Option<Arc<str>>,
    /// The task that follows what the fleet agrees on; ended by [`Fleet::shutdown`] or by drop.
    agreement: Option<AbortHandle>,
}

/// Where the fleet's secret comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretSource {
    /// From `fleet.secret_file`.
    File,
    /// The instances agree on it in Valkey.
    Agreed,
}

/// A membership, and the bound listener that is still to be served.
pub struct Joined {
    /// The membership.
    pub fleet: Fleet,
    /// The internal listener; whoever connects before it is served waits.
    pub listener: TcpListener,
}

impl Fleet {
    /// Joins the fleet that `config` describes: binds the internal listener, connects to Valkey
    /// and agrees with the others on what was not configured.
    ///
    /// A Valkey that is not there makes the start degraded; `name` and secret follow when it is
    /// there. `None` without `valkey.url`.
    ///
    /// # Errors
    ///
    /// [`ServeError::Setting`]: one line that names the key at fault.
    pub async fn join(
        config: &Config,
        name: &Arc<FleetName>,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
        observer: Arc<dyn ValkeyObserver>,
    ) -> Result<Option<Joined>, ServeError> {
        let Some(client) = config.valkey.client.clone() else {
            return Ok(None);
        };
        // Before the first lease: its value carries the address.
        let internal = InternalAddress::bind(config)
            .await
            .map_err(|(address, error)| cannot_listen("internal.listen", address, &error))?;
        let valkey = Valkey::connect(client, clock, runtime.clone(), observer)
            .await
            .map_err(|error| ServeError::Setting(format!("valkey.{error}")))?;
        announce(&valkey.health());
        if let Some(warning) = &internal.warning {
            tracing::warn!("{warning}");
        }
        let secret = FleetSecret::new();
        let secret_source = match &config.fleet.secret {
            Some(own) => {
                secret
                    .set(own.expose().as_bytes())
                    .map_err(|error| ServeError::Setting(format!("fleet.secret_file: {error}")))?;
                SecretSource::File
            }
            None => SecretSource::Agreed,
        };
        let mut fleet = Self {
            valkey,
            secret,
            secret_source,
            advertised: internal.advertised,
            agreement: None,
        };
        if config.fleet.secret.is_none() || config.fleet.id.is_none() {
            fleet.agree(name, runtime).await;
        }
        Ok(Some(Joined {
            fleet,
            listener: internal.listener,
        }))
    }

    /// Agrees with the others, and follows what they agree on from then on.
    async fn agree(&mut self, name: &Arc<FleetName>, runtime: &Handle) {
        let follower = Agreement {
            secret: (self.secret_source == SecretSource::Agreed).then(|| self.secret.clone()),
            name: Arc::clone(name),
        };
        match self.valkey.fleet_secret().await {
            Ok(agreed) => {
                follower.take(&agreed);
                tracing::info!(
                    fleet.id = name.id(),
                    "this fleet's instances know each other by what they agreed on in Valkey"
                );
            }
            Err(error) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "nothing is agreed on with the fleet yet; it follows when Valkey is there"
            ),
        }
        let mut agreed = self.valkey.fleet_secrets();
        let following = runtime.spawn(async move {
            loop {
                let known = agreed.borrow_and_update().clone();
                if let Some(known) = known {
                    follower.take(&known);
                }
                if agreed.changed().await.is_err() {
                    return;
                }
            }
        });
        self.agreement = Some(following.abort_handle());
    }

    /// The leases and records that the fleet shares.
    pub fn valkey(&self) -> &Valkey {
        &self.valkey
    }

    /// The secret of the internal listener and of what we ask others.
    pub fn secret(&self) -> &FleetSecret {
        &self.secret
    }

    /// Where that secret comes from.
    pub fn secret_source(&self) -> SecretSource {
        self.secret_source
    }

    /// What other instances are told to reach this one; `None` if they could not.
    pub fn advertised(&self) -> Option<&Arc<str>> {
        self.advertised.as_ref()
    }

    /// The other instances, as far as `internal.peers` allows.
    ///
    /// # Errors
    ///
    /// [`ServeError::Setting`]: the system refuses an HTTP client.
    pub fn peers(&self, config: &Config) -> Result<Arc<dyn Peers>, ServeError> {
        let networks = config.internal.peers.clone();
        let allowed = move |ip| networks.iter().any(|network| network.contains(ip));
        let peers = HttpPeers::new(HttpPeersConfig::new(self.secret.clone(), allowed))
            .map_err(|error| ServeError::Setting(error.to_string()))?;
        Ok(Arc::new(peers))
    }

    /// What is not as it should be, on one line; `None` while everything is.
    pub fn degraded(&self) -> Option<String> {
        degraded(&self.valkey.health())
    }

    /// Lets go of the fleet: after the last lease was released.
    pub async fn shutdown(&self) {
        if let Some(agreement) = &self.agreement {
            agreement.abort();
        }
        self.valkey.shutdown().await;
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(agreement) = &self.agreement {
            agreement.abort();
        }
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fleet")
            .field("valkey", &self.valkey)
            .field("secret_source", &self.secret_source)
            .field("advertised", &self.advertised)
            .finish_non_exhaustive()
    }
}

/// Who takes what the fleet agreed on.
struct Agreement {
    /// `None` where an operator's file says the secret.
    secret: Option<FleetSecret>,
    name: Arc<FleetName>,
}

impl Agreement {
    fn take(&self, agreed: &lease::FleetSecret) {
        self.name.agree(&name_of(agreed.as_bytes()));
        let Some(secret) = &self.secret else { return };
        if let Err(error) = secret.set(agreed.as_bytes()) {
            tracing::error!(%error, "the fleet's agreement is of no use");
        }
    }
}

/// The fleet's name, made from its agreed random bytes, which it does not give away.
fn name_of(agreed: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(b"corral fleet id/1");
    hash.update(agreed);
    storage::hex(&hash.finalize())[..AGREED_NAME_DIGITS].to_owned()
}

fn announce(health: &ValkeyHealth) {
    let nodes = addresses(health);
    match degraded(health) {
        None => tracing::info!("fleet over valkey {nodes}: connected"),
        Some(reason) => tracing::warn!("fleet over valkey {nodes}: degraded: {reason}"),
    }
}

fn addresses(health: &ValkeyHealth) -> String {
    let nodes: Vec<&str> = health.nodes.iter().map(|node| &*node.address).collect();
    nodes.join(", ")
}

fn degraded(health: &ValkeyHealth) -> Option<String> {
    let lines: Vec<String> = health.nodes.iter().filter_map(complaint).collect();
    (!lines.is_empty()).then(|| lines.join("; "))
}

/// What one server does not do, and what follows from that.
fn complaint(node: &NodeHealth) -> Option<String> {
    let address = &node.address;
    if node.breaker != BreakerState::Closed {
        let reason = node.last_error.as_deref().unwrap_or("no connection yet");
        let reason = reason.replace(['\n', '\r'], " ");
        return Some(format!(
            "valkey {address} does not serve ({reason}), so each instance fetches for itself"
        ));
    }
    (!node.subscribed).then(|| {
        format!("no release events from valkey {address}, so waiting instances look now and then")
    })
}

#[cfg(test)]
mod guide_tests;
#[cfg(test)]
mod tests;
