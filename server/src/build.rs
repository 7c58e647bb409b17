//! Builds what the server shares, from the configuration: the one place where the crates meet.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use lease::{
    Clock, FallbackRecords, Holder, LeaseConfig, LeaseKeeper, LeaseTable, LocalLeases,
    LocalRecords, Records, TokioClock, ValkeyObserver,
};
use prometheus_client::registry::Registry;
use storage::{
    ArtifactStore, FetchObserver, FlightLimits, FreshnessPolicy, GoProxyList, HotTier, Kept,
    NoPeers, OfflineUpstream, OnFailure, Peers, Spool, SpoolLimits, StateDir, StorageMetrics,
    StoreOptions, SumdbRelay, Upstream, UpstreamConfig, UpstreamIdentity, UpstreamList,
    UpstreamUrl, Warmer, WarmerConfig, WarmerParts, connect_upstream,
};
use tokio::time::Instant;

use crate::admin::auth::AdminAccess;
use crate::config::{Config, FillOnFailure, OnGetError, OnWaitTimeout};
use crate::fleet::{Fleet, FleetName};
use crate::metrics::{QueueMetrics, ServerMetrics, ValkeyMetrics};
use crate::queue::Queue;
use crate::serve::ServeError;
use crate::state::{AppState, Readiness, SumdbNames};

/// How much of the machine's name is used.
const HOST_NAME_CHARS_MAX: usize = 63;

/// The folder of what the store did not take, in the directory of what outlives restarts.
const KEPT_DIR: &str = "kept";

/// What [`state`] builds.
pub struct Built {
    /// For both listeners.
    pub state: AppState,
    /// For the admin listener.
    pub access: AdminAccess,
    /// For the internal listener, bound; `None` without a fleet.
    pub internal: Option<TcpListener>,
}

/// Opens the store and the spool and connects all parts; fills will run on `fills`.
///
/// # Errors
///
/// [`ServeError::Setting`]: one line that names the key at fault.
pub async fn state(
    config: &Config,
    config_json: serde_json::Value,
    fills: &tokio::runtime::Handle,
) -> Result<Built, ServeError> {
    let mut registry = Registry::with_prefix("corral");
    let server_metrics = ServerMetrics::new(&mut registry);
    let metrics = StorageMetrics::new(&mut registry);
    let valkey_metrics = Arc::new(ValkeyMetrics::new(&mut registry));
    let queue_metrics = QueueMetrics::new(&mut registry);
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let fleet_name = Arc::new(FleetName::new(config.fleet.id.as_deref()));

    let upstream = upstream(config, &fleet_name, &metrics)?;
    let store = open_store(config).await?;
    let state_dir = StateDir::open(&config.spool.dir, "spool.dir").map_err(setting)?;
    let limits = SpoolLimits {
        bytes_max: config.spool.bytes_max,
        free_bytes_min: config.spool.free_bytes_min,
        kept_percent_max: config.spool.kept_percent_max,
    };
    let spool = Spool::open(&config.spool.dir, limits).map_err(setting)?;
    let kept = Kept::open(state_dir.path().join(KEPT_DIR), &spool);
    let observer: Arc<dyn ValkeyObserver> = valkey_metrics.clone();
    let joined = Fleet::join(config, &fleet_name, clock.clone(), fills, observer.clone()).await?;
    let (fleet, internal) = match joined {
        Some(joined) => (Some(Arc::new(joined.fleet)), Some(joined.listener)),
        None => (None, None),
    };
    if let Some(fleet) = &fleet {
        valkey_metrics.prime(&fleet.valkey().health());
    }
    let Coordination {
        leases,
        records,
        peers,
    } = coordination(config, fleet.as_deref(), &clock, observer)?;
    let queue = Queue::open(&state_dir, fleet.as_deref(), &clock, fills).await;
    let holder = Holder {
        instance: instance_id().into(),
        address: fleet.as_ref().and_then(|fleet| fleet.advertised().cloned()),
    };
    let lease_config = LeaseConfig {
        ttl: config.lease.ttl,
        held_max: config.fill.max_duration,
        ..LeaseConfig::default()
    };
    let keeper = LeaseKeeper::new(
        leases.clone(),
        clock.clone(),
        lease_config,
        fills.clone(),
        metrics.clone(),
    )
    .map_err(|error| ServeError::Setting(format!("lease.ttl: {error}")))?;
    let hot = HotTier::new(config.l1.bytes_max, config.l1.entry_bytes_max, &metrics);
    let parts = WarmerParts {
        store: Arc::new(store),
        upstream,
        spool,
        kept,
        keeper,
        records,
        queue: queue.jobs(),
        worker: state_dir.id().clone(),
        holder: holder.clone(),
        peers,
        clock,
        metrics,
        runtime: fills.clone(),
    };
    let warmer = Arc::new(Warmer::new(parts, warmer_config(config), hot));
    let state = AppState {
        warmer,
        queue,
        state_dir,
        leases,
        instance: holder.instance,
        fleet,
        metrics: server_metrics,
        valkey_metrics,
        queue_metrics,
        registry: Arc::new(registry),
        fleet_name,
        sumdb: sumdb_names(config),
        traces: config.otlp.endpoint.is_some(),
        readiness: Readiness::default(),
        config_json,
        started: Instant::now(),
    };
    Ok(Built {
        state,
        access: access(config),
        internal,
    })
}

