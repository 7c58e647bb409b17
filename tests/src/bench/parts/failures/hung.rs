//! Warm hits while a thousand fills hang on an upstream that says nothing.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use sha2::Digest as _;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::{COMES_WITHIN, put_mod, upstream};
use crate::bench::content::File;
use crate::bench::load::{Load, Target};
use crate::bench::parts::{Bench, CONNECT_PATIENCE, Lists, PATIENCE, ms};
use crate::bench::progress::Progress;
use crate::bench::results::{Failures as Measured, Hung, Quantiles};
use crate::client::Request;
use crate::proxy::{Corral, Setup};
use crate::upstream::{Answer, FixtureUpstream};
use crate::wait;

/// Connections that ask for warm files, one request at a time each.
const CONNECTIONS: usize = 16;

/// Files that are asked for in turns.
const WARM_FILES: usize = 20;

/// What a thousand fills cost while they begin or end is over by then.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

pub(super) async fn run(
    bench: &Bench,
    upstreams: &Runtime,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    let (fills, requests, rounds) = if bench.quick {
        (100, 500, 1)
    } else {
        (1_000, 2_000, 9)
    };
    let upstream = upstream(upstreams).await?;
    let corral = Setup::before(&upstream).start().await;
    let warm: Vec<_> = (0..WARM_FILES)
        .map(|number| {
            let path = put_mod(&upstream, "warm", number);
            let body = upstream.body(&path);
            let sha256 = sha2::Sha256::digest(&body).into();
            File { path, body, sha256 }
        })
        .collect();
    let load = Warm::open(&corral, &warm, requests).await?;
    // Once more for the caches of the machine, not measured.
    let (load, _) = load.run().await?;
    let mut load = load;
    let mut progress = Progress::new("warm hits beside hung fills", rounds);
    let mut hung = Hung {
        fills,
        requests: CONNECTIONS * requests,
        rounds: Vec::new(),
    };
    for round in 0..rounds {
        // In turns: the machine's noise is then on both sides of the ratio.
        tokio::time::sleep(SETTLED_AFTER).await;
        let alone;
        (load, alone) = load.run().await?;
        let clients = hang(&corral, &upstream, fills, round).await?;
        tokio::time::sleep(SETTLED_AFTER).await;
        let beside;
        (load, beside) = load.run().await?;
        ensure!(
            corral.metric("corral_flights", &[]).await >= fills as f64,
            "fills ended before the warm hits did"
        );
        release(&corral, &upstream, clients).await?;
        progress.step(&format!("p99 {:.2} and {:.2} ms", alone.p99, beside.p99));
        hung.rounds.push([alone, beside]);
    }
    measured.hung = Some(hung);
    Ok(())
}

/// Warm hits on open connections.
struct Warm {
    load: Load,
    targets: Vec<Target>,
    list: Vec<usize>,
}

impl Warm {
    async fn open(corral: &Corral, files: &[File], requests: usize) -> anyhow::Result<Self> {
        for file in files {
            let reply = corral.get(&file.path).await;
            ensure!(reply.whole_success(), "{}: {}", file.path, reply.status);
        }
        Ok(Self {
            load: Load::connect(corral.addr(), CONNECTIONS, CONNECT_PATIENCE)?,
            targets: files.iter().map(Target::get).collect(),
            list: (0..requests).map(|n| n % files.len()).collect(),
        })
    }

    async fn run(mut self) -> anyhow::Result<(Self, Quantiles)> {
        let done = tokio::task::spawn_blocking(move || {
            let mut script = Lists::new(vec![self.list.clone(); CONNECTIONS], 0);
            self.load.run(&self.targets, &mut script, PATIENCE)?;
            ensure!(script.failures() == 0, "{:?}", script.first_failure());
            let answers = script.answers.iter();
            let mut times: Vec<f64> = answers.map(|a| ms(a.done - a.sent)).collect();
            Ok((self, Quantiles::of(&mut times)))
        });
        done.await.context("the load panicked")?
    }
}

/// Starts so many fills of files of their own, and waits until all of them hang.
async fn hang(
    corral: &Corral,
    upstream: &FixtureUpstream,
    fills: usize,
    round: usize,
) -> anyhow::Result<JoinSet<()>> {
    upstream.everywhere(Some(Answer::Silent));
    let mut clients = JoinSet::new();
    for number in 0..fills {
        let path = put_mod(upstream, &format!("hung{round}"), number);
        let addr = corral.addr();
        clients.spawn(async move {
            // Whatever the answer is: what is measured are the others'.
            let _ = Request::get(path).send(addr).await;
        });
    }
    let all_hang = wait::holds_within(COMES_WITHIN, async || {
        corral.metric("corral_flights", &[]).await == fills as f64
    });
    ensure!(all_hang.await, "not {fills} fills hang");
    Ok(clients)
}

/// Ends what hangs: connections are closed, and the next attempts are answered.
async fn release(
    corral: &Corral,
    upstream: &FixtureUpstream,
    mut clients: JoinSet<()>,
) -> anyhow::Result<()> {
    upstream.everywhere(None);
    upstream.stop();
    upstream.resume().await;
    while clients.join_next().await.is_some() {}
    let idle = wait::holds_within(COMES_WITHIN, async || {
        corral.flights().await.is_empty() && corral.jobs().await.is_empty()
    });
    ensure!(idle.await, "fills or jobs are left");
    Ok(())
}
