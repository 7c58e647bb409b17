//! The checksum database relayed through the upstream: protocol rows S01 to S10.

use e2e::client::Request;
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{Answer, FixtureUpstream};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{all_whole, fetched, is_own_trouble};

const DB: &str = "/sumdb/sum.golang.org";

/// An upstream that supports one database, with scripted bytes.
async fn database(base: &str) -> FixtureUpstream {
    let upstream = FixtureUpstream::start().await;
    let octets = "application/octet-stream";
    upstream.put(&format!("{base}/supported"), "text/plain", "");
    upstream.put(
        &format!("{base}/latest"),
        "text/plain",
        "go.sum database tree\n10\nabc=\n\n— x y\n",
    );
    upstream.put(
        &format!("{base}/lookup/example.com/!upper@v1.0.0"),
        "text/plain",
        "7\nexample.com/Upper v1.0.0 h1:abc=\nexample.com/Upper v1.0.0/go.mod h1:def=\n\ntree\n",
    );
    for tile in [
        "0/000",
        "0/001.p/7",
        "1/000",
        "0/x001/234",
        "data/000",
        "data/001.p/7",
    ] {
        let bytes: Vec<u8> = tile
            .bytes()
            .cycle()
            .take(2000)
            .chain([0, 0xff, 0xc3])
            .collect();
        upstream.put(&format!("{base}/tile/8/{tile}"), octets, bytes);
    }
    upstream
}

// protocol: S01, S03, S04, S08, S10; acceptance: F8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_is_relayed_byte_for_byte_and_fetched_once() {
    // A database's name may contain a path.
    for base in [DB, "/sumdb/db.example.com/team/a"] {
        let upstream = database(base).await;
        let corral = Corral::before(&upstream).await;
        corral
            .get(&format!("{base}/supported"))
            .await
            .expect_status(200);
        let immutable = [
            "lookup/example.com/!upper@v1.0.0",
            "tile/8/0/000",
            "tile/8/0/001.p/7",
            "tile/8/1/000",
            "tile/8/0/x001/234",
            "tile/8/data/000",
            "tile/8/data/001.p/7",
        ];
        for name in immutable {
            let path = format!("{base}/{name}");
            for _ in 0..3 {
                corral.get(&path).await.expect_body(&upstream.body(&path));
            }
            fetched(&upstream.path(&path), 1);
            // The go command sends `!` as %21.
            corral
                .get(&path.replace('!', "%21"))
                .await
                .expect_body(&upstream.body(&path));
            fetched(&upstream.path(&path), 1);
        }
        let latest = format!("{base}/latest");
        corral
            .get(&latest)
            .await
            .expect_body(&upstream.body(&latest));
    }
}

// protocol: S02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_database_is_404_on_every_path() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    let names = [
        "supported",
        "latest",
        "lookup/example.com/m@v1.0.0",
        "tile/8/0/000",
    ];
    for name in names {
        let reply = corral
            .get(&format!("/sumdb/other.example.com/{name}"))
            .await;
        assert!(
            [404, 410].contains(&reply.status),
            "{name}: {}",
            reply.status
        );
    }
}

// protocol: S02, S06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn supported_tells_failure_from_absence() {
    let upstream = database(DB).await;
    let path = format!("{DB}/supported");
    upstream.path(&path).always(Answer::status(500, "broken"));
    let corral = Setup::before(&upstream)
        .set("fill.retries", "0")
        .start()
        .await;
    let reply = corral.get(&path).await;
    assert!(reply.status >= 500, "{}", reply.status);
}

// protocol: S05
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_partial_tile_is_not_pinned() {
    let upstream = database(DB).await;
    let setup = Setup::before(&upstream).set("negative.ttl", "200ms");
    let corral = setup.start().await;
    let path = format!("{DB}/tile/8/0/002.p/9");
    corral.get(&path).await.expect_status(404);
    // The client retries with the full tile.
    let full = format!("{DB}/tile/8/0/000");
    corral.get(&full).await.expect_body(&upstream.body(&full));
    upstream.put(&path, "application/octet-stream", "nine hashes");
    wait::until("the tile is seen", PATIENCE, async || {
        corral.get(&path).await.status == 200
    })
    .await;
}

// protocol: S06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_the_database_stay_failures() {
    let upstream = database(DB).await;
    let setup = Setup::before(&upstream)
        .set("fill.retries", "0")
        .set("failure.ttl", "0s");
    let corral = setup.start().await;
    for name in ["latest", "lookup/example.com/!upper@v1.0.0", "tile/8/0/000"] {
        let path = format!("{DB}/{name}");
        for answer in [Answer::status(500, "broken"), Answer::TruncateAt(3)] {
            upstream.path(&path).heal().always(answer);
            is_own_trouble(&corral.get(&path).await);
        }
        upstream.path(&path).heal();
        corral.get(&path).await.expect_body(&upstream.body(&path));
    }
}

// protocol: S07
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_paths_are_refused() {
    let upstream = database(DB).await;
    let corral = Corral::before(&upstream).await;
    let before = upstream.requests();
    for name in [
        "",
        "other",
        "supported/x",
        "latest/x",
        "lookup/",
        "lookup/example.com/m",
        "lookup/example.com/Upper@v1.0.0",
        "tile/8/0/",
        "tile/8/0/12",
        "tile/8/0/x001",
        "tile/99999/0/000",
        "tile/8/0/000.p/0",
        "tile/8/0/000.p/256",
        "tile/8/0/../../latest",
    ] {
        let reply = corral.get(&format!("{DB}/{name}")).await;
        assert!(
            (300..500).contains(&reply.status),
            "{name}: {}",
            reply.status
        );
    }
    // At most the question whether the database is supported was passed on.
    assert!(upstream.requests() - before <= 1, "{:?}", upstream.log());
    let post = corral
        .send(&Request::new("POST", format!("{DB}/latest")))
        .await;
    assert_eq!(post.status, 405);
}

// protocol: S09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_lookups_at_once_are_one() {
    let upstream = database(DB).await;
    let corral = Corral::before(&upstream).await;
    let path = format!("{DB}/lookup/example.com/!upper@v1.0.0");
    let gate = upstream.path(&path).hold_headers();
    let (addr, target) = (corral.addr(), path.clone());
    let herd = tokio::spawn(async move { e2e::client::herd(addr, 100, &target).await });
    gate.wait_arrivals(1).await;
    gate.release();
    all_whole(&herd.await.unwrap(), &upstream.body(&path));
    fetched(&upstream.path(&path), 1);
}