/// What instances coordinate by: in this process, or over Valkey.
pub(crate) struct Coordination {
    leases: Arc<dyn LeaseTable>,
    pub(crate) records: Arc<dyn Records>,
    peers: Arc<dyn Peers>,
}

pub(crate) fn coordination(
    config: &Config,
    fleet: Option<&Fleet>,
    clock: &Arc<dyn Clock>,
    observer: Arc<dyn ValkeyObserver>,
) -> Result<Coordination, ServeError> {
    let local = LocalRecords::new(clock.clone());
    let Some(fleet) = fleet else {
        return Ok(Coordination {
            leases: Arc::new(LocalLeases::new(clock.clone())),
            records: Arc::new(local),
            peers: Arc::new(NoPeers),
        });
    };
    let on_get_error = match config.valkey.on_get_error {
        OnGetError::L1 => lease::OnGetError::L1,
        OnGetError::Miss => lease::OnGetError::Miss,
    };
    let records = FallbackRecords::new(
        fleet.valkey().records(),
        local,
        config.l1.ttl,
        on_get_error,
        observer,
        clock.clone(),
    );
    Ok(Coordination {
        leases: fleet.valkey().leases(),
        records: Arc::new(records),
        peers: fleet.peers(config)?,
    })
}

/// This process's name to other instances and to operators: the machine's, and what makes it
/// another one with each start.
fn instance_id() -> String {
    let host = rustix::system::uname();
    let host: String = host
        .nodename()
        .to_string_lossy()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .take(HOST_NAME_CHARS_MAX)
        .collect();
    let start = uuid::Uuid::new_v4().simple().to_string();
    match host.is_empty() {
        true => start,
        false => format!("{host}-{}", &start[..8]),
    }
}

fn setting(error: storage::Error) -> ServeError {
    let mut line = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        line = format!("{line}: {cause}");
        source = cause.source();
    }
    ServeError::Setting(line)
}

async fn open_store(config: &Config) -> Result<ArtifactStore, ServeError> {
    let options = StoreOptions {
        settings: config.storage_options.0.clone(),
        ..StoreOptions::default()
    };
    let url = config.storage.expose().to_owned();
    tokio::task::spawn_blocking(move || ArtifactStore::open(&url, options))
        .await
        .map_err(|_| ServeError::Setting("storage: opening the store failed".to_owned()))?
        .map_err(setting)
}

