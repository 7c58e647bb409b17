//! Leases that vanish, move or never end, and two holders of one unit.

use std::time::Duration;

use e2e::fault_proxy::{Direction, Link};
use e2e::fleet::Plan;
use e2e::upstream::{Answer, FixtureModule, FixtureVersion};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{V, all_whole, fetched};
use crate::fleet_scene::{COMMAND_TIMEOUT, Round, Scene, seeds};

/// Two holders of one unit: the first one's lease is gone while it fetches, and another instance
/// fetches too. Returns the herds of both, with upstream's gates of both.
async fn two_holders(
    scene: &Scene,
    round: &mut Round,
    lose: impl AsyncFnOnce(&str),
) -> [(e2e::fleet::Herd, e2e::upstream::Gate); 2] {
    let first = round.hold();
    let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
    first.wait_arrivals(1).await;
    round.path.heal();
    let second = round.hold();
    let key = scene.lease_key().await;
    lose(&key).await;
    let next = (round.holder + 1) % scene.fleet.size();
    let other = scene.fleet.herd_at(&[next], 3, &round.zip);
    second.wait_arrivals(1).await;
    [(own, first), (other, second)]
}

async fn all_idle(scene: &Scene) {
    for index in 0..scene.fleet.size() {
        scene.fleet.corral(index).idle().await;
    }
}

// A primary that fails over before it has replicated looks like this to the instances.
// fault: 20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_holders_finish_both_and_the_first_commit_stays() {
    let mut scene = Scene::start(Plan::of(3)).await;
    let mut rounds = 0.0;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let valkey = &scene.fleet.valkey;
        let delete = async |key: &str| {
            valkey.command(&["DEL", key]).await;
        };
        let mut holders = two_holders(&scene, &mut round, delete).await;
        if seed % 2 == 1 {
            holders.reverse();
        }
        for (herd, gate) in holders {
            gate.release();
            all_whole(&herd.outcomes().await, &round.body);
        }
        fetched(&round.path, 2);
        all_idle(&scene).await;
        rounds += 1.0;
        assert_eq!(scene.fleet.commits().await, [rounds, rounds, 0.0]);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// A clock that jumps ahead ends every lease at once.
// fault: 22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_ends_too_early_costs_one_more_fetch() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let valkey = &scene.fleet.valkey;
        let expire = async |key: &str| {
            valkey.command(&["PEXPIRE", key, "1"]).await;
        };
        for (herd, gate) in two_holders(&scene, &mut round, expire).await {
            gate.release();
            all_whole(&herd.outcomes().await, &round.body);
        }
        fetched(&round.path, 2);
        all_idle(&scene).await;
    }
    assert_eq!(scene.fleet.commits().await[2], 0.0);
    scene.fleet.leaves_nothing_behind().await;
}

// A clock that jumps back lets every lease last an hour longer.
// fault: 22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_would_last_for_an_hour_is_freed_all_the_same() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        scene.fleet.boarded(&others, 5).await;
        let key = scene.lease_key().await;
        scene
            .fleet
            .valkey
            .command(&["PEXPIRE", &key, "3600000"])
            .await;
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        all_whole(&rest.outcomes().await, &round.body);
        fetched(&round.path, 1);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// Upstream was re-tagged between the two fetches: what was first stays.
// fault: 26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_bytes_of_a_second_holder_are_not_committed() {
    let mut scene = Scene::start(Plan::of(3)).await;
    let mut rounds = 0.0;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let name = format!("example.com/round{seed}");
        let other = FixtureVersion::new(V)
            .zip_bytes(1_600_000)
            .file("other.txt", b"re-tagged");
        let retagged = FixtureModule::new(&name).with(other);
        let (valkey, upstream) = (&scene.fleet.valkey, &scene.upstream);
        let retag = async |key: &str| {
            upstream.add(&retagged);
            valkey.command(&["DEL", key]).await;
        };
        let [(first_herd, first), (second_herd, second)] =
            two_holders(&scene, &mut round, retag).await;
        first.release();
        all_whole(&first_herd.outcomes().await, &round.body);
        scene.fleet.stored(&round.zip, &round.body).await;
        second.release();
        second_herd.outcomes().await;
        all_idle(&scene).await;
        rounds += 1.0;
        assert_eq!(scene.fleet.commits().await, [rounds, 0.0, rounds]);
        all_whole(
            &scene.fleet.herd(1, &round.zip).outcomes().await,
            &round.body,
        );
    }
    scene.fleet.leaves_nothing_behind().await;
}

