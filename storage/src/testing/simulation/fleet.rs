//! `Fleet`: the instances, their deaths and their successors.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lease::{Clock, Holder, LeaseConfig, LeaseKeeper, LocalQueue, QueueLimits};
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

use super::bucket::{HostStore, Objects};
use super::host::{Host, HostClock};
use super::link::{Link, LinkedLeases, LinkedRecords};
use super::neighbours::Neighbours;
use super::origin::{HostUpstream, Origin};
use super::server::Server;
use super::world::{World, lock};
use crate::config::{OnFailure, WarmerConfig};
use crate::flight::FlightLimits;
use crate::hot::HotTier;
use crate::kept::Kept;
use crate::metrics::{ResultLabel, StorageMetrics};
use crate::spool::{Spool, SpoolLimits};
use crate::store::{ArtifactStore, StoreOptions};
use crate::warmer::{Warmer, WarmerParts};

/// Room for everything that is simulated.
const HOT_BYTES_MAX: u64 = 64 << 20;

/// One process of the fleet, with the real warmer in it.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) host: Arc<Host>,
    pub(super) link: Arc<Link>,
    pub(super) warmer: Warmer,
    pub(super) metrics: Arc<StorageMetrics>,
    keeper: LeaseKeeper,
}

impl Instance {
    pub(super) fn name(number: u32) -> String {
        format!("instance-{number}")
    }

    /// Whether nothing goes on in it any more.
    pub(super) fn is_idle(&self) -> bool {
        self.warmer.flights().is_empty() && self.keeper.releasing() == 0
    }

    /// Whether the store ever left open what became of something it fetched.
    pub(super) fn has_failed_commits(&self) -> bool {
        let failed = ResultLabel { result: "failed" };
        self.metrics.commits.get_or_create(&failed).get() > 0
    }

    /// What is left in it that should have gone; `None` when all has.
    pub(super) fn leftovers(&self) -> Option<String> {
        let flights = self.warmer.flights();
        let waiters: u64 = flights.iter().map(|flight| flight.waiters).sum();
        let subscriptions = self.link.fanout().subscriptions();
        let releasing = self.keeper.releasing();
        (flights.len() + subscriptions + releasing > 0 || waiters > 0).then(|| {
            format!(
                "instance {} keeps {} flights, {waiters} waiters, {subscriptions} subscriptions \
                 and {releasing} releases",
                self.host.number,
                flights.len(),
            )
        })
    }
}

/// All instances, by the place that a load balancer knows them by.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) world: Arc<World>,
    pub(super) server: Arc<Server>,
    pub(super) origin: Arc<Origin>,
    pub(super) objects: Arc<Objects>,
    spool: Spool,
    places: Mutex<Vec<Option<Arc<Instance>>>>,
    /// All processes by their number, the dead included: what those were doing stays as it was,
    /// as no code of theirs runs any more.
    processes: Mutex<Vec<Arc<Instance>>>,
}

impl Fleet {
    /// Starts all instances.
    pub(super) fn start(world: Arc<World>, spool_dir: &Path) -> Arc<Self> {
        let fleet = Arc::new(Self {
            server: Server::new(world.clone()),
            origin: Origin::new(),
            objects: Arc::default(),
            spool: Spool::open(
                spool_dir,
                SpoolLimits {
                    bytes_max: 1 << 20,
                    free_bytes_min: 0,
                    kept_percent_max: 0,
                },
            )
            .expect("temporary files can be written"),
            places: Mutex::new(vec![None; world.plan.instances]),
            processes: Mutex::default(),
            world,
        });
        for place in 0..fleet.world.plan.instances {
            fleet.start_at(place);
        }
        fleet
    }

