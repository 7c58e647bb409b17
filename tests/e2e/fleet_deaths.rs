//! Instances of a fleet that die, pause or are restarted in the middle of a fill.

use std::time::{Duration, Instant};

use e2e::fault_proxy::{Direction, Link};
use e2e::fleet::Plan;

use crate::fixtures::{all_whole, fetched, none_whole};
use crate::fleet_scene::{POLL_MAX, SLACK, Scene, seeds, within};
use crate::rolling::{RollingLoad, slow_zips};

/// Far longer than a take-over takes, so that no lease ends by itself.
const LONG_TTL: Duration = Duration::from_secs(20);

/// A holder whose address refuses connections is replaced this soon.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);

// acceptance: B6, G3; fault: 3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_replaced_at_once() {
    let mut scene = Scene::start(Plan::of(3).ttl(LONG_TTL)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 5, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let clients = round.clients();
        let rest = scene.fleet.herd_at(&others, clients, &round.zip);
        scene.fleet.boarded(&others, clients as u64).await;
        round.path.heal();
        scene.fleet.members[round.holder].corral.kill9().await;
        let killed = Instant::now();

        none_whole(&own.outcomes().await);
        all_whole(&rest.outcomes().await, &round.body);
        fetched(&round.path, 2);
        let again = round.path.begun()[1].duration_since(killed);
        assert!(again <= NOTICED_WITHIN + SLACK, "replaced after {again:?}");
        scene.fleet.stored(&round.zip, &round.body).await;
        scene.fleet.restart(round.holder).await;
        let after = scene.fleet.herd(1, &round.zip).outcomes().await;
        all_whole(&after, &round.body);
        fetched(&round.path, 2);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// The file is there, but nobody says so any more.
// fault: 5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_holder_had_committed_is_found() {
    let mut scene = Scene::start(Plan::of(3).set("internal.relay", "false")).await;
    for seed in seeds() {
        let mut round = scene.round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 2, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        scene.fleet.boarded(&others, 5).await;
        // It commits, but its release never arrives.
        let link = &scene.fleet.members[round.holder].valkey;
        link.set(Direction::ToServer, Link::Hold);
        gate.release();
        scene.fleet.stored(&round.zip, &round.body).await;
        let stored = Instant::now();
        all_whole(&own.outcomes().await, &round.body);
        scene.fleet.members[round.holder].corral.kill9().await;
        all_whole(&rest.outcomes().await, &round.body);
        within(stored, POLL_MAX, "finding it");
        fetched(&round.path, 1);
        let link = &scene.fleet.members[round.holder].valkey;
        link.cut();
        link.heal();
        scene.fleet.restart(round.holder).await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_holder_is_replaced_and_harmless_when_it_wakes() {
    let mut scene = Scene::start(Plan::of(3)).await;
    let mut paused = 0.0;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        scene.fleet.boarded(&others, 5).await;
        round.path.heal();
        scene.fleet.corral(round.holder).freeze();
        let froze = Instant::now();
        all_whole(&rest.outcomes().await, &round.body);
        within(froze, scene.fleet.ttl() + POLL_MAX, "replacing it");
        scene.fleet.stored(&round.zip, &round.body).await;

        scene.fleet.corral(round.holder).thaw();
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        fetched(&round.path, 2);
        paused += 1.0;
        scene.fleet.corral(round.holder).idle().await;
        assert_eq!(scene.fleet.commits().await, [paused, paused, 0.0]);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_holder_and_its_successor_both_finish() {
    let mut scene = Scene::start(Plan::of(3)).await;
    let mut rounds = 0.0;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let first = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        first.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        scene.fleet.boarded(&others, 5).await;
        round.path.heal();
        let second = round.hold();
        scene.fleet.corral(round.holder).freeze();
        second.wait_arrivals(1).await;

        // The successor's lease stays its own when the first one is back.
        let key = scene.lease_key().await;
        let lease = scene.fleet.valkey.command(&["GET", &key]).await;
        scene.fleet.corral(round.holder).thaw();
        first.release();
        all_whole(&own.outcomes().await, &round.body);
        assert_eq!(scene.fleet.valkey.command(&["GET", &key]).await, lease);
        second.release();
        all_whole(&rest.outcomes().await, &round.body);
        fetched(&round.path, 2);
        rounds += 1.0;
        for index in 0..scene.fleet.size() {
            scene.fleet.corral(index).idle().await;
        }
        assert_eq!(scene.fleet.commits().await, [rounds, rounds, 0.0]);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_cuts_no_answer() {
    let mut scene = Scene::start(Plan::of(3).ttl(Duration::from_secs(3))).await;
    let paths = slow_zips(&scene, 60, 400_000);
    let load = RollingLoad::start(&scene, &paths, 12);
    load.restart_each(&mut scene).await;
    let whole = load.end(&scene).await.len();
    assert!(whole > paths.len() / 3, "only {whole} whole answers");
    scene.fleet.leaves_nothing_behind().await;
}