// The first holder's release takes effect, but its answer is late, and it releases again.
// fault: 19
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_release_leaves_the_next_holders_lease_alone() {
    let plan = Plan::of(2)
        .ttl(Duration::from_secs(5))
        .set("fill.retries", "0")
        .set("failure.ttl", "0s")
        .set("fill.on_failure", "drop");
    let mut scene = Scene::start(plan).await;
    for seed in seeds() {
        let round = scene.round(seed);
        round.path.next(1, Answer::status(500, "broken"));
        let first = round.path.hold_headers();
        let own = scene.fleet.herd_at(&[round.holder], 1, &round.zip);
        first.wait_arrivals(1).await;
        let next = 1 - round.holder;
        let rest = scene.fleet.herd_at(&[next], 3, &round.zip);
        scene.fleet.boarded(&[next], 3).await;
        let old = scene.lease_key().await;
        let old = scene.fleet.valkey.command(&["GET", &old]).await;
        let second = {
            let script = round.path.clone();
            script.heal();
            script.hold_headers()
        };
        let link = &scene.fleet.members[round.holder].valkey;
        link.set(Direction::ToClient, Link::Delay(COMMAND_TIMEOUT * 2));
        first.release();
        own.outcomes().await;
        second.wait_arrivals(1).await;
        let key = scene.lease_key().await;
        let lease = scene.fleet.valkey.command(&["GET", &key]).await;
        assert_ne!(lease, old);
        // While it holds, the other one's late words arrive.
        let moved = wait::holds_within(COMMAND_TIMEOUT * 4, async || {
            scene.fleet.valkey.command(&["GET", &key]).await != lease
        });
        assert!(!moved.await, "the second holder lost its lease");
        link.heal();
        second.release();
        all_whole(&rest.outcomes().await, &round.body);
        scene.all_degraded(false, PATIENCE).await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// An instance of the next version shares the Valkey during a rolling upgrade.
// acceptance: E14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_written_by_a_newer_version_is_waited_for() {
    let mut scene = Scene::start(Plan::of(2)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 1, &round.zip);
        gate.wait_arrivals(1).await;
        let key = scene.lease_key().await;
        let newer = r#"{"v":99,"token":{"id":[1,2,3]},"who":"the next version"}"#;
        scene
            .fleet
            .valkey
            .command(&["SET", &key, newer, "PX", "1000"])
            .await;
        round.path.heal();
        let next = 1 - round.holder;
        let rest = scene.fleet.herd_at(&[next], 3, &round.zip);
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        all_whole(&rest.outcomes().await, &round.body);
        let requests = round.path.requests();
        assert!((1..=2).contains(&requests), "{requests} requests");
    }
    let told = |log: &str| log.lines().filter(|line| line.contains("WARN")).count();
    for index in 0..2 {
        let log = scene.fleet.corral(index).log();
        assert!(told(&log) <= 2 * seeds().count(), "{log}");
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: G4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_sees_and_breaks_a_lease_from_any_instance() {
    let mut scene = Scene::start(Plan::of(2)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 2, &round.zip);
        gate.wait_arrivals(1).await;
        let next = 1 - round.holder;
        let corral = scene.fleet.corral(next);
        let mut leases = Vec::new();
        wait::until("the other instance lists the lease", PATIENCE, async || {
            leases = corral.admin_items("/admin/v1/leases").await;
            leases.len() == 1
        })
        .await;
        let lease = &leases[0];
        let order = serde_json::json!({ "key": lease["key"], "token": lease["token"] });
        let broken = e2e::client::Request::new("POST", "/admin/v1/leases/break")
            .header("Host", &corral.admin_addr().to_string())
            .header("Content-Type", "application/json")
            .header("Corral-Action", "break")
            .body(order.to_string());
        broken.send(corral.admin_addr()).await.expect_status(200);
        // The holder's next renewal tells it to stop; its clients are cut, nothing is stored.
        let own = own.outcomes().await;
        assert!(
            own.iter().all(|o| !(o.finished && o.status == 200)),
            "{own:?}"
        );
        scene.fleet.corral(round.holder).idle().await;
        round.path.heal();
        gate.release();
        all_whole(
            &scene.fleet.herd(2, &round.zip).outcomes().await,
            &round.body,
        );
    }
    scene.fleet.leaves_nothing_behind().await;
}