    fn start_at(self: &Arc<Self>, place: usize) {
        let world = &self.world;
        let number = u32::try_from(lock(&self.processes).len() + 1).expect("a small number");
        let host = Host::new(number);
        world.note(host.number, "starts", None, 0);
        let link = Link::connect(
            world.clone(),
            host.clone(),
            self.server.clone(),
            self.objects.clone(),
        );
        let clock: Arc<dyn Clock> = Arc::new(HostClock {
            world: world.clone(),
            host: host.clone(),
        });
        let config = WarmerConfig {
            flights: FlightLimits {
                waiters_max: world.plan.clients + 1,
                ..WarmerConfig::default().flights
            },
            // The delays between inline attempts are drawn by a library that no seed reaches.
            retry_delay: Duration::ZERO,
            // The plans count what clients cause.
            on_failure: OnFailure::Drop,
            sample_interval: Duration::from_secs(3_600),
            ..WarmerConfig::default()
        };
        let lease_config = LeaseConfig {
            ttl: config.lease_ttl,
            ..LeaseConfig::default()
        };
        let metrics = StorageMetrics::new(&mut Registry::default());
        let keeper = LeaseKeeper::new(
            Arc::new(LinkedLeases(link.clone())),
            clock.clone(),
            lease_config,
            Handle::current(),
            metrics.clone(),
        )
        .expect("the defaults are valid");
        let store = HostStore {
            world: world.clone(),
            host: host.clone(),
            objects: self.objects.clone(),
        };
        let upstream = HostUpstream {
            world: world.clone(),
            host: host.clone(),
            origin: self.origin.clone(),
            server: self.server.clone(),
        };
        let spool = self.spool.beside();
        let parts = WarmerParts {
            store: Arc::new(ArtifactStore::with_backend(
                Arc::new(store),
                StoreOptions::default(),
            )),
            upstream: Arc::new(upstream),
            kept: Kept::nothing(&spool),
            spool,
            keeper: keeper.clone(),
            records: Arc::new(LinkedRecords(link.clone())),
            queue: Arc::new(LocalQueue::in_memory(QueueLimits::default(), clock.clone())),
            worker: Instance::name(host.number).into(),
            holder: Holder {
                instance: Instance::name(host.number).into(),
                address: Some(format!("{}:1", Instance::name(host.number)).into()),
            },
            peers: Arc::new(Neighbours {
                world: world.clone(),
                host: host.clone(),
                fleet: Arc::downgrade(self),
            }),
            clock,
            metrics: metrics.clone(),
            runtime: Handle::current(),
        };
        let hot = HotTier::new(HOT_BYTES_MAX, HOT_BYTES_MAX, &metrics);
        let instance = Instance {
            host,
            link,
            warmer: Warmer::new(parts, config, hot),
            metrics,
            keeper,
        };
        let instance = Arc::new(instance);
        lock(&self.processes).push(instance.clone());
        lock(&self.places)[place] = Some(instance);
    }

    /// The instance at a place; `None` while a dead one's successor is still to come.
    pub(super) fn at(&self, place: usize) -> Option<Arc<Instance>> {
        lock(&self.places)[place].clone()
    }

    /// Whoever has or had this internal address.
    pub(super) fn by_address(&self, address: &str) -> Option<Arc<Instance>> {
        let number: u32 = address
            .strip_prefix("instance-")?
            .strip_suffix(":1")?
            .parse()
            .ok()?;
        lock(&self.processes)
            .get(number.checked_sub(1)? as usize)
            .cloned()
    }

    /// All who live, with their places.
    pub(super) fn living(&self) -> Vec<(usize, Arc<Instance>)> {
        let places = lock(&self.places);
        places
            .iter()
            .enumerate()
            .filter_map(|(place, instance)| Some((place, instance.clone()?)))
            .collect()
    }

    /// All who live or lived.
    pub(super) fn everybody(&self) -> Vec<Arc<Instance>> {
        lock(&self.processes).clone()
    }

    /// A process that holds a lease, else any; `None` when nobody lives.
    pub(super) fn pick_holder(&self) -> Option<(usize, Arc<Instance>)> {
        let living = self.living();
        if living.is_empty() {
            return None;
        }
        let holders: Vec<_> = self
            .server
            .list()
            .into_iter()
            .map(|view| view.holder.instance)
            .collect();
        let holding: Vec<_> = living
            .iter()
            .filter(|(_, instance)| {
                let name = Instance::name(instance.host.number);
                holders.iter().any(|holder| **holder == *name)
            })
            .collect();
        match holding.len() {
            0 => Some(living[self.world.pick(living.len())].clone()),
            count => Some(holding[self.world.pick(count)].clone()),
        }
    }

    /// Kills the process at `place`; another takes its place after `absence`.
    pub(super) fn kill(self: &Arc<Self>, place: usize, with_machine: bool, absence: Duration) {
        let Some(victim) = lock(&self.places)[place].take() else {
            return;
        };
        let world = &self.world;
        let number = victim.host.number;
        let how = if with_machine {
            "dies with its machine"
        } else {
            "dies"
        };
        world.note(number, how, None, 0);
        let name = Instance::name(number);
        let others = self.living();
        for lease in self.server.list() {
            let unit = world.unit_named(lease.key.as_str());
            let Some(unit) = unit.filter(|_| *lease.holder.instance == *name) else {
                continue;
            };
            let waited_for = others.iter().any(|(_, other)| {
                let flights = other.warmer.flights();
                flights
                    .iter()
                    .any(|flight| flight.unit == world.units[unit].name)
            });
            if waited_for && !self.objects.has(unit) {
                world.note(number, "leaves a lease behind", Some(unit), 0);
                world.ledger().orphaned(world.now(), unit);
            }
        }
        victim.host.die(with_machine);
        self.server.disconnect(number);
        world.ledger().deaths += 1;
        let fleet = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(absence).await;
            fleet.start_at(place);
        });
    }
}
