//! Runs all measurements of the map comparison, interleaved, and keeps every single time.

use std::collections::BTreeMap;
use std::time::Duration;

use super::candidates::{self, Candidate};
use super::workload::{self, Keys, WORKERS};
use crate::bench::progress::Progress;

/// How much of each measurement is done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Repetitions of every measurement, averaged afterwards.
    pub runs: usize,
    /// Keys of the small warm-up, which is also the mixed phase's.
    pub small: usize,
    /// Keys of the large warm-up.
    pub large: usize,
    /// Numbers of concurrent writers in the warm-ups.
    pub clients: Vec<usize>,
    /// Iterations of the mixed phase.
    pub iterations: Vec<usize>,
    /// Reads per worker of the hot-read measurement.
    pub hot_reads: usize,
    /// Flights per worker of the flight measurement.
    pub flights: usize,
}

impl Plan {
    /// The whole comparison, several minutes.
    pub fn full() -> Self {
        Self {
            runs: 10,
            small: 100_000,
            large: 1_000_000,
            clients: vec![1, 2, 4, 8, WORKERS],
            iterations: (1..=10).map(|n| n * 500).collect(),
            hot_reads: 50_000,
            flights: 10_000,
        }
    }

    /// A few seconds: shows that everything runs and that no candidate loses work.
    pub fn quick() -> Self {
        Self {
            runs: 2,
            small: 10_000,
            large: 20_000,
            clients: vec![1, WORKERS],
            iterations: vec![500, 1000],
            hot_reads: 2000,
            flights: 1000,
        }
    }
}

/// A measurement; the number is its parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Small warm-up by this many clients, in ms.
    WarmUpSmall(usize),
    /// Large warm-up by this many clients, in ms.
    WarmUpLarge(usize),
    /// Small warm-up and this many mixed iterations, in ms.
    Mixed(usize),
    /// The mixed iterations of that run alone, in ms.
    MixedPhase(usize),
    /// One read of a hot key, in ns of machine time.
    HotRead,
    /// One flight, in ns of machine time.
    Flight,
}

/// Every time that was taken.
#[derive(Debug, Clone)]
pub struct Results {
    /// What was run.
    pub plan: Plan,
    /// Candidates' names in table order.
    pub names: Vec<&'static str>,
    /// Whether the candidate of the same index is a bounded cache.
    pub bounded: Vec<bool>,
    times: BTreeMap<(usize, Measure), Vec<f64>>,
}

impl Results {
    /// The single times of one cell, in the order of the runs.
    pub fn samples(&self, candidate: usize, measure: Measure) -> &[f64] {
        self.times
            .get(&(candidate, measure))
            .map_or(&[], Vec::as_slice)
    }

    /// The mean of one cell; not a number when nothing was measured.
    pub fn mean(&self, candidate: usize, measure: Measure) -> f64 {
        mean(self.samples(candidate, measure))
    }

    /// The standard deviation of one cell as a share of its mean.
    pub fn spread(&self, candidate: usize, measure: Measure) -> f64 {
        let samples = self.samples(candidate, measure);
        let mean = mean(samples);
        let squares = samples.iter().map(|s| (s - mean).powi(2)).sum::<f64>();
        (squares / samples.len() as f64).sqrt() / mean
    }

    /// Mixed time less the mean of the same candidate's warm-ups, in ms.
    ///
    /// The mean is over every warm-up of as many keys and clients, those that began the mixed
    /// runs included. Still a small difference of large times: it may even be negative on a busy
    /// machine.
    pub fn steady(&self, candidate: usize, iterations: usize) -> f64 {
        let mut warm = self
            .samples(candidate, Measure::WarmUpSmall(WORKERS))
            .to_vec();
        for n in &self.plan.iterations {
            let totals = self.samples(candidate, Measure::Mixed(*n));
            let phases = self.samples(candidate, Measure::MixedPhase(*n));
            warm.extend(
                totals
                    .iter()
                    .zip(phases)
                    .map(|(total, phase)| total - phase),
            );
        }
        self.mean(candidate, Measure::Mixed(iterations)) - mean(&warm)
    }

    fn add(&mut self, candidate: usize, measure: Measure, value: f64) {
        self.times
            .entry((candidate, measure))
            .or_default()
            .push(value);
    }
}

/// Mean of `values`; not a number when there are none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Runs the whole plan.
///
/// Inside each repetition the candidates take turns, and each repetition starts with another one,
/// so that a slow minute of the machine hits all of them alike.
pub fn run(plan: Plan) -> Results {
    let candidates = candidates::all();
    let mut results = Results {
        names: candidates.iter().map(|c| c.name).collect(),
        bounded: candidates.iter().map(|c| c.bounded).collect(),
        times: BTreeMap::new(),
        plan: plan.clone(),
    };
    let keys = Keys::new(plan.large.max(plan.small));
    let cells = 2 * plan.clients.len() + plan.iterations.len() + 2;
    let mut progress = Progress::new("maps", plan.runs * candidates.len() * cells);
    for round in 0..plan.runs {
        let mut each = |what: &str, measure: &mut dyn FnMut(usize, &Candidate)| {
            for turn in 0..candidates.len() {
                let index = (turn + round) % candidates.len();
                measure(index, &candidates[index]);
                progress.step(&format!(
                    "run {}, {what}, {}",
                    round + 1,
                    candidates[index].name
                ));
            }
        };
        for &clients in &plan.clients {
            each("warm-up", &mut |index, candidate| {
                let map = (candidate.build)(plan.small);
                let took = workload::warm_up(&*map, &keys, plan.small, clients);
                results.add(index, Measure::WarmUpSmall(clients), ms(took));
            });
        }
        for &clients in &plan.clients {
            each("large warm-up", &mut |index, candidate| {
                let map = (candidate.build)(plan.large);
                let took = workload::warm_up(&*map, &keys, plan.large, clients);
                results.add(index, Measure::WarmUpLarge(clients), ms(took));
            });
        }
        for &iterations in &plan.iterations {
            each("mixed", &mut |index, candidate| {
                let map = (candidate.build)(plan.small);
                let took = workload::mixed(&*map, &keys, plan.small, iterations);
                results.add(index, Measure::Mixed(iterations), ms(took.total));
                results.add(index, Measure::MixedPhase(iterations), ms(took.phase));
            });
        }
        each("hot reads", &mut |index, candidate| {
            let map = (candidate.build)(plan.small);
            let took = workload::hot_reads(&*map, &keys, plan.small, plan.hot_reads);
            results.add(index, Measure::HotRead, took);
        });
        each("flights", &mut |index, candidate| {
            // Room for all keys: a table of flights never evicts.
            let map = (candidate.build)(plan.small);
            let took = workload::flights(&*map, &keys, plan.flights);
            results.add(index, Measure::Flight, took);
        });
    }
    results
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
