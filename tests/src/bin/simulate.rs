//! Runs the simulation of a fleet: one plan, many seeds, or the growth curves of its page.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use clap::{Parser, ValueEnum};
use e2e::bench::table::Table;
use e2e::growth;
use storage::testing::simulation::{Plan, Report, Spread, Trouble, UnitReport, run};

/// Simulates a fleet of corral instances under virtual time; see docs/simulation.md.
#[derive(Debug, Parser)]
struct Args {
    /// The seed; to see one of several again, add --drawn.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs so many seeds, from --seed on, each with a fleet of its own: up to --instances and up
    /// to --clients, its artifacts and its upstream's pace drawn from the seed.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Draws the fleet from the seed, as several --seeds do.
    #[arg(long)]
    drawn: bool,
    /// Instances of the fleet.
    #[arg(long, default_value_t = 10)]
    instances: usize,
    /// Clients of all instances together.
    #[arg(long, default_value_t = 1_000)]
    clients: usize,
    /// Cold artifacts that they ask for.
    #[arg(long, default_value_t = 10)]
    units: usize,
    /// What goes wrong by chance.
    #[arg(long, value_enum, default_value_t = Faults::None)]
    faults: Faults,
    /// Prints all that is kept of the trace of a violation, instead of its end.
    #[arg(long)]
    trace: bool,
    /// Draws the growth curves into this directory, and prints their values.
    #[arg(long, conflicts_with_all = ["seeds", "instances", "clients", "units", "faults"])]
    curves: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Faults {
    /// Nothing.
    None,
    /// An ordinary bad day.
    Some,
    /// Everything at once.
    Heavy,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    ensure!(
        args.instances > 0 && args.units > 0 && args.seeds > 0,
        "nothing is simulated with 0 instances, units or seeds"
    );
    if let Some(out) = &args.curves {
        print(&growth::draw(out)?);
        return Ok(());
    }
    let mut broken = Vec::new();
    for seed in args.seed..args.seed.saturating_add(args.seeds) {
        let trouble = match args.faults {
            Faults::None => Trouble::NONE,
            Faults::Some => Trouble::SOME,
            Faults::Heavy => Trouble::HEAVY,
        };
        let plan = if args.drawn || args.seeds > 1 {
            Plan::drawn(seed, args.instances, args.clients, trouble)
        } else {
            Plan::calm(seed, args.instances, args.clients, args.units).with(trouble)
        };
        let began = Instant::now();
        match run(plan.clone()) {
            Ok(report) if args.seeds > 1 => tell_shortly(seed, &plan, &report),
            Ok(report) => tell(seed, &plan, &report, began.elapsed()),
            Err(violation) => {
                print(&violation.to_string());
                if args.trace {
                    print(&violation.trace);
                }
                broken.push(seed);
            }
        }
    }
    if !broken.is_empty() {
        bail!(
            "{} of {} seeds broke a rule: {broken:?}",
            broken.len(),
            args.seeds
        );
    }
    Ok(())
}

/// One run, in full.
fn tell(seed: u64, plan: &Plan, report: &Report, took: Duration) {
    let most = |value: fn(&UnitReport) -> u64| report.units.iter().map(value).max().unwrap_or(0);
    let answers: Vec<_> = report
        .answers
        .iter()
        .map(|(answer, count)| format!("{answer} {count}"))
        .collect();
    let spread = |spread: &Spread| {
        format!(
            "mean {:.3}, p50 {:.3}, p99 {:.3}, most {:.3} ({})",
            spread.mean, spread.p50, spread.p99, spread.max, spread.count
        )
    };
    let size = format!(
        "{} instances, {} clients, {} artifacts",
        plan.instances, plan.clients, plan.units
    );
    let mut table = Table::new([format!("seed {seed}"), size]);
    let rows = [
        (
            "upstream requests",
            format!(
                "{} for {} artifacts; most for one {}, of {} that are allowed",
                report.requests(),
                report.units.len(),
                most(|unit| unit.requests),
                most(|unit| unit.requests_max)
            ),
        ),
        (
            "leases lost, most for one",
            most(|unit| unit.leases_lost).to_string(),
        ),
        (
            "taken over early, most for one",
            most(|unit| unit.taken_over).to_string(),
        ),
        ("commands, leader", spread(&report.commands.leader)),
        ("commands, follower", spread(&report.commands.follower)),
        ("renewals, leader", spread(&report.commands.renewals)),
        ("wake-ups per release", spread(&report.wakes_per_release)),
        (
            "most within 10 ms",
            format!(
                "{} wake-ups, {} commands, {} store look-ups",
                report.wakes_peak, report.commands_peak, report.looks_peak
            ),
        ),
        ("deaths", report.deaths.to_string()),
        ("s, death to next request", spread(&report.recovery_s)),
        ("s, outage's end to contact", spread(&report.reconnect_s)),
        ("s, clients' waits", spread(&report.waits_s)),
        ("answers", answers.join(", ")),
        (
            "trace",
            format!(
                "{:016x}, {} events, {:.1} s in {:.1} s",
                report.hash,
                report.events,
                report.lasted.as_secs_f64(),
                took.as_secs_f64()
            ),
        ),
    ];
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    print(&table.text());
}

/// One of many runs, in a line.
fn tell_shortly(seed: u64, plan: &Plan, report: &Report) {
    let ok = report.answers.get("ok").copied().unwrap_or(0);
    print(&format!(
        "seed {seed}: {} instances, {} clients, {} artifacts: {} requests, {ok} ok, longest wait \
         {:.1} s, {:016x}\n",
        plan.instances,
        plan.clients,
        report.units.len(),
        report.requests(),
        report.waits_s.max,
        report.hash
    ));
}

#[expect(
    clippy::print_stdout,
    reason = "a report is printed, nothing is logged"
)]
fn print(text: &str) {
    print!("{text}");
}
