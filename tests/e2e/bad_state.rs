//! What outlives restarts, damaged: the instance starts, says so in one line, sets the bad part
//! aside, and serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use e2e::client::Request;
use e2e::proxy::{Corral, Setup, files_under};
use e2e::stores::BreakableStore;
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream};
use e2e::wait::{self, PATIENCE};
use lease::{DelayQueue as _, JobId, LocalQueue, NewJob, QueueLimits, TokioClock};

use crate::fixtures::{V, all_whole, file, is_one_line, is_own_trouble, upstream};
use crate::kept::keeps;
use crate::retries::unit;

fn state_dir(setup: &Setup) -> PathBuf {
    setup.spool_dir().join("state-0")
}

fn queue_file(setup: &Setup) -> PathBuf {
    state_dir(setup).join("queue.redb")
}

/// Lines of the log at this level or above that contain `text`.
fn warnings(corral: &Corral, text: &str) -> Vec<String> {
    let log = corral.log();
    let loud = |line: &&str| line.contains("WARN") || line.contains("ERROR");
    let lines = log.lines().filter(loud).filter(|line| line.contains(text));
    lines.map(str::to_owned).collect()
}

/// An instance with one job in its queue that is due in an hour, stopped in an orderly way.
async fn with_a_job(upstream: &FixtureUpstream) -> Setup {
    let setup = Setup::before(upstream).set("fill.retries", "0");
    let mut corral = setup.start().await;
    upstream
        .path(&file("zip"))
        .next(1, Answer::retry_after(503, "closed", 3600));
    is_own_trouble(&corral.get(&file("zip")).await);
    corral.only_job().await;
    corral.terminate(PATIENCE).await;
    setup
}

/// It serves, and a failure is taken care of again.
async fn works(corral: &Corral, upstream: &FixtureUpstream) {
    let module = FixtureModule::new("example.com/after").version(V);
    upstream.add(&module);
    let path = module.file_path(V, "mod");
    upstream.path(&path).next(1, Answer::status(500, "broken"));
    is_own_trouble(&corral.get(&path).await);
    corral.stored(&path, &upstream.body(&path)).await;
    corral.get(&path).await.expect_status(200);
}

// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_queue_file_is_set_aside() {
    let upstream = upstream(2000).await;
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("garbage", |file| {
            let len = std::fs::metadata(file).unwrap().len() as usize;
            std::fs::write(file, e2e::upstream::incompressible(7, len)).unwrap();
        }),
        ("truncated", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 3]).unwrap();
        }),
        ("text", |file| {
            std::fs::write(file, "not a database").unwrap()
        }),
    ];
    for (what, damage) in damages {
        upstream.path(&file("zip")).heal();
        let setup = with_a_job(&upstream).await;
        let path = queue_file(&setup);
        damage(&path);
        let bad = std::fs::read(&path).unwrap();
        let corral = setup.start().await;
        let aside: Vec<_> = files_under(&state_dir(&setup))
            .into_iter()
            .filter(|(name, _)| name.contains("queue.redb.corrupt"))
            .collect();
        assert_eq!(aside.len(), 1, "{what}: {aside:?}");
        let kept = std::fs::read(state_dir(&setup).join(&aside[0].0)).unwrap();
        // It may have been opened for writing before it was found to be damaged.
        assert_eq!(kept.len(), bad.len(), "{what}: it is not what it was");
        assert_eq!(
            warnings(&corral, "aside").len(),
            1,
            "{what}: {}",
            corral.log()
        );
        works(&corral, &upstream).await;
    }
}

async fn open_queue(setup: &Setup) -> LocalQueue {
    let limits = QueueLimits::default();
    LocalQueue::open(queue_file(setup), limits, Arc::new(TokioClock)).await
}

async fn put_into_queue(setup: &Setup, jobs: Vec<NewJob>) {
    let queue = open_queue(setup).await;
    for job in jobs {
        queue.push(&job).await.unwrap();
    }
    queue.close().await;
}

