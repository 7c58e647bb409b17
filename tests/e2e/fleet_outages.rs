//! A Valkey that is away, silent, cut off, restarted, or refuses what is asked of it.

use std::time::{Duration, Instant};

use e2e::client;
use e2e::fault_proxy::{Direction, Link};
use e2e::fleet::Plan;
use e2e::valkey::{Flavor, Valkey};
use e2e::wait;

use crate::fixtures::{all_whole, fetched};
use crate::fleet_scene::{COMMAND_TIMEOUT, Round, SLACK, Scene, longest, seeds, within};

/// A server that is back is in use again this soon.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// Asserts at most one fetch for each instance, and whole answers for everybody.
async fn fetched_by_each_at_most(scene: &Scene, round: &Round) -> Duration {
    let herd = scene.fleet.herd(10, &round.zip).outcomes().await;
    all_whole(&herd, &round.body);
    let requests = round.path.requests();
    let most = scene.fleet.size() as u64;
    assert!((1..=most).contains(&requests), "{requests} requests");
    longest(&herd)
}

/// Asserts that the fleet fetches once for all again.
async fn fetches_once(scene: &Scene, seed: u64) {
    let round = scene.round(1_000_000 + seed);
    all_whole(
        &scene.fleet.herd(10, &round.zip).outcomes().await,
        &round.body,
    );
    fetched(&round.path, 1);
}

