//! The first request of a file: fetched once, streamed while it arrives, kept.

use std::time::Duration;

use e2e::client::Request;
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{FixtureModule, FixtureUpstream};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, all_whole, fetched, file, nothing_left_over, pair, upstream};

// acceptance: B3; protocol: D17
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_reach_clients_while_the_rest_is_still_held_upstream() {
    let (upstream, corral) = pair(1_000_000).await;
    let zip = file("zip");
    let path = upstream.path(&zip);
    let gate = path.hold_body_at(600_000);
    // Both clients get bytes although upstream has not finished: they leave after 400,000.
    let early = Request::get(&zip).stop_after(400_000).time_limit(PATIENCE);
    let (first, second) = tokio::join!(corral.send(&early), corral.send(&early));
    assert_eq!(
        (first.body_bytes, second.body_bytes),
        (400_000, 400_000),
        "{first:?}"
    );
    assert_eq!(gate.arrivals(), 1);
    let addr = corral.addr();
    let target = zip.clone();
    let late = tokio::spawn(async move { e2e::client::get(addr, &target).await });
    wait::until("the flight has a waiter again", PATIENCE, async || {
        !corral.flights().await.is_empty()
    })
    .await;
    gate.release();
    late.await.unwrap().expect_body(&upstream.body(&zip));
    fetched(&path, 1);
}

// acceptance: B2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_streaming_nobody_gets_a_byte_before_the_whole_is_there() {
    let upstream = upstream(1_000_000).await;
    let corral = Setup::before(&upstream)
        .set("fill.stream", "false")
        .start()
        .await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(900_000);
    let addr = corral.addr();
    let target = zip.clone();
    let herd = tokio::spawn(async move { e2e::client::herd(addr, 20, &target).await });
    gate.wait_arrivals(1).await;
    let brief = Request::get(&zip)
        .stop_after(1)
        .time_limit(Duration::from_millis(500));
    assert_eq!(corral.send(&brief).await.body_bytes, 0);
    gate.release();
    all_whole(&herd.await.unwrap(), &upstream.body(&zip));
    fetched(&upstream.path(&zip), 1);
}

// acceptance: G7; protocol: M02, M03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mod_file_neither_waits_for_its_zip_nor_costs_it() {
    let (upstream, corral) = pair(500_000).await;
    corral.get(&file("mod")).await.expect_status(200);
    corral.get(&file("info")).await.expect_status(200);
    fetched(&upstream.path(&file("zip")), 0);

    let gate = upstream.path(&file("zip")).hold_headers();
    let other = FixtureModule::new("example.com/n").version(V);
    upstream.add(&other);
    let (addr, zip) = (corral.addr(), file("zip"));
    let held = tokio::spawn(async move { e2e::client::get(addr, &zip).await });
    gate.wait_arrivals(1).await;
    corral
        .get(&other.file_path(V, "mod"))
        .await
        .expect_status(200);
    gate.release();
    held.await.unwrap().expect_status(200);
}

