//! Tables, values and findings of the map comparison.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use super::plots;
use super::run::{Measure, Results, mean};
use super::workload::WORKERS;
use crate::bench::machine::Machine;
use crate::bench::table::Table;

/// Writes `report.txt`, `times.csv` and the plots into `directory`, and returns the report.
///
/// # Errors
///
/// When the directory or one of the files cannot be written.
pub fn write(directory: &Path, machine: &Machine, results: &Results) -> io::Result<String> {
    fs::create_dir_all(directory)?;
    let text = text(machine, results);
    fs::write(directory.join("report.txt"), &text)?;
    fs::write(directory.join("times.csv"), times(results).csv())?;
    for (name, svg) in plots::all(results).map_err(io::Error::other)? {
        fs::write(directory.join(name), svg)?;
    }
    Ok(text)
}

/// The whole report as text.
pub fn text(machine: &Machine, results: &Results) -> String {
    let plan = &results.plan;
    let mut out = machine.text();
    let _ = writeln!(
        out,
        "runs      {} per cell, averaged, candidates taking turns",
        plan.runs
    );
    let warm = |count: usize, measure: fn(usize) -> Measure| {
        let title = format!("\nWarm-up, {count} unique keys, writes only, ms by clients\n");
        title + &grid(results, &plan.clients, |c, n| results.mean(c, measure(n)))
    };
    out += &warm(plan.small, Measure::WarmUpSmall);
    out += &warm(plan.large, Measure::WarmUpLarge);
    let _ = writeln!(
        out,
        "\nMixed, ms by iterations: warm-up of {} keys by {WORKERS} clients, then per iteration\n10 reads, 6 edits, 2 deletions with re-addition",
        plan.small
    );
    let its = &plan.iterations;
    out += &grid(results, its, |c, n| results.mean(c, Measure::Mixed(n)));
    out += "\nSteady state, ms by iterations: mixed less the warm-up's average\n";
    out += &grid(results, its, |c, n| results.steady(c, n));
    out += "\nThe same phase by its own clock, ms by iterations (less noise than a difference)\n";
    out += &grid(results, its, |c, n| results.mean(c, Measure::MixedPhase(n)));
    out += "\ncorral's own shapes, ns of machine time, and the spread of the runs\n";
    out += &own_shapes(results).text();
    out += &findings(results);
    out
}

fn grid(results: &Results, columns: &[usize], cell: impl Fn(usize, usize) -> f64) -> String {
    let mut table = Table::new(
        [String::new()]
            .into_iter()
            .chain(columns.iter().map(usize::to_string)),
    );
    for (index, name) in results.names.iter().enumerate() {
        let cells = columns.iter().map(|n| number(cell(index, *n)));
        table.row([(*name).to_owned()].into_iter().chain(cells));
    }
    table.text()
}

