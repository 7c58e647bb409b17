//! Ten thousand jobs in the queue: what they weigh, and how fast they are done once they are due.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{COMES_WITHIN, put_mod, upstream};
use crate::bench::parts::Bench;
use crate::bench::process::Tree;
use crate::bench::progress::say;
use crate::bench::results::{Backlog, Failures as Measured};
use crate::client::{Connection, Request};
use crate::proxy::{Corral, Setup};
use crate::upstream::{Answer, FixtureUpstream};
use crate::wait;

/// Clients that fill the queue.
const CLIENTS: usize = 64;

/// Files that each of them has fetched before memory is read first.
const FETCHED_BEFORE: usize = 16;

/// A healthy upstream's time to the first byte.
const LATENCY: Duration = Duration::from_millis(1);

/// Memory is read this long after the last change: a quiet process gives back every ten seconds
/// what it does not use.
const SETTLED_AFTER: Duration = Duration::from_secs(15);

/// The drain may take this long before it is given up.
const DRAINED_WITHIN: Duration = Duration::from_secs(180);

pub(super) async fn run(
    bench: &Bench,
    upstreams: &Runtime,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    // Upstream asks for a pause in which the queue is filled and weighed; after it, the jobs are
    // due by themselves, as they came.
    let (jobs, pause_s) = if bench.quick { (500, 40) } else { (10_000, 60) };
    let upstream = upstream(upstreams).await?;
    let paths: Vec<_> = (0..jobs)
        .map(|number| put_mod(&upstream, "backlog", number))
        .collect();
    upstream.latency(LATENCY);
    // Idle is a process that has worked: with its threads, connections and their buffers.
    let before: Vec<_> = (0..CLIENTS * FETCHED_BEFORE)
        .map(|number| put_mod(&upstream, "before", number))
        .collect();
    let corral = Setup::before(&upstream)
        .set("fill.retries", "0")
        .start()
        .await;
    ask_all(&corral, &before, 200).await?;
    upstream.everywhere(Some(Answer::retry_after(
        503,
        "closed for repairs",
        pause_s,
    )));
    let asked = upstream.requests();
    tokio::time::sleep(SETTLED_AFTER).await;
    let memory = || Tree::new(corral.pid()).memory();
    let idle = memory();

    let started = Instant::now();
    ask_all(&corral, &paths, 503).await?;
    let filled = started.elapsed();
    let queued = [("state", "queued")];
    let all_wait = wait::holds_within(COMES_WITHIN, async || {
        corral.metric("corral_retry_jobs", &queued).await == jobs as f64
    });
    ensure!(all_wait.await, "not {jobs} jobs wait");
    tokio::time::sleep(SETTLED_AFTER).await;
    let full = memory();
    ensure!(
        upstream.requests() - asked == jobs as u64,
        "the first jobs were due before the queue was full, after {filled:.1?}"
    );
    upstream.everywhere(None);
    say(&format!(
        "backlog: {jobs} jobs after {:.1} s, {:.1} MB more; waiting until they are due",
        filled.as_secs_f64(),
        (full as f64 - idle as f64) / 1e6
    ));

    let begun = wait::holds_within(Duration::from_secs(pause_s) + COMES_WITHIN, async || {
        upstream.requests() - asked > jobs as u64
    });
    ensure!(begun.await, "no job was begun");
    let begun = Instant::now();
    let drained = wait::holds_within(DRAINED_WITHIN, async || {
        is_drained(&corral, upstream.requests() - asked, jobs).await
    });
    let drained_s = if drained.await {
        begun.elapsed().as_secs_f64()
    } else {
        f64::INFINITY
    };
    measured.backlog = Some(Backlog {
        jobs,
        filled_s: filled.as_secs_f64(),
        memory_idle: idle,
        memory_full: full,
        memory_drained: memory(),
        drained_s,
        missing: missing(&corral, &upstream, &paths),
        requests: upstream.requests() - asked - jobs as u64,
    });
    Ok(())
}

/// Asks for every file once, by [`CLIENTS`] clients; every answer must have this status.
async fn ask_all(corral: &Corral, paths: &[String], status: u16) -> anyhow::Result<()> {
    let mut clients = JoinSet::new();
    let each = paths.len().div_ceil(CLIENTS);
    for paths in paths.chunks(each) {
        let (paths, addr) = (paths.to_vec(), corral.addr());
        clients.spawn(async move {
            let mut connection = Connection::open(addr).await?;
            for path in paths {
                let reply = connection.send(&Request::get(path)).await;
                ensure!(reply.status == status, "{}: {}", reply.status, reply.text());
            }
            anyhow::Ok(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client.context("a client panicked")??;
    }
    Ok(())
}

async fn is_drained(corral: &Corral, requests: u64, jobs: usize) -> bool {
    // Each job is at least one request: until then there is nothing to look at, and looking
    // costs the machine something.
    if requests < 2 * jobs as u64 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        return false;
    }
    corral.jobs().await.is_empty()
}

/// How many files are not stored as upstream has them.
fn missing(corral: &Corral, upstream: &FixtureUpstream, paths: &[String]) -> usize {
    let is_stored = |path: &&String| {
        std::fs::read(corral.store_path(path)).is_ok_and(|bytes| bytes == upstream.body(path))
    };
    paths.len() - paths.iter().filter(is_stored).count()
}
