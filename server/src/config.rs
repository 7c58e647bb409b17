//! Configuration: file, environment and flags become one typed [`Config`].
//!
//! This module is the only reader of the environment. Every key stands once in `config/keys.rs`;
//! sources are merged in the order defaults, file, environment, flags, `--set`, and every mistake
//! in any of them is one line that names its source, the key and what is allowed.

mod check;
mod choice;
mod client;
mod default;
mod environment;
mod keys;
mod load;
mod mistake;
mod network;
mod secret;
mod source;
mod spelling;
mod text;
mod valkey;
mod value;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use check::Notice;
pub use choice::{
    FillOnFailure, LogFormat, OnGetError, OnUnavailable, OnWaitTimeout, Topology, VerifyMode,
};
pub use client::{ClientFlags, ClientSettings};
pub use environment::{Environment, GoEnv};
pub use load::{Flags, Loaded, Setting};
pub use mistake::{Mistake, Mistakes};
pub use network::Network;
pub use secret::{Secret, SecretUrl, StorageOptions};
pub use source::Origin;
pub use valkey::{ValkeyConfig, ValkeyTlsConfig};

/// Everything an operator can set, checked and with defaults filled in.
///
/// [`Config::default`] holds the defaults of the keys alone: `upstream`, `storage`, `spool.dir`
/// and `verify.sumdb`, whose defaults come from the environment, are empty in it and are filled
/// by [`Loaded::read`]. Its `Debug` output hides credentials.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of the proxy listener; port 0 takes a free one. Default `127.0.0.1:8070`.
    pub listen: SocketAddr,
    /// Address of the admin listener; port 0 takes a free one. Default `127.0.0.1:8071`.
    pub admin_listen: SocketAddr,
    /// Where misses go: a GOPROXY list (`,` goes on after 404 and 410, `|` after any error), every
    /// entry a URL, `direct` or `off`. Empty only with [`offline`](Self::offline).
    pub upstream: SecretUrl,
    /// Object storage as a URL: `file://`, `s3://`, `gs://`, `az://` or `memory://`.
    pub storage: SecretUrl,
    /// Credentials and endpoints for the object store, from `AWS_*`, `GOOGLE_*` or `AZURE_*`
    /// variables, whichever belong to [`storage`](Self::storage); names in lower case.
    pub storage_options: StorageOptions,
    /// The netrc file with upstream credentials: `NETRC`, else `~/.netrc`; it may not exist.
    pub netrc: Option<PathBuf>,
    /// Never asks an upstream: only what is stored is served. Default `false`.
    pub offline: bool,
    /// How long running answers and fills may finish after a stop signal. Default 10 s.
    pub drain_timeout: Duration,
    /// Number of HTTP worker threads. Default: the number of cores.
    pub workers: usize,
    /// Most client connections open at once, over all workers. Default 20,000.
    pub connections_max: usize,
    /// Largest module zip in bytes. Default 500 MiB, the `go` command's own limit.
    pub zip_bytes_max: u64,
    /// Limits of the requests to upstreams.
    pub upstreams: UpstreamsConfig,
    /// The spool: growing files that clients read while a fill writes them.
    pub spool: SpoolConfig,
    /// Valkey, which instances of a fleet share.
    pub valkey: ValkeyConfig,
    /// The listener on which instances of a fleet talk to each other.
    pub internal: InternalConfig,
    /// The fleet this instance belongs to.
    pub fleet: FleetConfig,
    /// What is checked before a file is stored.
    pub verify: VerifyConfig,
    /// Freshness of lists, `@latest` and version queries.
    pub documents: DocumentsConfig,
    /// How long "does not exist" is remembered.
    pub negative: NegativeConfig,
    /// How long a failed fill is remembered.
    pub failure: FailureConfig,
    /// The right to fill, held by one at a time.
    pub lease: LeaseConfig,
    /// The tier in this process's memory.
    pub l1: L1Config,
    /// How one fill runs.
    pub fill: FillConfig,
    /// The background queue of failed fills.
    pub retry: RetryConfig,
    /// The checksum databases that are proxied at `/sumdb/`.
    pub sumdb: SumdbConfig,
    /// Who may use the admin listener.
    pub admin: AdminConfig,
    /// Log lines.
    pub log: LogConfig,
    /// Traces.
    pub otlp: OtlpConfig,
    /// Metrics.
    pub metrics: MetricsConfig,
}

/// Limits of the requests to upstreams; each counts per attempt.
#[derive(Clone, Debug)]
pub struct UpstreamsConfig {
    /// Longest wait for a connection, name resolution and TLS included. Default 5 s.
    pub connect_timeout: Duration,
    /// Longest wait from the sent request to the answer's headers. Default 20 s.
    pub first_byte_timeout: Duration,
    /// Longest pause between two chunks of a body. Default 20 s.
    pub stall_timeout: Duration,
}

/// The spool: growing files that clients read while a fill writes them.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Folder of the spool, for one instance alone. Default: beside the store.
    pub dir: PathBuf,
    /// Most bytes that all spool files hold together. Default 10 GiB.
    pub bytes_max: u64,
    /// What the disk must have left besides; then new large fills are refused. Default 256 MiB.
    pub free_bytes_min: u64,
    /// How much of `bytes_max` may be kept for a store that does not take it, in percent.
    /// Default 50.
    pub kept_percent_max: u32,
}

/// The listener on which instances of a fleet talk to each other.
#[derive(Clone, Debug)]
pub struct InternalConfig {
    /// Address to listen on. `None`: a free port on the admin listener's host.
    pub listen: Option<SocketAddr>,
    /// `host:port` that other instances reach it under. `None`: the address it listens on.
    pub advertise: Option<String>,
    /// Networks in which other instances' addresses must lie. Default: loopback and private.
    pub peers: Vec<Network>,
    /// Whether bytes are taken from the instance that fetches them while they arrive, rather
    /// than from the store afterwards. Default `true`.
    pub relay: bool,
}

