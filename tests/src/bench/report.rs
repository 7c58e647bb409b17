//! Tables and plots of the server benchmark.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use serde_json::json;

use super::parts::{failures, fleet};
use super::plots::{self, Axis, Line};
use super::results::{BuildRound, HerdRound, Results, WarmFile, WarmRound, median};
use super::table::Table;
use super::targets::{self, Target};

/// Writes `report.txt`, `results.json` and the plots into `directory`; returns text and JSON.
///
/// # Errors
///
/// When the directory or one of the files cannot be written.
pub fn write(directory: &Path, results: &Results) -> io::Result<(String, String)> {
    fs::create_dir_all(directory)?;
    let targets = targets::judge(results);
    let text = text(results, &targets);
    let json = json!({ "results": results, "targets": targets });
    let json = serde_json::to_string_pretty(&json).map_err(io::Error::other)?;
    fs::write(directory.join("report.txt"), &text)?;
    fs::write(directory.join("results.json"), &json)?;
    for (name, svg) in draw(results).map_err(io::Error::other)? {
        fs::write(directory.join(name), svg)?;
    }
    Ok((text, json))
}

fn text(results: &Results, targets: &[Target]) -> String {
    let mut out = results.machine.text();
    let _ = writeln!(
        out,
        "files     {} may be open in a process",
        results.files_max
    );
    out += "\nFigures are medians of the rounds, ± is half the range over the median.\nMemory is the sum of the processes' peak resident memory; MB are 10^6 bytes.\n";
    let mut part = |title: &str, table: Option<Table>| {
        if let Some(table) = table {
            let _ = write!(out, "\n{title}\n{}", table.text());
        }
    };
    part("Warm files", warm(results));
    part("Start and idle memory", starts(results));
    part("One client, one cold zip of 30 MB, ms", cold(results));
    part(
        "Herds on cold files; first byte since upstream's own, finish since the request, ms",
        herd(results),
    );
    part("A build farm's downloads", build(results));
    for (title, table) in results.fleet.iter().flat_map(fleet::tables) {
        part(&title, Some(table));
    }
    for (title, table) in results.failures.iter().flat_map(failures::tables) {
        part(&title, Some(table));
    }
    if !results.troubles.is_empty() {
        let _ = writeln!(out, "\nTroubles\n{}", results.troubles.join("\n"));
    }
    let _ = write!(out, "\nTargets\n{}", targets::text(targets));
    out
}

fn warm(results: &Results) -> Option<Table> {
    let mut table = Table::new([
        "file, server",
        "req/s",
        "±",
        "MB/s",
        "CPU us/req",
        "±",
        "CPU ms/MB",
        "p50 ms",
        "p99",
        "p99.9",
        "peak MB",
        "failed",
        "load us/req",
    ]);
    for warm in &results.serve {
        let middle = |value: fn(&WarmRound) -> f64| median(warm.rounds.iter().map(value));
        let spread = |value: fn(&WarmRound) -> f64| spread(warm.rounds.iter().map(value));
        table.row([
            format!("{}, {}", warm.file.name(), warm.server),
            figure(middle(|r| r.requests_per_s)),
            spread(|r| r.requests_per_s),
            figure(middle(|r| r.mb_per_s)),
            figure(middle(|r| r.cpu_us_per_request)),
            spread(|r| r.cpu_us_per_request),
            figure(middle(|r| r.cpu_ms_per_mb)),
            figure(warm.latency_ms[0]),
            figure(warm.latency_ms[1]),
            figure(warm.latency_ms[2]),
            mb(warm.memory_peak),
            warm.failures.to_string(),
            figure(middle(|r| r.generator_us_per_request)),
        ]);
    }
    (!results.serve.is_empty()).then_some(table)
}

fn starts(results: &Results) -> Option<Table> {
    let mut table = Table::new(["server", "ready ms", "slowest", "idle MB", "peak MB"]);
    for start in &results.starts {
        table.row([
            start.server.to_string(),
            figure(median(start.ready_ms.iter().copied())),
            figure(start.ready_ms.iter().copied().fold(0.0, f64::max)),
            mb(start.memory_idle),
            mb(start.memory_peak),
        ]);
    }
    (!results.starts.is_empty()).then_some(table)
}

fn cold(results: &Results) -> Option<Table> {
    let mut table = Table::new(["server", "first byte", "±", "finish", "±"]);
    for cold in &results.cold {
        table.row([
            cold.server
                .map_or("direct".to_owned(), |kind| kind.to_string()),
            figure(median(cold.first_byte_ms.iter().copied())),
            spread(cold.first_byte_ms.iter().copied()),
            figure(median(cold.finish_ms.iter().copied())),
            spread(cold.finish_ms.iter().copied()),
        ]);
    }
    (!results.cold.is_empty()).then_some(table)
}

