//! Every kind of store, and stores in trouble.

use std::time::Duration;

use e2e::client::Request;
use e2e::proxy::{Setup, Tmpfs, left_in_spool};
use e2e::s3::{S3Server, WriteFault};
use e2e::upstream::{FixtureUpstream, list_path};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, all_whole, fetched, file, is_own_trouble, no_strays, upstream};
use crate::kept::keeps;

/// An instance that stores in `s3`.
pub(crate) fn on_s3(upstream: &FixtureUpstream, s3: &S3Server) -> Setup {
    let setup = Setup::before(upstream).storage(&s3.storage_url());
    s3.env()
        .into_iter()
        .fold(setup, |setup, (name, value)| setup.env(name, &value))
}

async fn in_bucket(s3: &S3Server, upstream: &FixtureUpstream, path: &str) {
    wait::until(&format!("{path} is in the bucket"), PATIENCE, async || {
        s3.holds(path, &upstream.body(path))
    })
    .await;
}

// acceptance: F1; protocol: R03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_stores_and_serves_after_a_restart() {
    let upstream = upstream(20_000_000).await;
    let s3 = S3Server::start().await;
    let corral = on_s3(&upstream, &s3).start().await;
    for kind in ["info", "mod", "zip"] {
        all_whole(
            &corral.herd(5, &file(kind)).await,
            &upstream.body(&file(kind)),
        );
        in_bucket(&s3, &upstream, &file(kind)).await;
    }
    corral.idle().await;
    upstream.stop();
    let corral = corral.restart().await;
    for kind in ["info", "mod", "zip"] {
        corral
            .get(&file(kind))
            .await
            .expect_body(&upstream.body(&file(kind)));
        fetched(&upstream.path(&file(kind)), 1);
    }
    let range = Request::get(file("zip")).header("Range", "bytes=1000000-1000099");
    let part = corral.send(&range).await.expect_status(206);
    assert_eq!(part.body, upstream.body(&file("zip"))[1_000_000..1_000_100]);
}

// acceptance: F1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_files_store_too() {
    let upstream = upstream(500_000).await;
    for url in [Some("memory://"), None] {
        let mut setup = Setup::before(&upstream);
        if let Some(url) = url {
            setup = setup.storage(url);
        }
        let corral = setup.start().await;
        let before = upstream.path(&file("zip")).requests();
        for _ in 0..3 {
            corral
                .get(&file("zip"))
                .await
                .expect_body(&upstream.body(&file("zip")));
        }
        fetched(&upstream.path(&file("zip")), before + 1);
    }
}

// fault: 25
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_and_lost_answers_on_create_are_looked_into() {
    let upstream = upstream(100_000).await;
    let faults = [
        WriteFault::LoseAnswer,
        WriteFault::Refuse(409, "ConditionalRequestConflict".to_owned()),
        WriteFault::Refuse(412, "PreconditionFailed".to_owned()),
        WriteFault::Refuse(503, "SlowDown".to_owned()),
        WriteFault::Refuse(500, "InternalError".to_owned()),
    ];
    for fault in faults {
        let s3 = S3Server::start().await;
        let corral = on_s3(&upstream, &s3).start().await;
        let before = upstream.path(&file("zip")).requests();
        s3.next_writes(1, fault.clone());
        all_whole(
            &corral.herd(10, &file("zip")).await,
            &upstream.body(&file("zip")),
        );
        in_bucket(&s3, &upstream, &file("zip")).await;
        corral
            .get(&file("zip"))
            .await
            .expect_body(&upstream.body(&file("zip")));
        fetched(&upstream.path(&file("zip")), before + 1);
    }
}

// fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_no_writes_does_not_stop_the_clients() {
    let upstream = upstream(300_000).await;
    let s3 = S3Server::start().await;
    let corral = on_s3(&upstream, &s3).start().await;
    s3.all_writes(Some(WriteFault::Refuse(403, "AccessDenied".to_owned())));
    // The bytes are verified: clients get them, now and later.
    for path in [file("zip"), file("mod"), list_path(M)] {
        all_whole(&corral.herd(10, &path).await, &upstream.body(&path));
        corral.get(&path).await.expect_body(&upstream.body(&path));
        fetched(&upstream.path(&path), 1);
    }
    corral.idle().await;
    // Each failed write is counted and told with its unit, at once and when it fails again.
    let failed = [("result", "failed")];
    let failed = corral.metric("corral_commit_total", &failed).await;
    assert!(failed >= 3.0, "{failed}");
    for unit in [format!("{M}@{V}.zip"), format!("{M}@{V}.mod")] {
        let log = corral.log();
        let warned = log
            .lines()
            .filter(|line| line.contains("WARN") && line.contains(&unit));
        assert!(warned.count() >= 1, "{unit} in {log}");
    }
    // What was not stored is stored by the next process when writes work, and not fetched again.
    keeps(&corral, 2).await;
    s3.all_writes(None);
    let corral = corral.restart().await;
    let zip = file("zip");
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    in_bucket(&s3, &upstream, &zip).await;
    fetched(&upstream.path(&zip), 1);
}

// fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_gone_is_not_an_empty_one() {
    let upstream = upstream(50_000).await;
    let s3 = S3Server::start().await;
    // No memory tier: every answer depends on the store.
    let setup = on_s3(&upstream, &s3)
        .set("l1.bytes_max", "0")
        .set("failure.ttl", "0s");
    let corral = setup.start().await;
    corral.get(&file("zip")).await.expect_status(200);
    in_bucket(&s3, &upstream, &file("zip")).await;
    corral.idle().await;
    s3.stop();
    for kind in ["zip", "mod"] {
        let reply = corral.get(&file(kind)).await;
        // Served from what is at hand, or our own trouble; never "does not exist".
        if reply.whole_success() {
            assert_eq!(reply.body, upstream.body(&file(kind)));
        } else {
            is_own_trouble(&reply);
        }
    }
    s3.resume().await;
    for kind in ["zip", "mod"] {
        wait::until(
            "the store is used again",
            Duration::from_secs(30),
            async || corral.get(&file(kind)).await.whole_success(),
        )
        .await;
    }
}