// protocol: D11, D12; fault: 31
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fill_goes_on_when_its_only_client_leaves() {
    let (upstream, corral) = pair(2_000_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(500_000);
    let left = corral.send(&Request::get(&zip).stop_after(100_000)).await;
    assert_eq!(left.body_bytes, 100_000);
    gate.release();
    corral.stored(&zip, &upstream.body(&zip)).await;
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    fetched(&upstream.path(&zip), 1);
    corral.idle().await;
    nothing_left_over(&corral).await;
    for gauge in ["flights", "flight_waiters", "spool_bytes", "connections"] {
        let name = format!("corral_{gauge}");
        wait::until(&format!("{name} is 0"), PATIENCE, async || {
            corral.metric(&name, &[]).await == 0.0
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_is_what_upstream_sent() {
    let (upstream, corral) = pair(300_000).await;
    for kind in ["info", "mod", "zip"] {
        corral
            .get(&file(kind))
            .await
            .expect_body(&upstream.body(&file(kind)));
        corral
            .stored(&file(kind), &upstream.body(&file(kind)))
            .await;
    }
    corral.idle().await;
    nothing_left_over(&corral).await;
}

// acceptance: F14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_zip_passes_through_in_flat_memory() {
    const BYTES: usize = 128 << 20;
    let upstream = upstream(BYTES).await;
    let corral = Setup::before(&upstream)
        .set("l1.bytes_max", "8MiB")
        .start()
        .await;
    let zip = file("zip");
    let before = corral.resident_bytes_max();
    // The first piece ends at an odd byte, as pieces do on a real network.
    upstream.path(&zip).hold_body_at(1_000_001).release();
    // Length only: hashing it three times over says nothing more in a debug build.
    let clients: Vec<_> = (0..2)
        .map(|_| tokio::spawn(length(corral.addr(), zip.clone())))
        .collect();
    let whole = upstream.body(&zip).len() as u64;
    for client in clients {
        assert_eq!(client.await.unwrap(), whole);
    }
    assert_eq!(length(corral.addr(), zip.clone()).await, whole);
    // The product keeps the first 32 MiB of a mapped file in memory on purpose.
    let grown = corral.resident_bytes_max().saturating_sub(before);
    assert!(
        grown < BYTES as u64 * 3 / 4,
        "resident memory grew by {} MiB",
        grown >> 20
    );
    fetched(&upstream.path(&zip), 1);
}

/// Bytes of body that a client gets, counted without looking at them.
async fn length(addr: std::net::SocketAddr, target: String) -> u64 {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut buffer = vec![0; 1 << 18];
    let mut head = Vec::new();
    let mut total = 0;
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        total += read as u64;
        if !head.windows(4).any(|window| window == b"\r\n\r\n") {
            head.extend_from_slice(&buffer[..read]);
        }
    }
    let end = head
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a response head");
    total - (end as u64 + 4)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_requests_say_who_asks_and_take_no_compression() {
    let (upstream, corral) = pair(2000).await;
    corral.get(&file("zip")).await.expect_status(200);
    let log = upstream.log();
    assert_eq!(log.len(), 1, "{log:?}");
    let via = log[0].header("via").unwrap_or_default();
    assert!(via.contains("corral/"), "Via: {via:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_comes_back_to_the_fleet_is_a_loop() {
    let upstream = FixtureUpstream::with([FixtureModule::new(M).version(V)]).await;
    let corral = Setup::before(&upstream)
        .set("fleet.id", "loop-test")
        .start()
        .await;
    let request = Request::get(file("mod")).header("Via", "1.1 corral/loop-test");
    corral.send(&request).await.expect_status(508);
    assert_eq!(upstream.requests(), 0);
    let request = Request::get(file("mod")).header("Via", "1.1 corral/another-fleet");
    corral.send(&request).await.expect_status(200);
}

// A list of upstreams: `,` goes on after 404 and 410 only, `|` after any error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_lists_fall_through_as_in_goproxy() {
    let full = upstream(2000).await;
    for (separator, status, expected) in [
        (',', 404, 200),
        (',', 410, 200),
        (',', 403, 403),
        (',', 500, 502),
        ('|', 500, 200),
    ] {
        let first = FixtureUpstream::start().await;
        let path = first.path(&file("mod"));
        path.always(e2e::upstream::Answer::status(status, "scripted\n"));
        let list = format!("{}{separator}{}", first.url(), full.url());
        let corral = Setup::new()
            .upstream(&list)
            .set("fill.retries", "0")
            .start()
            .await;
        let reply = corral.get(&file("mod")).await;
        assert_eq!(
            reply.status,
            expected,
            "{status} then {separator}: {}",
            reply.text()
        );
        assert!(path.requests() >= 1);
    }
}

// acceptance: B1, B18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tag_under_flood_costs_one_fetch_per_file() {
    let (upstream, corral) = pair(20_000).await;
    let gates: Vec<_> = ["info", "mod", "zip"]
        .map(|kind| upstream.path(&file(kind)).hold_headers())
        .into();
    let addr = corral.addr();
    let kinds = ["info", "mod", "zip"];
    let requests = (0..500).map(|i| Request::get(file(kinds[i % 3]))).collect();
    let herd = tokio::spawn(e2e::client::herd_of(addr, requests));
    for gate in &gates {
        gate.wait_arrivals(1).await;
    }
    flights_wait(&corral, 3).await;
    gates.iter().for_each(e2e::upstream::Gate::release);
    for (i, reply) in herd.await.unwrap().into_iter().enumerate() {
        reply.expect_body(&upstream.body(&file(kinds[i % 3])));
    }
    for kind in kinds {
        fetched(&upstream.path(&file(kind)), 1);
    }
}

async fn flights_wait(corral: &Corral, count: usize) {
    wait::until("all flights are listed", PATIENCE, async || {
        corral.flights().await.len() == count
    })
    .await;
}
