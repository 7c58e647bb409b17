//! How a simulated fleet's figures grow with its size: tables and curves.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use storage::testing::simulation::{Act, Plan, Report, run};

use crate::bench::plots::{Axis, Line, draw_growth};
use crate::bench::progress::say;
use crate::bench::table::Table;

/// Fleets that are simulated.
const INSTANCES: [usize; 7] = [1, 3, 10, 30, 100, 300, 1_000];

/// Clients of each instance in a herd; the largest fleet has a million.
const HERD_EACH: usize = 1_000;

/// Clients of each instance where only the fleet's behaviour matters.
const FEW_EACH: usize = 20;

/// Runs of each accident, of which the worst is shown.
const ACCIDENTS: u64 = 5;

/// The figures of one size.
#[derive(Debug)]
struct Row {
    instances: usize,
    herd: Report,
    long: Report,
    outage: Report,
    process: Option<f64>,
    machine: Option<f64>,
}

/// Simulates every size; writes the curves and their values into `out`, and returns the values.
///
/// # Errors
///
/// When a run breaks a rule, or a file cannot be written.
pub fn draw(out: &Path) -> anyhow::Result<String> {
    let mut rows = Vec::new();
    for instances in INSTANCES {
        say(&format!("{instances} instances"));
        rows.push(measure(instances)?);
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let text = table(&rows).text();
    let write = |name: &str, content: &str| {
        fs::write(out.join(name), content).with_context(|| format!("write {name}"))
    };
    write("report.txt", &text)?;
    for (name, svg) in plots(&rows).map_err(|error| anyhow!(error))? {
        write(name, &svg)?;
    }
    Ok(text)
}

fn simulate(plan: Plan) -> anyhow::Result<Report> {
    Ok(run(plan)?)
}

fn measure(instances: usize) -> anyhow::Result<Row> {
    let seconds = Duration::from_secs;
    let few = |seed, units, fetch| Plan {
        fetch_max: fetch,
        ..Plan::calm(seed, instances, instances * FEW_EACH, units)
    };
    let mut recoveries = [None, None];
    if instances > 1 {
        for (with_machine, slot) in [(false, 0), (true, 1)] {
            for seed in 1..=ACCIDENTS {
                let death = Act::KillHolder(with_machine, seconds(60));
                let report = simulate(few(seed, 1, seconds(8)).then(seconds(2), death))?;
                if report.recovery_s.count > 0 {
                    let worst: &mut Option<f64> = &mut recoveries[slot];
                    let recovery = report.recovery_s.max;
                    *worst = Some(worst.map_or(recovery, |worst| worst.max(recovery)));
                }
            }
        }
    }
    Ok(Row {
        instances,
        herd: simulate(Plan::calm(1, instances, instances * HERD_EACH, 10))?,
        long: simulate(few(1, 10, seconds(6)))?,
        outage: simulate(
            few(1, 10, Duration::from_millis(800))
                .then(Duration::ZERO, Act::Outage(true, seconds(5))),
        )?,
        process: recoveries[0],
        machine: recoveries[1],
    })
}

fn per_unit(report: &Report) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of one run are small")]
    let mean = report.requests() as f64 / report.units.len().max(1) as f64;
    mean
}

#[expect(clippy::cast_precision_loss, reason = "counts of one run are small")]
fn count(number: u64) -> f64 {
    number as f64
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new([
        "instances",
        "clients",
        "requests/unit",
        "same, server out",
        "commands leader",
        "follower",
        "same, 6 s fetch",
        "wakes/release",
        "wakes/10 ms",
        "commands/10 ms",
        "looks/10 ms",
        "wait p50 s",
        "p99 s",
        "after process death s",
        "after machine death s",
    ]);
    let seconds = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |s| format!("{s:.2}"));
    for row in rows {
        let herd = &row.herd;
        table.row([
            row.instances.to_string(),
            (row.instances * HERD_EACH).to_string(),
            format!("{:.1}", per_unit(herd)),
            format!("{:.1}", per_unit(&row.outage)),
            format!("{:.1}", herd.commands.leader.mean),
            format!("{:.1}", herd.commands.follower.mean),
            format!("{:.1}", row.long.commands.follower.mean),
            format!("{:.1}", herd.wakes_per_release.mean),
            herd.wakes_peak.to_string(),
            herd.commands_peak.to_string(),
            herd.looks_peak.to_string(),
            format!("{:.3}", herd.waits_s.p50),
            format!("{:.3}", herd.waits_s.p99),
            seconds(row.process),
            seconds(row.machine),
        ]);
    }
    table
}

fn plots(rows: &[Row]) -> Result<Vec<(&'static str, String)>, String> {
    let line = |name: &str, value: &dyn Fn(&Row) -> Option<f64>| Line {
        name: name.to_owned(),
        points: rows
            .iter()
            .filter_map(|row| {
                let instances = u32::try_from(row.instances).unwrap_or(u32::MAX);
                Some((f64::from(instances), value(row)?))
            })
            .collect(),
    };
    let axis = |y, log| Axis {
        x: "instances (log)",
        y,
        log,
    };
    let requests = [
        line("nothing goes wrong", &|row| Some(per_unit(&row.herd))),
        line("lease server silent for 5 s", &|row| {
            Some(per_unit(&row.outage))
        }),
    ];
    let commands = [
        line("leader", &|row| Some(row.herd.commands.leader.mean)),
        line("follower", &|row| Some(row.herd.commands.follower.mean)),
        line("follower of a fetch of 6 s", &|row| {
            Some(row.long.commands.follower.mean)
        }),
    ];
    let storms = [
        line("wake-ups", &|row| Some(count(row.herd.wakes_peak))),
        line("commands to the lease server", &|row| {
            Some(count(row.herd.commands_peak))
        }),
        line("look-ups in the object store", &|row| {
            Some(count(row.herd.looks_peak))
        }),
    ];
    let waits = [
        line("p50", &|row| Some(row.herd.waits_s.p50)),
        line("p99", &|row| Some(row.herd.waits_s.p99)),
    ];
    let recovery = [
        line("process killed", &|row| row.process),
        line("machine gone", &|row| row.machine),
    ];
    Ok(vec![
        (
            "requests.svg",
            draw_growth(
                "Upstream requests per cold artifact",
                axis("requests (log)", true),
                &requests,
            )?,
        ),
        (
            "commands.svg",
            draw_growth(
                "Lease-server commands per instance and artifact",
                axis("commands", false),
                &commands,
            )?,
        ),
        (
            "storms.svg",
            draw_growth(
                "Most within 10 ms, 1,000 clients per instance",
                axis("count (log)", true),
                &storms,
            )?,
        ),
        (
            "waits.svg",
            draw_growth(
                "Clients' waits, fetch of 0.4 to 0.8 s",
                axis("s", false),
                &waits,
            )?,
        ),
        (
            "recovery.svg",
            draw_growth(
                "From a holder's death to the next request, worst of 5",
                axis("s", false),
                &recovery,
            )?,
        ),
    ])
}
