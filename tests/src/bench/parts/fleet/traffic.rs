//! What a fleet sends to Valkey: for a cold file, and for warm ones.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::{INSTANCES, TTL, fetchers, fetches, modules, serve};
use crate::bench::content::File;
use crate::bench::load::{Load, Target};
use crate::bench::parts::{Bench, CONNECT_PATIENCE, Lists, PATIENCE};
use crate::bench::results::{Commands, Fleet as Measured, WarmCommands};
use crate::client::Request;
use crate::fleet::{Fleet, Plan};
use crate::valkey::{CommandWatch, SeenCommand, Valkey};

/// Commands are watched this long after the last byte, so that a release is seen too.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Connections that ask for warm files, at each instance.
const WARM_CONNECTIONS: usize = 8;

pub(super) async fn run(bench: &Bench, measured: &mut Measured) -> anyhow::Result<()> {
    let files = modules("traffic", if bench.quick { 2 } else { 20 }, 512 * 1024)?;
    let origin = serve(files.iter().map(|module| &module.zip))?;
    // Through links, by which a command's instance is known.
    let plan = Plan::of(INSTANCES).ttl(TTL);
    let fleet = plan
        .start_before(origin.address(), Valkey::start().await)
        .await;
    let mut commands = Commands {
        leader: Vec::new(),
        follower: Vec::new(),
    };
    for module in &files {
        cold(&fleet, &module.zip, &mut commands).await?;
    }
    measured.commands = Some(commands);
    let zips: Vec<&File> = files.iter().map(|module| &module.zip).collect();
    measured.warm = Some(warm(&fleet, &zips, if bench.quick { 50 } else { 1000 }).await?);
    Ok(())
}

/// Counts each instance's commands that name the file, while one client at each asks for it.
async fn cold(fleet: &Fleet, file: &File, commands: &mut Commands) -> anyhow::Result<()> {
    let mut watch = fleet.valkey.watch_commands().await;
    let before = fetches(fleet).await;
    let asked = (0..fleet.size()).map(|index| {
        let (request, addr) = (Request::get(&file.path), fleet.corral(index).addr());
        tokio::spawn(async move { request.send(addr).await })
    });
    for reply in asked.collect::<Vec<_>>() {
        let reply = reply.await?;
        ensure!(
            reply.whole_success(),
            "{}: {:?}",
            reply.status,
            reply.ending
        );
    }
    let seen = collect(&mut watch, AFTERWARDS).await;
    let fetchers = fetchers(&before, &fetches(fleet).await);
    ensure!(fetchers.len() == 1, "instances that fetched: {fetchers:?}");
    for (index, member) in fleet.members.iter().enumerate() {
        let its = seen
            .iter()
            .filter(|command| member.valkey.carries(command.client));
        let count = its.filter(|command| names(command, file)).count();
        if fetchers.contains(&index) {
            commands.leader.push(count);
        } else {
            commands.follower.push(count);
        }
    }
    Ok(())
}

async fn warm(fleet: &Fleet, files: &[&File], times: usize) -> anyhow::Result<WarmCommands> {
    let targets: Vec<Target> = files.iter().map(|file| Target::get(file)).collect();
    let addresses: Vec<_> = (0..fleet.size()).map(|i| fleet.corral(i).addr()).collect();
    let mut load = Load::connect_to(&addresses, WARM_CONNECTIONS, CONNECT_PATIENCE)?;
    let connections = WARM_CONNECTIONS * fleet.size();
    let list: Vec<usize> = (0..times).map(|n| n % files.len()).collect();
    let lists = |list: &[usize]| vec![list.to_vec(); connections];
    // Once more, so that every instance has every file in memory.
    let all: Vec<usize> = (0..files.len()).collect();
    load.run(&targets, &mut Lists::new(lists(&all), 0), PATIENCE)?;

    let mut watch = fleet.valkey.watch_commands().await;
    let idle = collect(&mut watch, AFTERWARDS).await.len() as f64 / AFTERWARDS.as_secs_f64();
    let started = Instant::now();
    let mut script = Lists::new(lists(&list), 0);
    load.run(&targets, &mut script, PATIENCE)?;
    ensure!(script.failures() == 0, "{:?}", script.first_failure());
    let seen = collect(&mut watch, AFTERWARDS).await;
    let spent = started.elapsed().as_secs_f64();
    let naming = |command: &&SeenCommand| files.iter().any(|file| names(command, file));
    Ok(WarmCommands {
        requests: connections * times,
        commands: seen.iter().filter(naming).count(),
        housekeeping_per_s: [idle, seen.len() as f64 / spent],
    })
}

/// Whether a command is about a file's unit: its key holds `module@version.kind`.
fn names(command: &SeenCommand, file: &File) -> bool {
    let path = file.path.trim_start_matches('/').replace("/@v/", "@");
    command.text.contains(&path)
}

/// Every command until `bound` has passed.
async fn collect(watch: &mut CommandWatch, bound: Duration) -> Vec<SeenCommand> {
    let mut seen = Vec::new();
    let end = tokio::time::Instant::now() + bound;
    while let Ok(Ok(command)) = tokio::time::timeout_at(end, watch.next()).await {
        seen.push(command);
    }
    seen
}
