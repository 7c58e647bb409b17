//! Herds on several instances that share a store and a Valkey: one fetch for all.

use std::time::{Duration, Instant};

use e2e::client::{self, Request};
use e2e::fleet::Plan;
use e2e::go::Go;
use e2e::s3::S3Server;
use e2e::upstream::{
    Answer, FixtureModule, FixtureUpstream, FixtureVersion, file_path, latest_path, list_path,
};
use e2e::valkey::Valkey;
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, all_whole, fetched, is_own_trouble};
use crate::fleet_scene::{HELD_BACK, Scene, longest, seeds, within};

// acceptance: A27, A28, B19, G1; fault: 1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_file_is_fetched_once_for_all_instances() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let round = scene.round(seed);
        let herd = scene.fleet.herd(100, &round.zip);
        all_whole(&herd.outcomes().await, &round.body);
        fetched(&round.path, 1);
        // What one has committed all the others serve.
        scene.fleet.stored(&round.zip, &round.body).await;
        all_whole(
            &scene.fleet.herd(1, &round.zip).outcomes().await,
            &round.body,
        );
        fetched(&round.path, 1);
    }
    assert_eq!(scene.fleet.commits().await[1..], [0.0, 0.0]);
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: A27; fault: 1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_clients_cost_one_fetch() {
    // A debug build that shares two processors with its clients may be slow to read an answer.
    let plan = Plan::of(3).set("valkey.command_timeout", "5s");
    let mut scene = Scene::start(plan).await;
    let round = scene.round(0);
    let herd = scene.fleet.herd(1000, &round.zip).outcomes().await;
    all_whole(&herd, &round.body);
    fetched(&round.path, 1);
    scene.fleet.leaves_nothing_behind().await;
}

