//! The retry queue over real warmers: what becomes a job, and what becomes of it.
//!
//! Times pass when a test says so, or while nobody has anything to do.
#![allow(clippy::unwrap_used)]

mod fairness;
mod fetches;
mod modes;
mod outages;
mod sources;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use lease::{JobId, JobQuery, JobView, ManualClock, TokioClock};

use crate::artifact::ArtifactKey;
use crate::artifacts::Verdict;
use crate::config::{OnFailure, WarmerConfig};
use crate::error::{Error, ErrorKind};
use crate::layout;
use crate::testing::{Gate, Instance, Reply, Scene, module_zip, read_answer, soon, until};

const INFO_PATH: &str = "example.com/m/@v/v1.0.0.info";
const ZIP_PATH: &str = "example.com/m/@v/v1.0.0.zip";
const INFO: &str = r#"{"Version":"v1.0.0","Time":"2024-02-03T04:05:06Z"}"#;
const MIB: usize = 1 << 20;

fn key(path: &str) -> ArtifactKey {
    layout::parse_path(path).unwrap()
}

fn zip(filler_bytes: usize) -> bytes::Bytes {
    module_zip("example.com/m", "v1.0.0", filler_bytes)
}

/// The path and the body of the info file of one of many modules.
fn info_of(module: &str) -> (String, &'static str) {
    (format!("example.com/{module}/@v/v1.0.0.info"), INFO)
}

/// A scene whose time runs while nobody has anything to do.
fn paused_scene() -> Scene {
    Scene::new(Arc::new(TokioClock))
}

/// A scene whose time stands still until a test moves it.
fn still_scene() -> (Scene, ManualClock) {
    let clock = ManualClock::new();
    (Scene::new(Arc::new(clock.clone())), clock)
}

/// An instance that makes one attempt before it gives up.
fn started(scene: &Scene, name: &str) -> Arc<Instance> {
    started_with(scene, name, |_| {})
}

fn started_with(
    scene: &Scene,
    name: &str,
    change: impl FnOnce(&mut WarmerConfig),
) -> Arc<Instance> {
    let builder = scene.instance(name).config(|config| {
        config.retries = 0;
        change(config);
    });
    Arc::new(builder.start())
}

fn throttled(retry_after: Duration) -> Reply {
    Reply::error(Error::Throttled {
        upstream: "fake".to_owned(),
        status: 429,
        retry_after: Some(retry_after),
    })
}

/// What the queue knows of the fetch of `path`.
async fn job_of(scene: &Scene, path: &str) -> Option<JobView> {
    let id = JobId::new(key(path).unit()).unwrap();
    scene.queue.get(&id).await.unwrap()
}

/// Waits until the queue holds no job that is alive.
async fn no_jobs(scene: &Scene) {
    soon("the queue to be empty", async {
        loop {
            let stats = scene.queue.stats().await.unwrap();
            if stats.queued + stats.taken == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Waits until `path` is in the store, whoever put it there.
async fn stored(scene: &Scene, path: &str) {
    soon("it to be stored", async {
        while scene.store.lookup(path).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Lists the jobs, dead or alive.
async fn jobs(scene: &Scene, dead: bool) -> Vec<JobView> {
    let query = JobQuery {
        dead,
        ..JobQuery::default()
    };
    scene.queue.list(&query).await.unwrap().jobs
}

/// How often jobs of `kind` ended with `outcome`.
fn ran(instance: &Instance, kind: &str, outcome: &str) -> u64 {
    let labels = format!("kind=\"{kind}\",outcome=\"{outcome}\"");
    instance.count(&format!("corral_retry_attempts_total{{{labels}}}"))
}

fn pushed(instance: &Instance, result: &str) -> u64 {
    instance.count(&format!("corral_retry_pushed_total{{result=\"{result}\"}}"))
}
