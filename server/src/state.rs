//! What handlers share, built once at start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lease::LeaseTable;
use prometheus_client::registry::Registry;
use serde::Serialize;
use storage::{StateDir, StoreHealth, Warmer};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::fleet::{Fleet, FleetName};
use crate::metrics::{QueueMetrics, ServerMetrics, ValkeyMetrics};
use crate::queue::Queue;

/// How long a verdict on readiness stands: probes come from several sides at once, and each
/// look writes to the store.
const READINESS_TTL: Duration = Duration::from_secs(1);

/// Handles that every handler may use.
pub struct AppState {
    /// The way to artifacts.
    pub warmer: Arc<Warmer>,
    /// The jobs for later: how they are kept, and how they are closed.
    pub queue: Queue,
    /// What outlives restarts; locked for as long as this process lives.
    pub state_dir: StateDir,
    /// Leases, for operators only.
    pub leases: Arc<dyn LeaseTable>,
    /// This process's name to other instances; new with each start.
    pub instance: Arc<str>,
    /// The fleet it belongs to; `None` without Valkey.
    pub fleet: Option<Arc<Fleet>>,
    /// What the server counts.
    pub metrics: Arc<ServerMetrics>,
    /// What is counted about Valkey.
    pub valkey_metrics: Arc<ValkeyMetrics>,
    /// What is counted about how jobs for later are kept.
    pub queue_metrics: QueueMetrics,
    /// Everything that is counted, for `/metrics`.
    pub registry: Arc<Registry>,
    /// What the fleet's own requests carry in `Via`.
    pub fleet_name: Arc<FleetName>,
    /// Which checksum databases are relayed.
    pub sumdb: SumdbNames,
    /// Whether request spans are exported; without an exporter none is made.
    pub traces: bool,
    /// Cached verdict on readiness.
    pub readiness: Readiness,
    /// The configuration in force, secrets hidden, as JSON.
    pub config_json: serde_json::Value,
    /// When this process began.
    pub started: Instant,
}

impl AppState {
    /// Whom the leases in this state cover.
    pub fn scope(&self) -> Scope {
        match self.fleet {
            Some(_) => Scope::Fleet,
            None => Scope::Instance,
        }
    }
}

/// Whom a view in the admin API covers; every answer says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// This process.
    Instance,
    /// Everybody who shares this process's Valkey.
    Fleet,
}

/// The checksum databases that `/sumdb/` relays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SumdbNames {
    /// Whatever upstream says it supports.
    Upstreams,
    /// These alone (`sumdb.proxied`).
    Named(Vec<String>),
}

impl SumdbNames {
    /// Tells whether requests for the database `name` are relayed.
    pub fn relays(&self, name: &str) -> bool {
        match self {
            Self::Upstreams => true,
            Self::Named(names) => names.iter().any(|known| known == name),
        }
    }
}

/// Ready, perhaps with a reason why it is degraded; or the reason why it is not.
pub type Verdict = Result<Option<String>, String>;

/// A look at the store that is shared by probes which come within a second.
#[derive(Debug, Default)]
pub struct Readiness {
    last: Mutex<Option<(Instant, Verdict)>>,
    draining: AtomicBool,
}

impl Readiness {
    /// Makes every probe from now on answer that this instance is stopping.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether requests can be answered; the line says why not.
    pub async fn check(&self, warmer: &Warmer) -> Verdict {
        if self.draining.load(Ordering::Relaxed) {
            return Err("draining: this instance is stopping".to_owned());
        }
        let mut last = self.last.lock().await;
        if let Some((at, verdict)) = &*last
            && at.elapsed() < READINESS_TTL
        {
            return verdict.clone();
        }
        let verdict = match warmer.check().await {
            Ok(StoreHealth::Writable) => Ok(None),
            Ok(StoreHealth::ReadOnly(error)) => Ok(Some(format!(
                "{error}; what is fetched is kept in the spool"
            ))),
            Err(error) => Err(error.to_string()),
        };
        *last = Some((Instant::now(), verdict.clone()));
        verdict
    }
}