fn herd(results: &Results) -> Option<Table> {
    let mut table = Table::new([
        "herd, server",
        "upstream",
        "files",
        "first p50",
        "p99",
        "max",
        "finish p50",
        "p99",
        "max",
        "±",
        "CPU s",
        "load CPU s",
        "peak MB",
        "failed",
    ]);
    for herd in &results.herd {
        let middle = |value: fn(&HerdRound) -> f64| figure(median(herd.rounds.iter().map(value)));
        let most = |value: fn(&HerdRound) -> usize| {
            herd.rounds.iter().map(value).max().unwrap_or(0).to_string()
        };
        table.row([
            format!("{}, {}", herd.scenario, herd.server),
            most(|r| r.upstream_requests),
            most(|r| r.files),
            middle(|r| r.first_byte_ms.p50),
            middle(|r| r.first_byte_ms.p99),
            middle(|r| r.first_byte_ms.max),
            middle(|r| r.finish_ms.p50),
            middle(|r| r.finish_ms.p99),
            middle(|r| r.finish_ms.max),
            spread(herd.rounds.iter().map(|r| r.finish_ms.p50)),
            middle(|r| r.cpu_s),
            middle(|r| r.generator_cpu_s),
            mb(herd.rounds.iter().map(|r| r.memory_peak).max().unwrap_or(0)),
            most(|r| r.failures),
        ]);
    }
    (!results.herd.is_empty()).then_some(table)
}

fn build(results: &Results) -> Option<Table> {
    let mut table = Table::new([
        "build, server",
        "wall s",
        "±",
        "request p50 ms",
        "p99",
        "max",
        "upstream",
        "CPU s",
        "peak MB",
        "failed",
    ]);
    for build in &results.build {
        for (state, rounds) in [("cold", &build.cold), ("warm", &build.warm)] {
            let middle = |value: fn(&BuildRound) -> f64| figure(median(rounds.iter().map(value)));
            let most = |value: fn(&BuildRound) -> usize| {
                rounds.iter().map(value).max().unwrap_or(0).to_string()
            };
            table.row([
                format!(
                    "{} jobs x {} modules {state}, {}",
                    build.jobs, build.modules, build.server
                ),
                middle(|r| r.wall_s),
                spread(rounds.iter().map(|r| r.wall_s)),
                middle(|r| r.request_ms.p50),
                middle(|r| r.request_ms.p99),
                middle(|r| r.request_ms.max),
                most(|r| r.upstream_requests),
                middle(|r| r.cpu_s),
                mb(rounds.iter().map(|r| r.memory_peak).max().unwrap_or(0)),
                most(|r| r.failures),
            ]);
        }
    }
    (!results.build.is_empty()).then_some(table)
}

/// Plots: CPU time by round for warm files (shows the noise), quantiles for herds.
fn draw(results: &Results) -> Result<Vec<(String, String)>, String> {
    let mut plots = Vec::new();
    for file in WarmFile::ALL {
        let value: fn(&WarmRound) -> f64 = if file.is_zip() {
            |r| r.cpu_ms_per_mb
        } else {
            |r| r.cpu_us_per_request
        };
        let unit = if file.is_zip() {
            "CPU ms a MB"
        } else {
            "CPU us a request"
        };
        let line = |warm: &super::results::Warm| {
            let points = warm
                .rounds
                .iter()
                .enumerate()
                .map(|(n, r)| (n as f64 + 1.0, value(r)));
            Line {
                name: warm.server.to_string(),
                points: points.collect(),
            }
        };
        let lines: Vec<Line> = results
            .serve
            .iter()
            .filter(|w| w.file == file)
            .map(line)
            .collect();
        let axis = Axis {
            x: "round",
            y: unit,
            log: false,
        };
        let title = format!("Warm {}", file.name());
        plots.extend(plot(&title, axis, &lines)?);
    }
    let mut scenarios: Vec<&str> = results.herd.iter().map(|h| h.scenario.as_str()).collect();
    scenarios.dedup();
    for scenario in scenarios {
        for (what, quantiles) in [
            (
                "first byte",
                (|r| r.first_byte_ms) as fn(&HerdRound) -> super::results::Quantiles,
            ),
            ("finish", |r| r.finish_ms),
        ] {
            let line = |herd: &super::results::Herd| {
                let middle = |pick: fn(super::results::Quantiles) -> f64| {
                    median(herd.rounds.iter().map(|r| pick(quantiles(r))))
                };
                let points = vec![
                    (50.0, middle(|q| q.p50)),
                    (90.0, middle(|q| q.p90)),
                    (99.0, middle(|q| q.p99)),
                    (100.0, middle(|q| q.max)),
                ];
                Line {
                    name: herd.server.to_string(),
                    points,
                }
            };
            let of_this = results.herd.iter().filter(|h| h.scenario == scenario);
            let lines: Vec<Line> = of_this.map(line).collect();
            let axis = Axis {
                x: "percent of clients",
                y: "ms (log)",
                log: true,
            };
            plots.extend(plot(&format!("Herd {scenario}, {what}"), axis, &lines)?);
        }
    }
    Ok(plots)
}

fn plot(title: &str, axis: Axis, lines: &[Line]) -> Result<Option<(String, String)>, String> {
    if lines.iter().all(|line| line.points.len() < 2) {
        return Ok(None);
    }
    let name: String = title
        .chars()
        .map(|c| if c.is_alphanumeric() { c } else { '-' })
        .collect();
    let svg = plots::draw(title, axis, lines)?;
    Ok(Some((
        format!("{}.svg", name.to_lowercase().replace("--", "-")),
        svg,
    )))
}

/// Half the range over the median.
fn spread(values: impl IntoIterator<Item = f64>) -> String {
    let values: Vec<f64> = values.into_iter().collect();
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    format!("{:.0} %", 50.0 * (most - least) / median(values))
}

fn mb(bytes: u64) -> String {
    figure(bytes as f64 / 1e6)
}

/// Three significant digits or so: more would be noise.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}
