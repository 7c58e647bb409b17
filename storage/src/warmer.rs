//! The cache warmer: the front door that wraps the store and gets what is missing.
//!
//! It has the store's interface ([`Artifacts`]); handlers know nothing of flights or leases. A
//! hit in memory costs a look-up in a table and nothing else.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lease::{Clock, DelayQueue, Holder, LeaseKeeper, Records};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::artifact::ArtifactKey;
use crate::artifacts::{
    Answer, AnswerBody, Arriving, Artifacts, CacheOutcome, GetOptions, Verdict,
};
use crate::config::WarmerConfig;
use crate::error::Error;
use crate::fill::{Fill, Landed, LedBy};
use crate::flight::{FlightView, Flights, Role, Seat};
use crate::holder_watch::{HolderWatch, WatchParts};
use crate::hot::HotTier;
use crate::kept::{self, Kept};
use crate::metrics::{RoleLabel, StorageMetrics};
use crate::module::{ModulePath, Version};
use crate::peers::Peers;
use crate::record_warnings::RecordWarnings;
use crate::refresh::{self, Refresh};
use crate::relay::follow::Distrusted;
use crate::relay::serve::Granted;
use crate::retry::{PUSH_MAX, Retries, RetriesParts, Worker, WorkerParts, sample_queue};
use crate::revalidations::{Revalidations, revalidate_queued};
use crate::spool::Spool;
use crate::store::{ArtifactStore, StoreHealth, Stored};
use crate::turn::{OUTAGE_WARN_EVERY, Turns};
use crate::upstream::Upstream;
use crate::warning_gate::WarningGate;

/// A document is asked for again by `no-cache` at most this often, all requests together.
pub const REVALIDATE_AT_MOST_EVERY: Duration = Duration::from_secs(5);

/// How long a flight that a shutdown cancels has to become a job: its push may take its longest.
const CUT_SHORT_MAX: Duration = PUSH_MAX.saturating_add(Duration::from_secs(1));

/// What a warmer is made of.
#[derive(Debug)]
pub struct WarmerParts {
    /// The store that it wraps.
    pub store: Arc<ArtifactStore>,
    /// Where missing artifacts come from.
    pub upstream: Arc<dyn Upstream>,
    /// Where they are written while they arrive.
    pub spool: Spool,
    /// Where they stay while the store does not take them.
    pub kept: Kept,
    /// Coordination with other instances: asks for leases and keeps them alive.
    pub keeper: LeaseKeeper,
    /// Short-lived shared knowledge: documents, negative entries, failures.
    pub records: Arc<dyn Records>,
    /// Jobs for later: what failed and is tried again in the background.
    pub queue: Arc<dyn DelayQueue>,
    /// Our name as a worker of that queue, the same after a restart: [`crate::StateDir::id`].
    pub worker: Arc<str>,
    /// Who we are to other instances.
    pub holder: Holder,
    /// The other instances; [`crate::NoPeers`] when there are none.
    pub peers: Arc<dyn Peers>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Arc<StorageMetrics>,
    /// A multi-thread runtime that runs the fills, and nothing that serves requests.
    pub runtime: Handle,
}

/// State that fills and requests share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<ArtifactStore>,
    pub(crate) upstream: Arc<dyn Upstream>,
    pub(crate) spool: Spool,
    pub(crate) kept: Kept,
    pub(crate) hot: HotTier,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) turns: Turns,
    pub(crate) flights: Flights<ArtifactKey, Landed>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) granted: Granted,
    pub(crate) distrusted: Distrusted,
    pub(crate) record_warnings: RecordWarnings,
    pub(crate) revalidations: Revalidations,
    pub(crate) retries: Retries,
    pub(crate) config: WarmerConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<StorageMetrics>,
}

