//! What the fleet tests start from: a fleet, and rounds with a module of their own for each seed.

use std::time::{Duration, Instant};

use bytes::Bytes;
use e2e::client::Outcome;
use e2e::fleet::{Fleet, Plan};
use e2e::upstream::{FixtureModule, FixtureUpstream, Gate, Path};
use e2e::valkey::Valkey;
use e2e::wait;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fixtures::V;

/// Rounds of each test, unless `CORRAL_SEEDS` says otherwise.
const SEEDS: u64 = 5;

/// Smallest and largest zip: some fit into memory, others are streamed through the spool.
const ZIP_BYTES: std::ops::Range<usize> = 20_000..700_000;

/// Bytes that are held back until a file is verified; what lies before them streams.
pub(crate) const HELD_BACK: u64 = 64 * 1024;

/// The longest time between two looks of a follower whom nobody wakes.
pub(crate) const POLL_MAX: Duration = Duration::from_secs(2);

/// How long one command to Valkey may take.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);

/// What a busy machine adds to any bound.
pub(crate) const SLACK: Duration = Duration::from_millis(1500);

/// The seeds of every test: `CORRAL_SEEDS=N` for the first N, `CORRAL_SEEDS=A..B` for a range.
pub(crate) fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("CORRAL_SEEDS").unwrap_or_default();
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match wanted.split_once("..") {
        Some((from, to)) => number(from).zip(number(to)).map(|(from, to)| from..to),
        None => number(&wanted).map(|count| 0..count),
    }
    .unwrap_or(0..SEEDS)
}

/// A fleet and its upstream.
pub(crate) struct Scene {
    pub(crate) upstream: FixtureUpstream,
    pub(crate) fleet: Fleet,
}

impl Scene {
    pub(crate) async fn start(plan: Plan) -> Self {
        Self::over(plan, Valkey::start().await).await
    }

    pub(crate) async fn over(plan: Plan, valkey: Valkey) -> Self {
        let upstream = FixtureUpstream::start().await;
        let fleet = plan.start_over(&upstream, valkey).await;
        Self { upstream, fleet }
    }

    /// A module that nobody has asked for yet, of a size and with choices that the seed decides.
    pub(crate) fn round(&self, seed: u64) -> Round {
        self.round_of(seed, ZIP_BYTES)
    }

    /// As [`Scene::round`], with a zip that is streamed.
    pub(crate) fn large_round(&self, seed: u64) -> Round {
        self.round_of(seed, 400_000..1_500_000)
    }

    fn round_of(&self, seed: u64, sizes: std::ops::Range<usize>) -> Round {
        let mut rng = StdRng::seed_from_u64(seed);
        let name = format!("example.com/round{seed}");
        let module = FixtureModule::new(&name).version_sized(V, rng.random_range(sizes));
        self.upstream.add(&module);
        let zip = module.file_path(V, "zip");
        Round {
            seed,
            holder: rng.random_range(0..self.fleet.size()),
            rng,
            body: self.upstream.body(&zip),
            path: self.upstream.path(&zip),
            zip,
        }
    }

    /// All instances but one.
    pub(crate) fn others(&self, than: usize) -> Vec<usize> {
        (0..self.fleet.size())
            .filter(|&index| index != than)
            .collect()
    }

    /// The key of the one lease that is held now.
    pub(crate) async fn lease_key(&self) -> String {
        let mut keys = Vec::new();
        wait::until("one lease is held", wait::PATIENCE, async || {
            keys = self.fleet.valkey.keys("*:lease:*").await;
            keys.len() == 1
        })
        .await;
        keys.remove(0)
    }

    /// Waits until an instance says that it uses Valkey, or that it does without.
    pub(crate) async fn degraded(&self, index: usize, wanted: bool, bound: Duration) {
        let corral = self.fleet.corral(index);
        let what = format!("instance {index} says degraded: {wanted}");
        wait::until(&what, bound, async || {
            let reply = corral.admin("/readyz").await.expect_status(200);
            reply.text().contains("degraded") == wanted
        })
        .await;
    }

    /// As [`Scene::degraded`], of all instances.
    pub(crate) async fn all_degraded(&self, wanted: bool, bound: Duration) {
        for index in 0..self.fleet.size() {
            self.degraded(index, wanted, bound).await;
        }
    }
}

/// One seed's module and choices. Names its seed when the test fails.
pub(crate) struct Round {
    pub(crate) seed: u64,
    pub(crate) rng: StdRng,
    /// The instance that is asked first.
    pub(crate) holder: usize,
    /// The request path of the zip.
    pub(crate) zip: String,
    /// What every client must get.
    pub(crate) body: Bytes,
    /// The upstream's side.
    pub(crate) path: Path,
}

impl Round {
    /// A position in the body after which upstream waits; before the last bytes.
    pub(crate) fn position(&mut self) -> u64 {
        let end = (self.body.len() as u64).saturating_sub(HELD_BACK).max(2);
        self.rng.random_range(1..end)
    }

    /// Lets upstream's answers from now on wait somewhere in the body.
    pub(crate) fn hold(&mut self) -> Gate {
        let position = self.position();
        self.path.hold_body_at(position)
    }

    /// A number of clients.
    pub(crate) fn clients(&mut self) -> usize {
        self.rng.random_range(1..20)
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The test runner shows this only for the test that fails.
            #[allow(clippy::print_stderr)]
            {
                let seed = self.seed;
                eprintln!("failed with seed {seed}: CORRAL_SEEDS={seed}..{}", seed + 1);
            }
        }
    }
}

/// The longest that any of these clients waited for its whole answer.
pub(crate) fn longest(outcomes: &[Outcome]) -> Duration {
    outcomes.iter().map(|o| o.elapsed).max().unwrap_or_default()
}

/// Asserts that something took no longer than `bound`, a busy machine granted.
#[track_caller]
pub(crate) fn within(started: Instant, bound: Duration, what: &str) {
    let took = started.elapsed();
    assert!(
        took <= bound + SLACK,
        "{what} took {took:?} instead of {bound:?}"
    );
}
