//! What fails is told once and mended in the background: an upstream that is down, a long queue,
//! kills under failing fetches and writes, fills that hang beside warm hits.

mod backlog;
mod hung;
mod kills;
mod outage;
mod report;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;

use super::Bench;
use crate::bench::results::{Failures as Measured, Results};
use crate::upstream::FixtureUpstream;

pub use report::judge;
pub(in crate::bench) use report::tables;

/// States that must come are waited for this long.
const COMES_WITHIN: Duration = Duration::from_secs(60);

/// Measures everything that failures owe; a measurement that fails is reported, the others go on.
///
/// # Errors
///
/// When there is no corral to measure.
pub fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    ensure!(bench.site.corral.is_some(), "no corral binary (CORRAL_BIN)");
    let runtime = multi_thread(2)?;
    // Of its own, so that the load does not slow the upstream down.
    let upstreams = multi_thread(1)?;
    let mut measured = Measured::default();
    let mut troubles = Vec::new();
    let mut note = |what: &str, done: anyhow::Result<()>| {
        if let Err(error) = done {
            troubles.push(format!("failures, {what}, was ended: {error:#}"));
        }
    };
    runtime.block_on(async {
        note(
            "outages",
            outage::run(bench, &upstreams, &mut measured).await,
        );
        note(
            "backlog",
            backlog::run(bench, &upstreams, &mut measured).await,
        );
        note(
            "hung fills",
            hung::run(bench, &upstreams, &mut measured).await,
        );
        note("kills", kills::run(bench, &mut measured).await);
    });
    results.failures = Some(measured);
    results.troubles.extend(troubles);
    upstreams.shutdown_background();
    Ok(())
}

fn multi_thread(workers: usize) -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("make a runtime")
}

/// An upstream without files, on a runtime of its own.
async fn upstream(on: &Runtime) -> anyhow::Result<FixtureUpstream> {
    let started = on.spawn(FixtureUpstream::start());
    started.await.context("start the upstream")
}

/// Serves a small `.mod` of a version of its own, cheap to make by the thousand.
fn put_mod(upstream: &FixtureUpstream, name: &str, number: usize) -> String {
    let path = format!("/example.com/{name}/@v/v1.0.{number}.mod");
    let body = format!("module example.com/{name}\n\ngo 1.21\n");
    upstream.put(&path, "text/plain; charset=utf-8", body);
    path
}
