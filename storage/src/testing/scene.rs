//! `Scene`: what instances of a fleet share in a test, and the instances themselves.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use lease::{
    Clock, DelayQueue, Holder, LeaseConfig, LeaseKeeper, LeaseQuery, LeaseTable, LocalLeases,
    LocalQueue, LocalRecords, QueueLimits, Records,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

use super::{FakePeers, FakeUpstream, give_way, soon};
use crate::artifact::ArtifactKey;
use crate::artifacts::{Answer, AnswerBody, Artifacts, GetOptions};
use crate::config::WarmerConfig;
use crate::error::Error;
use crate::hot::HotTier;
use crate::instance_dir::InstanceDir;
use crate::kept::{Kept, KeptFaults};
use crate::metrics::StorageMetrics;
use crate::peers::{NoPeers, Peers};
use crate::spool::{DiskFaults, Spool, SpoolLimits};
use crate::store::{ArtifactStore, StoreOptions};
use crate::upstream::Upstream;
use crate::warmer::{Warmer, WarmerParts};

/// A fleet's surroundings: one store, one upstream, leases and records in this process.
///
/// Any part may be replaced, for all instances here or for one of them in its builder.
#[derive(Debug)]
pub struct Scene {
    /// The shared store; in memory unless the scene is [`Scene::on_disk`].
    pub store: ArtifactStore,
    /// Where missing artifacts come from.
    pub upstream: Arc<FakeUpstream>,
    /// The shared leases.
    pub leases: Arc<dyn LeaseTable>,
    /// The shared records.
    pub records: Arc<dyn Records>,
    /// The shared jobs for later.
    pub queue: Arc<dyn DelayQueue>,
    /// The instances that are on the network, by address.
    pub peers: Arc<FakePeers>,
    /// Time, for every part that is made here.
    pub clock: Arc<dyn Clock>,
    /// Spools and stores on disk; removed with the scene.
    dir: InstanceDir,
}

impl Scene {
    /// Makes surroundings with a store in memory.
    ///
    /// # Panics
    ///
    /// When the system's directory for temporary files cannot be written to.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let parent = std::env::temp_dir().join("corral-tests");
        Self {
            store: ArtifactStore::open("memory://", StoreOptions::default())
                .expect("memory can always be opened"),
            upstream: FakeUpstream::new("fake"),
            leases: Arc::new(LocalLeases::new(clock.clone())),
            records: Arc::new(LocalRecords::new(clock.clone())),
            queue: Arc::new(LocalQueue::in_memory(QueueLimits::default(), clock.clone())),
            peers: Arc::default(),
            clock,
            dir: InstanceDir::open(&parent, "test").expect("temporary files can be written"),
        }
    }

    /// Makes surroundings with a store on the local disk.
    ///
    /// # Panics
    ///
    /// As [`Scene::new`].
    pub fn on_disk(clock: Arc<dyn Clock>) -> Self {
        let mut scene = Self::new(clock);
        scene.store = scene.store_on_disk("store");
        scene
    }

    /// Opens a store of its own on the local disk.
    ///
    /// # Panics
    ///
    /// As [`Scene::new`].
    pub fn store_on_disk(&self, name: &str) -> ArtifactStore {
        let root = self.path(name);
        let url = root
            .to_str()
            .expect("temporary directories have plain names");
        ArtifactStore::open(url, StoreOptions::default()).expect("temporary files can be written")
    }

    /// A path that is removed with the scene.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where an instance called `name` keeps what the store did not take: its next start finds it.
    pub fn kept_dir(&self, name: &str) -> PathBuf {
        self.path(&format!("kept-{name}"))
    }

    /// Begins an instance called `name`.
    pub fn instance(&self, name: &str) -> InstanceBuilder<'_> {
        InstanceBuilder {
            scene: self,
            name: name.to_owned(),
            config: WarmerConfig::default(),
            hot_bytes_max: 64 << 20,
            hot_entry_bytes_max: 8 << 20,
            spool: SpoolLimits {
                bytes_max: 1 << 30,
                // The machine that runs the tests may be nearly full.
                free_bytes_min: 0,
                ..SpoolLimits::default()
            },
            disk: DiskFaults::default(),
            kept: KeptFaults::default(),
            store: self.store.clone(),
            upstream: self.upstream.clone(),
            leases: self.leases.clone(),
            records: self.records.clone(),
            queue: self.queue.clone(),
            address: None,
            peers: None,
            clock: self.clock.clone(),
        }
    }

    /// Waits until nobody holds a lease.
    ///
    /// # Panics
    ///
    /// When one is held for longer than [`PATIENCE`](super::PATIENCE).
    pub async fn no_leases(&self) {
        soon("leases to be released", async {
            let query = LeaseQuery::default();
            while self
                .leases
                .list(&query)
                .await
                .is_ok_and(|page| !page.leases.is_empty())
            {
                give_way().await;
            }
        })
        .await;
    }
}

