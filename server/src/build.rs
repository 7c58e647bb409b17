//! Builds what the server shares, from the configuration: the one place where the crates meet.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lease::{Clock, Holder, LeaseConfig, LeaseKeeper, LocalLeases, LocalRecords, TokioClock};
use prometheus_client::registry::Registry;
use storage::{
    ArtifactStore, FetchObserver, FlightLimits, FreshnessPolicy, GoProxyList, HotTier, NoPeers,
    OfflineUpstream, Spool, StorageMetrics, StoreOptions, SumdbRelay, Upstream, UpstreamConfig,
    UpstreamIdentity, UpstreamList, UpstreamUrl, Warmer, WarmerConfig, WarmerParts,
    connect_upstream,
};
use tokio::time::Instant;

use crate::admin::auth::AdminAccess;
use crate::config::{Config, OnWaitTimeout};
use crate::metrics::ServerMetrics;
use crate::serve::ServeError;
use crate::state::{AppState, Readiness, Scope, SumdbNames};

/// What [`state`] builds.
pub struct Built {
    /// For both listeners.
    pub state: AppState,
    /// For the admin listener.
    pub access: AdminAccess,
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
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let fleet_id = config
        .fleet
        .id
        .clone()
        .unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let via_token = format!("corral/{fleet_id}");

    let upstream = upstream(config, &via_token, &metrics)?;
    let store = open_store(config).await?;
    let spool = Spool::open(&config.spool.dir, config.spool.bytes_max).map_err(setting)?;
    let leases = Arc::new(LocalLeases::new(clock.clone()));
    let records = Arc::new(LocalRecords::new(clock.clone()));
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
        keeper,
        records,
        holder: Holder {
            instance: uuid::Uuid::new_v4().simple().to_string().into(),
            address: None,
        },
        peers: Arc::new(NoPeers),
        clock,
        metrics,
        runtime: fills.clone(),
    };
    let warmer = Arc::new(Warmer::new(parts, warmer_config(config), hot));
    let state = AppState {
        warmer,
        leases,
        scope: Scope::Instance,
        metrics: server_metrics,
        registry: Arc::new(registry),
        via_token,
        sumdb: sumdb_names(config),
        traces: config.otlp.endpoint.is_some(),
        readiness: Readiness::default(),
        config_json,
        started: Instant::now(),
    };
    Ok(Built {
        state,
        access: access(config),
    })
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
    via_token: &str,
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
        via: format!("1.1 {via_token}"),
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
        documents: FreshnessPolicy {
            ttl: config.documents.ttl,
            stale_while_revalidate: config.documents.swr,
            stale_if_error: config.documents.sie,
        },
        negative_ttl: config.negative.ttl,
        gone_ttl: config.negative.gone_ttl,
        failure_ttl: config.failure.ttl,
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
        hosts: Vec::new(),
    }
}
