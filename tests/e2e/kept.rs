//! Verified bytes that the store did not take: kept, served at once, uploaded later.

use std::time::Duration;

use e2e::client::{self, Request};
use e2e::fleet::{Fleet, Plan};
use e2e::proxy::{Corral, Setup, bytes_under};
use e2e::stores::BreakableStore;
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream};
use e2e::valkey::Valkey;
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, all_whole, fetched, file, is_own_trouble, upstream};

const KINDS: [&str; 3] = ["info", "mod", "zip"];

async fn stores() -> [BreakableStore; 2] {
    [BreakableStore::folder(), BreakableStore::bucket().await]
}

/// An instance without a tier in memory, so that what it serves comes from disk.
fn forgetful(upstream: &FixtureUpstream, store: &BreakableStore) -> Setup {
    store.under(Setup::before(upstream).set("l1.bytes_max", "0"))
}

fn refuse_all(store: &BreakableStore) {
    let paths = KINDS.map(file);
    store.refuse_writes(paths.iter().map(String::as_str));
}

async fn kept_files(corral: &Corral) -> f64 {
    corral.metric("corral_spool_kept_files", &[]).await
}

/// Waits until so many files are kept, and each has its job: that is when all of it is durable.
pub(crate) async fn keeps(corral: &Corral, files: usize) {
    let what = format!("{files} files are kept");
    wait::until(&what, PATIENCE, async || {
        let jobs = corral.jobs().await;
        let uploads = jobs.iter().filter(|job| job["kind"] == "upload").count();
        kept_files(corral).await == files as f64 && uploads == files
    })
    .await;
}

/// Waits until the store holds all files, and the instance keeps none.
async fn uploaded(corral: &Corral, store: &BreakableStore, upstream: &FixtureUpstream) {
    // The pauses between uploads have grown meanwhile; they are not what is shown here.
    wait::until("all is uploaded", 2 * PATIENCE, async || {
        let stored = KINDS.map(|kind| store.holds(&file(kind), &upstream.body(&file(kind))));
        if stored == [true; 3] {
            return true;
        }
        corral.run_all_jobs().await;
        false
    })
    .await;
    keeps(corral, 0).await;
    corral.has_jobs(0).await;
}

// acceptance: G6; fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_write_is_served_at_once_and_stored_later() {
    for store in stores().await {
        let upstream = upstream(300_000).await;
        let corral = forgetful(&upstream, &store).start().await;
        refuse_all(&store);
        for kind in KINDS {
            let path = file(kind);
            all_whole(&corral.herd(10, &path).await, &upstream.body(&path));
            corral.get(&path).await.expect_body(&upstream.body(&path));
        }
        keeps(&corral, 3).await;
        for kind in KINDS {
            let path = file(kind);
            let range = Request::get(&path).header("Range", "bytes=2-6");
            let part = corral.send(&range).await.expect_status(206);
            assert_eq!(part.body, upstream.body(&path)[2..7], "{kind}");
            fetched(&upstream.path(&path), 1);
        }
        let jobs = corral.jobs().await;
        assert_eq!(jobs.len(), 3, "{jobs:#?}");
        assert!(jobs.iter().all(|job| job["kind"] == "upload"), "{jobs:#?}");
        assert!(jobs.iter().all(|job| job["owner"].is_string()), "{jobs:#?}");
        // It stays among those that are asked, and says what is wrong: only the bucket takes
        // nothing at all.
        let ready = corral.admin("/readyz").await.expect_status(200);
        let line = match store {
            BreakableStore::Folder(_) => "ready\n",
            BreakableStore::Bucket(_) => "ready, degraded: storage failed",
        };
        assert!(ready.text().starts_with(line), "{}", ready.text());
        // Without upstream from here on: what is uploaded is what was kept.
        upstream.stop();
        store.heal();
        uploaded(&corral, &store, &upstream).await;
        corral.idle().await;
        let left = bytes_under(&corral.setup().spool_dir().join("state-0/kept"));
        assert_eq!(left, 0, "{}: bytes are left", store.kind());
    }
}

// acceptance: G6; fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_files_survive_a_stop_and_a_kill() {
    for store in stores().await {
        for kill in [false, true] {
            store.heal();
            let upstream = FixtureUpstream::start().await;
            let name = format!("example.com/restart-{kill}");
            let module = FixtureModule::new(&name).version_sized(V, 300_000);
            upstream.add(&module);
            let paths = KINDS.map(|kind| module.file_path(V, kind));
            let mut corral = forgetful(&upstream, &store).start().await;
            store.refuse_writes(paths.iter().map(String::as_str));
            for path in &paths {
                corral.get(path).await.expect_body(&upstream.body(path));
            }
            keeps(&corral, 3).await;
            if kill {
                corral.kill9().await;
            } else {
                corral.terminate(PATIENCE).await;
            }
            upstream.stop();
            let corral = corral.restart().await;
            keeps(&corral, 3).await;
            for path in &paths {
                corral.get(path).await.expect_body(&upstream.body(path));
            }
            store.heal();
            wait::until("all is uploaded", PATIENCE, async || {
                corral.run_all_jobs().await;
                paths
                    .iter()
                    .all(|path| store.holds(path, &upstream.body(path)))
            })
            .await;
            keeps(&corral, 0).await;
            corral.has_jobs(0).await;
        }
    }
}

