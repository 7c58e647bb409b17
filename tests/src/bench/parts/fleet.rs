//! Several instances over one store and one Valkey, and the leases themselves.

mod deaths;
mod direct;
mod herds;
mod outages;
mod report;
mod traffic;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Bench;
use crate::bench::content::{File, Module};
use crate::bench::origin::Origin;
use crate::bench::progress::say;
use crate::bench::results::{Fleet as Measured, Results};
use crate::fleet::{Fleet, Plan};
use crate::valkey::Valkey;

pub(in crate::bench) use report::{judge, tables};

/// Instances of a fleet.
const INSTANCES: usize = 3;

/// The TTL that an instance has by default.
const TTL: Duration = Duration::from_secs(6);

/// Measures everything that a fleet owes; a measurement that fails is reported, the others go on.
///
/// # Errors
///
/// When there is no corral to measure.
pub fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    ensure!(bench.site.corral.is_some(), "no corral binary (CORRAL_BIN)");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("make a runtime")?;
    let mut measured = Measured {
        instances: INSTANCES,
        ..Measured::default()
    };
    let mut troubles = Vec::new();
    let mut note = |what: &str, done: anyhow::Result<()>| {
        if let Err(error) = done {
            troubles.push(format!("fleet, {what}, was ended: {error:#}"));
        }
    };
    runtime.block_on(async {
        note("herds", herds::run(bench, &mut measured).await);
        note("leases", direct::run(bench, &mut measured).await);
        note("deaths", deaths::run(bench, &mut measured).await);
        note("commands", traffic::run(bench, &mut measured).await);
        note("outages", outages::run(bench, &mut measured).await);
    });
    results.fleet = Some(measured);
    results.troubles.extend(troubles);
    Ok(())
}

/// A fleet with defaults and no links, in front of `origin`.
async fn start(origin: &Origin, ttl: Duration) -> Fleet {
    let plan = Plan::of(INSTANCES).direct().ttl(ttl);
    plan.start_before(origin.address(), Valkey::start().await)
        .await
}

/// An upstream that serves these files.
fn serve<'a>(files: impl IntoIterator<Item = &'a File>) -> anyhow::Result<Origin> {
    let files = files.into_iter();
    let by_path: HashMap<_, _> = files
        .map(|file| (file.path.clone(), file.body.clone()))
        .collect();
    Origin::start(by_path).context("start the upstream")
}

/// Modules whose zips have about so many bytes.
fn modules(kind: &str, count: usize, zip_bytes: usize) -> anyhow::Result<Vec<Module>> {
    say(&format!(
        "fleet: making {count} modules of {zip_bytes} bytes"
    ));
    (0..count)
        .map(|n| Module::new(&format!("{kind}/m{n:03}"), zip_bytes))
        .collect()
}

/// How often each instance has asked the upstream so far.
async fn fetches(fleet: &Fleet) -> Vec<f64> {
    let mut fetches = Vec::new();
    for index in 0..fleet.size() {
        let corral = fleet.corral(index);
        fetches.push(corral.metric("corral_upstream_fetches_total", &[]).await);
    }
    fetches
}

/// The instances that have asked the upstream between two readings of [`fetches`].
fn fetchers(before: &[f64], after: &[f64]) -> Vec<usize> {
    let rose = before.iter().zip(after).enumerate();
    rose.filter(|(_, (before, after))| after > before)
        .map(|(index, _)| index)
        .collect()
}
