//! A stored file is served without asking anybody.

use e2e::client::Request;
use e2e::proxy::Setup;
use e2e::upstream::{FixtureModule, file_path, latest_path, list_path};

use crate::fixtures::{M, V, all_whole, fetched, file, pair, upstream};

// With nothing set but where misses go, it talks to its upstream and to nobody else.
// acceptance: A1, B17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_instance_needs_nothing_but_its_upstream() {
    let upstream = upstream(100_000).await;
    let corral = Setup::before(&upstream).verify_default().start().await;
    let mut peers = corral.connected_to();
    for path in [
        file("info"),
        file("mod"),
        file("zip"),
        list_path(M),
        latest_path(M),
    ] {
        for _ in 0..2 {
            corral.get(&path).await.expect_body(&upstream.body(&path));
            peers.extend(corral.connected_to());
        }
    }
    assert!(peers.contains(&upstream.addr()), "{peers:?}");
    peers.retain(|peer| *peer != upstream.addr());
    assert!(peers.is_empty(), "connected to {peers:?}");
}

// protocol: D08
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_request_reaches_no_upstream() {
    let (upstream, corral) = pair(100_000).await;
    for kind in ["info", "mod", "zip"] {
        let path = file(kind);
        let cold = corral.get(&path).await.expect_body(&upstream.body(&path));
        assert!(
            cold.header("cache-status")
                .is_some_and(|v| v.contains("fwd=miss")),
            "{cold:?}"
        );
        corral.stored(&path, &upstream.body(&path)).await;
        let warm = corral.get(&path).await.expect_body(&upstream.body(&path));
        let status = warm.header("cache-status").unwrap_or_default();
        assert!(
            status.contains("hit") && !status.contains("fwd=miss"),
            "{status}"
        );
        fetched(&upstream.path(&path), 1);
    }
}

// acceptance: G9
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_that_lies_in_the_folder_already_is_served() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream);
    for kind in ["info", "mod", "zip"] {
        let target = setup.store_dir().join(file(kind).trim_start_matches('/'));
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, upstream.body(&file(kind))).unwrap();
    }
    let corral = setup.start().await;
    for kind in ["info", "mod", "zip"] {
        corral
            .get(&file(kind))
            .await
            .expect_body(&upstream.body(&file(kind)));
    }
    assert_eq!(upstream.requests(), 0);
}

// protocol: R01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stored_files_outlive_the_upstream() {
    let (upstream, corral) = pair(50_000).await;
    let paths = [
        file("info"),
        file("mod"),
        file("zip"),
        list_path(M),
        latest_path(M),
    ];
    for path in &paths {
        corral.get(path).await.expect_status(200);
    }
    for kind in ["info", "mod", "zip"] {
        corral
            .stored(&file(kind), &upstream.body(&file(kind)))
            .await;
    }
    upstream.stop();
    for path in &paths {
        corral.get(path).await.expect_body(&upstream.body(path));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_herd_is_served_whole() {
    let (upstream, corral) = pair(200_000).await;
    let zip = file("zip");
    corral.get(&zip).await.expect_status(200);
    all_whole(&corral.herd(100, &zip).await, &upstream.body(&zip));
    fetched(&upstream.path(&zip), 1);
}

// acceptance: A17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_serves_what_is_stored_and_nothing_else() {
    let (upstream, corral) = pair(3000).await;
    upstream.add(&FixtureModule::new("example.com/other").version(V));
    corral.get(&file("mod")).await.expect_status(200);
    corral
        .stored(&file("mod"), &upstream.body(&file("mod")))
        .await;
    let setup = corral.setup().clone().arg("--offline");
    let corral = corral.restart_with(setup).await;
    let before = upstream.requests();
    corral
        .get(&file("mod"))
        .await
        .expect_body(&upstream.body(&file("mod")));
    for path in [file("zip"), file_path("example.com/other", V, "mod")] {
        let reply = corral.get(&path).await;
        assert!(
            (400..600).contains(&reply.status),
            "{path}: {}",
            reply.status
        );
    }
    // The list is built from what is stored.
    let list = corral.get(&list_path(M)).await;
    assert!(
        list.status != 200 || list.text().contains(V),
        "{}",
        list.text()
    );
    assert_eq!(upstream.requests(), before);
}

// A machine without a network has no upstream to name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offline_needs_no_upstream() {
    let (upstream, corral) = pair(3000).await;
    corral.get(&file("mod")).await.expect_status(200);
    corral
        .stored(&file("mod"), &upstream.body(&file("mod")))
        .await;
    let store = format!("file://{}", corral.setup().store_dir().display());
    for goproxy in ["", "off"] {
        let setup = Setup::new().storage(&store).arg("--offline");
        let alone = setup.env("GOPROXY", goproxy).start().await;
        alone
            .get(&file("mod"))
            .await
            .expect_body(&upstream.body(&file("mod")));
    }
}

// protocol: H16; acceptance: A17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_may_forbid_the_fetch() {
    let (upstream, corral) = pair(3000).await;
    let path = file("mod");
    let no_fetch = Request::get(&path).header("Disable-Module-Fetch", "true");
    let only_cached = Request::get(&path).header("Cache-Control", "only-if-cached");
    corral.send(&no_fetch).await.expect_status(404);
    corral.send(&only_cached).await.expect_status(504);
    assert_eq!(upstream.requests(), 0);
    // The refusals are not remembered.
    corral.get(&path).await.expect_status(200);
    for request in [no_fetch, only_cached] {
        corral
            .send(&request)
            .await
            .expect_body(&upstream.body(&path));
    }
    fetched(&upstream.path(&path), 1);
}