fn own_shapes(results: &Results) -> Table {
    let mut table = Table::new([
        "",
        "hot read",
        "±",
        "flight",
        "±",
        "mixed 5000 ±",
        "bounded",
    ]);
    let last = *results
        .plan
        .iterations
        .last()
        .expect("a plan has iterations");
    for (index, name) in results.names.iter().enumerate() {
        let percent = |measure| format!("{:.0} %", 100.0 * results.spread(index, measure));
        table.row([
            (*name).to_owned(),
            number(results.mean(index, Measure::HotRead)),
            percent(Measure::HotRead),
            number(results.mean(index, Measure::Flight)),
            percent(Measure::Flight),
            percent(Measure::MixedPhase(last)),
            if results.bounded[index] { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

/// Rankings and growth, computed from the times so that no sentence outlives its measurement.
fn findings(results: &Results) -> String {
    let plan = &results.plan;
    let last = *plan.iterations.last().expect("a plan has iterations");
    let mut out = String::from("\nRankings, best first, with the ratio to the best\n");
    let mut rank = |what: &str, cell: &dyn Fn(usize) -> f64| {
        let order = ranking(results, cell);
        let best = cell(order[0]);
        let names: Vec<String> = order
            .iter()
            .map(|c| format!("{} {:.2}", results.names[*c], cell(*c) / best))
            .collect();
        let _ = writeln!(out, "- {what}: {}", names.join(", "));
    };
    rank("writes, small warm-up", &|c| {
        results.mean(c, Measure::WarmUpSmall(WORKERS))
    });
    rank("writes, large warm-up", &|c| {
        results.mean(c, Measure::WarmUpLarge(WORKERS))
    });
    rank("mixed with its warm-up", &|c| {
        results.mean(c, Measure::Mixed(last))
    });
    rank("mixed phase alone", &|c| {
        results.mean(c, Measure::MixedPhase(last))
    });
    rank("hot reads", &|c| results.mean(c, Measure::HotRead));
    rank("flights", &|c| results.mean(c, Measure::Flight));
    out += "\nCost of a write in the large warm-up over the small one, 18 clients\n";
    let keys = plan.large as f64 / plan.small as f64;
    for (index, name) in results.names.iter().enumerate() {
        let small = results.mean(index, Measure::WarmUpSmall(WORKERS));
        let large = results.mean(index, Measure::WarmUpLarge(WORKERS));
        let _ = writeln!(out, "- {name}: {:.2}", large / small / keys);
    }
    out += "\nIs the ranking stable? Pairs of candidates whose order differs between the first and\nthe second half of the runs (a pair closer than that is a tie)\n";
    let mut stable = |what: &str, measure: Measure| {
        let (swapped, pairs) = swaps(results, measure);
        let _ = writeln!(out, "- {what}: {swapped} of {pairs}");
    };
    stable("writes, small warm-up", Measure::WarmUpSmall(WORKERS));
    stable("writes, large warm-up", Measure::WarmUpLarge(WORKERS));
    stable("mixed phase alone", Measure::MixedPhase(last));
    stable("hot reads", Measure::HotRead);
    stable("flights", Measure::Flight);
    out
}

fn ranking(results: &Results, cell: &dyn Fn(usize) -> f64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..results.names.len()).collect();
    order.sort_by(|a, b| cell(*a).total_cmp(&cell(*b)));
    order
}

/// Counts the pairs whose order in the first half of the runs is reversed in the second.
fn swaps(results: &Results, measure: Measure) -> (usize, usize) {
    let halves = |candidate: usize| {
        let samples = results.samples(candidate, measure);
        let (first, second) = samples.split_at(samples.len() / 2);
        (mean(first), mean(second))
    };
    let count = results.names.len();
    let pairs = (0..count).flat_map(|a| (a + 1..count).map(move |b| (a, b)));
    let swapped = pairs.clone().filter(|(a, b)| {
        let ((a1, a2), (b1, b2)) = (halves(*a), halves(*b));
        (a1 < b1) != (a2 < b2)
    });
    (swapped.count(), pairs.count())
}

/// Every single time, one line per run.
fn times(results: &Results) -> Table {
    let mut table = Table::new(["measure", "parameter", "candidate", "run", "value", "unit"]);
    let plan = &results.plan;
    let mut cells: Vec<(&str, usize, Measure, &str)> = Vec::new();
    for n in &plan.clients {
        cells.push(("warmup_small", *n, Measure::WarmUpSmall(*n), "ms"));
        cells.push(("warmup_large", *n, Measure::WarmUpLarge(*n), "ms"));
    }
    for n in &plan.iterations {
        cells.push(("mixed", *n, Measure::Mixed(*n), "ms"));
        cells.push(("mixed_phase", *n, Measure::MixedPhase(*n), "ms"));
    }
    cells.push(("hot_read", plan.hot_reads, Measure::HotRead, "ns"));
    cells.push(("flight", plan.flights, Measure::Flight, "ns"));
    cells.sort_by_key(|cell| cell.2);
    for (measure, parameter, key, unit) in cells {
        for (index, name) in results.names.iter().enumerate() {
            for (run, value) in results.samples(index, key).iter().enumerate() {
                table.row([
                    measure.to_owned(),
                    parameter.to_string(),
                    (*name).to_owned(),
                    (run + 1).to_string(),
                    format!("{value:.4}"),
                    unit.to_owned(),
                ]);
            }
        }
    }
    table
}

/// Three significant digits or so: more would be noise.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
