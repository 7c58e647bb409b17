//! An upstream that is down while a herd asks three instances for one cold file, and comes back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::runtime::Runtime;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::{COMES_WITHIN, upstream};
use crate::bench::parts::{Bench, ms};
use crate::bench::progress::Progress;
use crate::bench::results::{Failures as Measured, Outcome, Quantiles};
use crate::client::{Connection, Reply, Request};
use crate::fleet::{Fleet, Plan};
use crate::upstream::{Answer, FixtureModule, FixtureUpstream};
use crate::valkey::Valkey;
use crate::wait;

const INSTANCES: usize = 3;

/// `fill.retries`: what the instances have by default.
const RETRIES: usize = 3;

/// A job that is due sooner is waited for: reading its due time takes a moment, too.
const DUE_LEAST: Duration = Duration::from_millis(200);

const VERSION: &str = "v1.0.0";

pub(super) async fn run(
    bench: &Bench,
    upstreams: &Runtime,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let (clients, down, times) = if bench.quick {
        (50, Duration::from_secs(3), 1)
    } else {
        (500, Duration::from_secs(30), 6)
    };
    let upstream = upstream(upstreams).await?;
    // In turns, because a connection that ends and a status are different paths.
    let answers = [
        Answer::status(503, "closed for repairs"),
        Answer::CloseBeforeHeaders,
        Answer::ResetBeforeHeaders,
    ];
    let mut progress = Progress::new("outages of upstream", times);
    for round in 0..times {
        let plan = Plan::of(INSTANCES)
            .direct()
            .ttl(Duration::from_secs(6))
            .set("fill.retries", &RETRIES.to_string());
        let fleet = plan.start_over(&upstream, Valkey::start().await).await;
        let module = FixtureModule::new(&format!("example.com/outage{round}"))
            .version_sized(VERSION, 300_000);
        upstream.add(&module);
        let zip = module.file_path(VERSION, "zip");
        let answer = answers[round % answers.len()].clone();
        let mut scene = Scene {
            fleet,
            upstream: &upstream,
            zip,
        };
        let outcome = scene.once(clients, answer, down).await?;
        progress.step(&format!("stored {:.2} s after it was due", outcome.late_s));
        measured.outages.push(outcome);
    }
    Ok(())
}

struct Scene<'a> {
    fleet: Fleet,
    upstream: &'a FixtureUpstream,
    zip: String,
}

impl Scene<'_> {
    async fn once(
        &mut self,
        clients: usize,
        answer: Answer,
        down: Duration,
    ) -> anyhow::Result<Outcome> {
        let path = self.upstream.path(&self.zip);
        let said = format!("{answer:?}");
        path.always(answer);
        let gate = path.hold_headers();
        let herd = tokio::spawn(herd(self.addresses(), clients, self.zip.clone()));
        self.fleet.boarded(&[0, 1, 2], clients as u64).await;
        gate.release();
        let replies = herd.await.context("a client panicked")??;
        let ended = path.ended();
        let failed = *ended.get(RETRIES).context("fewer attempts than expected")?;
        let mut told_ms: Vec<f64> = replies
            .iter()
            .map(|(_, at)| ms(at.saturating_duration_since(failed)))
            .collect();
        let not_told = replies.iter().filter(|(reply, _)| !is_told(reply)).count();

        let rest = down.saturating_sub(failed.elapsed());
        tokio::time::sleep(rest).await;
        let due = self.due_in().await?;
        path.heal();
        let healed = Instant::now();
        let body = self.upstream.body(&self.zip);
        let file = self
            .fleet
            .store_dir()
            .join(self.zip.trim_start_matches('/'));
        let stored = wait::holds_within(due + COMES_WITHIN, async || {
            std::fs::metadata(&file).is_ok_and(|meta| meta.len() == body.len() as u64)
        });
        ensure!(stored.await, "not stored {COMES_WITHIN:?} after it was due");
        let stored_after = healed.elapsed();
        self.no_jobs().await?;

        let asked = path.requests();
        let by_jobs = self
            .fleet
            .metric("corral_retry_attempts_total", &[("kind", "fetch")])
            .await;
        let mut next = Vec::new();
        for addr in self.addresses() {
            let reply = Request::get(&self.zip).send(addr).await;
            ensure!(
                reply.whole_success() && reply.body == body,
                "the next client got {} ({:?})",
                reply.status,
                reply.ending
            );
            next.push(ms(reply.elapsed));
        }
        Ok(Outcome {
            upstream_says: said,
            clients: clients * INSTANCES,
            inline_attempts: RETRIES + 1,
            upstream_requests: asked,
            by_jobs,
            told_ms: Quantiles::of(&mut told_ms),
            not_told,
            due_s: due.as_secs_f64(),
            late_s: stored_after.as_secs_f64() - due.as_secs_f64(),
            next_ms: next.into_iter().fold(0.0, f64::max),
            next_requests: path.requests() - asked,
        })
    }

    fn addresses(&self) -> Vec<std::net::SocketAddr> {
        let instances = 0..self.fleet.size();
        instances.map(|i| self.fleet.corral(i).addr()).collect()
    }

    /// When the one job is due, as the admin listener says.
    async fn due_in(&self) -> anyhow::Result<Duration> {
        let mut due = None;
        let waits = wait::holds_within(COMES_WITHIN, async || {
            let jobs = self.fleet.corral(0).jobs().await;
            due = match jobs.as_slice() {
                [job] if job["state"] == "queued" => {
                    job["due_in_ms"].as_u64().map(Duration::from_millis)
                }
                _ => None,
            };
            due.is_some_and(|due| due >= DUE_LEAST)
        });
        if !waits.await {
            bail!(
                "no single job waits: {:?}",
                self.fleet.corral(0).jobs().await
            );
        }
        due.context("a job that waits is due some time")
    }

    async fn no_jobs(&self) -> anyhow::Result<()> {
        let done = wait::holds_within(COMES_WITHIN, async || {
            self.fleet.corral(0).jobs().await.is_empty()
        });
        ensure!(done.await, "its job is still there");
        Ok(())
    }
}

/// `each` clients at every one of these servers, all connected before the first asks; every reply
/// with the moment of its end. As the `go` command does, they keep their connections for what they
/// may want next, so that nobody's answer waits behind others' closing.
async fn herd(
    servers: Vec<std::net::SocketAddr>,
    each: usize,
    target: String,
) -> anyhow::Result<Vec<(Reply, Instant)>> {
    let barrier = Arc::new(Barrier::new(each * servers.len()));
    let mut clients = JoinSet::new();
    for addr in servers.into_iter().flat_map(|addr| vec![addr; each]) {
        let (barrier, request) = (Arc::clone(&barrier), Request::get(&target));
        clients.spawn(async move {
            let connection = Connection::open(addr).await;
            barrier.wait().await;
            let mut connection = connection?;
            let reply = connection.send(&request).await;
            Ok::<_, std::io::Error>((reply, Instant::now(), connection))
        });
    }
    let (mut replies, mut connections) = (Vec::new(), Vec::new());
    while let Some(client) = clients.join_next().await {
        let (reply, at, connection) = client.context("a client panicked")??;
        replies.push((reply, at));
        connections.push(connection);
    }
    Ok(replies)
}

/// Whether a client was told of our own trouble as it must be.
fn is_told(reply: &Reply) -> bool {
    reply.complete()
        && (502..=504).contains(&reply.status)
        && reply.header("retry-after").is_some()
        && reply.text().lines().count() == 1
}