/// The fleet this instance belongs to.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Name in the `Via` header, by which a fleet knows its own requests. `None`: one that the
    /// instances of a Valkey agree on there, or a random one for each start without Valkey.
    pub id: Option<String>,
    /// File with the secret that instances sign their requests to each other with. `None`: one
    /// that the instances of a Valkey agree on there.
    pub secret_file: Option<PathBuf>,
    /// The secret in that file, without white space around it.
    pub secret: Option<Secret>,
}

/// What is checked before a file is stored.
#[derive(Clone, Debug)]
pub struct VerifyConfig {
    /// Which checks are made beside those of structure and size. Default `sumdb`.
    pub mode: VerifyMode,
    /// What happens to a file while the checksum database cannot be asked. Default `serve`.
    pub on_unavailable: OnUnavailable,
    /// The checksum database as in `GOSUMDB`: name or key, then optionally a URL; or `off`.
    pub sumdb: SecretUrl,
    /// Longest wait for one look-up in the checksum database. Default 5 s.
    pub timeout: Duration,
}

/// Freshness of lists, `@latest` and version queries.
#[derive(Clone, Debug)]
pub struct DocumentsConfig {
    /// How long a document is fresh. Default 60 s.
    pub ttl: Duration,
    /// How long after `ttl` it is served while it is being renewed. Default 5 min.
    pub swr: Duration,
    /// How long after `ttl` it is served when upstream fails. Default 24 h.
    pub sie: Duration,
}

/// How long "does not exist" is remembered.
#[derive(Clone, Debug)]
pub struct NegativeConfig {
    /// After a 404. Default 60 s; zero remembers nothing.
    pub ttl: Duration,
    /// After a 410. Default 5 min; zero remembers nothing.
    pub gone_ttl: Duration,
}

/// How long a failed fill is remembered.
#[derive(Clone, Debug)]
pub struct FailureConfig {
    /// How long everybody gets the same error without a new fetch. Default 10 s.
    pub ttl: Duration,
}

/// The right to fill, held by one at a time.
#[derive(Clone, Debug)]
pub struct LeaseConfig {
    /// How long a lease outlives a dead holder; renewed every third of it. Default 6 s.
    pub ttl: Duration,
}

/// The tier in this process's memory.
#[derive(Clone, Debug)]
pub struct L1Config {
    /// Most bytes it holds; zero switches it off. Default 256 MiB.
    pub bytes_max: u64,
    /// Largest file it takes. Default 1 MiB.
    pub entry_bytes_max: u64,
    /// How long a document's copy is kept as the fallback for a failing L2. Default 60 s.
    pub ttl: Duration,
}

/// How one fill runs.
#[derive(Clone, Debug)]
pub struct FillConfig {
    /// Retries within one fill, after the first attempt. Default 3.
    pub retries: u32,
    /// Longest wait for another holder's fill that does not get on. Default 60 s.
    pub wait_max: Duration,
    /// Longest time one fill may take. Default 1 h.
    pub max_duration: Duration,
    /// All attempts of a fill together bring a first byte within this time. Default 25 s.
    pub first_byte_max: Duration,
    /// What follows a failed fill. Default `queue`.
    pub on_failure: FillOnFailure,
    /// Whether clients get bytes while they arrive, or the whole file afterwards. Default `true`.
    pub stream: bool,
    /// What a follower does when `wait_max` is over. Default `fetch`.
    pub on_wait_timeout: OnWaitTimeout,
    /// Most fills that run at once. Default 256.
    pub concurrency_max: usize,
    /// Most requests that wait for fills at once. Default 100,000.
    pub waiters_max: usize,
}

/// The background queue of failed fills.
#[derive(Clone, Debug)]
pub struct RetryConfig {
    /// Attempts after which a job is dead. Default 10.
    pub attempts_max: u32,
    /// Time after its first failure at which a job is dead. Default 24 h.
    pub deadline: Duration,
    /// Jobs at work at once. Default 16.
    pub concurrency_max: usize,
    /// Whether a job goes on to the list's other upstreams after any error. Default `true`.
    pub other_upstreams: bool,
}

/// The checksum databases that are proxied at `/sumdb/`.
#[derive(Clone, Debug)]
pub struct SumdbConfig {
    /// `NAME` or `NAME URL` each. `None`: what the upstream supports. Empty: none.
    pub proxied: Option<Vec<SecretUrl>>,
}

/// Who may use the admin listener.
#[derive(Clone, Debug)]
pub struct AdminConfig {
    /// File with the admin token. `None`: no token, so only a loopback listener is open.
    pub token_file: Option<PathBuf>,
    /// The token in that file, without white space around it.
    pub token: Option<Secret>,
    /// Names, beside `localhost`, by which the listener may be called. Default: none.
    pub hosts: Vec<String>,
}

/// Log lines.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Default `auto`: `pretty` on a terminal, else `json`.
    pub format: LogFormat,
    /// A level, or directives such as `info,storage=debug`. Default `info`.
    pub level: String,
}

/// Traces.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    /// Base URL of an OTLP/HTTP collector; `/v1/traces` is appended. `None`: no traces.
    pub endpoint: Option<SecretUrl>,
}

/// Metrics.
#[derive(Clone, Debug)]
pub struct MetricsConfig {
    /// Time between two samples of the size of L1. Default 10 s.
    pub lru_sample_interval: Duration,
}