fn upstream(
    config: &Config,
    fleet_name: &FleetName,
    metrics: &Arc<StorageMetrics>,
) -> Result<Arc<dyn Upstream>, ServeError> {
    if config.offline {
        return Ok(Arc::new(OfflineUpstream));
    }
    let limits = UpstreamConfig {
        connect_timeout: config.upstreams.connect_timeout,
        first_byte_timeout: config.upstreams.first_byte_timeout,
        stall_timeout: config.upstreams.stall_timeout,
        ..UpstreamConfig::default()
    };
    limits.validate().map_err(setting)?;
    let identity = UpstreamIdentity {
        via: fleet_name.via(),
        user_agent: format!("corral/{}", env!("CARGO_PKG_VERSION")),
    };
    let observer: Arc<dyn FetchObserver> = metrics.clone();
    let list =
        GoProxyList::parse(config.upstream.expose(), &own_addresses(config)).map_err(setting)?;
    let list = UpstreamList::new(&list, &limits, &identity, &observer).map_err(setting)?;
    for name in list.names() {
        metrics.prime_upstream(name);
    }
    let mut databases = Vec::new();
    for entry in config.sumdb.proxied.iter().flatten() {
        if let Some((name, url)) = entry.expose().split_once(' ') {
            let url = UpstreamUrl::parse(url.trim()).map_err(setting)?;
            let database =
                connect_upstream(&url, &limits, &identity, &observer).map_err(setting)?;
            databases.push((name.to_owned(), database));
        }
    }
    Ok(if databases.is_empty() {
        Arc::new(list)
    } else {
        Arc::new(SumdbRelay::new(databases, Arc::new(list)))
    })
}

/// Addresses under which a `GOPROXY` of this machine may name this very process.
fn own_addresses(config: &Config) -> Vec<SocketAddr> {
    vec![config.listen]
}

fn sumdb_names(config: &Config) -> SumdbNames {
    match &config.sumdb.proxied {
        None => SumdbNames::Upstreams,
        Some(entries) => SumdbNames::Named(
            entries
                .iter()
                .map(|entry| {
                    entry
                        .expose()
                        .split(' ')
                        .next()
                        .unwrap_or_default()
                        .to_owned()
                })
                .collect(),
        ),
    }
}

fn warmer_config(config: &Config) -> WarmerConfig {
    WarmerConfig {
        flights: FlightLimits {
            flights_max: config.fill.concurrency_max,
            waiters_max: config.fill.waiters_max,
        },
        retries: config.fill.retries,
        first_byte_max: config.fill.first_byte_max,
        wait_max: config.fill.wait_max,
        fill_max: config.fill.max_duration,
        stream: config.fill.stream,
        on_wait_timeout: match config.fill.on_wait_timeout {
            OnWaitTimeout::Fetch => storage::OnWaitTimeout::Fetch,
            OnWaitTimeout::Error => storage::OnWaitTimeout::Error,
        },
        lease_ttl: config.lease.ttl,
        relay: config.internal.relay,
        relay_stall_timeout: config.upstreams.stall_timeout,
        documents: FreshnessPolicy {
            ttl: config.documents.ttl,
            stale_while_revalidate: config.documents.swr,
            stale_if_error: config.documents.sie,
        },
        negative_ttl: config.negative.ttl,
        gone_ttl: config.negative.gone_ttl,
        failure_ttl: config.failure.ttl,
        on_failure: match config.fill.on_failure {
            FillOnFailure::Queue => OnFailure::Queue,
            FillOnFailure::Backoff => OnFailure::Backoff,
            FillOnFailure::Drop => OnFailure::Drop,
        },
        retry: storage::RetryConfig {
            attempts_max: config.retry.attempts_max,
            deadline: config.retry.deadline,
            concurrency_max: config.retry.concurrency_max,
            other_upstreams: config.retry.other_upstreams,
            ..storage::RetryConfig::default()
        },
        zip_bytes_max: config.zip_bytes_max,
        offline: config.offline,
        sample_interval: config
            .metrics
            .lru_sample_interval
            .max(Duration::from_millis(10)),
        ..WarmerConfig::default()
    }
}

fn access(config: &Config) -> AdminAccess {
    let token = config
        .admin
        .token
        .as_ref()
        .map(|token| token.expose().to_owned());
    AdminAccess {
        is_loopback: config.admin_listen.ip().is_loopback(),
        token,
        hosts: config.admin.hosts.clone(),
    }
}
