//! An instance that is killed again and again while fetches and writes fail, and what is lost.
//!
//! Everything follows from a seed but the timing. A client that was told of a failure is owed the
//! file, stored without any further request; so is one that got the file. Before the last check
//! everything is mended, and nobody asks for anything any more.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;

use crate::client::Request;
use crate::proxy::{Corral, Setup};
use crate::stores::BreakableStore;
use crate::upstream::{Answer, FixtureModule, FixtureUpstream};

/// Clients that ask all the time.
const CLIENTS: usize = 8;

/// Modules that come new with each life; a `.mod` and a zip each.
const MODULES_PER_LIFE: usize = 4;

/// Sizes of the zips: some fit into memory, others go through the spool.
const ZIP_BYTES: Range<usize> = 5_000..600_000;

/// How long one kind of trouble lasts, ms.
const WEATHER_MS: Range<u64> = 30..250;

/// The longest that the last jobs may take once everything is mended.
const MENDED_WITHIN: Duration = Duration::from_secs(90);

/// The version of all modules.
const VERSION: &str = "v1.0.0";

/// How often, and how soon, the instance is killed.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Kills.
    pub kills: usize,
    /// What decides about everything but the timing.
    pub seed: u64,
    /// How long the instance lives before each kill, ms, counted from its being ready.
    pub life_ms: Range<u64>,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    /// Kills.
    pub kills: usize,
    /// Files that were asked for.
    pub files: usize,
    /// Answers that told of a failure.
    pub told: usize,
    /// Whole files that clients got.
    pub served: usize,
    /// Files whose failure was told and that nobody took care of.
    pub jobs_lost: Vec<String>,
    /// Files that a client got whole and that are not stored.
    pub bytes_lost: Vec<String>,
    /// Whole answers and stored objects with other bytes than upstream's.
    pub wrong: Vec<String>,
    /// Jobs and kept files that were left although nothing was owed any more.
    pub left: Vec<String>,
    /// From the end of all trouble until everything owed was stored.
    pub mended_after: Duration,
}

/// What the clients saw.
#[derive(Debug, Default)]
struct Seen {
    told: BTreeSet<String>,
    served: BTreeSet<String>,
    wrong: Vec<String>,
    counts: (usize, usize),
}

struct Mayhem {
    upstream: FixtureUpstream,
    store: BreakableStore,
    paths: Vec<String>,
    /// Paths whose object was found whole; it never changes again.
    whole: BTreeSet<String>,
    seen: Arc<Mutex<Seen>>,
    rng: StdRng,
}

/// Kills an instance over `store` as the plan says, mends everything, and looks what is lost.
///
/// # Panics
///
/// When the instance does not start, or ends by itself.
pub async fn run(plan: &Plan, store: BreakableStore) -> Tally {
    run_with(plan, store, |_| {}).await
}

/// As [`run`]; `killed` is told of each kill by its number.
///
/// # Panics
///
/// As [`run`].
pub async fn run_with(plan: &Plan, store: BreakableStore, mut killed: impl FnMut(usize)) -> Tally {
    let upstream = FixtureUpstream::start().await;
    let setup = Setup::before(&upstream)
        .set("fill.retries", "1")
        .set("failure.ttl", "200ms")
        .set("upstreams.first_byte_timeout", "400ms")
        .set("upstreams.stall_timeout", "400ms")
        // A job that meets a kill has used up an attempt; what is shown here is that none is lost.
        .set("retry.attempts_max", "1000");
    let setup = store.under(setup);
    let mut mayhem = Mayhem {
        upstream,
        store,
        paths: Vec::new(),
        whole: BTreeSet::new(),
        seen: Arc::default(),
        rng: StdRng::seed_from_u64(plan.seed),
    };
    let mut tally = Tally::default();
    let mut corral = setup.start().await;
    for kill in 0..plan.kills {
        let life = Duration::from_millis(mayhem.rng.random_range(plan.life_ms.clone()));
        mayhem.live(&mut corral, life).await;
        tally.kills += 1;
        tally.wrong.extend(mayhem.half_written());
        // A store that is not there is a mistake in configuration to a process that starts.
        mayhem.store.heal();
        if mayhem.rng.random() {
            mayhem.refuse_writes();
        }
        corral = corral.restart().await;
        killed(kill + 1);
    }
    mayhem.mend(&corral, &mut tally).await;
    tally
}

