//! A fleet's tables and targets.

use crate::bench::report::figure;
use crate::bench::results::{Fleet, FleetHerd};
use crate::bench::table::Table;
use crate::bench::targets::{Limit, Target};

use super::herds::ZIP_30MB;

/// A holder whose address refuses connections is replaced this soon, s.
const NOTICED_S: f64 = 1.0;

/// A silent holder is replaced this long after its TTL, s.
const AFTER_TTL_S: f64 = 0.25;

/// The tables, each with its title.
pub(in crate::bench) fn tables(fleet: &Fleet) -> Vec<(String, Table)> {
    let mut tables = Vec::new();
    if !fleet.herds.is_empty() {
        let title = format!(
            "Fleet of {}: herds on cold files; followers' first byte since upstream's own, ms",
            fleet.instances
        );
        tables.push((title, herds(fleet)));
    }
    if !fleet.wakes.is_empty() || fleet.pairs.is_some() {
        tables.push(("Fleet: leases, ms".to_owned(), leases(fleet)));
    }
    if !fleet.deaths.is_empty() {
        let title = "Fleet: a holder's death to upstream's next request, s";
        tables.push((title.to_owned(), deaths(fleet)));
    }
    if !fleet.outages.is_empty() {
        let title = "Fleet: Valkey stopped and started under load";
        tables.push((title.to_owned(), outages(fleet)));
    }
    tables
}

fn herds(fleet: &Fleet) -> Table {
    let mut table = Table::new([
        "herd",
        "files",
        "not once",
        "upstream",
        "failed",
        "first p50",
        "p99",
        "max",
        "finish p50",
        "p99",
    ]);
    for herd in &fleet.herds {
        table.row([
            herd.scenario.clone(),
            herd.files.to_string(),
            herd.files_not_once.to_string(),
            herd.upstream_requests_max.to_string(),
            herd.failures.to_string(),
            figure(herd.follower_first_byte_ms.p50),
            figure(herd.follower_first_byte_ms.p99),
            figure(herd.follower_first_byte_ms.max),
            figure(herd.finish_ms.p50),
            figure(herd.finish_ms.p99),
        ]);
    }
    table
}

fn leases(fleet: &Fleet) -> Table {
    let mut table = Table::new(["leases", "count", "a second", "p50", "p90", "p99", "max"]);
    for wake in &fleet.wakes {
        let name = format!("release to wake-up, {} at once", wake.keys);
        let q = wake.ms;
        let cells = [q.p50, q.p90, q.p99, q.max].map(figure);
        table.row(
            [
                vec![name, wake.count.to_string(), String::new()],
                cells.into(),
            ]
            .concat(),
        );
    }
    if let Some(pairs) = &fleet.pairs {
        let name = format!("acquire and release, {} at once", pairs.at_once);
        let q = pairs.ms;
        let cells = [pairs.per_s, q.p50, q.p90, q.p99, q.max].map(figure);
        table.row([vec![name, String::new()], cells.into()].concat());
    }
    table
}

fn deaths(fleet: &Fleet) -> Table {
    let mut table = Table::new(["holder", "deaths", "TTL", "fastest", "slowest"]);
    for death in &fleet.deaths {
        let name = if death.silent {
            "host silent"
        } else {
            "killed"
        };
        let fastest = death.after_s.iter().copied().fold(f64::INFINITY, f64::min);
        table.row([
            name.to_owned(),
            death.after_s.len().to_string(),
            figure(death.ttl_s),
            figure(fastest),
            figure(most(&death.after_s)),
        ]);
    }
    table
}

fn outages(fleet: &Fleet) -> Table {
    let mut table = Table::new(["outage", "requests", "failed", "slowest ms", "back after s"]);
    for (number, outage) in fleet.outages.iter().enumerate() {
        table.row([
            (number + 1).to_string(),
            outage.requests.to_string(),
            outage.failures.to_string(),
            figure(outage.slowest_ms),
            figure(outage.back_s),
        ]);
    }
    table
}

