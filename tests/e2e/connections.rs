//! Connections: requests of every sort share one, and it does not matter who answers which.

use std::time::Duration;

use e2e::client::{Connection, Reply, Request};
use e2e::upstream::list_path;
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, fetched, file, pair};

/// A field that no hit is answered otherwise for, but that not every part of corral knows.
const UNKNOWN: (&str, &str) = ("Some-Field", "x");

fn said(reply: &Reply) -> Vec<(String, String)> {
    let mut said = reply.headers.clone();
    said.retain(|(name, _)| name != "date");
    said.sort();
    said
}

async fn open(corral: &e2e::proxy::Corral) -> Connection {
    Connection::open(corral.addr()).await.unwrap()
}

// protocol: H02, H03, H09; acceptance: F18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_is_the_same_whoever_answers_it() {
    let (upstream, corral) = pair(5_000).await;
    let mut connection = open(&corral).await;
    for path in ["info", "mod", "zip"].map(file) {
        let plain = Request::get(&path);
        wait::until("it is in memory", PATIENCE, async || {
            let reply = connection.send(&plain).await.expect_status(200);
            reply.header("cache-status").unwrap().contains("memory")
        })
        .await;
        let mut answers = Vec::new();
        for request in [
            plain.clone(),
            plain.clone().header(UNKNOWN.0, UNKNOWN.1),
            plain.clone().header("X-Forwarded-For", "10.0.0.1"),
            plain.clone().header("Connection", "keep-alive"),
            plain,
        ] {
            let reply = connection.send(&request).await;
            let reply = reply.expect_body(&upstream.body(&path));
            assert!(reply.header("etag").is_some(), "{path}");
            assert!(reply.header("date").is_some(), "{path}");
            answers.push(said(&reply));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{path}: {answers:#?}");
        fetched(&upstream.path(&path), 1);
    }
}

// protocol: H01, H05, H07, H13; acceptance: F18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_every_sort_are_answered_in_order() {
    let (upstream, corral) = pair(200_000).await;
    let mut connection = open(&corral).await;
    let (info, zip, list) = (file("info"), file("zip"), list_path(M));
    let first = connection.send(&Request::get(&info)).await;
    let tag = first.expect_status(200).header("etag").unwrap().to_owned();
    let (hit, body) = (Request::get(&info), upstream.body(&info));
    let range = Request::get(&info).header("Range", "bytes=1-3");
    let validated = Request::get(&info).header("If-None-Match", &tag);
    let asked = [
        (hit.clone(), 200, &body[..]),
        (Request::new("HEAD", &info), 200, &[]),
        (hit.clone(), 200, &body[..]),
        (range, 206, &body[1..4]),
        (hit.clone(), 200, &body[..]),
        (validated, 304, &[]),
        (Request::get(&zip), 200, &upstream.body(&zip)[..]),
        (hit.clone(), 200, &body[..]),
        (Request::get(&list), 200, &upstream.body(&list)[..]),
        (hit.clone(), 200, &body[..]),
        (hit, 200, &body[..]),
    ];
    // Each by itself, and all in one write.
    for (request, status, body) in &asked {
        let reply = connection.send(request).await.expect_status(*status);
        assert_eq!(&reply.body[..], *body, "{request:?}");
    }
    let wire: Vec<u8> = asked
        .iter()
        .flat_map(|(request, ..)| request.bytes())
        .collect();
    connection.write(&wire).await.unwrap();
    for (request, status, body) in &asked {
        let reply = connection.read_reply(request).await;
        assert_eq!(&reply.expect_status(*status).body[..], *body, "{request:?}");
    }
    fetched(&upstream.path(&zip), 1);
}

// protocol: H13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_may_come_in_pieces() {
    let (upstream, corral) = pair(5_000).await;
    let mut connection = open(&corral).await;
    let request = Request::get(file("mod"));
    let body = upstream.body(&file("mod"));
    for _ in 0..2 {
        connection.send(&request).await.expect_body(&body);
    }
    for _ in 0..2 {
        for byte in request.bytes() {
            connection.write(&[byte]).await.unwrap();
        }
        connection.read_reply(&request).await.expect_body(&body);
    }
    connection.send(&request).await.expect_body(&body);
    // A head that is longer than most.
    let long = request.header("X-Long", &"x".repeat(6_000));
    connection.send(&long).await.expect_body(&body);
}

// protocol: D18; fault: 32
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hits_wait_for_a_client_that_reads_late() {
    // More than all buffers between us take.
    const COUNT: usize = 400;
    let (upstream, corral) = pair(60_000).await;
    let mut connection = open(&corral).await;
    let zip = file("zip");
    let (request, body) = (Request::get(&zip), upstream.body(&zip));
    for _ in 0..2 {
        connection.send(&request).await.expect_body(&body);
    }
    connection
        .write(&request.bytes().repeat(COUNT))
        .await
        .unwrap();
    // Others are served meanwhile, by the same workers.
    for _ in 0..20 {
        corral.get(&zip).await.expect_body(&body);
    }
    for _ in 0..COUNT {
        connection.read_reply(&request).await.expect_body(&body);
    }
}

