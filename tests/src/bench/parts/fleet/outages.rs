//! A Valkey that is killed and started again while cold files are asked for.

use std::collections::HashMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use sha2::Digest as _;

use super::{TTL, start};
use crate::bench::content::File;
use crate::bench::load::{Load, Target};
use crate::bench::origin::Origin;
use crate::bench::parts::{Bench, CONNECT_PATIENCE, Lists, PATIENCE, ms};
use crate::bench::progress::Progress;
use crate::bench::results::{Fleet as Measured, Outage};
use crate::fleet::Fleet;
use crate::wait;

/// Connections at each instance, with one request at a time.
const CONNECTIONS: usize = 16;

/// Requests of one connection: upstream's 50 ms each make about eight seconds.
const REQUESTS: usize = 150;

/// The load runs this long before Valkey ends, and as long without it.
const STEP: Duration = Duration::from_secs(2);

pub(super) async fn run(bench: &Bench, measured: &mut Measured) -> anyhow::Result<()> {
    let times = if bench.quick { 1 } else { 5 };
    let mut progress = Progress::new("outages", times);
    for _ in 0..times {
        let outage = once().await?;
        progress.step(&format!("back after {:.2} s", outage.back_s));
        measured.outages.push(outage);
    }
    Ok(())
}

async fn once() -> anyhow::Result<Outage> {
    let files: Vec<File> = (0..CONNECTIONS * REQUESTS).map(info).collect();
    let by_path: HashMap<_, _> = files
        .iter()
        .map(|file| (file.path.clone(), file.body.clone()))
        .collect();
    let origin = Origin::start(by_path).context("start the upstream")?;
    let mut fleet = start(&origin, TTL).await;
    let addresses: Vec<_> = (0..fleet.size()).map(|i| fleet.corral(i).addr()).collect();
    let targets: Vec<Target> = files.iter().map(Target::get).collect();
    // At every instance the same files in the same order, so that leases are competed for.
    let list = |connection: usize| {
        let first = connection % CONNECTIONS * REQUESTS;
        (first..first + REQUESTS).collect()
    };
    let lists = (0..CONNECTIONS * addresses.len()).map(list).collect();
    let (sender, loaded) = mpsc::channel();
    let load = std::thread::spawn(move || -> anyhow::Result<()> {
        let mut load = Load::connect_to(&addresses, CONNECTIONS, CONNECT_PATIENCE)?;
        let mut script = Lists::new(lists, CONNECTIONS);
        load.run(&targets, &mut script, PATIENCE)?;
        let _ = sender.send(script);
        Ok(())
    });
    tokio::time::sleep(STEP).await;
    fleet.valkey.stop();
    tokio::time::sleep(STEP).await;
    fleet.valkey.resume().await;
    let started = Instant::now();
    let back = wait::holds_within(STEP * 5, async || all_use_it(&fleet).await).await;
    let back_s = if back {
        started.elapsed().as_secs_f64()
    } else {
        f64::INFINITY
    };
    let joined = tokio::task::spawn_blocking(move || load.join()).await?;
    joined.map_err(|_| anyhow::anyhow!("the load panicked"))??;
    let script = loaded.recv().context("the load reports")?;
    let slowest = script.answers.iter().map(|a| a.done - a.sent).max();
    Ok(Outage {
        requests: script.answers.len(),
        failures: script.failures(),
        slowest_ms: ms(slowest.unwrap_or_default()),
        back_s,
    })
}

async fn all_use_it(fleet: &Fleet) -> bool {
    for index in 0..fleet.size() {
        if fleet
            .corral(index)
            .metric("corral_pubsub_connected", &[])
            .await
            < 1.0
        {
            return false;
        }
    }
    true
}

/// A small file of its own module, cheap to make by the thousand.
fn info(number: usize) -> File {
    let version = format!("v1.0.{number}");
    let body = format!("{{\"Version\":\"{version}\",\"Time\":\"2024-05-06T07:08:09Z\"}}");
    File {
        path: format!("/example.com/outage/@v/{version}.info"),
        sha256: sha2::Sha256::digest(&body).into(),
        body: Bytes::from(body),
    }
}
