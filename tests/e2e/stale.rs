//! Documents (lists, `@latest`, queries): fresh for a while, then stale, never lost.

use std::time::Duration;

use e2e::client::Request;
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, file_path, latest_path, list_path};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, fetched, upstream};

/// An instance whose documents are fresh for 100 ms; `swr` and `sie` as given.
async fn short_lived(upstream: &FixtureUpstream, swr: &str, sie: &str) -> Corral {
    Setup::before(upstream)
        .set("documents.ttl", "100ms")
        .set("documents.swr", swr)
        .set("documents.sie", sie)
        .set("fill.retries", "0")
        .set("failure.ttl", "0s")
        .start()
        .await
}

/// Waits until `path` is answered with these bytes.
async fn becomes(corral: &Corral, path: &str, bytes: &[u8]) {
    wait::until(&format!("{path} follows upstream"), PATIENCE, async || {
        let reply = corral.get(path).await;
        assert!(
            reply.whole_success(),
            "{path}: {} {}",
            reply.status,
            reply.text()
        );
        reply.body == bytes
    })
    .await;
}

// protocol: L04, A03, V09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_versions_are_seen_within_the_ttl() {
    let query = file_path(M, "main", "info");
    let module = FixtureModule::new(M).version(V).latest(V).query("main", V);
    let upstream = FixtureUpstream::with([module.clone()]).await;
    let corral = short_lived(&upstream, "0s", "1h").await;
    let documents = [list_path(M), latest_path(M), query];
    for path in &documents {
        corral.get(path).await.expect_body(&upstream.body(path));
    }
    upstream.add(
        &module
            .version("v1.1.0")
            .latest("v1.1.0")
            .query("main", "v1.1.0"),
    );
    for path in &documents {
        becomes(&corral, path, &upstream.body(path)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_document_is_not_asked_for_again() {
    let upstream = upstream(2000).await;
    let corral = Corral::before(&upstream).await;
    for path in [list_path(M), latest_path(M)] {
        for _ in 0..5 {
            corral.get(&path).await.expect_body(&upstream.body(&path));
        }
        fetched(&upstream.path(&path), 1);
    }
}

// acceptance: A16, F15; protocol: L05, L06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_upstream_never_hides_the_last_good_answer() {
    let upstream = upstream(2000).await;
    let corral = short_lived(&upstream, "0s", "1h").await;
    for path in [list_path(M), latest_path(M)] {
        let good = upstream.body(&path);
        corral.get(&path).await.expect_body(&good);
        let handle = upstream.path(&path);
        for answer in [
            Answer::status(500, "broken"),
            Answer::ResetBeforeHeaders,
            Answer::TruncateAt(3),
        ] {
            handle.heal().always(answer);
            let before = handle.requests();
            // Until the failing upstream was really asked, and after it.
            wait::until(
                "the expired document is asked for again",
                PATIENCE,
                async || {
                    corral.get(&path).await.expect_body(&good);
                    handle.requests() > before
                },
            )
            .await;
            corral.get(&path).await.expect_body(&good);
        }
        handle.heal();
        corral.get(&path).await.expect_body(&good);
    }
}

// acceptance: A16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_good_answer_survives_a_restart() {
    let upstream = upstream(2000).await;
    let corral = short_lived(&upstream, "0s", "1h").await;
    let path = list_path(M);
    let good = upstream.body(&path);
    corral.get(&path).await.expect_body(&good);
    corral.idle().await;
    upstream.path(&path).always(Answer::status(503, "down"));
    let corral = corral.restart().await;
    corral.get(&path).await.expect_body(&good);
}

// acceptance: A17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_if_cached_takes_fresh_and_stale_but_not_expired() {
    let upstream = upstream(2000).await;
    let path = list_path(M);
    let only_cached = Request::get(&path).header("Cache-Control", "only-if-cached");
    for (ttl, swr, expected) in [
        ("1h", "0s", 200),
        ("100ms", "1h", 200),
        ("100ms", "0s", 504),
    ] {
        let corral = Setup::before(&upstream)
            .set("documents.ttl", ttl)
            .set("documents.swr", swr)
            .set("documents.sie", "0s")
            .start()
            .await;
        corral.get(&path).await.expect_status(200);
        // Fresh or inside the window it is 200 at once and stays so; expired it becomes 504.
        let reached = wait::holds_within(Duration::from_secs(5), async || {
            corral.send(&only_cached).await.status == expected
        });
        assert!(reached.await, "ttl {ttl}, swr {swr}: never {expected}");
    }
}

// acceptance: F15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_document_is_served_at_once_and_renewed_behind() {
    let module = FixtureModule::new(M).version(V);
    let upstream = FixtureUpstream::with([module.clone()]).await;
    let corral = short_lived(&upstream, "1h", "1h").await;
    let path = list_path(M);
    let old = corral.get(&path).await.expect_status(200).body;
    upstream.add(&module.version("v1.1.0"));
    let gate = upstream.path(&path).hold_headers();
    // While the renewal stands at the gate, everybody is served from the stale copy.
    wait::until("a renewal has begun", PATIENCE, async || {
        corral.get(&path).await.expect_body(&old);
        gate.arrivals() == 1
    })
    .await;
    for _ in 0..20 {
        corral.get(&path).await.expect_body(&old);
    }
    assert_eq!(gate.arrivals(), 1, "one renewal at a time");
    gate.release();
    becomes(&corral, &path, &upstream.body(&path)).await;
}

