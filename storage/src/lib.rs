//! What corral caches and how it gets there: modules, artifacts, the object store, and the cache
//! warmer that wraps it.
//!
//! This crate knows `lease`'s traits and nothing of HTTP serving, Valkey or the environment.

mod artifact;
mod artifacts;
mod attempts;
mod config;
mod document;
mod error;
mod fill;
mod flight;
mod freshness;
mod hex;
mod holder_watch;
mod hot;
mod instance_dir;
mod intake;
mod kept;
pub mod layout;
mod look;
mod mapped;
mod metrics;
mod module;
mod peers;
mod record_warnings;
mod refresh;
mod relay;
mod remembered;
mod retry;
mod revalidations;
mod spool;
mod state_dir;
pub mod store;
mod sumdb;
#[cfg(feature = "test-util")]
pub mod testing;
mod turn;
mod upload;
mod upstream;
pub mod verify;
mod warmer;
mod warning_gate;

pub use artifact::{
    ArtifactKey, Document, FileKind, SumdbKey, SumdbName, SumdbPath, Tile, TileLevel,
};
pub use artifacts::{Answer, AnswerBody, Arriving, Artifacts, CacheOutcome, GetOptions, Verdict};
pub use config::{OnFailure, OnWaitTimeout, RetryConfig, WarmerConfig};
pub use error::{Error, ErrorKind, FailureRecord};
pub use flight::{FlightLimits, FlightStatus, FlightView, Flights, Lead, Phase, Role, Seat};
pub use freshness::{Freshness, FreshnessPolicy};
pub use hex::hex;
pub use hot::HotTier;
pub use instance_dir::InstanceDir;
pub use kept::{KEPT_FILES_MAX, Kept};
pub use mapped::{
    CHUNK_BYTES_MAX, GrowingMap, KEPT_OPEN_BYTES_MIN, KEPT_RESIDENT_BYTES_MAX, MappedFile,
    MappedStream,
};
pub use metrics::{KeptMetrics, StorageMetrics};
pub use module::{
    MODULE_PATH_BYTES_MAX, ModulePath, PATH_ELEMENT_BYTES_MAX, VERSION_BYTES_MAX, Version,
    VersionQuery,
};
pub use peers::{
    GRANTS_ASKED_MAX, KnowsGrants, NoPeers, Origin, PeerError, Peers, RelayAsk, RelayReply, Relayed,
};
pub use relay::{
    Asked, FLEET_SECRET_BYTES_MIN, FleetSecret, HttpPeers, HttpPeersConfig, Nonce, RelayHead,
    Relaying, Verified,
};
pub use remembered::{Remembered, RememberedClass, RememberedPage, RememberedQuery};
pub use retry::{Delays, RetryPolicy, unit_of_job};
pub use spool::{FillState, Filling, FillingWriter, HELD_BACK_BYTES, Spool, SpoolLimits};
pub use state_dir::StateDir;
pub use store::{
    ArtifactStore, ByteStream, Created, Source, StoreHealth, StoreOptions, Stored, StoredBody,
};
pub use sumdb::SumdbRelay;
pub use upstream::{
    CacheControl, FetchObserver, FetchOutcome, FetchRequest, Fetched, FetchedBody, FileUpstream,
    GoProxyList, HttpUpstream, NoFetchObserver, OfflineUpstream, ResumeFrom, Upstream,
    UpstreamConfig, UpstreamIdentity, UpstreamList, UpstreamUrl, Validators, Via, connect_upstream,
};
pub use warmer::{REVALIDATE_AT_MOST_EVERY, Warmer, WarmerParts};
