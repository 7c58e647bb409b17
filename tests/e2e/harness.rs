//! The harness itself: what the other tests rely on is shown here, without the binary.

use std::time::{Duration, Instant};

use e2e::client::{self, Connection, Ending, Request, sha256};
use e2e::go::Go;
use e2e::stores::BreakableStore;
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, FixtureVersion, file_path};

const M: &str = "example.com/m";

async fn fixture(zip_bytes: usize) -> (FixtureUpstream, String) {
    let module = FixtureModule::new(M).version_sized("v1.0.0", zip_bytes);
    (
        FixtureUpstream::with([module]).await,
        file_path(M, "v1.0.0", "zip"),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_break_is_seen_as_a_cut_and_plain_answers_are_whole() {
    let (upstream, zip) = fixture(300_000).await;
    let whole = upstream.body(&zip);
    let path = upstream.path(&zip);
    for answer in [
        Answer::TruncateAt(100_000),
        Answer::TruncateChunkedAt(100_000),
        Answer::ResetAt(100_000),
        Answer::ResetBeforeHeaders,
        Answer::CloseBeforeHeaders,
    ] {
        path.next(1, answer.clone());
        let reply = client::get(upstream.addr(), &zip).await;
        assert!(
            matches!(reply.ending, Ending::Cut(_)),
            "{answer:?} gave {:?}",
            reply.ending
        );
    }
    for answer in [Answer::Silent, Answer::StallAt(100_000)] {
        path.next(1, answer.clone());
        let request = Request::get(&zip).time_limit(Duration::from_millis(300));
        let reply = request.send(upstream.addr()).await;
        assert_eq!(reply.ending, Ending::TimedOut, "{answer:?}");
    }
    for answer in [Answer::Plain, Answer::Chunked] {
        path.next(1, answer);
        client::get(upstream.addr(), &zip).await.expect_body(&whole);
    }
    path.next(1, Answer::Corrupt);
    let corrupt = client::get(upstream.addr(), &zip).await.expect_status(200);
    assert_eq!(corrupt.body_bytes as usize, whole.len());
    assert_ne!(corrupt.body, whole);
    client::get(upstream.addr(), "/example.com/none/@v/list")
        .await
        .expect_status(404);
    assert_eq!(path.requests(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bandwidth_is_limited_to_five_percent_exactly() {
    let (upstream, zip) = fixture(2_500_000).await;
    upstream.path(&zip).bytes_per_second(5_000_000);
    // Other tests may take the processor away, which only slows it down: the limit is never
    // exceeded, and reached as soon as one run is left in peace.
    let mut rates = Vec::new();
    while rates.len() < 20 && rates.iter().all(|rate| *rate < 4.75e6) {
        let started = Instant::now();
        let len = drain(&upstream, &zip).await;
        rates.push(len as f64 / started.elapsed().as_secs_f64());
    }
    assert!(rates.iter().all(|rate| *rate < 5.25e6), "{rates:?}");
    assert!(rates.iter().any(|rate| *rate > 4.75e6), "{rates:?}");
}

/// Reads an answer without hashing it, because a debug build may hash slower than it arrives.
async fn drain(upstream: &FixtureUpstream, target: &str) -> usize {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(upstream.addr())
        .await
        .expect("connects");
    let request = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut buffer = vec![0; 1 << 20];
    let mut len = 0;
    loop {
        match stream.read(&mut buffer).await.expect("reads") {
            0 => return len,
            read => len += read,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gates_hold_and_counts_count() {
    let (upstream, zip) = fixture(200_000).await;
    let path = upstream.path(&zip);
    let gate = path.hold_body_at(50_000);
    let addr = upstream.addr();
    let target = zip.clone();
    let herd = tokio::spawn(async move { client::herd(addr, 20, &target).await });
    gate.wait_arrivals(20).await;
    assert_eq!(
        (path.running(), path.running_max(), path.body_bytes_sent()),
        (20, 20, 1_000_000)
    );
    gate.release();
    for outcome in herd.await.expect("the herd returns") {
        assert!(outcome.finished && outcome.sha256 == sha256(&upstream.body(&zip)));
        assert!(outcome.ttfb.is_some());
    }
    assert_eq!((path.requests(), path.running()), (20, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_upstream_refuses_and_comes_back_on_its_port() {
    let (upstream, zip) = fixture(1000).await;
    let mut kept = Connection::open(upstream.addr()).await.expect("connects");
    kept.send(&Request::get(&zip)).await.expect_status(200);
    upstream.stop();
    assert!(kept.closed_within(Duration::from_secs(5)).await);
    assert_eq!(client::get(upstream.addr(), &zip).await.status, 0);
    upstream.resume().await;
    client::get(upstream.addr(), &zip).await.expect_status(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_of_thousands_is_served() {
    let (upstream, zip) = fixture(1000).await;
    let outcomes = client::herd(upstream.addr(), 3000, &zip).await;
    let failed = outcomes
        .iter()
        .find(|outcome| !outcome.finished || outcome.status != 200);
    assert!(failed.is_none(), "{failed:?}");
    assert_eq!(upstream.connections(), 3000);
}

// The generated modules are real ones: `go` downloads, verifies and builds them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_accepts_the_fixtures() {
    let upstream = FixtureUpstream::with([
        FixtureModule::new("example.com/Upper/lib")
            .with(FixtureVersion::new("v1.1.0").requires("example.com/old", "v2.0.0+incompatible"))
            .query("main", "v1.1.0"),
        FixtureModule::new("example.com/old").version("v2.0.0+incompatible"),
        FixtureModule::new("example.com/lib/v2")
            .with(FixtureVersion::new("v2.0.1-0.20240203040506-0123456789ab")),
    ])
    .await;
    let go = Go::new(&upstream.url());
    go.write_main(&["example.com/Upper/lib", "example.com/lib/v2"]);
    let pseudo = "example.com/lib/v2@v2.0.1-0.20240203040506-0123456789ab";
    go.run(&["get", "example.com/Upper/lib@main", pseudo])
        .await
        .expect_success();
    go.run(&["build", "./..."]).await.expect_success();
    assert_eq!(
        go.downloaded()
            .iter()
            .filter(|path| path.ends_with(".zip"))
            .count(),
        3
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gzip_and_redirects_are_what_they_say() {
    let (upstream, zip) = fixture(1000).await;
    upstream
        .path("/elsewhere")
        .always(Answer::Redirect(zip.clone()));
    let reply = client::get(upstream.addr(), "/elsewhere")
        .await
        .expect_status(302);
    assert_eq!(reply.header("location"), Some(zip.as_str()));
    upstream.path(&zip).next(1, Answer::Gzip);
    let reply = client::get(upstream.addr(), &zip).await.expect_status(200);
    assert_eq!(reply.header("content-encoding"), Some("gzip"));
    assert_eq!(reply.body[..2], [0x1f, 0x8b]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_served_for_the_same_validator_only() {
    let (upstream, zip) = fixture(10_000).await;
    let whole = upstream.body(&zip);
    upstream.path(&zip).etag("\"one\"");
    let asked = |validator: &str| {
        let request = Request::get(&zip).header("Range", "bytes=4000-");
        let addr = upstream.addr();
        let request = request.header("If-Range", validator);
        async move { request.send(addr).await }
    };
    let part = asked("\"one\"").await.expect_status(206);
    assert_eq!(part.body, whole[4000..]);
    let range = format!("bytes 4000-{}/{}", whole.len() - 1, whole.len());
    assert_eq!(part.header("content-range"), Some(range.as_str()));
    asked("\"two\"").await.expect_body(&whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_weather_is_everywhere_but_where_something_is_scripted() {
    let (upstream, zip) = fixture(1000).await;
    let other = file_path(M, "v1.0.0", "mod");
    upstream.path(&zip).next(1, Answer::Plain);
    upstream.everywhere(Some(Answer::status(503, "closed")));
    for (path, status) in [(&zip, 200), (&zip, 503), (&other, 503)] {
        let reply = client::get(upstream.addr(), path).await;
        reply.expect_status(status);
    }
    upstream.everywhere(None);
    client::get(upstream.addr(), &other)
        .await
        .expect_status(200);
}

#[test]
fn a_folder_breaks_and_heals_with_all_that_it_held() {
    let store = BreakableStore::folder();
    let root = std::path::PathBuf::from(store.url().trim_start_matches("file://").to_owned());
    let held = "/example.com/m/@v/v1.0.0.mod";
    let refused = "/example.com/other/@v/v1.0.0.mod";
    let write = |path: &str| {
        let file = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().expect("a folder"))?;
        std::fs::write(file, path)
    };
    write(held).expect("it works");
    store.refuse_writes([held, refused]);
    assert!(write(refused).is_err());
    write(held).expect("what is stored is not in the way");
    store.vanish();
    assert!(std::fs::read_dir(&root).is_err());
    assert!(store.holds(held, held.as_bytes()) && !store.holds(refused, refused.as_bytes()));
    store.heal();
    assert!(store.holds(held, held.as_bytes()));
    write(refused).expect("it works again");
}
