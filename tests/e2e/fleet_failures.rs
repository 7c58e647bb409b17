//! Failures in a fleet: told to everybody once, mended by one, remembered over restarts of Valkey.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::client::{self, Request};
use e2e::fleet::{Fleet, Plan};
use e2e::proxy::{bytes_under, encoded};
use e2e::stores::BreakableStore;
use e2e::upstream::{Answer, FixtureModule, list_path};
use e2e::valkey::Valkey;
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, fetched, file, is_own_trouble};
use crate::fleet_scene::Scene;
use crate::retries::unit;
use crate::rolling::{RollingLoad, slow_zips};

/// Journals are held against the shared queue this often at least, and then some.
const RECONCILED_WITHIN: Duration = Duration::from_secs(180);

/// Long enough that no herd on a busy machine makes a holder lose its lease.
const TTL: Duration = Duration::from_secs(10);

async fn fetch_jobs_attempts(fleet: &mut Fleet) -> f64 {
    let fetches = [("kind", "fetch")];
    fleet.metric("corral_retry_attempts_total", &fetches).await
}

async fn no_jobs_are_left(fleet: &Fleet) {
    wait::until("no job is left", 2 * PATIENCE, async || {
        for index in 0..fleet.size() {
            if !fleet.corral(index).jobs().await.is_empty() {
                return false;
            }
        }
        true
    })
    .await;
}

fn add_module(scene: &Scene, zip_bytes: usize) {
    let module = FixtureModule::new(M).version_sized(V, zip_bytes);
    scene.upstream.add(&module);
}

// acceptance: B14, B16, G6; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_told_once_in_the_fleet_and_mended_by_itself() {
    const CLIENTS: usize = 200;
    let mut scene = Scene::start(Plan::of(3).ttl(TTL).set("fill.retries", "1")).await;
    add_module(&scene, 300_000);
    let zip = file("zip");
    let path = scene.upstream.path(&zip);
    path.always(Answer::status(503, "closed for repairs"));
    let gate = path.hold_headers();
    let herds: Vec<_> = (0..3)
        .map(|index| {
            let addr = scene.fleet.corral(index).addr();
            tokio::spawn(client::herd_of(addr, vec![Request::get(&zip); CLIENTS]))
        })
        .collect();
    scene.fleet.boarded(&[0, 1, 2], CLIENTS as u64).await;
    gate.release();
    let mut told: Option<(u16, String)> = None;
    for herd in herds {
        for reply in herd.await.unwrap() {
            is_own_trouble(&reply);
            let its = (reply.status, reply.text());
            assert_eq!(
                *told.get_or_insert(its.clone()),
                its,
                "not the same for all"
            );
        }
    }
    // One job in the whole fleet, and every instance shows it.
    for index in 0..3 {
        let job = scene.fleet.corral(index).only_job().await;
        assert_eq!(job["id"], unit(&zip), "{job}");
    }
    path.heal();
    no_jobs_are_left(&scene.fleet).await;
    scene.fleet.stored(&zip, &scene.upstream.body(&zip)).await;
    let asked = path.requests();
    // A job is settled a moment before its attempt is counted.
    wait::until("the other requests are jobs'", PATIENCE, async || {
        asked as f64 - fetch_jobs_attempts(&mut scene.fleet).await == 2.0
    })
    .await;
    for index in 0..3 {
        let reply = scene.fleet.corral(index).get(&zip).await;
        reply.expect_body(&scene.upstream.body(&zip));
    }
    fetched(&path, asked);
    assert_eq!(path.running_max(), 1);
    scene.fleet.leaves_nothing_behind().await;
}

// fault: 27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_followers_of_an_absence_cost_one_request() {
    let scene = Scene::start(Plan::of(3).ttl(TTL).set("negative.ttl", "1h")).await;
    let zip = file("zip");
    let path = scene.upstream.path(&zip);
    let gate = path.hold_headers();
    let herd = scene.fleet.herd(334, &zip);
    scene.fleet.boarded(&[0, 1, 2], 334).await;
    gate.release();
    for outcome in herd.outcomes().await {
        assert_eq!(
            (outcome.status, outcome.finished),
            (404, true),
            "{outcome:?}"
        );
    }
    fetched(&path, 1);
    for index in 0..3 {
        assert!(scene.fleet.corral(index).jobs().await.is_empty());
        scene.fleet.corral(index).get(&zip).await.expect_status(404);
    }
    fetched(&path, 1);
    // Forgotten at one instance, forgotten by all.
    add_module(&scene, 2000);
    let forget = format!("/admin/v1/negatives/{}", encoded(&unit(&zip)));
    let reply = scene.fleet.corral(0).order("DELETE", &forget).await;
    assert!((200..300).contains(&reply.status), "{}", reply.text());
    for index in [2, 1, 0] {
        let reply = scene.fleet.corral(index).get(&zip).await;
        reply.expect_body(&scene.upstream.body(&zip));
    }
    fetched(&path, 2);
}