/// An instance to be; what is not said is the scene's, or the product's default.
#[derive(Debug)]
pub struct InstanceBuilder<'a> {
    scene: &'a Scene,
    name: String,
    config: WarmerConfig,
    hot_bytes_max: u64,
    hot_entry_bytes_max: u64,
    spool: SpoolLimits,
    disk: DiskFaults,
    kept: KeptFaults,
    store: ArtifactStore,
    upstream: Arc<dyn Upstream>,
    leases: Arc<dyn LeaseTable>,
    records: Arc<dyn Records>,
    queue: Arc<dyn DelayQueue>,
    address: Option<String>,
    peers: Option<Arc<dyn Peers>>,
    clock: Arc<dyn Clock>,
}

impl InstanceBuilder<'_> {
    /// Changes settings of the warmer.
    #[must_use]
    pub fn config(mut self, change: impl FnOnce(&mut WarmerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// Sets the hot tier's bounds in bytes, all together and each entry; 0 keeps nothing.
    #[must_use]
    pub fn hot(mut self, bytes_max: u64, entry_bytes_max: u64) -> Self {
        self.hot_bytes_max = bytes_max;
        self.hot_entry_bytes_max = entry_bytes_max;
        self
    }

    /// Sets the spool's budget in bytes.
    #[must_use]
    pub fn spool(mut self, bytes_max: u64) -> Self {
        self.spool.bytes_max = bytes_max;
        self
    }

    /// Changes the spool's limits.
    #[must_use]
    pub fn spool_limits(mut self, change: impl FnOnce(&mut SpoolLimits)) -> Self {
        change(&mut self.spool);
        self
    }

    /// Gives the instance's spool a disk that fails as `faults` says.
    #[must_use]
    pub fn disk(mut self, faults: &DiskFaults) -> Self {
        self.disk = faults.clone();
        self
    }

    /// Cuts the instance's keeping of what the store did not take as `faults` says.
    #[must_use]
    pub fn kept(mut self, faults: &KeptFaults) -> Self {
        self.kept = faults.clone();
        self
    }

    /// Gives the instance another view of the store, for example one with faults.
    #[must_use]
    pub fn store(mut self, store: ArtifactStore) -> Self {
        self.store = store;
        self
    }

    /// Gives the instance another upstream.
    #[must_use]
    pub fn upstream(mut self, upstream: Arc<dyn Upstream>) -> Self {
        self.upstream = upstream;
        self
    }

    /// Gives the instance another view of the leases.
    #[must_use]
    pub fn leases(mut self, leases: Arc<dyn LeaseTable>) -> Self {
        self.leases = leases;
        self
    }

    /// Gives the instance another view of the records.
    #[must_use]
    pub fn records(mut self, records: Arc<dyn Records>) -> Self {
        self.records = records;
        self
    }

    /// Gives the instance another view of the jobs for later.
    #[must_use]
    pub fn queue(mut self, queue: Arc<dyn DelayQueue>) -> Self {
        self.queue = queue;
        self
    }

    /// Puts the instance on the scene's network: its leases carry `address`, and it asks others.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self.peers.get_or_insert_with(|| self.scene.peers.clone());
        self
    }

    /// Gives the instance another way to ask others than the scene's.
    #[must_use]
    pub fn peers(mut self, peers: Arc<dyn Peers>) -> Self {
        self.peers = Some(peers);
        self
    }

    /// Gives the instance a clock of its own.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Starts the instance. Its fills run on the runtime of the caller.
    ///
    /// # Panics
    ///
    /// Outside a runtime, or when the settings cannot work.
    pub fn start(self) -> Instance {
        let mut registry = Registry::with_prefix("corral");
        let metrics = StorageMetrics::new(&mut registry);
        let lease_config = LeaseConfig {
            ttl: self.config.lease_ttl,
            ..LeaseConfig::default()
        };
        let keeper = LeaseKeeper::new(
            self.leases,
            self.clock.clone(),
            lease_config,
            Handle::current(),
            metrics.clone(),
        )
        .expect("the lease's settings are within their ranges");
        let spool = Spool::open(&self.scene.path("spool"), self.spool)
            .expect("temporary files can be written")
            .with_faults(&self.disk);
        let kept = Kept::open_with_faults(self.scene.kept_dir(&self.name), &spool, &self.kept);
        let hot = HotTier::new(self.hot_bytes_max, self.hot_entry_bytes_max, &metrics);
        let parts = WarmerParts {
            store: Arc::new(self.store),
            upstream: self.upstream,
            spool,
            kept,
            keeper: keeper.clone(),
            records: self.records,
            queue: self.queue,
            worker: self.name.as_str().into(),
            holder: Holder {
                instance: self.name.into(),
                address: self.address.as_deref().map(Arc::from),
            },
            peers: self.peers.unwrap_or_else(|| Arc::new(NoPeers)),
            clock: self.clock,
            metrics: metrics.clone(),
            runtime: Handle::current(),
        };
        let warmer = Arc::new(Warmer::new(parts, self.config, hot));
        if let Some(address) = &self.address {
            self.scene.peers.attach(address, &warmer);
        }
        Instance {
            warmer,
            metrics,
            keeper,
            registry,
        }
    }
}