// acceptance: E8; fault: 9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_valkey_each_instance_fetches_for_itself() {
    let mut valkey = Valkey::start().await;
    valkey.stop();
    let mut scene = Scene::over(Plan::of(3), valkey).await;
    scene.all_degraded(true, BACK_WITHIN).await;
    for seed in seeds() {
        let round = scene.round(seed);
        let longest = fetched_by_each_at_most(&scene, &round).await;
        assert!(longest <= COMMAND_TIMEOUT + SLACK, "{longest:?}");
    }
    scene.fleet.valkey.resume().await;
    let back = Instant::now();
    scene.all_degraded(false, BACK_WITHIN * 5).await;
    within(back, BACK_WITHIN, "coming back without any request");
    fetches_once(&scene, 0).await;
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_valkey_delays_a_request_by_one_command_at_most() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        scene.fleet.valkey.freeze();
        let round = scene.round(seed);
        // One command at most, though looking up, acquiring and noting would be several.
        let longest = fetched_by_each_at_most(&scene, &round).await;
        assert!(longest <= COMMAND_TIMEOUT + SLACK, "{longest:?}");
        scene.all_degraded(true, BACK_WITHIN * 2).await;
        // Once that is known, nothing is waited for at all.
        let warm = fetched_by_each_at_most(&scene, &scene.round(500_000 + seed)).await;
        assert!(warm <= SLACK, "{warm:?}");
        scene.fleet.valkey.thaw();
        let back = Instant::now();
        scene.all_degraded(false, BACK_WITHIN * 5).await;
        within(back, BACK_WITHIN, "coming back");
        fetches_once(&scene, seed).await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_whose_answer_was_lost_is_no_orphan() {
    // Longer than the bound below: it is not expiry that ends the grant.
    let mut scene = Scene::start(Plan::of(3).ttl(Duration::from_secs(8))).await;
    for seed in seeds() {
        let round = scene.round(seed);
        let member = &scene.fleet.members[round.holder];
        member.valkey.set(Direction::ToClient, Link::Hold);
        let started = Instant::now();
        member.corral.get(&round.zip).await.expect_body(&round.body);
        within(started, COMMAND_TIMEOUT, "a request with a lost answer");
        fetched(&round.path, 1);
        member.valkey.cut();
        member.valkey.heal();
        let gone = async || scene.fleet.valkey.keys("*:lease:*").await.is_empty();
        wait::until("the grant is undone", scene.fleet.ttl(), gone).await;
        scene.degraded(round.holder, false, BACK_WITHIN * 5).await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valkey_dies_while_a_lease_is_held() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        scene.fleet.boarded(&others, 5).await;
        scene.fleet.valkey.stop();
        scene.all_degraded(true, BACK_WITHIN * 2).await;
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        all_whole(&rest.outcomes().await, &round.body);
        scene.fleet.stored(&round.zip, &round.body).await;
        let requests = round.path.requests();
        assert!((1..=3).contains(&requests), "{requests} requests");
        // From the store, whether Valkey is there or not.
        all_whole(
            &scene.fleet.herd(2, &round.zip).outcomes().await,
            &round.body,
        );
        fetched(&round.path, requests);
        scene.fleet.valkey.resume().await;
        scene.all_degraded(false, BACK_WITHIN * 5).await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// The same port, at once, and empty: nobody need notice but by the leases that are gone.
// fault: 21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn valkey_is_restarted_and_has_forgotten_everything() {
    let mut scene = Scene::start(Plan::of(3)).await;
    let mut rounds = 0.0;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        gate.wait_arrivals(1).await;
        scene.fleet.valkey.stop();
        scene.fleet.valkey.resume().await;
        scene.all_degraded(false, BACK_WITHIN * 5).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        all_whole(&rest.outcomes().await, &round.body);
        let requests = round.path.requests();
        assert!((1..=2).contains(&requests), "{requests} requests");
        rounds += 1.0;
        for index in 0..scene.fleet.size() {
            scene.fleet.corral(index).idle().await;
        }
        let [created, _, conflicts] = scene.fleet.commits().await;
        assert_eq!([created, conflicts], [rounds, 0.0]);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_cut_off_from_valkey_goes_on_alone() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let round = scene.round(seed);
        let link = &scene.fleet.members[round.holder].valkey;
        if seed % 2 == 0 {
            link.refuse();
        } else {
            link.black_hole();
        }
        scene.degraded(round.holder, true, BACK_WITHIN * 2).await;
        let before = scene.fleet.stored_files().len();
        let herd = scene.fleet.herd(10, &round.zip).outcomes().await;
        all_whole(&herd, &round.body);
        let requests = round.path.requests();
        assert!((1..=2).contains(&requests), "{requests} requests");
        scene.fleet.stored(&round.zip, &round.body).await;
        assert!(scene.fleet.stored_files().len() > before);
        link.cut();
        link.heal();
        let healed = Instant::now();
        scene.degraded(round.holder, false, BACK_WITHIN * 5).await;
        within(healed, BACK_WITHIN, "coming back");
        fetches_once(&scene, seed).await;
    }
    assert_eq!(scene.fleet.commits().await[2], 0.0);
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: E18; fault: 37
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_and_servers_without_scripts_do_as_well() {
    for (flavor, scripts) in [
        (Flavor::Redis, true),
        (Flavor::Valkey, false),
        (Flavor::Redis, false),
    ] {
        let server = Valkey::start_as(flavor, &[]).await;
        if !scripts {
            server
                .command(&["ACL", "SETUSER", "default", "-@scripting"])
                .await;
        }
        let mut scene = Scene::over(Plan::of(2), server).await;
        for seed in seeds() {
            fetches_once(&scene, seed).await;
        }
        // A take-over by the plain commands, too.
        let mut round = scene.large_round(0);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[0], 1, &round.zip);
        gate.wait_arrivals(1).await;
        let rest = scene.fleet.herd_at(&[1], 3, &round.zip);
        scene.fleet.boarded(&[1], 3).await;
        round.path.heal();
        scene.fleet.members[0].corral.kill9().await;
        all_whole(&rest.outcomes().await, &round.body);
        drop(own);
        fetched(&round.path, 2);
        scene.fleet.restart(0).await;
        scene.fleet.leaves_nothing_behind().await;
    }
}

// acceptance: E14; fault: 40
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_without_valkey_beside_the_others_does_no_harm() {
    let mut scene = Scene::start(Plan::of(3).without_valkey(2)).await;
    for seed in seeds() {
        let round = scene.round(seed);
        let herd = scene.fleet.herd(10, &round.zip).outcomes().await;
        all_whole(&herd, &round.body);
        let requests = round.path.requests();
        assert!((1..=2).contains(&requests), "{requests} requests");
    }
    assert_eq!(scene.fleet.commits().await[2], 0.0);
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: E13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_url_nothing_of_it_is_there() {
    let upstream = crate::fixtures::upstream(20_000).await;
    let corral = e2e::proxy::Corral::before(&upstream).await;
    client::get(corral.addr(), &crate::fixtures::file("zip"))
        .await
        .expect_status(200);
    let strangers: Vec<_> = corral
        .connected_to()
        .into_iter()
        .filter(|&addr| addr != upstream.addr())
        .collect();
    assert!(strangers.is_empty(), "{strangers:?}");
    assert!(
        !corral.log().to_lowercase().contains("valkey"),
        "{}",
        corral.log()
    );
    let ready = corral.admin("/readyz").await.expect_status(200);
    assert!(!ready.text().contains("degraded"), "{}", ready.text());
}