// fault: 29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_fleet_waits_as_long_as_upstream_asks() {
    let scene = Scene::start(Plan::of(3).set("fill.retries", "0")).await;
    add_module(&scene, 2000);
    let path = scene.upstream.path(&file("zip"));
    path.next(1, Answer::retry_after(429, "slow down", 3));
    let told = Instant::now();
    for index in 0..3 {
        is_own_trouble(&scene.fleet.corral(index).get(&file("zip")).await);
    }
    let stored = file("zip");
    scene
        .fleet
        .stored(&stored, &scene.upstream.body(&stored))
        .await;
    fetched(&path, 2);
    let again = path.begun()[1].duration_since(told);
    assert!(
        again >= Duration::from_millis(2900),
        "again after {again:?}"
    );
}

// fault: 21; acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_come_back_when_valkey_has_lost_them() {
    const FILES: usize = 30;
    let mut scene = Scene::start(Plan::of(3).set("fill.retries", "0")).await;
    let paths: Vec<_> = (0..FILES)
        .map(|number| {
            let module = FixtureModule::new(&format!("example.com/lost{number}")).version(V);
            scene.upstream.add(&module);
            module.file_path(V, "mod")
        })
        .collect();
    let closed = Answer::retry_after(503, "closed for repairs", 12);
    scene.upstream.everywhere(Some(closed));
    for (number, path) in paths.iter().enumerate() {
        is_own_trouble(&scene.fleet.corral(number % 3).get(path).await);
    }
    assert_eq!(scene.fleet.corral(0).jobs().await.len(), FILES);
    // Gone with all that it knew, and one instance with it.
    scene.fleet.valkey.stop();
    scene.fleet.members[2].corral.kill9().await;
    for index in [0, 1] {
        scene.degraded(index, true, PATIENCE).await;
    }
    scene.fleet.valkey.resume().await;
    scene.upstream.everywhere(None);
    let setup = scene.fleet.corral(2).setup().clone();
    scene.fleet.members[2].corral = setup.start().await;
    // An outage too short to be noticed by the queue is found when journals are next compared.
    let body = |path: &String| scene.upstream.body(path);
    wait::until("all are stored", RECONCILED_WITHIN, async || {
        let store = scene.fleet.store_dir();
        let is_stored = |path: &String| {
            let file = store.join(path.trim_start_matches('/'));
            std::fs::read(file).is_ok_and(|stored| stored == body(path))
        };
        paths.iter().all(is_stored)
    })
    .await;
    no_jobs_are_left(&scene.fleet).await;
    for path in &paths {
        // Once by its client; once by its job, and once more at most where two instances brought
        // the same job back.
        let asked = scene.upstream.path(path).requests();
        assert!((2..=3).contains(&asked), "{path}: {asked} requests");
    }
    let restored = "corral_retry_journal_restored_total";
    let restored = scene.fleet.metric(restored, &[]).await;
    assert!(restored >= 1.0, "{restored} jobs are counted as restored");
}

// fault: 20, 21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_kept_while_valkey_is_away_and_merged_when_it_is_back() {
    let mut scene = Scene::start(Plan::of(3).set("fill.retries", "0")).await;
    add_module(&scene, 2000);
    let closed = Answer::retry_after(503, "closed for repairs", 4);
    scene.upstream.everywhere(Some(closed));
    scene.fleet.valkey.stop();
    scene.all_degraded(true, PATIENCE).await;
    // The same file on all instances, each of which is alone now.
    for index in 0..3 {
        is_own_trouble(&scene.fleet.corral(index).get(&file("zip")).await);
    }
    let asked = scene.upstream.path(&file("zip")).requests();
    assert_eq!(asked, 3);
    scene.fleet.valkey.resume().await;
    scene.all_degraded(false, PATIENCE).await;
    wait::until("there is one job in the fleet", PATIENCE, async || {
        for index in 0..3 {
            let jobs = scene.fleet.corral(index).jobs().await;
            if jobs.len() != 1 || jobs[0]["id"] != unit(&file("zip")) {
                return false;
            }
        }
        true
    })
    .await;
    scene.upstream.everywhere(None);
    let stored = file("zip");
    scene
        .fleet
        .stored(&stored, &scene.upstream.body(&stored))
        .await;
    no_jobs_are_left(&scene.fleet).await;
}