// Neither dropped in silence nor a reason to stop.
// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_that_mean_nothing_are_buried_with_a_line() {
    let upstream = upstream(2000).await;
    let setup = with_a_job(&upstream).await;
    let payloads: [(&str, &str, &[u8]); 6] = [
        (
            "future",
            "fetch",
            br#"{"v":99,"path":"example.com/m/@v/v1.0.0.mod"}"#,
        ),
        ("no-json", "fetch", b"\xff\x00nonsense"),
        ("empty", "fetch", b""),
        ("no-path", "fetch", br#"{"v":1}"#),
        ("outside", "fetch", br#"{"v":1,"path":"../../etc/passwd"}"#),
        (
            "kind",
            "transmogrify",
            br#"{"v":1,"path":"example.com/m/@v/v1.0.0.mod"}"#,
        ),
    ];
    let jobs = payloads.map(|(name, kind, payload)| {
        let id = JobId::new(format!("example.com/{name}@{V}.mod")).unwrap();
        NewJob::new(id, kind, payload.to_vec().into())
    });
    put_into_queue(&setup, jobs.into()).await;
    let corral = setup.start().await;
    wait::until("all of them are dead", PATIENCE, async || {
        corral.dead_jobs().await.len() == payloads.len()
    })
    .await;
    for (name, ..) in payloads {
        let lines = warnings(&corral, &format!("example.com/{name}@"));
        assert_eq!(lines.len(), 1, "{name}: {}", corral.log());
    }
    // The good one is still there.
    assert_eq!(corral.only_job().await["id"], unit(&file("zip")));
    corral.run_job(&unit(&file("zip"))).await.expect_status(200);
    corral
        .stored(&file("zip"), &upstream.body(&file("zip")))
        .await;
    works(&corral, &upstream).await;
}

// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_where_the_spool_should_be_is_a_mistake_in_one_line() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream);
    std::fs::write(setup.spool_dir(), "in the way").unwrap();
    let exit = setup.run_to_end(Duration::from_secs(10)).await;
    assert_ne!(exit.code, Some(0));
    let lines = exit.stderr.iter().filter(|line| line.contains("spool.dir"));
    assert_eq!(lines.count(), 1, "{:?}", exit.stderr);
}

// Somebody else has the queue's file: unusable for root, too, until it is let go.
// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_file_that_cannot_be_used_stops_no_client() {
    let upstream = upstream(2000).await;
    let setup = with_a_job(&upstream).await;
    let theirs = open_queue(&setup).await;
    let corral = setup.start().await;
    corral.get(&file("info")).await.expect_status(200);
    upstream
        .path(&file("mod"))
        .next(1, Answer::status(500, "broken"));
    let reply = corral.get(&file("mod")).await;
    is_own_trouble(&reply);
    is_one_line(&reply);
    let failed = [("result", "failed")];
    let failed = corral.metric("corral_retry_pushed_total", &failed).await;
    assert_eq!(failed, 1.0);
    let ready = corral.admin("/readyz").await.expect_status(200);
    assert!(ready.text().contains("degraded"), "{}", ready.text());
    assert!(!warnings(&corral, "queue").is_empty(), "{}", corral.log());
    // From then on everything is as it should be, the old job included.
    theirs.close().await;
    wait::until("it has found its job", PATIENCE, async || {
        let jobs = corral.jobs().await;
        jobs.iter().any(|job| job["id"] == unit(&file("zip")))
    })
    .await;
    works(&corral, &upstream).await;
    let ready = corral.admin("/readyz").await.expect_status(200);
    assert!(!ready.text().contains("degraded"), "{}", ready.text());
}

/// An instance over a bucket that keeps the fixture's zip and `.mod`, killed.
async fn with_kept_files(upstream: &FixtureUpstream, store: &BreakableStore) -> Setup {
    let setup = store.under(Setup::before(upstream).set("l1.bytes_max", "0"));
    let mut corral = setup.start().await;
    store.refuse_writes([]);
    for kind in ["zip", "mod"] {
        corral.get(&file(kind)).await.expect_status(200);
    }
    keeps(&corral, 2).await;
    let kept = state_dir(&setup).join("kept");
    wait::until("their notes are gone", PATIENCE, async || {
        let files = files_under(&kept);
        files.iter().all(|(name, _)| !name.ends_with(".note"))
    })
    .await;
    corral.kill9().await;
    setup
}