// A look-up that fails is not absence; what is kept is served all the same.
// fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_vanishes_hides_no_kept_file() {
    for store in stores().await {
        let upstream = upstream(300_000).await;
        let corral = forgetful(&upstream, &store)
            .set("failure.ttl", "0s")
            .set("fill.retries", "0")
            .start()
            .await;
        refuse_all(&store);
        corral.get(&file("zip")).await.expect_status(200);
        keeps(&corral, 1).await;
        store.vanish();
        for cache in ["", "only-if-cached"] {
            let request = Request::get(file("zip")).header("Cache-Control", cache);
            let reply = corral.send(&request).await;
            reply.expect_body(&upstream.body(&file("zip")));
        }
        for _ in 0..3 {
            let reply = corral.get(&file("mod")).await;
            if reply.whole_success() {
                assert_eq!(reply.body, upstream.body(&file("mod")));
            } else {
                is_own_trouble(&reply);
            }
        }
        let negatives = corral.admin_items("/admin/v1/negatives").await;
        assert!(negatives.is_empty(), "{negatives:#?}");
        assert!(corral.admin_items("/admin/v1/leases").await.is_empty());
        fetched(&upstream.path(&file("zip")), 1);
        store.heal();
        wait::until("both are stored", 2 * PATIENCE, async || {
            corral.run_all_jobs().await;
            ["zip", "mod"]
                .iter()
                .all(|kind| store.holds(&file(kind), &upstream.body(&file(kind))))
        })
        .await;
    }
}

async fn fleet_over(store: &BreakableStore, upstream: &FixtureUpstream) -> Fleet {
    let plan = Plan::of(3)
        .storage(&store.url(), &store.env())
        .set("l1.bytes_max", "0");
    plan.start_over(upstream, Valkey::start().await).await
}

// One instance has the bytes; the others ask it for them.
// acceptance: G6; fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_is_served_by_the_instance_that_keeps_the_bytes() {
    for store in stores().await {
        let upstream = upstream(400_000).await;
        let mut fleet = fleet_over(&store, &upstream).await;
        refuse_all(&store);
        for kind in KINDS {
            let path = file(kind);
            let body = upstream.body(&path);
            all_whole(&fleet.herd(20, &path).outcomes().await, &body);
            // And those who come later, wherever they ask.
            for index in 0..fleet.size() {
                fleet.corral(index).get(&path).await.expect_body(&body);
            }
            fetched(&upstream.path(&path), 1);
        }
        wait::until("each file is kept once", PATIENCE, async || {
            fleet.metric("corral_spool_kept_files", &[]).await == 3.0
        })
        .await;
        upstream.stop();
        store.heal();
        wait::until("all is uploaded", 2 * PATIENCE, async || {
            for index in 0..fleet.size() {
                fleet.corral(index).run_all_jobs().await;
            }
            KINDS
                .iter()
                .all(|kind| store.holds(&file(kind), &upstream.body(&file(kind))))
        })
        .await;
        for kind in KINDS {
            for index in 0..fleet.size() {
                let reply = fleet.corral(index).get(&file(kind)).await;
                reply.expect_body(&upstream.body(&file(kind)));
            }
        }
    }
}

// The instance that keeps the bytes starts anew under another address; then it dies for good.
// acceptance: G6; fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_finds_the_bytes_after_their_instance_was_killed() {
    let store = BreakableStore::bucket().await;
    let upstream = upstream(400_000).await;
    let mut fleet = fleet_over(&store, &upstream).await;
    let zip = file("zip");
    let body = upstream.body(&zip);
    refuse_all(&store);
    fleet.corral(0).get(&zip).await.expect_body(&body);
    keeps(fleet.corral(0), 1).await;
    let dead = &mut fleet.members[0].corral;
    dead.kill9().await;
    let setup = dead.setup().clone();
    fleet.members[0].corral = setup.start().await;
    keeps(fleet.corral(0), 1).await;
    wait::until("the others get it", PATIENCE, async || {
        fleet.corral(1).get(&zip).await.whole_success()
    })
    .await;
    fleet.corral(2).get(&zip).await.expect_body(&body);
    // Without it, the others do as if nothing had been kept.
    fleet.members[0].corral.kill9().await;
    wait::until("the others fetch it themselves", PATIENCE, async || {
        fleet.corral(2).get(&zip).await.whole_success()
    })
    .await;
    assert!(upstream.path(&zip).requests() <= 3);
    store.heal();
    wait::until("it is stored", 2 * PATIENCE, async || {
        for index in 1..fleet.size() {
            fleet.corral(index).run_all_jobs().await;
        }
        store.holds(&zip, &body)
    })
    .await;
}

