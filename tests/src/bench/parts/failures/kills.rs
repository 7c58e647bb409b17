//! Kills at random moments under failing fetches and failing writes.

use rand::Rng as _;

use crate::bench::parts::Bench;
use crate::bench::progress::{Progress, say};
use crate::bench::results::{Failures as Measured, Kills};
use crate::mayhem::{self, Plan};
use crate::stores::BreakableStore;

pub(super) async fn run(bench: &Bench, measured: &mut Measured) -> anyhow::Result<()> {
    let kills = if bench.quick { 5 } else { 200 };
    for store in [BreakableStore::folder(), BreakableStore::bucket().await] {
        let kind = store.kind();
        let seed = rand::rng().random();
        say(&format!("kills over {kind}: seed {seed}"));
        let plan = Plan {
            kills,
            seed,
            life_ms: 100..1_000,
        };
        let mut progress = Progress::new(format!("kills over {kind}"), kills);
        let tally = mayhem::run_with(&plan, store, |_| progress.step("restarted")).await;
        measured.kills.push(Kills {
            store: kind.to_owned(),
            seed,
            kills: tally.kills,
            files: tally.files,
            told: tally.told,
            served: tally.served,
            jobs_lost: tally.jobs_lost,
            bytes_lost: tally.bytes_lost,
            wrong: tally.wrong,
            left: tally.left,
            mended_after_s: tally.mended_after.as_secs_f64(),
        });
    }
    Ok(())
}
