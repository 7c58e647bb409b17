//! What a restart keeps: protocol rows R01 to R05 that need no fault in the store.

use std::time::Duration;

use e2e::client::Request;
use e2e::upstream::{latest_path, list_path};

use crate::fixtures::{M, fetched, file, nothing_left_over, pair};

// protocol: R03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_survives_a_restart() {
    let (upstream, corral) = pair(100_000).await;
    for kind in ["info", "mod", "zip"] {
        corral.get(&file(kind)).await.expect_status(200);
        corral
            .stored(&file(kind), &upstream.body(&file(kind)))
            .await;
    }
    let corral = corral.restart().await;
    for kind in ["info", "mod", "zip"] {
        corral
            .get(&file(kind))
            .await
            .expect_body(&upstream.body(&file(kind)));
        fetched(&upstream.path(&file(kind)), 1);
    }
}

// protocol: R01, R03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_without_upstream_still_serves_everything() {
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
    corral.idle().await;
    upstream.stop();
    let corral = corral.restart().await;
    for path in &paths {
        corral.get(path).await.expect_body(&upstream.body(path));
    }
}

// protocol: R02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_mid_fill_leaves_nothing_and_the_next_fill_is_whole() {
    let (upstream, mut corral) = pair(2_000_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(1_000_000);
    let addr = corral.addr();
    let target = zip.clone();
    let client = tokio::spawn(async move { Request::get(&target).send(addr).await });
    gate.wait_arrivals(1).await;
    corral.kill9().await;
    assert!(
        !client.await.unwrap().whole_success(),
        "a cut file was taken for whole"
    );
    assert!(!corral.store_path(&zip).exists());
    upstream.path(&zip).heal();
    let corral = corral.restart().await;
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    corral.stored(&zip, &upstream.body(&zip)).await;
    corral.idle().await;
    nothing_left_over(&corral).await;
}

// protocol: R04; fault: 36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_cuts_no_answer_short() {
    let (upstream, mut corral) = pair(500_000).await;
    let zip = file("zip");
    corral.get(&zip).await.expect_status(200);
    let addr = corral.addr();
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let request = Request::get(&zip).hash_only();
            tokio::spawn(async move {
                let mut replies = Vec::new();
                // Until the listener is gone.
                loop {
                    let reply = request.send(addr).await;
                    let refused = reply.status == 0;
                    replies.push(reply);
                    if refused {
                        return replies;
                    }
                }
            })
        })
        .collect();
    e2e::wait::until("the load is on", e2e::wait::PATIENCE, async || {
        corral.metric("corral_requests_total", &[]).await >= 50.0
    })
    .await;
    corral.terminate(Duration::from_secs(15)).await;
    let hash = e2e::client::sha256(&upstream.body(&zip));
    let mut served = 0;
    for client in clients {
        for reply in client
            .await
            .unwrap()
            .into_iter()
            .filter(|reply| reply.status == 200)
        {
            assert!(
                reply.complete() && reply.sha256 == hash,
                "{:?}",
                reply.ending
            );
            served += 1;
        }
    }
    assert!(served >= 20, "{served} answers");
}
