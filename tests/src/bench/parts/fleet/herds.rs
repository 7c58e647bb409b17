//! The same cold file asked for at all instances at the same moment.

use std::time::Duration;

use super::{INSTANCES, TTL, fetchers, fetches, modules, serve, start};
use crate::bench::content::{File, Module};
use crate::bench::load::{Load, Target};
use crate::bench::origin::Origin;
use crate::bench::parts::{Bench, CONNECT_PATIENCE, Lists, PATIENCE, ms};
use crate::bench::progress::Progress;
use crate::bench::results::{Fleet as Measured, FleetHerd, Quantiles};
use crate::fleet::Fleet;

/// The scenario by which the relay is judged.
pub(in crate::bench) const ZIP_30MB: &str = "zip 30 MB";

/// A file's events at the holder are over this soon after its last byte.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

pub(super) async fn run(bench: &Bench, measured: &mut Measured) -> anyhow::Result<()> {
    let quick = bench.quick;
    let (clients, times) = if quick { (50, 5) } else { (1000, 100) };
    let small = modules("half", times, 512 * 1024)?;
    measured
        .herds
        .push(repeated("zip 512 KiB", clients, &small, true).await?);

    let (clients, times) = if quick { (20, 1) } else { (200, 5) };
    let large = modules("thirty", times, 30_000_000)?;
    measured
        .herds
        .push(repeated(ZIP_30MB, clients, &large, false).await?);

    let (clients, files) = if quick { (5, 20) } else { (20, 100) };
    let many = modules("many", files, 256 * 1024)?;
    measured.herds.push(at_once(clients, &many).await?);
    Ok(())
}

/// One zip after the other, each asked for by `clients` clients at every instance; the fleet
/// stays, or is a new one for each file.
async fn repeated(
    name: &str,
    clients: usize,
    modules: &[Module],
    same_fleet: bool,
) -> anyhow::Result<FleetHerd> {
    let origin = serve(modules.iter().map(|module| &module.zip))?;
    let mut herd = Tally::new(format!("{INSTANCES} x {clients} x {name}"));
    let mut progress = Progress::new(herd.scenario.clone(), modules.len());
    let mut site = None;
    for (round, module) in modules.iter().enumerate() {
        if !same_fleet {
            site = None;
        }
        let (fleet, load) = match &mut site {
            Some(site) => site,
            none => none.insert(open(&origin, clients).await?),
        };
        let targets = [Target::get(&module.zip)];
        let lists = vec![vec![0]; clients * INSTANCES];
        herd.run(fleet, load, &origin, &targets, lists).await?;
        progress.step(&format!("round {}", round + 1));
    }
    Ok(herd.done())
}

/// All zips at the same moment, each asked for by `clients` clients, spread over the instances.
async fn at_once(clients: usize, modules: &[Module]) -> anyhow::Result<FleetHerd> {
    let files: Vec<&File> = modules.iter().map(|module| &module.zip).collect();
    let origin = serve(files.iter().copied())?;
    let mut herd = Tally::new(format!("{} files x {clients} clients", files.len()));
    let each = (clients * files.len()).div_ceil(INSTANCES);
    let (fleet, mut load) = open(&origin, each).await?;
    let targets: Vec<Target> = files.iter().map(|file| Target::get(file)).collect();
    let lists = (0..each * INSTANCES)
        .map(|client| vec![client % files.len()])
        .collect();
    herd.run(&fleet, &mut load, &origin, &targets, lists)
        .await?;
    Ok(herd.done())
}

async fn open(origin: &Origin, clients: usize) -> anyhow::Result<(Fleet, Load)> {
    let fleet = start(origin, TTL).await;
    let addresses: Vec<_> = (0..fleet.size()).map(|i| fleet.corral(i).addr()).collect();
    let load = Load::connect_to(&addresses, clients, CONNECT_PATIENCE)?;
    Ok((fleet, load))
}

/// A scenario's sums over its rounds.
struct Tally {
    scenario: String,
    files: usize,
    not_once: usize,
    requests_max: usize,
    failures: usize,
    follower_first: Vec<f64>,
    finish: Vec<f64>,
}

impl Tally {
    fn new(scenario: String) -> Self {
        Self {
            scenario,
            files: 0,
            not_once: 0,
            requests_max: 0,
            failures: 0,
            follower_first: Vec::new(),
            finish: Vec::new(),
        }
    }

    async fn run(
        &mut self,
        fleet: &Fleet,
        load: &mut Load,
        origin: &Origin,
        targets: &[Target],
        lists: Vec<Vec<usize>>,
    ) -> anyhow::Result<()> {
        let each = lists.len() / fleet.size();
        let before = fetches(fleet).await;
        // One client in a hundred checks what it gets.
        let mut script = Lists::new(lists, 0).checking_every(100);
        load.run(targets, &mut script, PATIENCE)?;
        settle(fleet).await;
        let fetchers = fetchers(&before, &fetches(fleet).await);
        self.failures += script.failures();
        for target in targets {
            let requests = origin.count(&target.path).requests;
            self.files += 1;
            self.not_once += usize::from(requests != 1);
            self.requests_max = self.requests_max.max(requests);
        }
        for answer in script.answers.iter().filter(|a| a.failure.is_none()) {
            self.finish.push(ms(answer.done - answer.sent));
            // With many files every instance fetches some, and none is only a follower.
            if fetchers.contains(&(answer.connection / each)) {
                continue;
            }
            let upstream = origin.count(&targets[answer.target].path).first_byte;
            let since = upstream.map_or(answer.sent, |at| at.max(answer.sent));
            let first = answer
                .first_byte
                .map(|at| at.saturating_duration_since(since));
            self.follower_first.extend(first.map(ms));
        }
        Ok(())
    }

    fn done(mut self) -> FleetHerd {
        FleetHerd {
            scenario: self.scenario,
            files: self.files,
            files_not_once: self.not_once,
            upstream_requests_max: self.requests_max,
            failures: self.failures,
            followers_clients: self.follower_first.len(),
            follower_first_byte_ms: Quantiles::of(&mut self.follower_first),
            finish_ms: Quantiles::of(&mut self.finish),
        }
    }
}

/// Waits until no flight runs: a late one could still ask the upstream.
async fn settle(fleet: &Fleet) {
    for index in 0..fleet.size() {
        let corral = fleet.corral(index);
        crate::wait::holds_within(SETTLED_WITHIN, async || corral.flights().await.is_empty()).await;
    }
}