// acceptance: A20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn must_revalidate_forbids_stale_answers() {
    let module = FixtureModule::new(M).version(V);
    let upstream = FixtureUpstream::with([module.clone()]).await;
    let path = list_path(M);
    upstream
        .path(&path)
        .header("Cache-Control", "must-revalidate, max-age=60");
    let corral = short_lived(&upstream, "1h", "1h").await;
    let old = corral.get(&path).await.expect_status(200).body;
    upstream.add(&module.version("v1.1.0"));
    // Once expired, the herd waits for one fetch instead of taking the stale copy.
    let gate = upstream.path(&path).hold_headers();
    let (addr, target) = (corral.addr(), path.clone());
    let brief = Request::get(&path).time_limit(Duration::from_millis(300));
    wait::until("the document has expired", PATIENCE, async || {
        corral.send(&brief).await.ending == e2e::client::Ending::TimedOut
    })
    .await;
    let herd = tokio::spawn(async move { e2e::client::herd(addr, 30, &target).await });
    gate.wait_arrivals(1).await;
    gate.release();
    let herd = herd.await.unwrap();
    assert_ne!(old, upstream.body(&path));
    crate::fixtures::all_whole(&herd, &upstream.body(&path));
    // The fetch that stood at the gate served all; others only if the 100 ms passed again.
    assert!(upstream.path(&path).running_max() == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_cache_revalidates_at_most_once_for_everybody() {
    let upstream = upstream(2000).await;
    let corral = Corral::before(&upstream).await;
    let path = list_path(M);
    corral.get(&path).await.expect_status(200);
    let request = Request::get(&path).header("Cache-Control", "no-cache");
    let herd = async || {
        for reply in e2e::client::herd_of(corral.addr(), vec![request.clone(); 50]).await {
            reply.expect_status(200);
        }
    };
    // What was asked for within the last 5 s is new enough for everybody.
    herd().await;
    fetched(&upstream.path(&path), 1);
    wait::until("it is asked for again", PATIENCE, async || {
        corral.send(&request).await.expect_status(200);
        upstream.path(&path).requests() > 1
    })
    .await;
    herd().await;
    fetched(&upstream.path(&path), 2);
}

// acceptance: A23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_renewal_queue_drops_and_counts() {
    const MODULES: usize = 300;
    let name = |i: usize| format!("example.com/m{i}");
    let upstream =
        FixtureUpstream::with((0..MODULES).map(|i| FixtureModule::new(&name(i)).version(V))).await;
    let corral = short_lived(&upstream, "1h", "1h").await;
    let all = |corral: &Corral| {
        let requests = (0..MODULES)
            .map(|i| Request::get(list_path(&name(i))))
            .collect();
        e2e::client::herd_of(corral.addr(), requests)
    };
    for reply in all(&corral).await {
        reply.expect_status(200);
    }
    let gates: Vec<_> = (0..MODULES)
        .map(|i| upstream.path(&list_path(&name(i))).hold_headers())
        .collect();
    // One renewal stands at its gate, 256 wait in the queue, the rest must be dropped.
    wait::until("renewals are dropped", PATIENCE, async || {
        for reply in all(&corral).await {
            assert!(
                reply.whole_success(),
                "stale copies are served meanwhile: {reply:?}"
            );
        }
        corral.metric("corral_reval_dropped_total", &[]).await > 0.0
    })
    .await;
    gates.iter().for_each(e2e::upstream::Gate::release);
}

// A list is built from what is stored when nothing else is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_upstream_leaves_the_stored_versions_as_list() {
    let upstream = upstream(2000).await;
    let corral = short_lived(&upstream, "0s", "0s").await;
    for kind in ["info", "mod", "zip"] {
        let path = file_path(M, V, kind);
        corral.get(&path).await.expect_status(200);
        corral.stored(&path, &upstream.body(&path)).await;
    }
    upstream.stop();
    // Not reachable from the moment on at which its last connection is gone.
    wait::until("the list is built from the store", PATIENCE, async || {
        let list = corral.get(&list_path(M)).await;
        list.whole_success() && list.text().split_whitespace().eq([V])
    })
    .await;
}

// Upstream's validator is sent back, and "not modified" makes the old answer fresh again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_document_is_not_transferred_again() {
    let upstream = upstream(2000).await;
    let path = list_path(M);
    upstream.path(&path).header("ETag", "\"tag-1\"");
    let corral = short_lived(&upstream, "0s", "1h").await;
    let good = upstream.body(&path);
    corral.get(&path).await.expect_body(&good);
    upstream.path(&path).always(Answer::status(304, ""));
    wait::until("it is asked for again, twice", PATIENCE, async || {
        corral.get(&path).await.expect_body(&good);
        upstream.path(&path).requests() >= 3
    })
    .await;
    for request in &upstream.log()[1..] {
        assert_eq!(request.header("if-none-match"), Some("\"tag-1\""));
    }
}