// fault: 34
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_spool_is_our_own_trouble_and_passes() {
    let Some(disk) = Tmpfs::mount(4 << 20) else {
        return;
    };
    let upstream = upstream(2_000_000).await;
    let spool = disk.path().join("spool");
    std::fs::create_dir(&spool).unwrap();
    let setup = Setup::before(&upstream)
        .spool(&spool)
        .set("spool.free_bytes_min", "0")
        .set("failure.ttl", "0s");
    let corral = setup
        .set("fill.retries", "0")
        .set("fill.on_failure", "drop")
        .start()
        .await;
    corral.get(&file("mod")).await.expect_status(200);
    let ballast = disk.fill_up();
    for _ in 0..2 {
        let reply = corral.get(&file("zip")).await;
        assert!(!reply.whole_success() || reply.body == upstream.body(&file("zip")));
        assert!(![404, 410].contains(&reply.status), "{}", reply.status);
    }
    // Small files need no spool, stored ones neither.
    corral.get(&file("mod")).await.expect_status(200);
    corral.get(&file("info")).await.expect_status(200);
    std::fs::remove_file(ballast).unwrap();
    wait::until("the zip is served", PATIENCE, async || {
        corral.get(&file("zip")).await.whole_success()
    })
    .await;
}

// fault: 34
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn little_free_space_refuses_large_files_only() {
    let Some(disk) = Tmpfs::mount(64 << 20) else {
        return;
    };
    let upstream = upstream(2_000_000).await;
    let setup = Setup::before(&upstream).spool(&disk.path().join("spool"));
    let corral = setup.set("spool.free_bytes_min", "1GiB").start().await;
    let reply = corral.get(&file("zip")).await;
    is_own_trouble(&reply);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert!(
        reply.text().contains("spool.free_bytes_min"),
        "{}",
        reply.text()
    );
    for kind in ["info", "mod"] {
        corral.get(&file(kind)).await.expect_status(200);
    }
    let reached = [("limit", "spool.free_bytes_min")];
    let reached = corral.metric("corral_limit_reached_total", &reached).await;
    assert!(reached >= 1.0, "{reached}");
}

// fault: 34
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_store_still_serves_what_was_fetched() {
    let Some(disk) = Tmpfs::mount(4 << 20) else {
        return;
    };
    let upstream = upstream(2_000_000).await;
    let store = disk.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let setup = Setup::before(&upstream).storage(&e2e::go::file_url(&store));
    let corral = setup.start().await;
    let ballast = disk.fill_up();
    for _ in 0..2 {
        corral
            .get(&file("zip"))
            .await
            .expect_body(&upstream.body(&file("zip")));
    }
    fetched(&upstream.path(&file("zip")), 1);
    corral.idle().await;
    std::fs::remove_file(ballast).unwrap();
    no_strays(&store).await;
    // The next process finds no half of it, and stores the whole.
    let corral = corral.restart().await;
    corral
        .get(&file("zip"))
        .await
        .expect_body(&upstream.body(&file("zip")));
    let stored = store.join(file("zip").trim_start_matches('/'));
    wait::until("the zip is stored", PATIENCE, async || {
        std::fs::read(&stored).is_ok_and(|bytes| bytes == upstream.body(&file("zip")))
    })
    .await;
    corral.idle().await;
    no_strays(&store).await;
}

// fault: 34, 35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_spool_has_a_budget() {
    let upstream = upstream(2_000_000).await;
    let setup = Setup::before(&upstream)
        .set("spool.bytes_max", "1MiB")
        .set("fill.retries", "0");
    let corral = setup
        .set("failure.ttl", "0s")
        .set("fill.on_failure", "drop")
        .start()
        .await;
    let reply = corral.get(&file("zip")).await;
    assert!(
        !reply.whole_success(),
        "two megabytes went through a spool of one"
    );
    assert!(![404, 410].contains(&reply.status), "{}", reply.status);
    corral.get(&file("mod")).await.expect_status(200);
    let budget = [("limit", "spool.bytes_max")];
    assert_eq!(
        corral.metric("corral_limit_reached_total", &budget).await,
        1.0
    );
    corral.idle().await;
    let left = left_in_spool(&corral.setup().spool_dir());
    assert!(left.is_empty(), "{left:?}");
}

// A file stands where a folder should be made: unwritable for root too. Whether such a look-up is
// a miss is the store's to say; that it is neither absence nor a broken file is ours.
// fault: 24, 34
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_cannot_be_made_is_never_taken_for_absence() {
    let upstream = upstream(100_000).await;
    let setup = Setup::before(&upstream).set("failure.ttl", "0s");
    let corral = setup.start().await;
    let module = corral.store_path("/example.com");
    std::fs::create_dir_all(module.parent().unwrap()).unwrap();
    std::fs::write(&module, "in the way").unwrap();
    for _ in 0..3 {
        let reply = corral.get(&file("zip")).await;
        if reply.whole_success() {
            assert_eq!(reply.body, upstream.body(&file("zip")));
        } else {
            is_own_trouble(&reply);
        }
    }
    std::fs::remove_file(&module).unwrap();
    wait::until("the zip is served", PATIENCE, async || {
        corral.get(&file("zip")).await.whole_success()
    })
    .await;
}