/// What a fleet owes.
pub(in crate::bench) fn judge(fleet: &Fleet) -> Vec<Target> {
    let mut targets = Vec::new();
    for herd in &fleet.herds {
        targets.push(Target::new(
            format!("fleet, {}: upstream requests per cold file", herd.scenario),
            Limit::AtMost(1.0, ""),
            Some(herd.upstream_requests_max as f64),
            format!(
                "{} files, {} not exactly once",
                herd.files, herd.files_not_once
            ),
        ));
        targets.push(Target::new(
            format!("fleet, {}: failed requests", herd.scenario),
            Limit::AtMost(0.0, ""),
            Some(herd.failures as f64),
            String::new(),
        ));
    }
    for (keys, most) in [(1, 5.0), (1000, 50.0)] {
        let wake = fleet.wakes.iter().find(|wake| wake.keys == keys);
        targets.push(Target::new(
            format!("fleet, release to wake-up, {keys} at once: 99th percentile"),
            Limit::AtMost(most, "ms"),
            wake.map(|wake| wake.ms.p99),
            wake.map_or(String::new(), |wake| {
                format!("median {:.2} ms", wake.ms.p50)
            }),
        ));
    }
    targets.extend(relay(fleet));
    targets.extend(judge_deaths(fleet));
    targets.push(Target::new(
        "fleet, pairs of acquire and release, 128 at once",
        Limit::AtLeast(30_000.0, "/s"),
        fleet.pairs.as_ref().map(|pairs| pairs.per_s),
        String::new(),
    ));
    targets.extend(judge_traffic(fleet));
    targets
}

fn relay(fleet: &Fleet) -> [Target; 2] {
    let of_large =
        |herd: &&FleetHerd| herd.scenario.ends_with(ZIP_30MB) && herd.followers_clients > 0;
    let herd = fleet.herds.iter().find(of_large);
    let first = herd.map(|herd| herd.follower_first_byte_ms);
    let what = "fleet, followers' first byte after upstream's";
    [
        Target::new(
            format!("{what}: median"),
            Limit::AtMost(50.0, "ms"),
            first.map(|first| first.p50),
            String::new(),
        ),
        Target::new(
            format!("{what}: 99th percentile"),
            Limit::AtMost(500.0, "ms"),
            first.map(|first| first.p99),
            String::new(),
        ),
    ]
}

fn judge_deaths(fleet: &Fleet) -> [Target; 2] {
    let slowest = |silent: bool| {
        let death = fleet.deaths.iter().find(|death| death.silent == silent);
        death.map(|death| (most(&death.after_s), death.ttl_s, death.after_s.len()))
    };
    let (killed, silent) = (slowest(false), slowest(true));
    let count = |death: Option<(f64, f64, usize)>| {
        death.map_or(String::new(), |(_, ttl, times)| {
            format!("{times} deaths, TTL {ttl} s")
        })
    };
    [
        Target::new(
            "fleet, holder killed: next upstream request, slowest",
            Limit::AtMost(NOTICED_S, "s"),
            killed.map(|(slowest, ..)| slowest),
            count(killed),
        ),
        Target::new(
            "fleet, holder's host silent: next upstream request after the TTL, slowest",
            Limit::AtMost(AFTER_TTL_S, "s"),
            silent.map(|(slowest, ttl, _)| slowest - ttl),
            count(silent),
        ),
    ]
}

fn judge_traffic(fleet: &Fleet) -> Vec<Target> {
    let commands = fleet.commands.as_ref();
    let largest = |counts: &[usize]| counts.iter().copied().max().map(|most| most as f64);
    let outages = &fleet.outages;
    let failures: usize = outages.iter().map(|outage| outage.failures).sum();
    let requests: usize = outages.iter().map(|outage| outage.requests).sum();
    let back: Vec<f64> = outages.iter().map(|outage| outage.back_s).collect();
    let ran = !outages.is_empty();
    let warm = fleet.warm.as_ref();
    vec![
        Target::new(
            "fleet, Valkey commands per cold fill, leader",
            Limit::AtMost(6.0, ""),
            commands.and_then(|commands| largest(&commands.leader)),
            "the most of any file".to_owned(),
        ),
        Target::new(
            "fleet, Valkey commands per cold fill, follower",
            Limit::AtMost(5.0, ""),
            commands.and_then(|commands| largest(&commands.follower)),
            "the most of any file and instance".to_owned(),
        ),
        Target::new(
            "fleet, Valkey stopped and started under load: failed requests",
            Limit::AtMost(0.0, ""),
            ran.then_some(failures as f64),
            format!("of {requests}"),
        ),
        Target::new(
            "fleet, Valkey started again: back in use, slowest",
            Limit::AtMost(2.0, "s"),
            ran.then(|| most(&back)),
            format!("{} outages", outages.len()),
        ),
        Target::new(
            "fleet, Valkey commands for warm hits",
            Limit::AtMost(0.0, ""),
            warm.map(|warm| warm.commands as f64),
            warm.map_or(String::new(), |warm| {
                let [idle, busy] = warm.housekeeping_per_s;
                let requests = warm.requests;
                format!("{requests} hits; housekeeping {idle:.0}/s idle, {busy:.0}/s then")
            }),
        ),
    ]
}

fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}
