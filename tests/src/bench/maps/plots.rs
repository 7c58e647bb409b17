//! The plots of the map comparison.

use super::run::{Measure, Results};
use crate::bench::plots::{Axis, Line, draw};

/// A plot's file name and its SVG text.
pub type Plot = (&'static str, String);

/// All plots.
///
/// # Errors
///
/// When a plot cannot be drawn.
pub fn all(results: &Results) -> Result<Vec<Plot>, String> {
    let plan = &results.plan;
    let lines = |columns: &[usize], cell: &dyn Fn(usize, usize) -> f64| -> Vec<Line> {
        let line = |(index, name): (usize, &&'static str)| Line {
            name: (*name).to_owned(),
            points: columns
                .iter()
                .map(|n| (*n as f64, cell(index, *n)))
                .collect(),
        };
        results.names.iter().enumerate().map(line).collect()
    };
    let (clients, its) = (&plan.clients, &plan.iterations);
    let small = lines(clients, &|c, n| results.mean(c, Measure::WarmUpSmall(n)));
    let large = lines(clients, &|c, n| results.mean(c, Measure::WarmUpLarge(n)));
    let mixed = lines(its, &|c, n| results.mean(c, Measure::Mixed(n)));
    let steady = lines(its, &|c, n| results.steady(c, n));
    let phase = lines(its, &|c, n| results.mean(c, Measure::MixedPhase(n)));
    let by_clients = Axis {
        x: "clients",
        y: "ms",
        log: false,
    };
    let by_iterations = Axis {
        x: "iterations",
        y: "ms",
        log: false,
    };
    let log = Axis {
        y: "ms (log)",
        log: true,
        ..by_iterations
    };
    let title = |count: usize| format!("Warm-up, {count} unique keys");
    let warm_mixed = format!("Mixed, {} keys, 18 workers, warm-up included", plan.small);
    Ok(vec![
        (
            "warmup-small.svg",
            draw(&title(plan.small), by_clients, &small)?,
        ),
        (
            "warmup-large.svg",
            draw(&title(plan.large), by_clients, &large)?,
        ),
        ("mixed.svg", draw(&warm_mixed, by_iterations, &mixed)?),
        (
            "steady.svg",
            draw("Steady state: mixed less warm-up", log, &steady)?,
        ),
        (
            "phase.svg",
            draw("Mixed phase by its own clock", log, &phase)?,
        ),
    ])
}
