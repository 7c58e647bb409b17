//! `Report`: what a run measured.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fleet::Fleet;

/// Many values in a few.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// Their mean; 0 for none.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Sums up `values`, in any order.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let count = values.len();
        let Some(&max) = values.last() else {
            return Self::default();
        };
        let at = |share: usize| values[(count * share).div_ceil(100).clamp(1, count) - 1];
        Self {
            count,
            #[expect(clippy::cast_precision_loss, reason = "a mean of counts is not exact")]
            mean: values.iter().sum::<f64>() / count as f64,
            p50: at(50),
            p99: at(99),
            max,
        }
    }

    fn of_durations(values: &[Duration]) -> Self {
        Self::of(values.iter().map(Duration::as_secs_f64).collect())
    }

    fn of_counts(values: impl Iterator<Item = u64>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "counts of one run are small")]
        Self::of(values.map(|value| value as f64).collect())
    }
}

/// Commands that instances sent to the lease server for one artifact, renewals apart.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Commands {
    /// By those that asked upstream.
    pub leader: Spread,
    /// By those that did not, and asked for the lease or for a record.
    pub follower: Spread,
    /// Renewals, by those that asked upstream.
    pub renewals: Spread,
}

/// What became of one artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitReport {
    /// Upstream requests.
    pub requests: u64,
    /// Those that the bounds allow, given what happened.
    pub requests_max: u64,
    /// Leases that ended otherwise than by being given back.
    pub leases_lost: u64,
    /// Leases that were taken over before their end.
    pub taken_over: u64,
}

/// What a run measured, in virtual time.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Identifies the run: the same for the same plan, however often and wherever it runs.
    pub hash: u64,
    /// Events that the hash covers.
    pub events: u64,
    /// From the start to the last client's answer.
    pub lasted: Duration,
    /// One entry for each artifact that somebody asked for.
    pub units: Vec<UnitReport>,
    /// What clients were answered with, and how often.
    pub answers: BTreeMap<&'static str, u64>,
    /// How long clients waited, in seconds.
    pub waits_s: Spread,
    /// See [`Commands`].
    pub commands: Commands,
    /// Commands of all instances together.
    pub commands_in_all: u64,
    /// Waiting instances that each release woke.
    pub wakes_per_release: Spread,
    /// The most such wake-ups within 10 ms.
    pub wakes_peak: u64,
    /// The most commands to the lease server within 10 ms.
    pub commands_peak: u64,
    /// The most look-ups in the object store within 10 ms.
    pub looks_peak: u64,
    /// Instances that died.
    pub deaths: u64,
    /// From the death of a holder that others waited for to the next upstream request, in seconds.
    pub recovery_s: Spread,
    /// From the end of an outage until an instance was connected again, in seconds.
    pub reconnect_s: Spread,
}

impl Report {
    /// Upstream requests of all artifacts.
    pub fn requests(&self) -> u64 {
        self.units.iter().map(|unit| unit.requests).sum()
    }

    pub(super) fn of(fleet: &Fleet, lasted: Duration) -> Self {
        let (hash, events) = fleet.world.trace_hash();
        let ledger = fleet.world.ledger();
        let (wakes_peak, commands_peak, looks_peak) = ledger.peaks();
        let units = ledger.units.iter().enumerate();
        let units = units
            .filter(|(_, unit)| unit.grants + unit.refused > 0)
            .map(|(index, unit)| {
                let held = fleet.server.get(&fleet.world.units[index].lease).is_some();
                UnitReport {
                    requests: unit.leased + unit.unleased,
                    requests_max: unit.allowed(held),
                    leases_lost: unit.lost(held),
                    taken_over: unit.taken_over,
                }
            });
        let led = |wanted: bool| {
            let places = ledger.commands_by_role();
            places.filter(move |(fetched, commands, _)| *fetched == wanted && *commands > 0)
        };
        Self {
            hash,
            events,
            lasted,
            units: units.collect(),
            answers: ledger.answers.clone(),
            waits_s: Spread::of(
                ledger
                    .waits_ms
                    .iter()
                    .map(|ms| f64::from(*ms) / 1_000.0)
                    .collect(),
            ),
            commands: Commands {
                leader: Spread::of_counts(led(true).map(|(_, commands, _)| commands)),
                follower: Spread::of_counts(led(false).map(|(_, commands, _)| commands)),
                renewals: Spread::of_counts(led(true).map(|(_, _, renewals)| renewals)),
            },
            commands_in_all: ledger.commands_in_all,
            wakes_per_release: Spread::of_counts(ledger.wakes_per_release().into_iter()),
            wakes_peak,
            commands_peak,
            looks_peak,
            deaths: ledger.deaths,
            recovery_s: Spread::of_durations(&ledger.recoveries),
            reconnect_s: Spread::of_durations(&ledger.reconnects),
        }
    }
}
