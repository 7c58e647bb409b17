//! The admin listener: health, metrics, what is going on, and who may act.

use std::time::Duration;

use e2e::client::Request;
use e2e::proxy::{Corral, Setup};
use e2e::s3::S3Server;
use e2e::upstream::{Answer, latest_path, list_path};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, all_whole, fetched, file, pair, upstream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_readiness_answer() {
    let (upstream, corral) = pair(2000).await;
    for path in ["/healthz", "/readyz"] {
        corral.admin(path).await.expect_status(200);
        // The proxy listener has no such paths.
        corral.get(path).await.expect_status(404);
    }
    assert_eq!(upstream.requests(), 0);
}

// acceptance: E10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_counter_is_there_from_the_start() {
    let (_upstream, corral) = pair(2000).await;
    let metrics = corral.metrics().await;
    let names = [
        "corral_requests_total",
        "corral_responses_total",
        "corral_connections",
        "corral_fills_total",
        "corral_upstream_fetches_total",
        "corral_flights",
        "corral_flight_waiters",
        "corral_flight_ttfb_seconds_count",
        "corral_lease_acquire_total",
        "corral_lease_hold_seconds_count",
        "corral_lease_lost_total",
        "corral_lease_wake_total",
        "corral_limit_reached_total",
        "corral_lru_bytes",
        "corral_lru_eviction_total",
        "corral_lru_oversized_total",
        "corral_reval_queue_depth",
        "corral_reval_dropped_total",
        "corral_stale_if_error_total",
        "corral_commit_total",
        "corral_spool_bytes",
    ];
    let missing: Vec<_> = names
        .iter()
        .filter(|name| metrics.sum(name, &[]).is_none())
        .collect();
    assert!(
        missing.is_empty(),
        "missing {missing:?} in {:?}",
        metrics.names()
    );
    for name in names.iter().filter(|name| name.ends_with("_total")) {
        assert_eq!(metrics.sum(name, &[]), Some(0.0), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_count() {
    let (_upstream, corral) = pair(2000).await;
    corral.get(&file("mod")).await.expect_status(200);
    corral.get(&file("mod")).await.expect_status(200);
    corral.idle().await;
    assert_eq!(corral.metric("corral_requests_total", &[]).await, 2.0);
    assert_eq!(corral.metric("corral_fills_total", &[]).await, 1.0);
    assert_eq!(
        corral.metric("corral_upstream_fetches_total", &[]).await,
        1.0
    );
    assert_eq!(corral.metric("corral_commit_total", &[]).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flight_is_listed_while_it_lasts() {
    let upstream = upstream(1_000_000).await;
    let corral = Corral::before(&upstream).await;
    assert!(corral.flights().await.is_empty());
    let gate = upstream.path(&file("zip")).hold_body_at(500_000);
    let addr = corral.addr();
    let zip = file("zip");
    let herd = tokio::spawn(async move { e2e::client::herd(addr, 5, &zip).await });
    gate.wait_arrivals(1).await;
    wait::until("the flight shows bytes and waiters", PATIENCE, async || {
        let flights = corral.flights().await;
        flights.len() == 1
            && flights[0]["bytes"].as_u64() == Some(500_000)
            && flights[0]["waiters"].as_u64() == Some(5)
    })
    .await;
    let flight = corral.flights().await.remove(0);
    assert!(flight["unit"].as_str().unwrap().contains(M), "{flight}");
    assert_eq!(flight["phase"], "fetching", "{flight}");
    assert_eq!(flight["attempts"], 1, "{flight}");
    assert_eq!(flight["upstream"], upstream.url(), "{flight}");
    let len = upstream.body(&file("zip")).len();
    assert_eq!(flight["total"], len, "{flight}");
    assert_eq!(corral.metric("corral_flights", &[]).await, 1.0);
    assert_eq!(corral.metric("corral_flight_waiters", &[]).await, 5.0);
    gate.release();
    all_whole(&herd.await.unwrap(), &upstream.body(&file("zip")));
    corral.idle().await;
    assert_eq!(corral.metric("corral_flights", &[]).await, 0.0);
}

// acceptance: B4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_takes_its_steps_in_order() {
    let upstream = upstream(400_000).await;
    let s3 = S3Server::start().await;
    let corral = crate::storage::on_s3(&upstream, &s3).start().await;
    let zip = file("zip");
    let fetching = upstream.path(&zip).hold_headers();
    let committing = s3.hold_writes();
    let phase = async || match corral.flights().await.as_slice() {
        [] => None,
        [flight] => Some(flight["phase"].as_str().unwrap().to_owned()),
        more => panic!("one unit, several flights: {more:?}"),
    };
    let count = async |name: &str| corral.metric(name, &[]).await;
    let granted = [("result", "granted")];

    // The store is asked, then the lease is taken, then upstream is asked.
    let looks = s3.requests();
    let (addr, target) = (corral.addr(), zip.clone());
    let client = tokio::spawn(async move { e2e::client::get(addr, &target).await });
    fetching.wait_arrivals(1).await;
    assert!(s3.requests() > looks, "the store was not asked first");
    assert_eq!(phase().await.as_deref(), Some("fetching"));
    assert_eq!(
        corral.metric("corral_lease_acquire_total", &granted).await,
        1.0
    );
    assert_eq!(count("corral_lease_release_total").await, 0.0);

    // The client has all of it before the store has.
    fetching.release();
    let reply = client.await.unwrap();
    reply.expect_body(&upstream.body(&zip));
    committing.wait_arrivals(1).await;
    assert_eq!(phase().await.as_deref(), Some("committing"));
    assert_eq!(count("corral_commit_total").await, 0.0);
    assert_eq!(count("corral_lease_release_total").await, 0.0);

    // The lease is given back behind the commit.
    committing.release();
    corral.idle().await;
    assert_eq!(
        corral
            .metric("corral_commit_total", &[("result", "created")])
            .await,
        1.0
    );
    wait::until("the lease is released", PATIENCE, async || {
        let released = [("result", "released")];
        corral.metric("corral_lease_release_total", &released).await == 1.0
    })
    .await;
    // Afterwards the store answers, and nobody asks for a lease.
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    assert_eq!(count("corral_lease_acquire_total").await, 1.0);
    fetched(&upstream.path(&zip), 1);
}

// acceptance: B5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_is_renewed_for_as_long_as_its_fill_runs() {
    let upstream = upstream(400_000).await;
    let setup = Setup::before(&upstream).set("lease.ttl", "1s");
    let corral = setup.start().await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(200_000);
    let (addr, target) = (corral.addr(), zip.clone());
    let client = tokio::spawn(async move { e2e::client::get(addr, &target).await });
    gate.wait_arrivals(1).await;
    // Two and a half lives of an abandoned lease.
    let lost = wait::holds_within(Duration::from_millis(2500), async || {
        corral.metric("corral_lease_lost_total", &[]).await > 0.0
    });
    assert!(!lost.await, "the lease of a running fill was lost");
    gate.release();
    let reply = client.await.unwrap();
    reply.expect_body(&upstream.body(&zip));
    wait::until("the lease is released", PATIENCE, async || {
        let released = [("result", "released")];
        corral.metric("corral_lease_release_total", &released).await == 1.0
    })
    .await;
    let held = corral.metric("corral_lease_hold_seconds_sum", &[]).await;
    assert!(held >= 2.5, "held for {held} s");
    fetched(&upstream.path(&zip), 1);
}

// acceptance: A21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_action_changes_nothing() {
    let (upstream, corral) = pair(2000).await;
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
    let whole = e2e::proxy::files_under(&corral.setup().store_dir());
    for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE"] {
        for path in &paths {
            corral
                .send(&Request::new(method, path).body("x"))
                .await
                .expect_status(405);
        }
        // As a web page could send it to the operator's listener, and under a name of its own.
        let target = format!("/admin/v1/modules/{}", M.replace('/', "%2F"));
        let form = Request::new(method, &target)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body("x=1");
        for attempt in [form.clone(), form.header("Host", "evil.example.com")] {
            let reply = attempt.send(corral.admin_addr()).await;
            assert!((400..500).contains(&reply.status), "{}", reply.status);
            assert_eq!(reply.header("access-control-allow-origin"), None);
        }
    }
    for path in &paths {
        let reply = corral.get(path).await.expect_body(&upstream.body(path));
        let status = reply.header("cache-status").unwrap_or_default();
        assert!(status.contains("hit"), "{path}: {status}");
        fetched(&upstream.path(path), 1);
    }
    let after = e2e::proxy::files_under(&corral.setup().store_dir());
    assert_eq!(after, whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_host_name_is_refused() {
    let (_upstream, corral) = pair(2000).await;
    let foreign = Request::get("/admin/v1/flights").header("Host", "evil.example.com");
    let reply = foreign.send(corral.admin_addr()).await;
    assert!((400..500).contains(&reply.status), "{}", reply.status);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_it_closes() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream);
    let token_file = setup.home().join("token");
    std::fs::write(&token_file, "s3cret-token\n").unwrap();
    let corral = setup
        .set("admin.token_file", token_file.to_str().unwrap())
        .start()
        .await;
    for path in ["/metrics", "/admin/v1/flights", "/admin/v1/instance"] {
        let ask = async |token: &str| {
            let authorization = format!("Bearer {token}");
            let request = Request::get(path).header("Authorization", &authorization);
            request.send(corral.admin_addr()).await
        };
        corral.admin(path).await.expect_status(401);
        ask("s3cret-toke").await.expect_status(401);
        ask("").await.expect_status(401);
        let answer = ask("s3cret-token").await.expect_status(200);
        assert!(!answer.text().contains("s3cret"), "{}", answer.text());
    }
    // Probes have no token, and modules need none.
    corral.admin("/healthz").await.expect_status(200);
    corral.admin("/readyz").await.expect_status(200);
    corral.get(&file("mod")).await.expect_status(200);
    assert!(!corral.log().contains("s3cret"), "{}", corral.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_token_other_machines_get_probes_only() {
    let setup = Setup::new().upstream("http://127.0.0.1:9");
    let mut args = setup.command_line();
    let at = args.iter().position(|arg| arg == "--admin-listen").unwrap();
    args[at + 1] = "0.0.0.0:0".to_owned();
    let corral = setup.start_with(&args).await;
    let port = corral.admin_addr().port();
    let admin = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/metrics", 403),
        ("/admin/v1/flights", 403),
        ("/admin/v1/instance", 403),
    ] {
        e2e::client::get(admin, path).await.expect_status(status);
    }
}

// acceptance: A22
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_too_large_for_memory_are_counted_and_served() {
    let upstream = upstream(50_000).await;
    let setup = Setup::before(&upstream).set("l1.entry_bytes_max", "1KiB");
    let corral = setup.start().await;
    for _ in 0..2 {
        corral
            .get(&file("zip"))
            .await
            .expect_body(&upstream.body(&file("zip")));
    }
    wait::until("the oversized entry is counted", PATIENCE, async || {
        corral.get(&file("zip")).await.expect_status(200);
        corral.metric("corral_lru_oversized_total", &[]).await >= 1.0
    })
    .await;
    fetched(&upstream.path(&file("zip")), 1);
}

// acceptance: A10
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_size_of_the_memory_tier_is_sampled() {
    let upstream = upstream(50_000).await;
    let setup = Setup::before(&upstream).set("metrics.lru_sample_interval", "100ms");
    let corral = setup.start().await;
    let reaches = async |what: &str, least: f64| {
        wait::until(what, PATIENCE, async || {
            corral.metric("corral_lru_bytes", &[]).await >= least
        })
        .await;
    };
    assert_eq!(corral.metric("corral_lru_bytes", &[]).await, 0.0);
    let mut bytes = 0.0;
    for kind in ["mod", "zip"] {
        corral.get(&file(kind)).await.expect_status(200);
        bytes += upstream.body(&file(kind)).len() as f64;
        reaches(kind, bytes).await;
    }
    // What an entry costs beside its body is counted, and no more than that.
    let now = corral.metric("corral_lru_bytes", &[]).await;
    assert!(now < bytes + 4096.0, "{now} for {bytes} bytes of bodies");
    assert_eq!(corral.metric("corral_lru_eviction_total", &[]).await, 0.0);
}

// acceptance: A13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_count_for_themselves() {
    let upstream = upstream(2000).await;
    let (busy, idle) = (
        Corral::before(&upstream).await,
        Corral::before(&upstream).await,
    );
    busy.get(&file("mod")).await.expect_status(200);
    assert_eq!(busy.metric("corral_requests_total", &[]).await, 1.0);
    assert_eq!(idle.metric("corral_requests_total", &[]).await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_in_urls_are_shown_nowhere() {
    let upstream = upstream(2000).await;
    let list = upstream.url().replace("http://", "http://alice:hunter2@");
    let corral = Setup::new()
        .upstream(&list)
        .set("fill.retries", "0")
        .start()
        .await;
    upstream
        .path(&list_path(M))
        .always(Answer::status(500, "broken"));
    let refused = corral.get(&list_path(M)).await;
    corral.get(&file("mod")).await.expect_status(200);
    let gate = upstream.path(&file("zip")).hold_headers();
    let (addr, target) = (corral.addr(), file("zip"));
    let client = tokio::spawn(async move { e2e::client::get(addr, &target).await });
    gate.wait_arrivals(1).await;
    let mut texts = vec![refused.text()];
    for target in ["/admin/v1/instance", "/admin/v1/flights", "/metrics"] {
        texts.push(corral.admin(target).await.expect_status(200).text());
    }
    gate.release();
    client.await.unwrap().expect_status(200);
    texts.extend([corral.log(), corral.stdout().join("\n")]);
    for text in texts {
        assert!(!text.contains("hunter2"), "{text}");
    }
}