// protocol: Z02; acceptance: F14, F18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_hits_follow_each_other() {
    let (upstream, corral) = pair(3_000_000).await;
    let mut connection = open(&corral).await;
    let (zip, go_mod) = (Request::get(file("zip")), Request::get(file("mod")));
    let asked = [&zip, &go_mod, &zip, &zip, &go_mod];
    // Cold, from the store, from memory.
    for _ in 0..3 {
        let wire: Vec<u8> = asked.iter().flat_map(|request| request.bytes()).collect();
        connection.write(&wire).await.unwrap();
        for request in asked {
            let body = upstream.body(request.target());
            connection.read_reply(request).await.expect_body(&body);
        }
    }
    fetched(&upstream.path(&file("zip")), 1);
}

// fault: 33
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hit_whose_file_somebody_cuts_is_never_a_whole_answer() {
    let (upstream, corral) = pair(3_000_000).await;
    let zip = file("zip");
    let body = upstream.body(&zip);
    let mut connection = open(&corral).await;
    wait::until("it is in memory", PATIENCE, async || {
        let reply = connection.send(&Request::get(&zip)).await;
        reply.header("cache-status").unwrap().contains("memory")
    })
    .await;
    let stored = std::fs::OpenOptions::new()
        .write(true)
        .open(corral.store_path(&zip));
    stored.unwrap().set_len(1_000_000).unwrap();
    let cut = connection.send(&Request::get(&zip)).await;
    assert!(
        !cut.complete() && cut.body_bytes <= 1_000_000,
        "{:?}",
        cut.ending
    );
    assert_eq!(cut.body, body[..cut.body.len()]);
    corral.get(&file("mod")).await.expect_status(200);
    assert!(corral.log().contains("an answer was cut"));
}

// acceptance: B12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_reset_leaves_its_seat() {
    let (upstream, corral) = pair(5_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_headers();
    let (mut stays, mut goes) = (open(&corral).await, open(&corral).await);
    let request = Request::get(&zip);
    for connection in [&mut stays, &mut goes] {
        // Not its first request, for one of the two.
        connection
            .send(&Request::get(file("mod")))
            .await
            .expect_status(200);
        connection.write(&request.bytes()).await.unwrap();
    }
    corral.boarded(2).await;
    goes.reset();
    corral.boarded(1).await;
    gate.release();
    stays
        .read_reply(&request)
        .await
        .expect_body(&upstream.body(&zip));
}

// protocol: R04, H13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_answers_in_order_or_not_at_all() {
    let (upstream, corral) = pair(500_000).await;
    let (go_mod, zip) = (Request::get(file("mod")), Request::get(file("zip")));
    let mut connection = open(&corral).await;
    for _ in 0..2 {
        connection.send(&go_mod).await.expect_status(200);
    }
    let gate = upstream.path(&file("zip")).hold_body_at(200_000);
    let head = Request::new("HEAD", file("info"));
    let asked = [zip.bytes(), head.bytes(), go_mod.bytes()].concat();
    connection.write(&asked).await.unwrap();
    gate.wait_arrivals(1).await;
    corral.boarded(1).await;
    corral.ask_to_stop();
    wait::until("it drains", PATIENCE, async || {
        corral.admin("/readyz").await.status == 503
    })
    .await;
    // New connections are refused once its workers know.
    wait::until("it takes no more", PATIENCE, async || {
        Connection::open(corral.addr()).await.is_err()
    })
    .await;
    gate.release();
    let body = upstream.body(&file("zip"));
    connection.read_reply(&zip).await.expect_body(&body);
    assert!(
        connection.closed_within(PATIENCE).await,
        "another answer came"
    );
}

// protocol: H13; acceptance: F18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_without_a_host_is_refused_warm_and_cold() {
    let (_upstream, corral) = pair(5_000).await;
    let plain = Request::get(file("mod"));
    for _ in 0..3 {
        for wire in [
            format!("GET {} HTTP/1.1\r\n\r\n", plain.target()),
            format!(
                "GET {} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
                plain.target()
            ),
        ] {
            let mut connection = open(&corral).await;
            connection.write(wire.as_bytes()).await.unwrap();
            connection.read_reply(&plain).await.expect_status(400);
        }
        let mut connection = open(&corral).await;
        for _ in 0..2 {
            connection.send(&plain).await.expect_status(200);
            // One line end too many is none of the next request's.
            connection.write(b"\r\n").await.unwrap();
        }
    }
}

// protocol: R04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_closes_connections_between_requests() {
    let (_upstream, mut corral) = pair(5_000).await;
    let mut used = open(&corral).await;
    for kind in ["mod", "mod", "zip", "mod"] {
        used.send(&Request::get(file(kind)))
            .await
            .expect_status(200);
    }
    let mut unused = open(&corral).await;
    corral.ask_to_stop();
    for connection in [&mut used, &mut unused] {
        assert!(connection.closed_within(PATIENCE).await);
    }
    let status = corral.ended(Duration::from_secs(15)).await;
    assert!(status.success(), "{status:?}");
}