// Small files are over before a follower's wait has begun, so the event often comes first.
// acceptance: A27; fault: 17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_cold_files_one_after_the_other_cost_a_hundred_fetches() {
    let mut scene = Scene::start(Plan::of(3).ttl(Duration::from_secs(20))).await;
    for number in 0..100 {
        let module = FixtureModule::new(&format!("example.com/small{number}")).version(V);
        scene.upstream.add(&module);
        let info = module.file_path(V, "info");
        let herd = scene.fleet.herd(2, &info).outcomes().await;
        all_whole(&herd, &scene.upstream.body(&info));
        fetched(&scene.upstream.path(&info), 1);
        // A missed event would show as a wait for the next look.
        assert!(
            longest(&herd) < Duration::from_secs(2),
            "{:?}",
            longest(&herd)
        );
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: A27, G7
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_artifact_is_fetched_once() {
    let mut scene = Scene::start(Plan::of(3)).await;
    let module = FixtureModule::new(M)
        .version_sized(V, 50_000)
        .latest(V)
        .query("main", V);
    scene.upstream.add(&module);
    let paths = [
        list_path(M),
        latest_path(M),
        file_path(M, "main", "info"),
        file_path(M, V, "info"),
        file_path(M, V, "mod"),
        file_path(M, V, "zip"),
    ];
    let herds: Vec<_> = paths
        .iter()
        .map(|path| scene.fleet.herd(20, path))
        .collect();
    for (herd, path) in herds.into_iter().zip(&paths) {
        all_whole(&herd.outcomes().await, &scene.upstream.body(path));
    }
    // The query's answer is stored under its canonical name, which may spare that one its fetch.
    for path in &paths {
        let requests = scene.upstream.path(path).requests();
        assert!(requests <= 1, "{path}: {requests} requests");
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: A27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_over_a_bucket_fetches_once_too() {
    let s3 = S3Server::start().await;
    let env = s3.env();
    let mut scene = Scene::start(Plan::of(3).storage(&s3.storage_url(), &env)).await;
    for seed in seeds() {
        let round = scene.round(seed);
        let herd = scene.fleet.herd(20, &round.zip).outcomes().await;
        all_whole(&herd, &round.body);
        fetched(&round.path, 1);
        wait::until("it is stored", PATIENCE, async || {
            s3.holds(&round.zip, &round.body)
        })
        .await;
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: F17, G1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_clients_read_along_while_the_holder_fetches() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let position = round.position().max(3 * HELD_BACK);
        let gate = round.path.hold_body_at(position);
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        // They get what upstream has sent so far, though it stands still.
        let early = Request::get(&round.zip).stop_after(position - 2 * HELD_BACK);
        for &index in &others {
            let reply = scene.fleet.corral(index).send(&early).await;
            assert_eq!(reply.ending, client::Ending::Left);
            let seen = reply.body.len();
            assert!(
                reply.body == round.body[..seen],
                "other bytes within the first {seen}"
            );
        }
        let rest = scene.fleet.herd_at(&others, round.clients(), &round.zip);
        gate.release();
        all_whole(&rest.outcomes().await, &round.body);
        all_whole(&own.outcomes().await, &round.body);
        fetched(&round.path, 1);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// All ask at the same moment, so followers learn of a grant that its holder hardly knows itself.
// acceptance: F17, G1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simultaneous_herd_reads_along_everywhere() {
    const TAKES: Duration = Duration::from_secs(2);
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let round = scene.large_round(seed);
        round
            .path
            .bytes_per_second(round.body.len() as u64 / TAKES.as_secs());
        let herd = scene.fleet.herd(5, &round.zip).outcomes().await;
        all_whole(&herd, &round.body);
        fetched(&round.path, 1);
        let first = herd
            .iter()
            .filter_map(|outcome| outcome.ttfb)
            .max()
            .unwrap();
        assert!(
            first < TAKES / 2,
            "the last first byte came after {first:?}"
        );
    }
    scene.fleet.leaves_nothing_behind().await;
}

// A relay that breaks off, or that cannot be reached, costs neither bytes nor fetches.
// acceptance: F17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_relay_falls_back() {
    use e2e::fault_proxy::{Direction, Link};
    let mut scene = Scene::start(Plan::of(3).peer_links()).await;
    for seed in seeds() {
        let mut round = scene.large_round(seed);
        let position = round.position();
        let link = scene.fleet.members[round.holder].peers.as_ref().unwrap();
        match seed % 3 {
            0 => link.set(Direction::ToClient, Link::CutAfter(position / 2)),
            1 => link.set(Direction::ToClient, Link::Hold),
            _ => link.black_hole(),
        }
        let gate = round.path.hold_body_at(position);
        let own = scene.fleet.herd_at(&[round.holder], 3, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let clients = round.clients();
        let rest = scene.fleet.herd_at(&others, clients, &round.zip);
        scene.fleet.boarded(&others, clients as u64).await;
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        all_whole(&rest.outcomes().await, &round.body);
        // A holder that seems dead may be replaced once, which costs one more fetch.
        let requests = round.path.requests();
        assert!((1..=2).contains(&requests), "{requests} requests");
        scene.fleet.members[round.holder]
            .peers
            .as_ref()
            .unwrap()
            .heal();
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: G2; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_once_to_everybody() {
    const RETRIES: u64 = 2;
    let plan = Plan::of(3)
        .set("fill.retries", &RETRIES.to_string())
        .set("fill.on_failure", "drop");
    let mut scene = Scene::start(plan).await;
    for seed in seeds() {
        let round = scene.round(seed);
        round.path.always(Answer::status(500, "broken"));
        let herd = scene.fleet.herd(20, &round.zip).outcomes().await;
        assert!(
            herd.iter()
                .all(|o| o.finished && (502..=504).contains(&o.status)),
            "{:?}",
            herd[0]
        );
        let tries = round.path.requests();
        assert!(tries <= 1 + RETRIES, "{tries} tries for one failure");
        // Who comes later is told the same, by any instance, without another try.
        for index in 0..scene.fleet.size() {
            is_own_trouble(&scene.fleet.corral(index).get(&round.zip).await);
        }
        fetched(&round.path, tries);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: B6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_that_is_not_remembered_a_follower_fetches() {
    let plan = Plan::of(3)
        .set("fill.retries", "0")
        .set("failure.ttl", "0s")
        .set("fill.on_failure", "drop");
    let mut scene = Scene::start(plan).await;
    for seed in seeds() {
        let round = scene.round(seed);
        round.path.next(1, Answer::status(500, "broken"));
        let gate = round.path.hold_headers();
        let own = scene.fleet.herd_at(&[round.holder], 1, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 5, &round.zip);
        scene.fleet.boarded(&others, 5).await;
        gate.release();
        let own = own.outcomes().await;
        assert!((502..=504).contains(&own[0].status), "{own:?}");
        all_whole(&rest.outcomes().await, &round.body);
        fetched(&round.path, 2);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_module_is_one_question_of_the_fleet() {
    let mut scene = Scene::start(Plan::of(3)).await;
    for seed in seeds() {
        let missing = file_path(&format!("example.com/missing{seed}"), V, "zip");
        let herd = scene.fleet.herd(100, &missing).outcomes().await;
        assert!(
            herd.iter().all(|o| o.finished && o.status == 404),
            "{:?}",
            herd[0]
        );
        fetched(&scene.upstream.path(&missing), 1);
    }
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: B20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_are_woken_and_do_not_look_again_and_again() {
    // Nothing else could wake them in time: the lease lasts, and no bytes are relayed.
    let plan = Plan::of(3)
        .ttl(Duration::from_secs(30))
        .set("internal.relay", "false");
    let mut scene = Scene::start(plan).await;
    for seed in seeds() {
        let mut round = scene.round(seed);
        let gate = round.hold();
        let own = scene.fleet.herd_at(&[round.holder], 1, &round.zip);
        gate.wait_arrivals(1).await;
        let others = scene.others(round.holder);
        let rest = scene.fleet.herd_at(&others, 10, &round.zip);
        scene.fleet.boarded(&others, 10).await;
        gate.release();
        all_whole(&own.outcomes().await, &round.body);
        let stored = Instant::now();
        all_whole(&rest.outcomes().await, &round.body);
        within(stored, Duration::ZERO, "a wake-up");
        fetched(&round.path, 1);
    }
    let woken = scene
        .fleet
        .metric("corral_lease_wake_total", &[("cause", "event")])
        .await;
    assert!(woken >= 1.0, "nobody was woken by an event");
    scene.fleet.leaves_nothing_behind().await;
}

// acceptance: A27, E25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_builds_through_two_instances_share_their_downloads() {
    let upstream = FixtureUpstream::start().await;
    let leaf = FixtureVersion::new(V).zip_bytes(200_000);
    let modules = [
        FixtureModule::new("example.com/leaf").with(leaf),
        FixtureModule::new("example.com/tree")
            .with(FixtureVersion::new(V).requires("example.com/leaf", V)),
    ];
    modules.iter().for_each(|module| upstream.add(module));
    let mut fleet = Plan::of(2)
        .start_over(&upstream, Valkey::start().await)
        .await;
    let builds = (0..2).map(|index| {
        let goproxy = fleet.corral(index).url();
        tokio::spawn(async move {
            let go = Go::new(&goproxy);
            go.write_main(&["example.com/tree"]);
            go.run(&["get", "example.com/tree@v1.0.0"])
                .await
                .expect_success();
            go.run(&["build", "./..."]).await.expect_success();
            go.downloaded()
        })
    });
    for build in builds.collect::<Vec<_>>() {
        let downloaded = build.await.unwrap();
        assert!(!downloaded.is_empty());
        for path in downloaded {
            fetched(&upstream.path(&path), 1);
        }
    }
    fleet.leaves_nothing_behind().await;
}