/// The store's wrapper that fetches each missing artifact once.
#[derive(Debug)]
pub struct Warmer {
    core: Arc<Core>,
    /// Ends the taking of jobs, before anything else ends.
    winding_down: CancellationToken,
    /// The samplers, the workers and the watches of holders; ended by [`Warmer::shutdown`] or by
    /// drop.
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Warmer {
    /// Wraps a store. Starts tasks on `parts.runtime`: the worker of refreshes behind stale
    /// answers, the worker of jobs for later, the one that tends to what is kept, and the samplers
    /// of gauges.
    pub fn new(parts: WarmerParts, config: WarmerConfig, hot: HotTier) -> Self {
        let (revalidations, queued) = Revalidations::new(config.revalidations_max);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let watch = HolderWatch::new(WatchParts {
            peers: parts.peers.clone(),
            clock: parts.clock.clone(),
            metrics: parts.metrics.clone(),
            every: config.holder_asked_every,
            runtime: parts.runtime.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        });
        let core = Arc::new(Core {
            flights: Flights::new(config.flights, parts.runtime.clone(), parts.clock.clone()),
            turns: Turns {
                keeper: parts.keeper,
                holder: parts.holder,
                clock: parts.clock.clone(),
                metrics: parts.metrics.clone(),
                watch,
                unleased: Arc::new(Semaphore::new(config.unleased_max)),
                outage: WarningGate::new(parts.clock.clone(), OUTAGE_WARN_EVERY),
            },
            peers: parts.peers,
            granted: Granted::default(),
            distrusted: Distrusted::default(),
            store: parts.store,
            upstream: parts.upstream,
            spool: parts.spool,
            kept: parts.kept,
            hot,
            records: parts.records,
            record_warnings: RecordWarnings::new(parts.clock.clone()),
            revalidations,
            retries: Retries::new(RetriesParts {
                queue: parts.queue,
                worker: parts.worker,
                config: config.retry,
                on_failure: config.on_failure,
                clock: parts.clock.clone(),
                metrics: parts.metrics.clone(),
            }),
            config,
            clock: parts.clock,
            metrics: parts.metrics,
        });
        let worker = revalidate_queued(core.clone(), queued);
        tasks.spawn_on(
            stop.clone().run_until_cancelled_owned(worker),
            &parts.runtime,
        );
        let sampler = sample_hot_tier(core.clone());
        tasks.spawn_on(
            stop.clone().run_until_cancelled_owned(sampler),
            &parts.runtime,
        );
        tasks.spawn_on(
            stop.clone()
                .run_until_cancelled_owned(kept::tend(core.clone())),
            &parts.runtime,
        );
        let sampler = sample_queue(core.clone());
        tasks.spawn_on(
            stop.clone().run_until_cancelled_owned(sampler),
            &parts.runtime,
        );
        let winding_down = stop.child_token();
        let worker = Worker::new(
            core.clone(),
            WorkerParts {
                runtime: parts.runtime.clone(),
                tasks: tasks.clone(),
                winding_down: winding_down.clone(),
                stop: stop.clone(),
            },
        );
        tasks.spawn_on(worker.run(), &parts.runtime);
        tasks.close();
        Self {
            core,
            winding_down,
            stop,
            tasks,
        }
    }

    /// The jobs for later, for operators.
    pub fn retries(&self) -> &Arc<dyn DelayQueue> {
        self.core.retries.queue()
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// An immutable artifact from memory, without waiting; what a hit costs at least.
    pub fn hot(&self, key: &ArtifactKey) -> Option<Stored> {
        self.core.hot.get(key)
    }

    /// Running flights, for operators.
    pub fn flights(&self) -> Vec<FlightView> {
        self.core.flights.list()
    }

    /// Tells whether artifacts can be read and stored: for readiness.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`]: the store cannot be read.
    pub async fn check(&self) -> Result<StoreHealth, Error> {
        self.core.store.check().await
    }

    /// Reads the gauges of what runs now, for a scrape.
    pub fn sample_flights(&self) {
        self.core.sample_flights();
    }

    /// Ends the warmer's tasks: flights may go on for `patience`, then they are cancelled and
    /// become jobs for later. Returns how many were. Flights that only a job waits for end at once.
    pub async fn shutdown(&self, patience: Duration) -> usize {
        self.winding_down.cancel();
        let cancelled = self.core.flights.drain(patience, CUT_SHORT_MAX).await;
        self.core.turns.keeper.settled().await;
        self.stop.cancel();
        self.tasks.wait().await;
        cancelled
    }

    async fn get_immutable(&self, key: &ArtifactKey, options: GetOptions) -> Result<Answer, Error> {
        let core = &self.core;
        if let Some(stored) = core.hot.get(key) {
            return Ok(Answer {
                body: AnswerBody::Stored(stored),
                cache: CacheOutcome::immutable(Verdict::HitMemory, Role::Leader),
            });
        }
        if options.only_if_cached || options.fetch_disabled || core.config.offline {
            return self.get_without_fetching(key, options).await;
        }
        let (landed, seat) = core.board(key).await?;
        Ok(answer_of(landed, seat))
    }

    /// What is here: kept, in the store, or arriving by another request's flight.
    async fn get_without_fetching(
        &self,
        key: &ArtifactKey,
        options: GetOptions,
    ) -> Result<Answer, Error> {
        let core = &self.core;
        let fetch_disabled = options.fetch_disabled || core.config.offline;
        // Before the look-up: a flight that ends in between has stored what it brought.
        let running = core.flights.join_running(key)?;
        if let Some(stored) = core.kept.get(key).await {
            core.hot.insert(key.clone(), stored.clone());
            return Ok(Answer {
                body: AnswerBody::Stored(stored),
                cache: CacheOutcome::immutable(Verdict::HitStored, Role::Leader),
            });
        }
        let options = GetOptions {
            fetch_disabled,
            ..options
        };
        let absent = match core.store.get(key, options).await {
            Ok(answer) => {
                if let AnswerBody::Stored(stored) = &answer.body {
                    core.hot.insert(key.clone(), stored.clone());
                }
                return Ok(answer);
            }
            Err(error) => error,
        };
        let Some(seat) = running else {
            return Err(absent);
        };
        match seat.landed(core.config.wait_max, &*core.clock).await {
            Ok(landed) => Ok(answer_of(landed, seat)),
            // The other request's failure; this one only asked what is here.
            Err(_) => Err(absent),
        }
    }
}

/// A flight's landing as the answer to the request in one of its seats.
fn answer_of(landed: Landed, seat: Seat<Landed>) -> Answer {
    let role = seat.role();
    match landed {
        Landed::Stored { stored, verdict } => Answer {
            body: AnswerBody::Stored(stored),
            cache: CacheOutcome::immutable(verdict, role),
        },
        Landed::Filling { filling, verdict } => Answer {
            body: AnswerBody::Arriving(Arriving {
                filling,
                seat: Arc::new(seat),
            }),
            cache: CacheOutcome::immutable(verdict, role),
        },
        Landed::Document(document) => document.into_answer(role),
    }
}

impl Drop for Warmer {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[async_trait]
impl Artifacts for Warmer {
    async fn get(&self, key: &ArtifactKey, options: GetOptions) -> Result<Answer, Error> {
        if key.is_mutable() {
            refresh::get_document(&self.core, key, options).await
        } else {
            self.get_immutable(key, options).await
        }
    }

    async fn versions(&self, module: &ModulePath) -> Result<Vec<Version>, Error> {
        self.core.versions(module).await
    }
}

impl Core {
    /// Takes a seat in the unit's flight, starting one if there is none, and waits for it to
    /// land.
    pub(crate) async fn board(
        self: &Arc<Self>,
        key: &ArtifactKey,
    ) -> Result<(Landed, Seat<Landed>), Error> {
        let began = self.clock.now();
        let seat = self
            .flights
            .join(key, &key.unit(), |lead| {
                let (core, key) = (self.clone(), key.clone());
                async move {
                    if key.is_mutable() {
                        Refresh::new(core, key, lead).run().await;
                    } else {
                        Fill::new(core, key, lead, LedBy::Client).run().await;
                    }
                }
            })
            .inspect_err(|error| self.count_limit(error))?;
        let role = seat.role();
        let landed = seat.landed(self.config.wait_max, &*self.clock).await?;
        let waited = self.clock.now().saturating_duration_since(began);
        let label = RoleLabel {
            role: if role == Role::Leader {
                "leader"
            } else {
                "waiter"
            },
        };
        self.metrics
            .flight_ttfb_seconds
            .get_or_create(&label)
            .observe(waited.as_secs_f64());
        Ok((landed, seat))
    }

    /// Takes a seat for a job in the flight of an immutable artifact, starting one if there is
    /// none.
    pub(crate) fn join_for_job(self: &Arc<Self>, key: &ArtifactKey) -> Result<Seat<Landed>, Error> {
        self.flights.join(key, &key.unit(), |lead| {
            Fill::new(self.clone(), key.clone(), lead, LedBy::Job).run()
        })
    }

    fn count_limit(&self, error: &Error) {
        if let Error::Overloaded { limit } = error {
            self.metrics.count_limit(limit);
        }
    }

    /// Logs a failed fill once, with its causes. What does not exist is no failure of ours.
    pub(crate) fn log_failure(&self, unit: &str, error: &Error) {
        self.count_limit(error);
        match error {
            Error::NotFound { .. } | Error::Remembered(_) | Error::Forbidden { .. } => {
                tracing::debug!(unit, %error, "not to be had");
            }
            Error::Interrupted { .. } => tracing::info!(unit, "fetch interrupted"),
            _ => tracing::warn!(unit, error = %causes(error), "fetch failed"),
        }
    }

    pub(crate) fn sample_flights(&self) {
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.spool_bytes.set(gauge(self.spool.used_bytes()));
        self.metrics.kept.files.set(gauge(self.kept.files()));
        self.metrics.kept.bytes.set(gauge(self.kept.bytes()));
        let free_bytes = self.spool.free_bytes();
        self.metrics
            .kept
            .free_bytes
            .set(gauge(free_bytes.unwrap_or(0)));
        self.metrics.flights.set(gauge(self.flights.len() as u64));
        self.metrics
            .flight_waiters
            .set(gauge(self.flights.waiters() as u64));
        self.metrics
            .reval_queue_depth
            .set(gauge(self.revalidations.depth() as u64));
    }
}

/// An error and its causes in one line, for the log.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

async fn sample_hot_tier(core: Arc<Core>) {
    loop {
        core.metrics
            .lru_bytes
            .set(i64::try_from(core.hot.bytes()).unwrap_or(i64::MAX));
        core.clock.sleep(core.config.sample_interval).await;
    }
}

#[cfg(test)]
mod tests;
