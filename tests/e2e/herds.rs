//! Herds on one instance: protocol rows D01 to D22.

use std::time::{Duration, Instant};

use e2e::client::{self, Request};
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, file_path, latest_path, list_path};

use crate::fixtures::{
    M, V, all_whole, fetched, file, impatient, none_whole, nothing_left_over, pair, upstream,
};

const HERD: usize = 200;

// protocol: D01, D02, D03, D04, D05, D06, D08; acceptance: B1
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_costs_one_fetch_whatever_it_asks_for() {
    let module = FixtureModule::new(M)
        .version_sized(V, 50_000)
        .latest(V)
        .query("main", V);
    let upstream = FixtureUpstream::with([module]).await;
    let corral = Corral::before(&upstream).await;
    let branch = file_path(M, "main", "info");
    let paths = [
        file("zip"),
        list_path(M),
        latest_path(M),
        file("info"),
        file("mod"),
        branch,
    ];
    for path in paths {
        let gate = upstream.path(&path).hold_headers();
        let (addr, target) = (corral.addr(), path.clone());
        let herd = tokio::spawn(async move { client::herd(addr, HERD, &target).await });
        gate.wait_arrivals(1).await;
        gate.release();
        all_whole(&herd.await.unwrap(), &upstream.body(&path));
        fetched(&upstream.path(&path), 1);
        assert_eq!(corral.get(&path).await.status, 200);
        fetched(&upstream.path(&path), 1);
    }
}

// protocol: D07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mixed_herd_costs_one_fetch_per_file() {
    let (upstream, corral) = pair(50_000).await;
    let kinds = ["info", "mod", "zip"];
    let requests = (0..210).map(|i| Request::get(file(kinds[i % 3]))).collect();
    for (i, reply) in client::herd_of(corral.addr(), requests)
        .await
        .into_iter()
        .enumerate()
    {
        reply.expect_body(&upstream.body(&file(kinds[i % 3])));
    }
    for kind in kinds {
        fetched(&upstream.path(&file(kind)), 1);
    }
}

// protocol: D09, D10; fault: 31
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_client_leaves_and_the_rest_get_the_same_fetch() {
    let (upstream, corral) = pair(1_500_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(700_000);
    let leader = corral.send(&Request::get(&zip).stop_after(200_000)).await;
    assert_eq!(leader.body_bytes, 200_000);
    let (addr, target) = (corral.addr(), zip.clone());
    let rest = tokio::spawn(async move { client::herd(addr, 30, &target).await });
    gate.wait_arrivals(1).await;
    gate.release();
    all_whole(&rest.await.unwrap(), &upstream.body(&zip));
    fetched(&upstream.path(&zip), 1);
}

// protocol: D13, D14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_on_a_failing_upstream_is_told_together_and_in_time() {
    let upstream = upstream(2000).await;
    let corral = Corral::before(&upstream).await;
    upstream
        .path(&file("zip"))
        .always(Answer::status(500, "broken"));
    let started = Instant::now();
    let outcomes = corral.herd(100, &file("zip")).await;
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
    none_whole(&outcomes);
    assert!(
        outcomes
            .iter()
            .all(|o| o.finished && (502..=504).contains(&o.status))
    );
    let tries = upstream.path(&file("zip")).requests();
    assert!(tries <= 12, "{tries} tries");
    let last = outcomes.iter().map(|o| o.elapsed).max().unwrap();
    let first = outcomes.iter().map(|o| o.elapsed).min().unwrap();
    assert!(
        last - first < Duration::from_secs(2),
        "told between {first:?} and {last:?}"
    );
}

// protocol: D15; fault: 27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_on_a_missing_module_is_one_question() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    let outcomes = corral.herd(1000, &file("zip")).await;
    assert!(
        outcomes.iter().all(|o| o.finished && o.status == 404),
        "{:?}",
        outcomes[0]
    );
    fetched(&upstream.path(&file("zip")), 1);
}

// protocol: D17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_modules_are_filled_at_the_same_time() {
    const MODULES: usize = 64;
    let upstream = FixtureUpstream::start().await;
    let modules: Vec<_> = (0..MODULES)
        .map(|i| FixtureModule::new(&format!("example.com/many{i}")).version_sized(V, 20_000))
        .collect();
    modules.iter().for_each(|module| upstream.add(module));
    let paths: Vec<_> = modules
        .iter()
        .map(|module| module.file_path(V, "zip"))
        .collect();
    // All gates are reached before any opens, so no fill waits for another.
    let gates: Vec<_> = paths
        .iter()
        .map(|path| upstream.path(path).hold_headers())
        .collect();
    let corral = Corral::before(&upstream).await;
    let requests = paths.iter().map(Request::get).collect();
    let herd = tokio::spawn(client::herd_of(corral.addr(), requests));
    for gate in &gates {
        gate.wait_arrivals(1).await;
    }
    gates.iter().for_each(e2e::upstream::Gate::release);
    for (reply, path) in herd.await.unwrap().into_iter().zip(&paths) {
        reply.expect_body(&upstream.body(path));
    }
}

