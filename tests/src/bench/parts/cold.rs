//! One client on one cold zip, and what a server needs before it serves anything.

use std::thread;
use std::time::Duration;

use anyhow::ensure;

use super::{Bench, CONNECT_PATIENCE, Lists, PATIENCE, ms};
use crate::bench::load::{Load, Target};
use crate::bench::progress::Progress;
use crate::bench::results::{Cold, Results, Start};
use crate::bench::servers::{Kind, Server};

const CACHES: [Kind; 3] = [Kind::Corral, Kind::NginxProxy, Kind::Varnish];

/// A server that has answered its first request is looked at after this pause.
const IDLE_AFTER: Duration = Duration::from_secs(2);

/// Measures starts, idle memory, and a cold zip for one client, through each cache and directly.
///
/// # Errors
///
/// When a server does not start, or the zip does not arrive as it should.
pub fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    starts(bench, results)?;
    cold_zip(bench, results)
}

fn starts(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let kinds = bench.site.those_here(&CACHES);
    let times = bench.repetitions(11);
    let mut rows: Vec<Start> = kinds
        .iter()
        .map(|kind| Start {
            server: *kind,
            ready_ms: Vec::new(),
            memory_idle: 0,
            memory_peak: 0,
        })
        .collect();
    let mut progress = Progress::new("start", times * rows.len());
    for round in 0..times {
        for row in &mut rows {
            let server = Server::start(row.server, &bench.site)?;
            row.ready_ms.push(ms(server.ready_after));
            if round + 1 == times {
                thread::sleep(IDLE_AFTER);
                row.memory_idle = server.tree().memory();
                row.memory_peak = server.tree().peak_memory();
            }
            progress.step(&row.server.to_string());
        }
    }
    results.starts = rows;
    Ok(())
}

fn cold_zip(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let targets = [Target::get(&bench.content.zip_30mb[0].zip)];
    let servers = bench.site.those_here(&CACHES);
    let kinds: Vec<Option<Kind>> = [None]
        .into_iter()
        .chain(servers.into_iter().map(Some))
        .collect();
    let times = bench.repetitions(7);
    let mut progress = Progress::new("cold", times * kinds.len());
    let mut rows: Vec<Cold> = kinds
        .into_iter()
        .map(|server| Cold {
            server,
            first_byte_ms: Vec::new(),
            finish_ms: Vec::new(),
        })
        .collect();
    for round in 0..times {
        let count = rows.len();
        for turn in 0..count {
            let row = &mut rows[(turn + round) % count];
            let server = row
                .server
                .map(|kind| Server::start(kind, &bench.site))
                .transpose()?;
            let address = server
                .as_ref()
                .map_or(bench.origin.address(), |s| s.address);
            let name = row
                .server
                .map_or("direct".to_owned(), |kind| kind.to_string());
            let mut load = Load::connect(address, 1, CONNECT_PATIENCE)?;
            let mut script = Lists::new(vec![vec![0]], 1);
            load.run(&targets, &mut script, PATIENCE)?;
            ensure!(
                script.failures() == 0,
                "cold zip, {name}: {}",
                script.first_failure().unwrap_or("no answer")
            );
            for answer in &script.answers {
                row.finish_ms.push(ms(answer.done - answer.sent));
                row.first_byte_ms
                    .extend(answer.first_byte.map(|at| ms(at - answer.sent)));
            }
            progress.step(&name);
        }
    }
    results.cold = rows;
    Ok(())
}
