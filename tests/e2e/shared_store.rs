//! Two instances that share nothing but a folder.

use e2e::proxy::Setup;

use crate::fixtures::{M, all_whole, fetched, file, no_strays, upstream};

/// Two setups of one store, with a spool each.
fn twins(upstream: &e2e::upstream::FixtureUpstream) -> (Setup, Setup) {
    let first = Setup::before(upstream);
    let store = format!("file://{}", first.store_dir().display());
    (first, Setup::before(upstream).storage(&store))
}

// protocol: X02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_has_stored_the_other_serves() {
    let upstream = upstream(400_000).await;
    let (first, second) = twins(&upstream);
    let (first, second) = (first.start().await, second.start().await);
    for kind in ["info", "mod", "zip"] {
        let path = file(kind);
        first.get(&path).await.expect_status(200);
        first.stored(&path, &upstream.body(&path)).await;
        second.get(&path).await.expect_body(&upstream.body(&path));
        fetched(&upstream.path(&path), 1);
    }
    // A stop takes away what is its own, and nothing of the other's.
    first.restart().await.idle().await;
    let path = e2e::upstream::list_path(M);
    second.get(&path).await.expect_body(&upstream.body(&path));
}

// Each fetches for itself; who commits second finds the same bytes and is content.
// protocol: X03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetching_the_same_at_once_does_no_harm() {
    let upstream = upstream(1_000_000).await;
    let (first, second) = twins(&upstream);
    let store = first.store_dir();
    let (mut first, mut second) = (first.start().await, second.start().await);
    let zip = file("zip");
    let whole = upstream.body(&zip);
    let gate = upstream.path(&zip).hold_body_at(500_000);
    let herds = [first.addr(), second.addr()].map(|addr| {
        let target = zip.clone();
        tokio::spawn(async move { e2e::client::herd(addr, 20, &target).await })
    });
    gate.wait_arrivals(2).await;
    gate.release();
    for herd in herds {
        all_whole(&herd.await.unwrap(), &whole);
    }
    first.idle().await;
    second.idle().await;
    let mut results = Vec::new();
    for instance in [&first, &second] {
        for result in ["created", "exists_same", "conflict", "failed"] {
            let labels = [("result", result)];
            results.push(instance.metric("corral_commit_total", &labels).await);
        }
    }
    let sum = |at: usize| results[at] + results[at + 4];
    assert_eq!([sum(0), sum(1), sum(2), sum(3)], [1.0, 1.0, 0.0, 0.0]);
    fetched(&upstream.path(&zip), 2);

    // One dies in the middle of a fill; the other neither waits for it nor finds its remains.
    upstream.path(&file("mod")).hold_headers();
    let (addr, target) = (first.addr(), file("mod"));
    let cut = tokio::spawn(async move { e2e::client::get(addr, &target).await });
    e2e::wait::until("the fill has begun", e2e::wait::PATIENCE, async || {
        upstream.path(&file("mod")).requests() == 1
    })
    .await;
    first.kill9().await;
    assert!(!cut.await.unwrap().whole_success());
    upstream.path(&file("mod")).heal();
    second
        .get(&file("mod"))
        .await
        .expect_body(&upstream.body(&file("mod")));
    second.idle().await;
    second.terminate(e2e::wait::PATIENCE).await;
    no_strays(&store).await;
}
