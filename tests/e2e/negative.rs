//! "Does not exist" is remembered for a while; failures are not taken for it.

use e2e::client::Request;
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, list_path};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, fetched, file, upstream};

// fault: 27; acceptance: A33; protocol: E01, E02, E03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_found_is_passed_on_with_its_text_and_remembered() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    for (status, module) in [(404, "example.com/none"), (410, "example.com/gone")] {
        let path = list_path(module);
        let text = format!("not found: {module}: the upstream's own words\nsecond line\n");
        upstream.path(&path).always(Answer::status(status, &text));
        for _ in 0..3 {
            let reply = corral.get(&path).await.expect_status(status);
            assert_eq!(reply.text().trim_end(), text.trim_end());
            let kind = reply.header("content-type").unwrap_or_default();
            assert!(kind.starts_with("text/plain"), "{kind}");
        }
        fetched(&upstream.path(&path), 1);
    }
}

// fault: 27; protocol: E11
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_negative_entry_ends_with_its_ttl() {
    let upstream = FixtureUpstream::start().await;
    let setup = Setup::before(&upstream)
        .set("negative.ttl", "200ms")
        .set("negative.gone_ttl", "1h");
    let corral = setup.start().await;
    corral.get(&file("mod")).await.expect_status(404);
    upstream
        .path(&list_path(M))
        .next(1, Answer::status(410, "gone"));
    corral.get(&list_path(M)).await.expect_status(410);
    upstream.add(&FixtureModule::new(M).version(V));
    wait::until("the new version is seen", PATIENCE, async || {
        corral.get(&file("mod")).await.status == 200
    })
    .await;
    // The 410 has its own, longer TTL.
    corral.get(&list_path(M)).await.expect_status(410);
    fetched(&upstream.path(&list_path(M)), 1);
}

// Fault 29's last clause: overload is not absence.
// fault: 28, 29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_failure_becomes_a_negative_entry() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream)
        .set("fill.retries", "0")
        .set("failure.ttl", "0s");
    let corral = setup.set("fill.on_failure", "drop").start().await;
    let path = upstream.path(&file("mod"));
    for answer in [
        Answer::status(500, "x"),
        Answer::retry_after(503, "x", 1),
        Answer::retry_after(429, "x", 1),
        Answer::status(401, "x"),
        Answer::status(403, "x"),
        Answer::CloseBeforeHeaders,
    ] {
        path.next(1, answer.clone());
        let reply = corral.get(&file("mod")).await;
        assert!(
            ![200, 404, 410].contains(&reply.status),
            "{answer:?} gave {}",
            reply.status
        );
        // Nor does it spread to the rest of the version.
        corral.get(&file("info")).await.expect_status(200);
    }
    wait::until("the mod file is served", PATIENCE, async || {
        corral.get(&file("mod")).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_of_a_missing_file_is_404_too() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    corral
        .send(&Request::new("HEAD", file("mod")))
        .await
        .expect_status(404);
    corral.get(&file("mod")).await.expect_status(404);
}