/// The largest file in the directory of what is kept: the zip's bytes.
fn kept_zip(setup: &Setup) -> PathBuf {
    let dir = state_dir(setup).join("kept");
    let files = files_under(&dir);
    let largest = files.iter().max_by_key(|(_, bytes)| *bytes).unwrap();
    dir.join(&largest.0)
}

// acceptance: G6; fault: 24
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_kept_file_is_never_served_and_fetched_again() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 3] = [
        ("truncated", |file| {
            let bytes = std::fs::read(file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() - 1]).unwrap();
        }),
        ("changed", |file| {
            let mut bytes = std::fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("gone", |file| std::fs::remove_file(file).unwrap()),
    ];
    for (what, damage) in damages {
        let store = BreakableStore::bucket().await;
        let upstream = upstream(300_000).await;
        let setup = with_kept_files(&upstream, &store).await;
        damage(&kept_zip(&setup));
        let corral = setup.start().await;
        // The other one is whole.
        corral
            .get(&file("mod"))
            .await
            .expect_body(&upstream.body(&file("mod")));
        assert_eq!(upstream.path(&file("mod")).requests(), 1);
        all_whole(
            &corral.herd(10, &file("zip")).await,
            &upstream.body(&file("zip")),
        );
        let lines = warnings(&corral, &unit(&file("zip")));
        assert!(!lines.is_empty(), "{what}: {}", corral.log());
        store.heal();
        wait::until("both are stored", 2 * PATIENCE, async || {
            corral.run_all_jobs().await;
            ["zip", "mod"]
                .iter()
                .all(|kind| store.holds(&file(kind), &upstream.body(&file(kind))))
        })
        .await;
        corral.has_jobs(0).await;
    }
}

// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_entry_of_what_is_kept_is_set_aside() {
    let store = BreakableStore::bucket().await;
    let upstream = upstream(300_000).await;
    let setup = with_kept_files(&upstream, &store).await;
    let dir = state_dir(&setup).join("kept");
    let is_entry = |name: &str| std::fs::read(dir.join(name)).is_ok_and(|b| b.starts_with(b"{"));
    let entries: Vec<_> = files_under(&dir)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| is_entry(name))
        .collect();
    assert_eq!(entries.len(), 2, "{:?}", files_under(&dir));
    for entry in &entries {
        std::fs::write(dir.join(entry), r#"{"v":99,"surprise":true}"#).unwrap();
    }
    let corral = setup.start().await;
    wait::until("they are set aside", PATIENCE, async || {
        let aside = files_under(&dir);
        let aside = aside.iter().filter(|(name, _)| name.contains("corrupt"));
        aside.count() >= entries.len()
    })
    .await;
    assert!(!warnings(&corral, "aside").is_empty(), "{}", corral.log());
    let reply = corral.send(&Request::get(file("zip"))).await;
    reply.expect_body(&upstream.body(&file("zip")));
}

// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_where_kept_bytes_should_go_stops_no_client() {
    let store = BreakableStore::bucket().await;
    let upstream = upstream(300_000).await;
    let setup = store.under(Setup::before(&upstream));
    std::fs::create_dir_all(state_dir(&setup)).unwrap();
    std::fs::write(state_dir(&setup).join("kept"), "in the way").unwrap();
    let corral = setup.start().await;
    assert!(!warnings(&corral, "kept").is_empty(), "{}", corral.log());
    store.refuse_writes([]);
    all_whole(
        &corral.herd(10, &file("zip")).await,
        &upstream.body(&file("zip")),
    );
    corral.idle().await;
    // Nothing could be kept, so a job fetches it again.
    store.heal();
    wait::until("it is stored", 2 * PATIENCE, async || {
        corral.run_all_jobs().await;
        store.holds(&file("zip"), &upstream.body(&file("zip")))
    })
    .await;
}
