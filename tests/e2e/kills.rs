//! SIGKILL at random moments under failing fetches and failing writes: nothing is lost.

use e2e::mayhem::{self, Plan, Tally};
use e2e::stores::BreakableStore;

/// Kills of each test; `scripts/bench failures` makes two hundred.
const KILLS: usize = 5;

async fn nothing_is_lost(store: BreakableStore) {
    let seed = match std::env::var("CORRAL_SEED") {
        Ok(seed) => seed.parse().expect("CORRAL_SEED is a number"),
        Err(_) => rand::random(),
    };
    let plan = Plan {
        kills: KILLS,
        seed,
        life_ms: 300..1500,
    };
    let tally = mayhem::run(&plan, store).await;
    let Tally {
        told,
        served,
        jobs_lost,
        bytes_lost,
        wrong,
        left,
        ..
    } = &tally;
    let lost = [jobs_lost, bytes_lost, wrong, left];
    assert!(
        lost.iter().all(|lost| lost.is_empty()),
        "failed with CORRAL_SEED={seed}: {tally:#?}"
    );
    assert!(*told > 0 && *served > 0, "CORRAL_SEED={seed}: {tally:#?}");
}

// acceptance: G6; fault: 24, 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_a_folder() {
    nothing_is_lost(BreakableStore::folder()).await;
}

// acceptance: G6; fault: 24, 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_a_bucket() {
    nothing_is_lost(BreakableStore::bucket().await).await;
}