// protocol: D18; fault: 32
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_nobody() {
    let (upstream, corral) = pair(8_000_000).await;
    let zip = file("zip");
    let before = corral.resident_bytes_max();
    let addr = corral.addr();
    let crawl = Request::get(&zip)
        .hash_only()
        .read_rate(1000)
        .time_limit(Duration::from_secs(120));
    let slow: Vec<_> = (0..5)
        .map(|_| {
            let crawl = crawl.clone();
            tokio::spawn(async move { crawl.send(addr).await })
        })
        .collect();
    // Cold beside the slow ones, then warm beside them.
    for _ in 0..2 {
        let started = Instant::now();
        all_whole(&corral.herd(3, &zip).await, &upstream.body(&zip));
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{:?}",
            started.elapsed()
        );
    }
    assert!(
        slow.iter().all(|client| !client.is_finished()),
        "the slow ones still read"
    );
    corral.stored(&zip, &upstream.body(&zip)).await;
    fetched(&upstream.path(&zip), 1);
    let grown = corral.resident_bytes_max().saturating_sub(before);
    assert!(
        grown < 100 << 20,
        "resident memory grew by {} MiB",
        grown >> 20
    );
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}

// protocol: D19, D21; fault: 33
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_on_a_broken_zip_sees_it() {
    let upstream = upstream(1_000_000).await;
    let corral = impatient(&upstream).start().await;
    let zip = file("zip");
    // The archive's table of contents is broken: it is the last that arrives.
    let mut broken = upstream.body(&zip).to_vec();
    let offset_of_table = broken.len() - 6;
    broken[offset_of_table] ^= 0x55;
    upstream.path(&zip).always(Answer::Body {
        content_type: "application/zip".to_owned(),
        body: broken.into(),
    });
    let gate = upstream.path(&zip).hold_body_at(900_000);
    let (addr, target) = (corral.addr(), zip.clone());
    let herd = tokio::spawn(async move { client::herd(addr, 50, &target).await });
    gate.wait_arrivals(1).await;
    // Who comes after the failure may have the file: upstream is sound again.
    corral.boarded(50).await;
    upstream.path(&zip).heal();
    gate.release();
    none_whole(&herd.await.unwrap());
    corral.idle().await;
    // An operator reads of it once, not once for each client.
    let log = corral.log();
    let told = log
        .lines()
        .filter(|line| line.contains("ERROR") || line.contains("fetch failed"));
    assert_eq!(told.count(), 1, "{log}");
    all_whole(&corral.herd(50, &zip).await, &upstream.body(&zip));
    corral.stored(&zip, &upstream.body(&zip)).await;
    corral.idle().await;
    nothing_left_over(&corral).await;
}

// protocol: D22; fault: 2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arrivals_at_any_moment_get_it_whole() {
    let upstream = upstream(3_000_000).await;
    upstream.path(&file("zip")).bytes_per_second(6_000_000);
    let corral = Corral::before(&upstream).await;
    let zip = file("zip");
    let addr = corral.addr();
    // One client after the other, each released by the progress of the fill, until it is stored.
    let mut clients = Vec::new();
    let path = upstream.path(&zip);
    let mut seen = 0;
    loop {
        let target = zip.clone();
        clients.push(tokio::spawn(
            async move { client::herd(addr, 2, &target).await },
        ));
        let stored = corral.store_path(&zip).exists();
        if stored && clients.len() > 10 {
            break;
        }
        e2e::wait::until("the fill gets on", e2e::wait::PATIENCE, async || {
            path.body_bytes_sent() > seen + 100_000 || corral.store_path(&zip).exists()
        })
        .await;
        seen = path.body_bytes_sent();
    }
    for client in clients {
        all_whole(&client.await.unwrap(), &upstream.body(&zip));
    }
    fetched(&path, 1);
}

// acceptance: B3
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_waiter_gets_its_first_byte_long_before_the_end() {
    let upstream = upstream(4_000_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(2_000_000);
    let corral = Setup::before(&upstream).start().await;
    // Every one of them gets a megabyte while upstream stands at the gate.
    let early = Request::get(&zip).hash_only().stop_after(1_000_000);
    for reply in client::herd_of(corral.addr(), vec![early; 20]).await {
        assert_eq!(reply.body_bytes, 1_000_000, "{:?}", reply.ending);
    }
    gate.release();
    corral.stored(&zip, &upstream.body(&zip)).await;
    fetched(&upstream.path(&zip), 1);
}
