//! Warm files: every server already has them, and clients ask as fast as they are answered.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;

use super::{Bench, CONNECT_PATIENCE, Lists, PATIENCE};
use crate::bench::content::File;
use crate::bench::load::{Answer, Load, Script, Target};
use crate::bench::process::own_cpu;
use crate::bench::progress::Progress;
use crate::bench::results::{Results, Warm, WarmFile, WarmRound};
use crate::bench::servers::{Kind, Server};

const SERVERS: [Kind; 4] = [
    Kind::NginxStatic,
    Kind::Corral,
    Kind::CorralDisk,
    Kind::Varnish,
];

/// Measures every server on every kind of file, the servers taking turns.
///
/// # Errors
///
/// When a server does not start or a file does not arrive as it should before measuring.
pub fn run(bench: &Bench, results: &mut Results) -> anyhow::Result<()> {
    let kinds = bench.site.those_here(&SERVERS);
    let start = |kind: &Kind| Server::start(*kind, &bench.site);
    let servers: Vec<Server> = kinds.iter().map(start).collect::<anyhow::Result<_>>()?;
    let rounds = bench.repetitions(7);
    let seconds = Duration::from_secs_f64(if bench.quick { 0.3 } else { 2.0 });
    let steps = WarmFile::ALL.len() * rounds * servers.len();
    let mut progress = Progress::new("serve", steps);
    for file in WarmFile::ALL {
        let targets: Vec<Target> = files(bench, file).into_iter().map(Target::get).collect();
        let mut cells = Vec::new();
        for server in &servers {
            fill(server, &targets)?;
            ensure!(
                server.tree().reset_peak_memory(),
                "the kernel keeps peaks of {}",
                server.kind
            );
            cells.push(Cell::new()?);
        }
        for round in 0..rounds {
            for turn in 0..servers.len() {
                let index = (turn + round) % servers.len();
                cells[index].round(&servers[index], file, &targets, seconds)?;
                progress.step(&format!("{}, {}", file.name(), servers[index].kind));
            }
        }
        for (server, cell) in servers.iter().zip(cells) {
            // What was right before the rounds must still be right after them.
            fill(server, &targets)?;
            if let Some(failure) = &cell.first_failure {
                let line = format!("serve {}, {}: {failure}", file.name(), server.kind);
                results.troubles.push(line);
            }
            results.serve.push(cell.finish(server, file));
        }
    }
    Ok(())
}

fn connections(file: WarmFile) -> usize {
    match file {
        WarmFile::Info | WarmFile::Mod => 64,
        WarmFile::Zip1 => 16,
        WarmFile::Zip30 => 8,
    }
}

fn files(bench: &Bench, file: WarmFile) -> Vec<&File> {
    let content = &bench.content;
    match file {
        WarmFile::Info => content.small.iter().map(|m| &m.info).collect(),
        WarmFile::Mod => content.small.iter().map(|m| &m.r#mod).collect(),
        WarmFile::Zip1 => content.zip_1mb.iter().map(|m| &m.zip).collect(),
        WarmFile::Zip30 => content.zip_30mb.iter().map(|m| &m.zip).collect(),
    }
}

/// Fetches every target twice with its content checked: the first time may fill the cache.
fn fill(server: &Server, targets: &[Target]) -> anyhow::Result<()> {
    let all: Vec<usize> = (0..targets.len()).chain(0..targets.len()).collect();
    let mut script = Lists::new(vec![all], 1);
    let mut load = Load::connect(server.address, 1, CONNECT_PATIENCE)?;
    load.run(targets, &mut script, PATIENCE)?;
    ensure!(
        script.failures() == 0,
        "{} does not deliver the warm files: {}\n{}",
        server.kind,
        script.first_failure().unwrap_or("not all were answered"),
        server.log_end()
    );
    Ok(())
}

/// One server's measurements on one kind of file.
struct Cell {
    rounds: Vec<WarmRound>,
    latency_us: Histogram<u64>,
    failures: usize,
    first_failure: Option<String>,
}

impl Cell {
    fn new() -> anyhow::Result<Self> {
        let latency_us = Histogram::new_with_bounds(1, 60_000_000, 3).context("a histogram")?;
        Ok(Self {
            rounds: Vec::new(),
            latency_us,
            failures: 0,
            first_failure: None,
        })
    }

    fn round(
        &mut self,
        server: &Server,
        file: WarmFile,
        targets: &[Target],
        seconds: Duration,
    ) -> anyhow::Result<()> {
        let connections = connections(file);
        let mut load = Load::connect(server.address, connections, CONNECT_PATIENCE)?;
        let (server_before, own_before) = (server.tree().cpu(), own_cpu());
        let mut script = UntilDeadline {
            deadline: Instant::now() + seconds,
            connections,
            targets,
            answered: 0,
            bytes: 0,
            cell: self,
        };
        let wall = load.run(targets, &mut script, PATIENCE)?.as_secs_f64();
        let (answered, bytes) = (script.answered as f64, script.bytes as f64);
        ensure!(
            answered > 0.0,
            "{} answered nothing\n{}",
            server.kind,
            server.log_end()
        );
        let cpu = server
            .tree()
            .cpu()
            .saturating_sub(server_before)
            .as_secs_f64();
        let own = own_cpu().saturating_sub(own_before).as_secs_f64();
        self.rounds.push(WarmRound {
            requests_per_s: answered / wall,
            mb_per_s: bytes / 1e6 / wall,
            cpu_us_per_request: cpu * 1e6 / answered,
            cpu_ms_per_mb: cpu * 1e9 / bytes,
            generator_us_per_request: own * 1e6 / answered,
        });
        Ok(())
    }

    fn finish(self, server: &Server, file: WarmFile) -> Warm {
        let latency = |q| self.latency_us.value_at_quantile(q) as f64 / 1e3;
        Warm {
            server: server.kind,
            file,
            connections: connections(file),
            latency_ms: [latency(0.5), latency(0.99), latency(0.999)],
            memory_peak: server.tree().peak_memory(),
            failures: self.failures,
            rounds: self.rounds,
        }
    }
}

/// Asks for all targets in turn until the time is over.
struct UntilDeadline<'a> {
    deadline: Instant,
    connections: usize,
    targets: &'a [Target],
    answered: u64,
    bytes: u64,
    cell: &'a mut Cell,
}

impl Script for UntilDeadline<'_> {
    fn next(&mut self, connection: usize, done: usize) -> Option<usize> {
        let next = (connection + done * self.connections) % self.targets.len();
        // Files and connections may have a common divisor; the quotient lets all have a turn.
        let shifted = (next + done * self.connections / self.targets.len()) % self.targets.len();
        (Instant::now() < self.deadline).then_some(shifted)
    }

    fn checks(&self, _connection: usize) -> bool {
        false
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(failure) = answer.failure {
            self.cell.failures += 1;
            self.cell.first_failure.get_or_insert(failure);
            return;
        }
        self.answered += 1;
        self.bytes += self.targets[answer.target].length;
        let took = (answer.done - answer.sent).as_micros();
        self.cell
            .latency_us
            .saturating_record(u64::try_from(took).unwrap_or(u64::MAX));
    }
}
