//! The default of every key.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{
    AdminConfig, Config, DocumentsConfig, FailureConfig, FillConfig, FillOnFailure, FleetConfig,
    InternalConfig, L1Config, LeaseConfig, LogConfig, LogFormat, MetricsConfig, NegativeConfig,
    Network, OnUnavailable, OnWaitTimeout, OtlpConfig, RetryConfig, SecretUrl, SpoolConfig,
    StorageOptions, SumdbConfig, UpstreamsConfig, ValkeyConfig, VerifyConfig, VerifyMode,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8070)),
            admin_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8071)),
            upstream: SecretUrl::default(),
            storage: SecretUrl::default(),
            storage_options: StorageOptions::default(),
            netrc: None,
            offline: false,
            drain_timeout: Duration::from_secs(10),
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            connections_max: 20_000,
            zip_bytes_max: 500 * MIB,
            upstreams: UpstreamsConfig {
                connect_timeout: Duration::from_secs(5),
                first_byte_timeout: Duration::from_secs(20),
                stall_timeout: Duration::from_secs(20),
            },
            spool: SpoolConfig {
                dir: PathBuf::new(),
                bytes_max: 10 * GIB,
                free_bytes_min: 256 * MIB,
                kept_percent_max: 50,
            },
            valkey: ValkeyConfig::default(),
            internal: InternalConfig {
                listen: None,
                advertise: None,
                peers: Network::loopback_and_private(),
                relay: true,
            },
            fleet: FleetConfig {
                id: None,
                secret_file: None,
                secret: None,
            },
            verify: VerifyConfig {
                mode: VerifyMode::Sumdb,
                on_unavailable: OnUnavailable::Serve,
                sumdb: SecretUrl::default(),
                timeout: Duration::from_secs(5),
            },
            documents: DocumentsConfig {
                ttl: Duration::from_mins(1),
                swr: Duration::from_mins(5),
                sie: Duration::from_hours(24),
            },
            negative: NegativeConfig {
                ttl: Duration::from_mins(1),
                gone_ttl: Duration::from_mins(5),
            },
            failure: FailureConfig {
                ttl: Duration::from_secs(10),
            },
            lease: LeaseConfig {
                ttl: Duration::from_secs(6),
            },
            l1: L1Config {
                bytes_max: 256 * MIB,
                entry_bytes_max: 32 * MIB,
                ttl: Duration::from_mins(1),
            },
            fill: FillConfig {
                retries: 3,
                wait_max: Duration::from_mins(1),
                max_duration: Duration::from_hours(1),
                first_byte_max: Duration::from_secs(25),
                on_failure: FillOnFailure::Queue,
                stream: true,
                on_wait_timeout: OnWaitTimeout::Fetch,
                concurrency_max: 4_096,
                waiters_max: 100_000,
            },
            retry: RetryConfig {
                attempts_max: 10,
                deadline: Duration::from_hours(24),
                concurrency_max: 16,
                other_upstreams: true,
            },
            sumdb: SumdbConfig { proxied: None },
            admin: AdminConfig {
                token_file: None,
                token: None,
                hosts: Vec::new(),
            },
            log: LogConfig {
                format: LogFormat::Auto,
                level: "info".to_owned(),
            },
            otlp: OtlpConfig { endpoint: None },
            metrics: MetricsConfig {
                lru_sample_interval: Duration::from_secs(10),
            },
        }
    }
}
