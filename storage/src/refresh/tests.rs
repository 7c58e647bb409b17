//! Documents over time: fresh, stale, failing upstreams, lost records, requests' own wishes.
//!
//! The clock is moved by hand. Documents are fresh for 60 s, used while a refresh runs behind for
//! 5 min more, and used when a refresh has failed for 24 h.
#![allow(clippy::unwrap_used)]

mod freshness;
mod offline;
mod sharing;

use lease::ManualClock;

use super::*;
use crate::artifacts::Artifacts;
use crate::testing::{Gate, Instance, Reply, Scene, read_answer, soon, until};
use crate::upstream::CacheControl;

const LIST: &str = "example.com/m/@v/list";
const LATEST: &str = "example.com/m/@latest";
const MASTER: &str = "example.com/m/@v/master.info";
const LIST_RECORD: &str = "document:example.com/m@list";

const FRESH: Duration = Duration::from_secs(60);
const STALE: Duration = Duration::from_secs(61);
const STALE_IF_ERROR: Duration = Duration::from_secs(361);
const EXPIRED: Duration = Duration::from_secs(86_461);

const ONLY_IF_CACHED: GetOptions = GetOptions {
    only_if_cached: true,
    fetch_disabled: false,
    revalidate: false,
};
const FETCH_DISABLED: GetOptions = GetOptions {
    only_if_cached: false,
    fetch_disabled: true,
    revalidate: false,
};
const NO_CACHE: GetOptions = GetOptions {
    only_if_cached: false,
    fetch_disabled: false,
    revalidate: true,
};

fn key(path: &str) -> ArtifactKey {
    layout::parse_path(path).unwrap()
}

fn scene() -> (Scene, ManualClock) {
    let clock = ManualClock::new();
    let scene = Scene::new(Arc::new(clock.clone()));
    scene.upstream.serve(LIST, Reply::body("v1.0.0\n"));
    (scene, clock)
}

fn started(scene: &Scene) -> Arc<Instance> {
    let builder = scene.instance("a").config(|config| config.retries = 0);
    Arc::new(builder.start())
}

/// What an answer says, and how the cache came by it.
async fn asked(
    instance: &Instance,
    path: &str,
    options: GetOptions,
) -> Result<(String, Verdict), Error> {
    let answer = soon("an answer", instance.warmer.get(&key(path), options)).await?;
    let verdict = answer.cache.verdict;
    let body = read_answer(answer).await?;
    Ok((String::from_utf8(body.to_vec()).unwrap(), verdict))
}

async fn list(instance: &Instance) -> Result<(String, Verdict), Error> {
    asked(instance, LIST, GetOptions::default()).await
}

fn answer(body: &str, verdict: Verdict) -> (String, Verdict) {
    (body.to_owned(), verdict)
}

/// Every way in which an upstream fails, other than by saying that something does not exist.
fn failures() -> Vec<Reply> {
    let upstream = || "fake".to_owned();
    vec![
        Reply::failure(),
        Reply::unreachable(),
        Reply::error(Error::TimedOut {
            upstream: upstream(),
            reason: "no answer".to_owned(),
        }),
        Reply::error(Error::Throttled {
            upstream: upstream(),
            status: 429,
            retry_after: None,
        }),
        Reply::error(Error::Refused {
            upstream: upstream(),
            status: 401,
            text: "who are you".to_owned(),
        }),
        Reply::error(Error::Overloaded {
            limit: "upstreams.concurrency_max",
        }),
        Reply::body("v1.0.0\nv1.1.0\n").broken_at(7),
        Reply::body("<!DOCTYPE html><title>Sign in</title>"),
    ]
}