impl Mayhem {
    /// One life: clients ask, trouble comes and goes, and then the process is killed.
    async fn live(&mut self, corral: &mut Corral, life: Duration) {
        for _ in 0..MODULES_PER_LIFE {
            let name = format!("example.com/unit{}", self.paths.len());
            let size = self.rng.random_range(ZIP_BYTES);
            let module = FixtureModule::new(&name).version_sized(VERSION, size);
            self.upstream.add(&module);
            self.paths
                .extend(["mod", "zip"].map(|kind| module.file_path(VERSION, kind)));
        }
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let rng = StdRng::from_rng(&mut self.rng);
            clients.spawn(self.client(corral, rng, Arc::clone(&over)));
        }
        let end = Instant::now() + life;
        let mut is_fair = self.whole.is_empty() || self.rng.random_bool(0.3);
        while Instant::now() < end {
            if std::mem::take(&mut is_fair) {
                self.fair_weather();
            } else {
                self.change_weather();
            }
            let lasts = Duration::from_millis(self.rng.random_range(WEATHER_MS));
            tokio::time::sleep(lasts.min(end.saturating_duration_since(Instant::now()))).await;
        }
        assert!(corral.running(), "it ended by itself\n{}", corral.log());
        corral.kill9().await;
        over.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client.expect("a client does not panic");
        }
    }

    /// A client that asks for one file after the other until its server is gone.
    fn client(
        &self,
        corral: &Corral,
        mut rng: StdRng,
        over: Arc<AtomicBool>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let addr = corral.addr();
        let with_body = |path: &String| (path.clone(), self.upstream.body(path));
        let files: Vec<_> = self.paths.iter().map(with_body).collect();
        let newest = files.len() - 2 * MODULES_PER_LIFE;
        let seen = Arc::clone(&self.seen);
        async move {
            while !over.load(Ordering::Relaxed) {
                let first = if rng.random_bool(0.7) { newest } else { 0 };
                let (path, body) = &files[rng.random_range(first..files.len())];
                let request = Request::get(path).time_limit(Duration::from_secs(10));
                let reply = request.send(addr).await;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                match reply.status {
                    // Cut by the kill, or not there any more: nothing was promised.
                    _ if !reply.complete() => {}
                    200 if reply.body == body => {
                        seen.served.insert(path.clone());
                        seen.counts.1 += 1;
                    }
                    500..=599 => {
                        seen.told.insert(path.clone());
                        seen.counts.0 += 1;
                    }
                    status => {
                        let len = reply.body.len();
                        seen.wrong
                            .push(format!("{path}: answered {status} with {len} bytes"));
                    }
                }
            }
        }
    }

    fn fair_weather(&self) {
        self.store.heal();
        self.upstream.everywhere(None);
    }

    fn change_weather(&mut self) {
        let answers = [
            None,
            None,
            Some(Answer::status(503, "closed for repairs")),
            Some(Answer::retry_after(429, "slow down", 1)),
            Some(Answer::CloseBeforeHeaders),
            Some(Answer::ResetBeforeHeaders),
            Some(Answer::Silent),
            Some(Answer::TruncateAt(3)),
            Some(Answer::ResetAt(4_000)),
            Some(Answer::StallAt(100_000)),
        ];
        let chosen = self.rng.random_range(0..answers.len());
        self.upstream.everywhere(answers[chosen].clone());
        self.store.heal();
        match self.rng.random_range(0..10) {
            0..3 => {}
            3..8 => self.refuse_writes(),
            _ => self.store.vanish(),
        }
    }

    fn refuse_writes(&self) {
        self.store
            .refuse_writes(self.paths.iter().map(String::as_str));
    }

    /// The stored objects that are not what upstream has, among those not known to be whole.
    fn half_written(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for path in &self.paths {
            if self.whole.contains(path) {
                continue;
            }
            match self.store.object(path) {
                Some(bytes) if bytes == self.upstream.body(path) => {
                    self.whole.insert(path.clone());
                }
                Some(bytes) => wrong.push(format!("{path}: stored with {} bytes", bytes.len())),
                None => {}
            }
        }
        wrong
    }

    /// Ends all trouble, waits until nothing is owed any more, and writes down what is lost.
    async fn mend(&mut self, corral: &Corral, tally: &mut Tally) {
        self.fair_weather();
        let mended = Instant::now();
        let seen = std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        let owed: BTreeSet<_> = seen.told.union(&seen.served).cloned().collect();
        let mut missing: Vec<_> = owed.iter().collect();
        while mended.elapsed() < MENDED_WITHIN {
            missing.retain(|path| !self.store.holds(path, &self.upstream.body(path)));
            if missing.is_empty() {
                break;
            }
            // The delays have grown with the kills; an operator who has mended everything does
            // not wait for them either.
            corral.run_all_jobs().await;
            if corral.jobs().await.is_empty() && corral.flights().await.is_empty() {
                // Nobody takes care of what is missing now.
                missing.retain(|path| !self.store.holds(path, &self.upstream.body(path)));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tally.mended_after = mended.elapsed();
        for path in missing {
            if seen.served.contains(path) {
                tally.bytes_lost.push(path.clone());
            } else {
                tally.jobs_lost.push(path.clone());
            }
        }
        self.settled(corral, tally).await;
        tally.wrong.extend(seen.wrong);
        self.whole.clear();
        tally.wrong.extend(self.half_written());
        (tally.told, tally.served) = seen.counts;
        tally.files = self.paths.len();
    }

    /// Notes what is left in the queue and in the spool once everything is stored.
    async fn settled(&self, corral: &Corral, tally: &mut Tally) {
        let left = async || {
            let mut left: Vec<String> = Vec::new();
            left.extend(corral.jobs().await.iter().map(ToString::to_string));
            left.extend(corral.dead_jobs().await.iter().map(ToString::to_string));
            let kept = corral.metric("corral_spool_kept_files", &[]).await;
            if kept > 0.0 {
                left.push(format!("{kept} kept files"));
            }
            left
        };
        let started = Instant::now();
        loop {
            tally.left = left().await;
            if tally.left.is_empty() || started.elapsed() > MENDED_WITHIN {
                return;
            }
            corral.run_all_jobs().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
