//! A build farm's downloads: many jobs, each with all modules of the same build.

use super::{Bench, CONNECT_PATIENCE, Lists, PATIENCE, ms};
use crate::bench::load::{Load, Target};
use crate::bench::progress::Progress;
use crate::bench::results::{Build, BuildRound, Quantiles, Results};
use crate::bench::servers::{Kind, Server};

const CACHES: [Kind; 3] = [Kind::Corral, Kind::NginxProxy, Kind::Varnish];

/// Connections of one job: the go command downloads several modules at once.
const CONNECTIONS: usize = 4;

/// Runs the build against all caches, cold and then warm, the caches taking turns.
///
/// # Errors
///
/// When a server does not start or does not accept its clients. Requests that fail are counted.
pub fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let kinds = bench.site.those_here(&CACHES);
    let (jobs, modules) = if bench.quick { (5, 12) } else { (50, 60) };
    let times = bench.repetitions(5);
    let mut progress = Progress::new("build", times * kinds.len());
    let row = |kind: &Kind| Build {
        server: *kind,
        jobs,
        modules,
        cold: Vec::new(),
        warm: Vec::new(),
    };
    let mut rows: Vec<Build> = kinds.iter().map(row).collect();
    for round in 0..times {
        for turn in 0..rows.len() {
            let row = &mut rows[(turn + round) % kinds.len()];
            let server = Server::start(row.server, &bench.site)?;
            for rounds in [&mut row.cold, &mut row.warm] {
                let (measured, trouble) = once(bench, &server, jobs, modules)?;
                rounds.push(measured);
                results.troubles.extend(trouble);
            }
            progress.step(&row.server.to_string());
        }
    }
    results.build = rows;
    Ok(())
}

fn once(
    bench: &Bench,
    server: &Server,
    jobs: usize,
    modules: usize,
) -> anyhow::Result<(BuildRound, Option<String>)> {
    let wanted = &bench.content.hundred[..modules];
    let files = wanted.iter().flat_map(|m| [&m.info, &m.r#mod, &m.zip]);
    let targets: Vec<Target> = files.map(Target::get).collect();
    let list = |connection: usize| {
        let own = (0..modules).filter(|module| module % CONNECTIONS == connection % CONNECTIONS);
        own.flat_map(|module| (0..3).map(move |file| module * 3 + file))
            .collect()
    };
    let lists: Vec<Vec<usize>> = (0..jobs * CONNECTIONS).map(list).collect();
    bench.origin.reset();
    let mut load = Load::connect(server.address, lists.len(), CONNECT_PATIENCE)?;
    let cpu = server.tree().cpu();
    // The first job checks everything that it gets.
    let mut script = Lists::new(lists, CONNECTIONS);
    let wall = load.run(&targets, &mut script, PATIENCE)?;
    let cpu = server.tree().cpu().saturating_sub(cpu);
    let good = script.answers.iter().filter(|a| a.failure.is_none());
    let mut times: Vec<f64> = good.map(|a| ms(a.done - a.sent)).collect();
    let round = BuildRound {
        wall_s: wall.as_secs_f64(),
        request_ms: Quantiles::of(&mut times),
        upstream_requests: bench.origin.counts().values().map(|c| c.requests).sum(),
        cpu_s: cpu.as_secs_f64(),
        memory_peak: server.tree().peak_memory(),
        failures: script.failures(),
    };
    let trouble = (round.failures > 0).then(|| {
        let reason = script.first_failure().unwrap_or("never sent");
        format!("build, {}: {reason}\n{}", server.kind, server.log_end())
    });
    Ok((round, trouble))
}