// A job that a dead instance had taken comes back; one that only it may do waits for it.
// acceptance: G6; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_instance_takes_over_the_jobs_of_one_that_died() {
    let mut scene = Scene::start(Plan::of(2).set("fill.retries", "0")).await;
    add_module(&scene, 2000);
    let closed = Answer::retry_after(503, "closed for repairs", 3);
    scene.upstream.everywhere(Some(closed));
    is_own_trouble(&scene.fleet.corral(0).get(&file("zip")).await);
    scene.fleet.members[0].corral.kill9().await;
    scene.upstream.everywhere(None);
    let stored = file("zip");
    scene
        .fleet
        .stored(&stored, &scene.upstream.body(&stored))
        .await;
    fetched(&scene.upstream.path(&stored), 2);
}

// fault: 39; acceptance: A16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_list_whose_renewal_fails_stays_served_at_little_cost() {
    const CLIENTS: usize = 24;
    const WINDOW: Duration = Duration::from_secs(1);
    let ttl = format!("{}ms", WINDOW.as_millis());
    let plan = Plan::of(3)
        .set("documents.ttl", &ttl)
        .set("failure.ttl", &ttl)
        .set("fill.retries", "0")
        .set("documents.swr", "1h");
    let scene = Scene::start(plan).await;
    add_module(&scene, 2000);
    let list = list_path(M);
    let good = scene.upstream.body(&list);
    for index in 0..3 {
        scene
            .fleet
            .corral(index)
            .get(&list)
            .await
            .expect_body(&good);
    }
    let path = scene.upstream.path(&list);
    path.always(Answer::status(500, "broken"));
    let (started, asked) = (Instant::now(), path.requests());
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let addr = scene.fleet.corral(client % 3).addr();
            let (over, list, good) = (Arc::clone(&over), list.clone(), good.clone());
            tokio::spawn(async move {
                let mut served = 0_u64;
                while !over.load(Ordering::Relaxed) {
                    client::get(addr, &list).await.expect_body(&good);
                    served += 1;
                }
                served
            })
        })
        .collect();
    wait::until("renewals have failed", PATIENCE, async || {
        path.requests() >= asked + 4
    })
    .await;
    over.store(true, Ordering::Relaxed);
    let windows = started.elapsed().as_secs_f64() / WINDOW.as_secs_f64();
    let mut served = 0;
    for client in clients {
        served += client.await.unwrap();
    }
    let renewals = path.requests() - asked;
    assert!(
        renewals as f64 <= windows + 2.0,
        "{renewals} renewals in {windows:.1} windows"
    );
    assert!(served > 100, "only {served} answers");
    assert_eq!(path.running_max(), 1);
    for index in 0..3 {
        assert!(scene.fleet.corral(index).jobs().await.is_empty());
    }
}

// fault: 36; acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_while_the_store_fails_loses_nothing() {
    let store = BreakableStore::bucket().await;
    let plan = Plan::of(3)
        .ttl(Duration::from_secs(3))
        .storage(&store.url(), &store.env());
    let mut scene = Scene::over(plan, Valkey::start().await).await;
    let paths = slow_zips(&scene, 24, 600_000);
    store.refuse_writes([]);
    let load = RollingLoad::start(&scene, &paths, 9);
    load.restart_each(&mut scene).await;
    let served: BTreeSet<_> = load.end(&scene).await.into_iter().collect();
    assert!(
        served.len() > paths.len() / 3,
        "only {} files",
        served.len()
    );
    // Whatever was served is stored in the end, from what the instances kept.
    scene.upstream.stop();
    store.heal();
    wait::until("all that was served is stored", 2 * PATIENCE, async || {
        for index in 0..3 {
            scene.fleet.corral(index).run_all_jobs().await;
        }
        served
            .iter()
            .all(|path| store.holds(path, &scene.upstream.body(path)))
    })
    .await;
    for index in 0..3 {
        let kept = scene.fleet.corral(index).setup().spool_dir();
        let kept = kept.join("state-0/kept");
        wait::until("no bytes are left", PATIENCE, async || {
            bytes_under(&kept) == 0
        })
        .await;
    }
}
