//! SIGKILL at the worst moments, and what is found afterwards.

use e2e::proxy::Setup;
use e2e::s3::S3Server;
use e2e::upstream::{FixtureModule, FixtureUpstream};

use crate::fixtures::{M, V, all_whole, fetched, file, nothing_left_over, pair, upstream};

// protocol: R02; fault: 3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_under_a_herd_shows_every_client_a_cut() {
    let (upstream, mut corral) = pair(1_500_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(1_000_000);
    let (addr, target) = (corral.addr(), zip.clone());
    let herd = tokio::spawn(async move { e2e::client::herd(addr, 30, &target).await });
    gate.wait_arrivals(1).await;
    corral.kill9().await;
    crate::fixtures::none_whole(&herd.await.unwrap());
    upstream.path(&zip).heal();
    let corral = corral.restart().await;
    all_whole(&corral.herd(30, &zip).await, &upstream.body(&zip));
    corral.stored(&zip, &upstream.body(&zip)).await;
    corral.idle().await;
    nothing_left_over(&corral).await;
    fetched(&upstream.path(&zip), 2);
}

// protocol: R05
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_while_storing_is_mended_after_the_restart() {
    let upstream = upstream(300_000).await;
    let s3 = S3Server::start().await;
    let mut setup = Setup::before(&upstream).storage(&s3.storage_url());
    for (name, value) in s3.env() {
        setup = setup.env(name, &value);
    }
    let mut corral = setup.start().await;
    let zip = file("zip");
    let gate = s3.hold_writes();
    // The client has its whole file while the write stands at the gate.
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    gate.wait_arrivals(1).await;
    corral.kill9().await;
    assert!(!s3.holds(&zip, &upstream.body(&zip)));
    s3.all_writes(None);
    gate.release();
    let corral = corral.restart().await;
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    e2e::wait::until("the zip is stored", e2e::wait::PATIENCE, async || {
        s3.holds(&zip, &upstream.body(&zip))
    })
    .await;
    assert!(upstream.path(&zip).requests() <= 2);
}

// Killed again and again during fills of many files: what is stored is whole.
// protocol: R02, R05
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_the_store_after_many_kills_is_whole() {
    const MODULES: usize = 12;
    let upstream = FixtureUpstream::start().await;
    let modules: Vec<_> = (0..MODULES)
        .map(|i| FixtureModule::new(&format!("{M}{i}")).version_sized(V, 150_000))
        .collect();
    modules.iter().for_each(|module| upstream.add(module));
    let paths: Vec<_> = modules
        .iter()
        .map(|module| module.file_path(V, "zip"))
        .collect();
    let mut corral = Setup::before(&upstream).start().await;
    for round in 0..4 {
        // Killed once a quarter more of the files has reached the store.
        let wanted = (round + 1) * MODULES / 5;
        let requests = paths.iter().map(e2e::client::Request::get).collect();
        let herd = tokio::spawn(e2e::client::herd_of(corral.addr(), requests));
        e2e::wait::until("some are stored", e2e::wait::PATIENCE, async || {
            paths
                .iter()
                .filter(|path| corral.store_path(path).exists())
                .count()
                >= wanted
        })
        .await;
        corral.kill9().await;
        for (reply, path) in herd.await.unwrap().into_iter().zip(&paths) {
            assert!(!reply.whole_success() || reply.body == upstream.body(path));
        }
        for path in &paths {
            if let Ok(stored) = std::fs::read(corral.store_path(path)) {
                assert!(
                    stored == upstream.body(path),
                    "{path} is stored, but not whole"
                );
            }
        }
        corral = corral.restart().await;
    }
    for path in &paths {
        corral.get(path).await.expect_body(&upstream.body(path));
    }
    corral.idle().await;
    nothing_left_over(&corral).await;
}
