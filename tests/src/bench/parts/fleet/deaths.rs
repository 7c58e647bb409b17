//! A holder that dies in the middle of a fill, seen to or not.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{modules, serve, start};
use crate::bench::content::File;
use crate::bench::origin::Origin;
use crate::bench::parts::Bench;
use crate::bench::progress::Progress;
use crate::bench::results::{Death, Fleet as Measured};
use crate::client::Request;
use crate::wait::{self, PATIENCE};

/// TTL of the leases: the default costs six seconds a death and says the same.
const SILENT_TTL: Duration = Duration::from_secs(2);

/// How the holder dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `kill -9`: its host refuses connections.
    Killed,
    /// `kill -STOP`: its host takes connections and never answers.
    Silent,
}

pub(super) async fn run(bench: &Bench, measured: &mut Measured) -> anyhow::Result<()> {
    let file = &modules("mortal", 1, 30_000_000)?[0].zip;
    for (kind, ttl, times) in [
        (Kind::Killed, super::TTL, 10),
        (Kind::Silent, SILENT_TTL, 5),
    ] {
        let times = if bench.quick { 1 } else { times };
        let mut progress = Progress::new(format!("deaths, {kind:?}"), times);
        let mut death = Death {
            silent: kind == Kind::Silent,
            ttl_s: ttl.as_secs_f64(),
            after_s: Vec::new(),
        };
        for round in 0..times {
            let after = once(file, kind, ttl, round).await?;
            death.after_s.push(after.as_secs_f64());
            progress.step(&format!("{:.2} s", after.as_secs_f64()));
        }
        measured.deaths.push(death);
    }
    Ok(())
}

/// Lets one instance fetch and the others follow, ends the first, and waits for the next request
/// at the upstream.
async fn once(file: &File, kind: Kind, ttl: Duration, round: usize) -> anyhow::Result<Duration> {
    let origin = serve([file])?;
    let mut fleet = start(&origin, ttl).await;
    let holder = round % fleet.size();
    let request = Request::get(&file.path).hash_only();
    let ask = |addr| {
        let request = request.clone();
        tokio::spawn(async move { request.send(addr).await })
    };
    let own = ask(fleet.corral(holder).addr());
    ensure!(
        requested(&origin, file, 1).await,
        "upstream was never asked"
    );
    let mut others = Vec::new();
    for index in (0..fleet.size()).filter(|&index| index != holder) {
        others.push(ask(fleet.corral(index).addr()));
        let corral = fleet.corral(index);
        let follows = async || {
            corral
                .flights()
                .await
                .iter()
                .any(|f| f["phase"] != "checking")
        };
        ensure!(
            wait::holds_within(PATIENCE, follows).await,
            "no flight on instance {index}"
        );
    }
    let before = origin.count(&file.path).requests;
    ensure!(before == 1, "{before} instances fetch, not one");
    let ended = Instant::now();
    match kind {
        Kind::Killed => fleet.members[holder].corral.kill9().await,
        Kind::Silent => fleet.corral(holder).freeze(),
    }
    ensure!(requested(&origin, file, 2).await, "nobody took over");
    let again = origin.count(&file.path).last_request;
    let after = again
        .context("a request has a time")?
        .saturating_duration_since(ended);
    if kind == Kind::Silent {
        fleet.corral(holder).thaw();
    }
    for other in others {
        let reply = other.await?;
        ensure!(
            reply.whole_success() && reply.body_bytes == file.body.len() as u64,
            "a follower's client got {} bytes with status {}: {:?}",
            reply.body_bytes,
            reply.status,
            reply.ending
        );
    }
    own.abort();
    Ok(after)
}

async fn requested(origin: &Origin, file: &File, times: usize) -> bool {
    wait::holds_within(PATIENCE, async || {
        origin.count(&file.path).requests >= times
    })
    .await
}