/// One instance of the fleet: a warmer with metrics of its own.
#[derive(Debug)]
pub struct Instance {
    /// The warmer.
    pub warmer: Arc<Warmer>,
    /// What it counts.
    pub metrics: Arc<StorageMetrics>,
    keeper: LeaseKeeper,
    registry: Registry,
}

impl Instance {
    /// Gets an artifact without any wish.
    ///
    /// # Errors
    ///
    /// As [`Artifacts::get`].
    pub async fn get(&self, key: &ArtifactKey) -> Result<Answer, Error> {
        self.warmer.get(key, GetOptions::default()).await
    }

    /// Gets an artifact and reads it to its end.
    ///
    /// # Errors
    ///
    /// As [`Artifacts::get`], and what its body ended with.
    pub async fn read(&self, key: &ArtifactKey) -> Result<Bytes, Error> {
        read_answer(self.get(key).await?).await
    }

    /// The value of one series, by its name and labels as a scrape shows them, for example
    /// `corral_fills_total{outcome="stored"}`.
    ///
    /// # Panics
    ///
    /// When there is no such series: it must be there from the start, at 0.
    pub fn count(&self, series: &str) -> u64 {
        let mut scrape = String::new();
        encode(&mut scrape, &self.registry).expect("a string takes everything");
        let value = scrape
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("there is no {series} in\n{scrape}"));
        value.parse().expect("it is a whole number")
    }

    /// Waits until no flight runs and no release is under way: commits are done then.
    ///
    /// # Panics
    ///
    /// When one goes on for longer than [`PATIENCE`](super::PATIENCE).
    pub async fn settled(&self) {
        soon("flights to end", async {
            while !self.warmer.flights().is_empty() {
                give_way().await;
            }
            self.keeper.settled().await;
        })
        .await;
    }
}

/// Reads an answer to its end.
///
/// # Errors
///
/// What the body ended with.
pub async fn read_answer(answer: Answer) -> Result<Bytes, Error> {
    match answer.body {
        AnswerBody::Document(body) => Ok(body),
        AnswerBody::Stored(stored) => stored
            .body
            .read(u64::MAX)
            .await
            .map_err(|source| Error::storage("reading an answer", source)),
        AnswerBody::Arriving(arriving) => {
            let whole = arriving.stream(0..u64::MAX).try_fold(
                BytesMut::new(),
                |mut whole, piece| async move {
                    whole.extend_from_slice(&piece);
                    Ok(whole)
                },
            );
            Ok(whole.await?.freeze())
        }
    }
}