// Somebody else stored other bytes meanwhile: the first stay, and an alarm is raised.
// fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conflict_at_the_upload_keeps_what_is_stored() {
    let store = BreakableStore::bucket().await;
    let BreakableStore::Bucket(bucket) = &store else {
        unreachable!("a bucket was asked for");
    };
    let upstream = upstream(300_000).await;
    let corral = forgetful(&upstream, &store).start().await;
    let zip = file("zip");
    refuse_all(&store);
    corral.get(&zip).await.expect_status(200);
    keeps(&corral, 1).await;
    let other = FixtureUpstream::with([FixtureModule::new(M).version_sized(V, 200_000)]).await;
    let object = bucket.server.bucket_dir().join(zip.trim_start_matches('/'));
    std::fs::create_dir_all(object.parent().unwrap()).unwrap();
    std::fs::write(&object, other.body(&zip)).unwrap();
    store.heal();
    wait::until("the upload has met it", PATIENCE, async || {
        corral.run_all_jobs().await;
        corral
            .metric("corral_commit_total", &[("result", "conflict")])
            .await
            == 1.0
    })
    .await;
    corral.has_jobs(0).await;
    keeps(&corral, 0).await;
    assert!(store.holds(&zip, &other.body(&zip)), "the first bytes stay");
    let alarms = corral.log();
    let alarms = alarms.lines().filter(|line| line.contains("ERROR"));
    assert!(alarms.count() >= 1, "{}", corral.log());
    corral.get(&zip).await.expect_body(&other.body(&zip));
}

// What does not fit is not kept; a job fetches it again later.
// fault: 34; acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_files_have_a_budget() {
    const MODULES: usize = 12;
    let store = BreakableStore::bucket().await;
    let upstream = FixtureUpstream::start().await;
    let paths: Vec<_> = (0..MODULES)
        .map(|number| {
            let name = format!("example.com/budget{number}");
            let module = FixtureModule::new(&name).version_sized(V, 300_000);
            upstream.add(&module);
            module.file_path(V, "zip")
        })
        .collect();
    let corral = forgetful(&upstream, &store)
        .set("spool.bytes_max", "2MiB")
        .set("fill.retries", "0")
        .start()
        .await;
    store.refuse_writes([]);
    for path in &paths {
        let reply = corral.get(path).await;
        if reply.whole_success() {
            assert_eq!(reply.body, upstream.body(path));
        } else {
            is_own_trouble(&reply);
        }
    }
    wait::until("some are kept", PATIENCE, async || {
        kept_files(&corral).await >= 1.0
    })
    .await;
    let kept = kept_files(&corral).await;
    assert!(kept < 7.0, "{kept} files are kept");
    let spool = bytes_under(&corral.setup().spool_dir());
    assert!(spool < 4 << 20, "{spool} bytes");
    store.heal();
    wait::until("all is stored", 2 * PATIENCE, async || {
        corral.run_all_jobs().await;
        paths
            .iter()
            .all(|path| store.holds(path, &upstream.body(path)))
    })
    .await;
    keeps(&corral, 0).await;
}

// Uploads and fetches that fail side by side.
// acceptance: G6; fault: 24, 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_and_upstream_fail_together_and_both_are_mended() {
    let store = BreakableStore::bucket().await;
    let upstream = upstream(300_000).await;
    let setup = forgetful(&upstream, &store).set("fill.retries", "0");
    let corral = setup.start().await;
    refuse_all(&store);
    corral.get(&file("zip")).await.expect_status(200);
    upstream.everywhere(Some(Answer::status(500, "broken")));
    for reply in client::herd_of(corral.addr(), vec![Request::get(file("mod")); 20]).await {
        is_own_trouble(&reply);
    }
    // Longer than the first pauses, so that both have failed again.
    let again = [("outcome", "failed")];
    wait::until("jobs have failed", PATIENCE, async || {
        corral.metric("corral_retry_attempts_total", &again).await >= 2.0
    })
    .await;
    corral
        .get(&file("zip"))
        .await
        .expect_body(&upstream.body(&file("zip")));
    upstream.everywhere(None);
    store.heal();
    wait::until("both are stored", Duration::from_secs(30), async || {
        ["zip", "mod"]
            .iter()
            .all(|kind| store.holds(&file(kind), &upstream.body(&file(kind))))
    })
    .await;
    corral.get(&file("mod")).await.expect_status(200);
}
