//! Runs of the simulation: what every change must survive.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::{Act, Plan, Report, Trouble, run};

fn must(plan: Plan) -> Report {
    run(plan).unwrap_or_else(|violation| panic!("{violation}"))
}

// acceptance: G10
// fault: 1
#[test]
fn a_calm_herd_asks_upstream_once_for_each_artifact() {
    for seed in 0..15 {
        let report = must(Plan::drawn(seed, 12, 300, Trouble::NONE));
        assert!(
            report.units.iter().all(|unit| unit.requests == 1),
            "{report:?}"
        );
        assert_eq!(report.answers.keys().collect::<Vec<_>>(), [&"ok"]);
    }
}

// acceptance: G10
#[test]
fn a_fleet_survives_an_ordinary_bad_day() {
    for seed in 0..25 {
        must(Plan::drawn(seed, 10, 200, Trouble::SOME));
    }
}

// acceptance: G10
#[test]
fn a_fleet_survives_everything_at_once() {
    for seed in 0..25 {
        must(Plan::drawn(seed, 10, 200, Trouble::HEAVY));
    }
}

// acceptance: G10
#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..5 {
        let plan = Plan::drawn(seed, 8, 200, Trouble::HEAVY);
        assert_eq!(run(plan.clone()), run(plan));
    }
    let hash = |seed| must(Plan::drawn(seed, 8, 200, Trouble::SOME)).hash;
    assert_ne!(hash(1), hash(2));
}

// acceptance: G10
// fault: 1
#[test]
fn a_thousand_instances_ask_once() {
    let report = must(Plan::calm(1, 1_000, 5_000, 2));
    assert_eq!(report.requests(), 2);
    assert_eq!(report.answers.get("ok"), Some(&5_000));
    assert!(report.commands.leader.max <= 6.0, "{report:?}");
    assert!(report.commands.follower.p50 <= 5.0, "{report:?}");
    // A follower that asks for a relay before the holder has looked is told that there is none,
    // looks for itself, and asks for the lease once more.
    assert!(report.commands.follower.max <= 6.0, "{report:?}");
}

// acceptance: G10
// fault: 3
#[test]
fn a_holder_that_dies_is_followed_within_a_second_or_a_ttl() {
    for (seed, with_machine, limit_s) in (0..6).map(|seed| match seed % 2 {
        0 => (seed, false, 1.0),
        _ => (seed, true, 6.25),
    }) {
        let plan = Plan {
            fetch_max: Duration::from_secs(8),
            ..Plan::calm(seed, 10, 200, 1)
        };
        let death = Act::KillHolder(with_machine, Duration::from_secs(60));
        let report = must(plan.then(Duration::from_secs(2), death));
        assert_eq!((report.deaths, report.requests()), (1, 2), "{report:?}");
        assert_eq!(report.recovery_s.count, 1);
        assert!(report.recovery_s.max <= limit_s, "{report:?}");
    }
}

// acceptance: G10
// fault: 9
#[test]
fn an_outage_costs_at_most_a_fetch_for_each_instance_and_no_error() {
    for (seed, silent) in [(1, false), (2, true)] {
        let outage = Act::Outage(silent, Duration::from_secs(10));
        let report = must(Plan::calm(seed, 5, 500, 1).then(Duration::ZERO, outage));
        assert!(report.requests() <= 5, "{report:?}");
        assert_eq!(report.answers.get("ok"), Some(&500), "{report:?}");
        // The probe looks once in a second.
        assert!(report.reconnect_s.max <= 2.0, "{report:?}");
    }
}
