//! SIGTERM: finish what can be finished, cut the rest, be gone in time.

use std::time::{Duration, Instant};

use e2e::client::Request;
use e2e::proxy::Setup;

use crate::fixtures::{fetched, file, nothing_left_over, pair, upstream};

/// The longest that a stop may take with the default drain timeout of 10 s.
const GONE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_instance_is_gone_at_once_with_exit_code_0() {
    let (_upstream, mut corral) = pair(2000).await;
    corral.get(&file("mod")).await.expect_status(200);
    let started = Instant::now();
    let status = corral.terminate(GONE).await;
    assert_eq!(status.code(), Some(0), "{}", corral.log());
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

// protocol: R04; fault: 36
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_in_progress_are_finished() {
    let (upstream, mut corral) = pair(1_000_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(500_000);
    let (addr, target) = (corral.addr(), zip.clone());
    let herd = tokio::spawn(async move { e2e::client::herd(addr, 10, &target).await });
    gate.wait_arrivals(1).await;
    e2e::wait::until("the fill has waiters", e2e::wait::PATIENCE, async || {
        upstream.path(&zip).body_bytes_sent() >= 500_000
    })
    .await;
    corral.ask_to_stop();
    e2e::wait::until("it takes no more work", e2e::wait::PATIENCE, async || {
        corral.admin("/readyz").await.status != 200
    })
    .await;
    gate.release();
    let outcomes = herd.await.unwrap();
    let hash = e2e::client::sha256(&upstream.body(&zip));
    // Those that were connected but not yet answered may be refused; nobody is cut or cheated.
    for outcome in &outcomes {
        let whole = outcome.status == 200 && outcome.finished && outcome.sha256 == hash;
        assert!(whole || outcome.status != 200, "{outcome:?}");
    }
    assert!(outcomes.iter().any(|outcome| outcome.status == 200));
    assert_eq!(corral.ended(GONE).await.code(), Some(0), "{}", corral.log());
    // The fill was not lost.
    let corral = corral.restart().await;
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    fetched(&upstream.path(&zip), 1);
}

// protocol: R04
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fill_that_does_not_end_is_cut_after_the_drain_timeout() {
    let upstream = upstream(1_000_000).await;
    let mut corral = Setup::before(&upstream)
        .set("drain_timeout", "1s")
        .start()
        .await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(500_000);
    let addr = corral.addr();
    let request = Request::get(&zip);
    let client = tokio::spawn(async move { request.send(addr).await });
    gate.wait_arrivals(1).await;
    let started = Instant::now();
    corral.terminate(GONE).await;
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    let reply = client.await.unwrap();
    assert!(
        !reply.whole_success(),
        "a truncated 200 was taken for whole"
    );
    upstream.path(&zip).heal();
    let corral = corral.restart().await;
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    corral.stored(&zip, &upstream.body(&zip)).await;
    corral.idle().await;
    nothing_left_over(&corral).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_does_not_hold_up_the_stop() {
    let upstream = upstream(4_000_000).await;
    let mut corral = Setup::before(&upstream)
        .set("drain_timeout", "1s")
        .start()
        .await;
    let zip = file("zip");
    corral.get(&zip).await.expect_status(200);
    let addr = corral.addr();
    let crawl = Request::get(&zip).read_rate(1000);
    let slow = tokio::spawn(async move { crawl.send(addr).await });
    e2e::wait::until(
        "the slow reader is served",
        e2e::wait::PATIENCE,
        async || corral.metric("corral_requests_total", &[]).await >= 2.0 || slow.is_finished(),
    )
    .await;
    corral.terminate(GONE).await;
    // What the kernel has taken already trickles on; four megabytes it cannot have been.
    assert!(
        !slow.is_finished(),
        "the slow reader was done before the stop"
    );
    slow.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_stops_at_once() {
    let (upstream, mut corral) = pair(1_000_000).await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_body_at(500_000);
    let addr = corral.addr();
    let request = Request::get(&zip);
    let client = tokio::spawn(async move { request.send(addr).await });
    gate.wait_arrivals(1).await;
    corral.ask_to_stop();
    e2e::wait::until("it is stopping", e2e::wait::PATIENCE, async || {
        corral.admin("/readyz").await.status != 200
    })
    .await;
    let started = Instant::now();
    corral.terminate(GONE).await;
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    assert!(!client.await.unwrap().whole_success());
}
