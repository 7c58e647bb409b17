//! The warmer over real stores, leases and records, with an upstream that follows a script.
//!
//! Times pass when a test says so: either the clock is moved by hand, or the runtime's time is
//! paused and runs while nobody has anything to do.
#![allow(clippy::unwrap_used)]

mod attempts;
mod failed_writes;
mod fleet;
mod limits;
mod order;
mod relay;
mod resumes;
mod store_faults;
mod streaming;
mod tiers;

use lease::{ManualClock, TokioClock};

use super::*;
use crate::error::ErrorKind;
use crate::layout;
use crate::testing::{
    FakeUpstream, Gate, Instance, PeerState, Reply, Scene, module_zip, read_answer, until,
};

const INFO_PATH: &str = "example.com/m/@v/v1.0.0.info";
const MOD_PATH: &str = "example.com/m/@v/v1.0.0.mod";
const ZIP_PATH: &str = "example.com/m/@v/v1.0.0.zip";
const INFO: &str = r#"{"Version":"v1.0.0","Time":"2024-02-03T04:05:06Z"}"#;
const MOD: &str = "module example.com/m\n";
const MIB: usize = 1 << 20;

/// The key whose path at an upstream, and in the store, is `path`.
fn key(path: &str) -> ArtifactKey {
    layout::parse_path(path).unwrap()
}

fn zip(filler_bytes: usize) -> bytes::Bytes {
    module_zip("example.com/m", "v1.0.0", filler_bytes)
}

/// A scene whose upstream has the info file, the go.mod and a zip of about 1 MiB, and whose clock
/// is moved by hand.
fn scene() -> (Scene, ManualClock) {
    let clock = ManualClock::new();
    let scene = Scene::new(Arc::new(clock.clone()));
    stock(&scene);
    (scene, clock)
}

/// The same with the runtime's time.
fn paused_scene() -> Scene {
    let scene = Scene::new(Arc::new(TokioClock));
    stock(&scene);
    scene
}

fn stock(scene: &Scene) {
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    scene.upstream.serve(MOD_PATH, Reply::body(MOD));
    scene.upstream.serve(ZIP_PATH, Reply::body(zip(MIB)));
}

/// Starts `count` requests that read `key` whole, and waits until all of them wait on its flight.
async fn crowd(
    instance: &Arc<Instance>,
    key: &ArtifactKey,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<bytes::Bytes, Error>>> {
    let requests = (0..count)
        .map(|_| {
            let (instance, key) = (instance.clone(), key.clone());
            tokio::spawn(async move { instance.read(&key).await })
        })
        .collect();
    let unit = key.unit();
    until("the crowd to wait", || {
        let flights = instance.warmer.flights();
        flights
            .iter()
            .any(|flight| flight.unit == unit && flight.waiters == count as u64)
    })
    .await;
    requests
}

/// What all of `requests` ended with.
async fn ends(
    requests: Vec<tokio::task::JoinHandle<Result<bytes::Bytes, Error>>>,
) -> Vec<Result<bytes::Bytes, Error>> {
    let mut ends = Vec::with_capacity(requests.len());
    for request in requests {
        ends.push(crate::testing::soon("an answer", request).await.unwrap());
    }
    ends
}

/// Breaks the lease of an artifact, as an operator does.
async fn break_lease(scene: &Scene, path: &str) {
    let unit = lease::LeaseKey::new(key(path).unit()).unwrap();
    let held = scene.leases.get(&unit).await.unwrap().unwrap();
    let broken = scene.leases.force_release(&unit, &held.token).await;
    broken.unwrap();
}

/// Everything that records hold, as text.
async fn records_of(scene: &Scene) -> Vec<(String, String)> {
    let page = scene.records.list("", None, 1_000).await.unwrap();
    page.records
        .into_iter()
        .map(|entry| {
            let value = String::from_utf8_lossy(&entry.record.value).into_owned();
            (entry.key, value)
        })
        .collect()
}
