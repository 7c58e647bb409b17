//! What corral owes, judged by the run's own ratios.

use serde::Serialize;

use super::parts::failures::judge as judge_failures;
use super::parts::fleet::judge as judge_fleet;
use super::parts::herd::{ZIP_30MB, scenario_name};
use super::results::{Herd, HerdRound, Results, Warm, WarmFile, WarmRound, median};
use super::servers::Kind;
use super::table::Table;

/// One line of the table of targets.
#[derive(Debug, Clone, Serialize)]
pub struct Target {
    /// What is judged.
    pub what: String,
    /// The limit, for example `<= 100 ms`.
    pub limit: String,
    /// What was measured; `None` when its part did not run.
    pub measured: Option<f64>,
    /// Whether the limit is kept; `None` when nothing was measured.
    pub pass: Option<bool>,
    /// The figures behind a ratio.
    pub detail: String,
}

/// What a measurement is held to, with its unit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Limit {
    AtMost(f64, &'static str),
    AtLeast(f64, &'static str),
}

impl Target {
    pub(super) fn new(
        what: impl Into<String>,
        limit: Limit,
        measured: Option<f64>,
        detail: String,
    ) -> Self {
        // An infinite measurement is a miss; none at all, and what came of dividing none, is not.
        let measured = measured.filter(|m| !m.is_nan());
        let (pass, text) = match limit {
            Limit::AtMost(most, unit) => (measured.map(|m| m <= most), format!("<= {most} {unit}")),
            Limit::AtLeast(least, unit) => {
                (measured.map(|m| m >= least), format!(">= {least} {unit}"))
            }
        };
        Self {
            what: what.into(),
            limit: text.trim_end().to_owned(),
            measured,
            pass,
            detail,
        }
    }
}

/// Judges a run; rows of parts that did not run stay open, but a fleet's rows stand alone.
pub fn judge(results: &Results) -> Vec<Target> {
    let mut targets = Vec::new();
    if results.serve.len() + results.starts.len() + results.herd.len() + results.build.len() > 0
        || (results.fleet.is_none() && results.failures.is_none())
    {
        targets = judge_one(results);
    }
    targets.extend(results.fleet.as_ref().map(judge_fleet).unwrap_or_default());
    let failures = results.failures.as_ref();
    targets.extend(failures.map(judge_failures).unwrap_or_default());
    targets
}

fn judge_one(results: &Results) -> Vec<Target> {
    let mut targets = Vec::from(upstream(results));
    for file in [WarmFile::Info, WarmFile::Mod] {
        targets.extend(small(results, file));
    }
    for file in [WarmFile::Zip1, WarmFile::Zip30] {
        targets.push(zip(results, file, Kind::Corral, 1.7, "hot tier"));
        targets.push(zip(results, file, Kind::CorralDisk, 2.5, "disk"));
    }
    for clients in [200, 1000] {
        targets.extend(waiters(results, clients));
    }
    targets.push(one_client(results));
    targets.extend(process(results));
    targets
}

/// Renders the targets, and counts them.
pub fn text(targets: &[Target]) -> String {
    let mut table = Table::new(["target", "limit", "measured", "", "figures"]);
    for target in targets {
        let measured = target
            .measured
            .map_or("not run".to_owned(), |m| format!("{m:.2}"));
        let pass = target
            .pass
            .map_or("", |pass| if pass { "pass" } else { "MISS" });
        let cells = [&target.what, &target.limit, &measured, pass, &target.detail];
        table.row(cells.map(ToString::to_string));
    }
    let count = |wanted| targets.iter().filter(|t| t.pass == wanted).count();
    let (passed, missed, open) = (count(Some(true)), count(Some(false)), count(None));
    format!(
        "{}{passed} passed, {missed} missed, {open} not run\n",
        table.text()
    )
}

fn upstream(results: &Results) -> [Target; 2] {
    let rounds = || {
        results
            .herd
            .iter()
            .filter(|h| h.server == Kind::Corral)
            .flat_map(|h| &h.rounds)
    };
    let per_file = rounds().map(|r| r.upstream_requests as f64 / r.files as f64);
    let most = per_file.fold(f64::NAN, f64::max);
    let failed: usize = rounds().map(|r| r.failures).sum();
    let failed = (rounds().count() > 0).then_some(failed as f64);
    [
        Target::new(
            "upstream requests per cold file",
            Limit::AtMost(1.0, ""),
            Some(most),
            "the most of any herd".to_owned(),
        ),
        Target::new(
            "failed requests in all herds",
            Limit::AtMost(0.0, ""),
            failed,
            String::new(),
        ),
    ]
}

fn warm(results: &Results, server: Kind, file: WarmFile) -> Option<&Warm> {
    results
        .serve
        .iter()
        .find(|w| w.server == server && w.file == file)
}

/// The median over the rounds of `value` on two servers, and of their quotient within a round.
///
/// The servers took turns within each round, so a slow minute is in both sides of a quotient.
fn compare(ours: &Warm, theirs: &Warm, value: fn(&WarmRound) -> f64) -> (f64, f64, f64) {
    let quotients = ours
        .rounds
        .iter()
        .zip(&theirs.rounds)
        .map(|(a, b)| value(a) / value(b));
    let middle = |warm: &Warm| median(warm.rounds.iter().map(value));
    (middle(ours), middle(theirs), median(quotients))
}

fn small(results: &Results, file: WarmFile) -> [Target; 2] {
    let both = warm(results, Kind::Corral, file).zip(warm(results, Kind::NginxStatic, file));
    let rate = both.map(|(a, b)| compare(a, b, |r| r.requests_per_s));
    let cpu = both.map(|(a, b)| compare(a, b, |r| r.cpu_us_per_request));
    let name = file.name();
    [
        Target::new(
            format!("warm {name}: requests/s, corral over nginx"),
            Limit::AtLeast(1.2, "x"),
            rate.map(|r| r.2),
            rate.map_or(String::new(), |r| {
                format!("{:.0} and {:.0} a second", r.0, r.1)
            }),
        ),
        Target::new(
            format!("warm {name}: CPU a request, nginx over corral"),
            Limit::AtLeast(1.2, "x"),
            cpu.map(|c| 1.0 / c.2),
            cpu.map_or(String::new(), |c| format!("{:.1} and {:.1} us", c.1, c.0)),
        ),
    ]
}

fn zip(results: &Results, file: WarmFile, server: Kind, most: f64, from: &str) -> Target {
    let both = warm(results, server, file).zip(warm(results, Kind::NginxStatic, file));
    let cpu = both.map(|(a, b)| compare(a, b, |r| r.cpu_ms_per_mb));
    Target::new(
        format!(
            "warm {} from {from}: CPU a MB, corral over nginx",
            file.name()
        ),
        Limit::AtMost(most, "x"),
        cpu.map(|c| c.2),
        cpu.map_or(String::new(), |c| format!("{:.3} and {:.3} ms", c.0, c.1)),
    )
}

fn herd(results: &Results, server: Kind, clients: usize) -> Option<&Herd> {
    let name = scenario_name(clients, ZIP_30MB);
    results
        .herd
        .iter()
        .find(|h| h.server == server && h.scenario == name)
}

fn waiters(results: &Results, clients: usize) -> Vec<Target> {
    let ours = herd(results, Kind::Corral, clients);
    let both = ours.zip(herd(results, Kind::Varnish, clients));
    let middle = |herd: &Herd, value: fn(&HerdRound) -> f64| median(herd.rounds.iter().map(value));
    let compared = |value: fn(&HerdRound) -> f64| {
        both.map(|(a, b)| (middle(a, value), middle(b, value)))
            .map(|(a, b)| (a, b, a / b))
    };
    let figures = |c: Option<(f64, f64, f64)>| {
        c.map_or(String::new(), |c| format!("{:.0} and {:.0} ms", c.0, c.1))
    };
    let first = compared(|r| r.first_byte_ms.p50);
    let finish = compared(|r| r.finish_ms.p50);
    let what = format!("{clients} on a cold zip of 30 MB");
    vec![
        Target::new(
            format!("{what}: first byte, median"),
            Limit::AtMost(100.0, "ms"),
            ours.map(|h| middle(h, |r| r.first_byte_ms.p50)),
            String::new(),
        ),
        Target::new(
            format!("{what}: first byte, 99th percentile"),
            Limit::AtMost(500.0, "ms"),
            ours.map(|h| middle(h, |r| r.first_byte_ms.p99)),
            String::new(),
        ),
        Target::new(
            format!("{what}: median first byte, corral over Varnish"),
            Limit::AtMost(1.0, "x"),
            first.map(|c| c.2),
            figures(first),
        ),
        Target::new(
            format!("{what}: median finish, corral over Varnish"),
            Limit::AtMost(1.1, "x"),
            finish.map(|c| c.2),
            figures(finish),
        ),
    ]
}

fn one_client(results: &Results) -> Target {
    let finish = |server: Option<Kind>| {
        let row = results.cold.iter().find(|c| c.server == server)?;
        Some(median(row.finish_ms.iter().copied()))
    };
    let both = finish(Some(Kind::Corral)).zip(finish(None));
    Target::new(
        "cold zip, one client: finish, corral over direct",
        Limit::AtMost(1.1, "x"),
        both.map(|(a, b)| a / b),
        both.map_or(String::new(), |(a, b)| format!("{a:.0} and {b:.0} ms")),
    )
}

fn process(results: &Results) -> [Target; 3] {
    let start = results.starts.iter().find(|s| s.server == Kind::Corral);
    let crowd = herd(results, Kind::Corral, 1000);
    let peak = crowd.and_then(|h| h.rounds.iter().map(|r| r.memory_peak).max());
    let mb = |bytes: u64| bytes as f64 / 1e6;
    [
        Target::new(
            "memory, idle",
            Limit::AtMost(25.0, "MB"),
            start.map(|s| mb(s.memory_idle)),
            start.map_or(String::new(), |s| {
                format!("peak until then {:.1}", mb(s.memory_peak))
            }),
        ),
        Target::new(
            "memory, 1000 waiters on one cold zip of 30 MB",
            Limit::AtMost(200.0, "MB"),
            peak.map(mb),
            String::new(),
        ),
        Target::new(
            "start to ready, median",
            Limit::AtMost(100.0, "ms"),
            start.map(|s| median(s.ready_ms.iter().copied())),
            start.map_or(String::new(), |s| {
                format!(
                    "slowest {:.0} ms",
                    s.ready_ms.iter().copied().fold(0.0, f64::max)
                )
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_includes_its_value_and_needs_a_measurement() {
        let judged = |limit, value| Target::new("x", limit, value, String::new()).pass;
        assert_eq!(judged(Limit::AtMost(1.0, ""), Some(1.0)), Some(true));
        assert_eq!(judged(Limit::AtMost(1.0, ""), Some(1.01)), Some(false));
        assert_eq!(judged(Limit::AtLeast(1.2, "x"), Some(1.2)), Some(true));
        assert_eq!(judged(Limit::AtLeast(1.2, "x"), Some(1.1)), Some(false));
        assert_eq!(judged(Limit::AtLeast(1.2, "x"), None), None);
        assert_eq!(judged(Limit::AtMost(1.2, "x"), Some(f64::NAN)), None);
    }
}
