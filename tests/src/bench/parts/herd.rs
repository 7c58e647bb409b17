//! Many clients that ask for the same cold files in the same moment.

use std::collections::HashSet;

use super::{Bench, CONNECT_PATIENCE, Lists, PATIENCE, ms};
use crate::bench::content::{File, Module};
use crate::bench::load::{Load, Target};
use crate::bench::process::own_cpu;
use crate::bench::progress::Progress;
use crate::bench::results::{Herd, HerdRound, Quantiles, Results};
use crate::bench::servers::{Kind, Server};

const CACHES: [Kind; 3] = [Kind::Corral, Kind::NginxProxy, Kind::Varnish];

/// Who asks for what.
struct Scenario<'a> {
    name: String,
    files: Vec<&'a File>,
    /// For each client the files that it asks for, one after the other.
    lists: Vec<Vec<usize>>,
    repetitions: usize,
}

/// The names by which the targets are judged, see [`one_file`].
pub const ZIP_30MB: &str = "zip 30 MB";

/// Runs all scenarios against all caches, the caches taking turns, each time with a new server.
///
/// # Errors
///
/// When a server does not start or does not accept its clients. Requests that fail are counted.
pub fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let kinds = bench.site.those_here(&CACHES);
    let scenarios = scenarios(bench);
    let steps: usize = scenarios.iter().map(|s| s.repetitions * kinds.len()).sum();
    let mut progress = Progress::new("herd", steps);
    for scenario in scenarios {
        let clients = scenario.lists.len();
        let row = |kind: &Kind| Herd {
            server: *kind,
            scenario: scenario.name.clone(),
            clients,
            rounds: Vec::new(),
        };
        let mut rows: Vec<Herd> = kinds.iter().map(row).collect();
        for round in 0..scenario.repetitions {
            for turn in 0..rows.len() {
                let row = &mut rows[(turn + round) % kinds.len()];
                let (measured, trouble) = once(bench, row.server, &scenario)?;
                row.rounds.push(measured);
                results.troubles.extend(trouble);
                progress.step(&format!("{}, {}", scenario.name, row.server));
            }
        }
        results.herd.extend(rows);
    }
    Ok(())
}

fn scenarios(bench: &Bench) -> Vec<Scenario<'_>> {
    let content = &bench.content;
    let zip_30 = &content.zip_30mb[0].zip;
    let zip_1 = &content.zip_1mb[0].zip;
    if bench.quick {
        return vec![
            one_file(ZIP_30MB, zip_30, 1, 1),
            one_file(ZIP_30MB, zip_30, 20, 1),
            modules(&content.hundred, 100, 1),
        ];
    }
    vec![
        one_file(ZIP_30MB, zip_30, 1, 5),
        one_file(ZIP_30MB, zip_30, 100, 5),
        one_file(ZIP_30MB, zip_30, 200, 5),
        one_file(ZIP_30MB, zip_30, 1000, 3),
        one_file("zip 1 MB", zip_1, 10_000, 3),
        modules(&content.hundred, 1000, 3),
    ]
}

fn one_file<'a>(name: &str, file: &'a File, clients: usize, repetitions: usize) -> Scenario<'a> {
    Scenario {
        name: scenario_name(clients, name),
        files: vec![file],
        lists: vec![vec![0]; clients],
        repetitions,
    }
}

/// A scenario's name, for example `200 x zip 30 MB`.
pub fn scenario_name(clients: usize, file: &str) -> String {
    format!("{clients} x {file}")
}

/// Each client asks for list, info, mod and zip of one module.
fn modules(modules: &[Module], clients: usize, repetitions: usize) -> Scenario<'_> {
    let client = |n: usize| (0..4).map(|file| n % modules.len() * 4 + file).collect();
    Scenario {
        name: scenario_name(clients, &format!("{} modules", modules.len())),
        files: modules.iter().flat_map(Module::files).collect(),
        lists: (0..clients).map(client).collect(),
        repetitions,
    }
}

fn once(
    bench: &Bench,
    kind: Kind,
    scenario: &Scenario<'_>,
) -> anyhow::Result<(HerdRound, Option<String>)> {
    let targets: Vec<Target> = scenario
        .files
        .iter()
        .map(|file| Target::get(file))
        .collect();
    let server = Server::start(kind, &bench.site)?;
    bench.origin.reset();
    let mut load = Load::connect(server.address, scenario.lists.len(), CONNECT_PATIENCE)?;
    let (server_before, own_before) = (server.tree().cpu(), own_cpu());
    // One client in a thousand checks what it gets, at least one.
    let mut script = Lists::new(scenario.lists.clone(), 1 + scenario.lists.len() / 1000);
    load.run(&targets, &mut script, PATIENCE)?;
    let cpu = server.tree().cpu().saturating_sub(server_before);
    let own = own_cpu().saturating_sub(own_before);
    let counts = bench.origin.counts();
    let (mut first, mut finish) = (Vec::new(), Vec::new());
    let mut started = vec![None; scenario.lists.len()];
    for answer in script.answers.iter().filter(|a| a.failure.is_none()) {
        let begun = *started[answer.connection].get_or_insert(answer.sent);
        finish.push(ms(answer.done - begun));
        let upstream = counts
            .get(&targets[answer.target].path)
            .and_then(|c| c.first_byte);
        let since = upstream.map_or(answer.sent, |at| at.max(answer.sent));
        first.extend(
            answer
                .first_byte
                .map(|at| ms(at.saturating_duration_since(since))),
        );
    }
    let asked: HashSet<usize> = scenario.lists.iter().flatten().copied().collect();
    let asked_upstream = targets
        .iter()
        .filter_map(|t| counts.get(&t.path))
        .map(|c| c.requests);
    let round = HerdRound {
        upstream_requests: asked_upstream.sum(),
        files: asked.len(),
        failures: script.failures(),
        first_byte_ms: Quantiles::of(&mut first),
        finish_ms: Quantiles::of(&mut finish),
        cpu_s: cpu.as_secs_f64(),
        generator_cpu_s: own.as_secs_f64(),
        memory_peak: server.tree().peak_memory(),
    };
    let trouble = (round.failures > 0).then(|| {
        let reason = script.first_failure().unwrap_or("never sent");
        let (name, failed) = (&scenario.name, round.failures);
        format!(
            "herd {name}, {kind}: {failed} failed, first: {reason}\n{}",
            server.log_end()
        )
    });
    Ok((round, trouble))
}
