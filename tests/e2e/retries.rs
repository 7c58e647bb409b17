//! What failed is told once and then taken care of in the background: the queue of fetches.

use std::time::{Duration, Instant};

use e2e::client::{self, Request};
use e2e::proxy::{Corral, Setup, encoded};
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, list_path};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{M, V, fetched, file, is_one_line, is_own_trouble, upstream};

/// Attempts of fetch jobs so far, whatever came of them.
pub(crate) async fn job_attempts(corral: &Corral) -> f64 {
    let fetches = [("kind", "fetch")];
    corral.metric("corral_retry_attempts_total", &fetches).await
}

/// The name of the unit behind a request path, which is the id of its job.
pub(crate) fn unit(request_path: &str) -> String {
    request_path.trim_start_matches('/').replace("/@v/", "@")
}

/// An instance that asks once per fill and leaves the rest to the queue.
fn one_try(upstream: &FixtureUpstream) -> Setup {
    Setup::before(upstream).set("fill.retries", "0")
}

// acceptance: B16, G6; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_file_is_stored_without_any_request() {
    let upstream = upstream(300_000).await;
    let corral = one_try(&upstream).start().await;
    upstream.everywhere(Some(Answer::status(503, "closed for repairs")));
    for kind in ["info", "mod", "zip"] {
        is_own_trouble(&corral.get(&file(kind)).await);
    }
    let mut ids: Vec<_> = corral.jobs().await.iter().map(job_id).collect();
    ids.sort();
    let units: Vec<_> = ["info", "mod", "zip"].map(|kind| unit(&file(kind))).into();
    assert_eq!(ids, units);
    upstream.everywhere(None);
    corral.has_jobs(0).await;
    for kind in ["info", "mod", "zip"] {
        let path = file(kind);
        corral.stored(&path, &upstream.body(&path)).await;
        // At once: neither the failure nor upstream stands in the way any more.
        let asked = upstream.path(&path).requests();
        corral.get(&path).await.expect_body(&upstream.body(&path));
        fetched(&upstream.path(&path), asked);
        assert_eq!(upstream.path(&path).running_max(), 1, "{kind}");
    }
    let done = [("kind", "fetch"), ("outcome", "done")];
    wait::until("three attempts are counted", PATIENCE, async || {
        corral.metric("corral_retry_attempts_total", &done).await == 3.0
    })
    .await;
}

fn job_id(job: &serde_json::Value) -> String {
    job["id"].as_str().unwrap_or_default().to_owned()
}

// Told to all of them before the first job's attempt can help, and without a second herd.
// acceptance: B13, B14; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_herd_costs_one_set_of_inline_retries_and_leaves_one_job() {
    let upstream = upstream(2000).await;
    for (retries, kind) in [(0, "info"), (1, "mod"), (5, "zip")] {
        let setup = Setup::before(&upstream).set("fill.retries", &retries.to_string());
        let corral = setup.start().await;
        let path = upstream.path(&file(kind));
        path.always(Answer::status(500, "broken"));
        let gate = path.hold_headers();
        let requests = vec![Request::get(file(kind)); 100];
        let herd = tokio::spawn(client::herd_of(corral.addr(), requests));
        corral.boarded(100).await;
        gate.release();
        let replies = herd.await.unwrap();
        for reply in &replies {
            is_own_trouble(reply);
            assert_eq!(
                (reply.status, reply.text()),
                (replies[0].status, replies[0].text())
            );
        }
        assert_eq!(job_id(&corral.only_job().await), unit(&file(kind)));
        // Whoever asks while it is down is told the same.
        is_own_trouble(&corral.get(&file(kind)).await);
        path.heal();
        corral.has_jobs(0).await;
        // A job is settled a moment before its attempt is counted.
        let inline = retries as f64 + 1.0;
        wait::until("the other requests are jobs'", PATIENCE, async || {
            path.requests() as f64 - job_attempts(&corral).await == inline
        })
        .await;
        corral.get(&file(kind)).await.expect_status(200);
        assert_eq!(path.running_max(), 1);
    }
}

// acceptance: B15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn back_off_pauses_grow_and_nothing_is_queued() {
    let upstream = upstream(2000).await;
    let setup = one_try(&upstream).set("fill.on_failure", "backoff");
    let corral = setup.start().await;
    let path = upstream.path(&file("zip"));
    path.always(Answer::status(500, "broken"));
    let started = Instant::now();
    let mut asked = 0;
    while started.elapsed() < Duration::from_secs(5) {
        is_own_trouble(&corral.get(&file("zip")).await);
        asked += 1;
    }
    // Pauses are drawn from 0 to 1, 2, 4, 8 … seconds: a dozen tries cannot fit into five.
    let tries = path.requests();
    assert!(
        (2..=12).contains(&tries),
        "{tries} tries for {asked} clients"
    );
    assert!(asked > 2 * tries, "{tries} tries for {asked} clients");
    assert!(corral.jobs().await.is_empty());
    path.heal();
    wait::until("the zip is served", 2 * PATIENCE, async || {
        corral.get(&file("zip")).await.whole_success()
    })
    .await;
    fetched(&path, tries + 1);
}

// acceptance: B15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_failure_leaves_no_job() {
    let upstream = upstream(2000).await;
    let corral = one_try(&upstream)
        .set("fill.on_failure", "drop")
        .start()
        .await;
    upstream
        .path(&file("zip"))
        .next(1, Answer::status(500, "broken"));
    is_own_trouble(&corral.get(&file("zip")).await);
    corral.idle().await;
    assert!(corral.jobs().await.is_empty());
    assert_eq!(corral.metric("corral_retry_pushed_total", &[]).await, 0.0);
}

// fault: 29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_comes_no_sooner_than_upstream_asks() {
    let upstream = upstream(2000).await;
    let corral = one_try(&upstream).start().await;
    for (kind, status) in [("mod", 429), ("zip", 503)] {
        let path = upstream.path(&file(kind));
        path.next(1, Answer::retry_after(status, "slow down", 3));
        let reply = corral.get(&file(kind)).await;
        is_own_trouble(&reply);
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=4).contains(&seconds), "{seconds}");
        let due = corral.only_job().await["due_in_ms"].as_u64().unwrap();
        assert!((1..=4_000).contains(&due), "due in {due} ms");
        corral
            .stored(&file(kind), &upstream.body(&file(kind)))
            .await;
        let begun = path.begun();
        let pause = begun[1].duration_since(begun[0]);
        assert!(pause >= Duration::from_secs(3), "again after {pause:?}");
        fetched(&path, 2);
        corral.has_jobs(0).await;
    }
}

// Absence is an answer, not a failure: nothing is tried again, and only an operator or time
// makes it forgotten.
// fault: 27
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn absence_makes_no_job_and_can_be_forgotten() {
    let upstream = FixtureUpstream::start().await;
    let corral = Setup::before(&upstream)
        .set("negative.ttl", "1h")
        .start()
        .await;
    upstream
        .path(&file("mod"))
        .next(1, Answer::status(410, "gone"));
    for (kind, status) in [("mod", 410), ("zip", 404)] {
        for _ in 0..3 {
            corral.get(&file(kind)).await.expect_status(status);
        }
        fetched(&upstream.path(&file(kind)), 1);
    }
    assert!(corral.jobs().await.is_empty());
    let listed = corral.admin_items("/admin/v1/negatives").await;
    assert_eq!(listed.len(), 2, "{listed:#?}");
    upstream.add(&FixtureModule::new(M).version(V));
    corral.get(&file("zip")).await.expect_status(404);
    let forget = format!("/admin/v1/negatives/{}", encoded(&unit(&file("zip"))));
    let reply = corral.order("DELETE", &forget).await;
    assert!(
        (200..300).contains(&reply.status),
        "{}: {}",
        reply.status,
        reply.text()
    );
    corral.get(&file("zip")).await.expect_status(200);
    corral.get(&file("mod")).await.expect_status(410);
}

// fault: 8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_told_in_time_and_mended_later() {
    let upstream = upstream(300_000).await;
    let corral = one_try(&upstream)
        .set("upstreams.first_byte_timeout", "500ms")
        .set("upstreams.stall_timeout", "500ms")
        .start()
        .await;
    for (kind, silence) in [
        ("info", Answer::Silent),
        ("mod", Answer::StallAt(5)),
        ("zip", Answer::StallAt(200_000)),
    ] {
        let path = upstream.path(&file(kind));
        path.next(1, silence);
        let reply = corral.get(&file(kind)).await;
        if kind == "zip" {
            // It has got bytes already, so it is cut rather than told.
            assert!(!reply.whole_success(), "a stalled body was served as whole");
        } else {
            is_own_trouble(&reply);
            assert_eq!(reply.status, 504, "{}", reply.text());
        }
        corral
            .stored(&file(kind), &upstream.body(&file(kind)))
            .await;
        fetched(&path, 2);
    }
    corral.has_jobs(0).await;
    corral.idle().await;
    assert!(corral.admin_items("/admin/v1/leases").await.is_empty());
}

// fault: 38
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_poison_unit_holds_up_nobody_and_ends_as_a_dead_job() {
    const GOOD: usize = 50;
    let upstream = upstream(2000).await;
    let paths: Vec<_> = (0..GOOD)
        .map(|number| {
            let module = FixtureModule::new(&format!("example.com/good{number}")).version(V);
            upstream.add(&module);
            module.file_path(V, "mod")
        })
        .collect();
    let corral = one_try(&upstream)
        .set("upstreams.first_byte_timeout", "1s")
        .set("retry.attempts_max", "4")
        .set("retry.concurrency_max", "2")
        .start()
        .await;
    let poison = upstream.path(&file("mod"));
    poison.always(Answer::Silent);
    upstream.everywhere(Some(Answer::status(502, "broken")));
    let (addr, target) = (corral.addr(), file("mod"));
    let poisoned = tokio::spawn(async move { client::get(addr, &target).await });
    let requests = paths.iter().map(Request::get).collect();
    for reply in client::herd_of(corral.addr(), requests).await {
        is_own_trouble(&reply);
    }
    upstream.everywhere(None);
    for path in &paths {
        corral.stored(path, &upstream.body(path)).await;
    }
    is_own_trouble(&poisoned.await.unwrap());
    wait::until("the poison is given up", PATIENCE, async || {
        // Its pauses have grown; how long they are is not what is shown here.
        corral.run_all_jobs().await;
        corral.dead_jobs().await.len() == 1
    })
    .await;
    // Four attempts by the queue, and one before it.
    fetched(&poison, 5);
    let dead = corral.dead_jobs().await.remove(0);
    assert_eq!(job_id(&dead), unit(&file("mod")));
    let history = dead["last_error"].as_str().unwrap();
    for attempt in ["#4", "#3", "#2", "#1"] {
        assert!(history.contains(attempt), "{history}");
    }
    // A client who asks still learns why, at no more cost than before.
    poison.heal().always(Answer::status(502, "broken"));
    is_own_trouble(&corral.get(&file("mod")).await);
    // It stays listed until somebody gives it another life.
    assert_eq!(corral.dead_jobs().await.len(), 1);
    poison.heal();
    let requeue = format!("/admin/v1/dead/{}/requeue", encoded(&job_id(&dead)));
    let reply = corral.order("POST", &requeue).await;
    assert!(
        (200..300).contains(&reply.status),
        "{}: {}",
        reply.status,
        reply.text()
    );
    corral
        .stored(&file("mod"), &upstream.body(&file("mod")))
        .await;
    wait::until("no dead job is left", PATIENCE, async || {
        corral.dead_jobs().await.is_empty()
    })
    .await;
}

// A comma leads a client on after "does not exist" only; a job may try the rest of the list.
// acceptance: B16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_tries_the_other_upstreams() {
    for other_upstreams in [true, false] {
        let (first, second) = (upstream(2000).await, upstream(2000).await);
        first.everywhere(Some(Answer::status(500, "broken")));
        let setup = Setup::new()
            .upstream(&format!("{},{}", first.url(), second.url()))
            .set("fill.retries", "0")
            .set("retry.attempts_max", "2")
            .set("retry.other_upstreams", &other_upstreams.to_string());
        let corral = setup.start().await;
        is_own_trouble(&corral.get(&file("zip")).await);
        fetched(&second.path(&file("zip")), 0);
        if other_upstreams {
            corral
                .stored(&file("zip"), &second.body(&file("zip")))
                .await;
            fetched(&second.path(&file("zip")), 1);
        } else {
            wait::until("the job is given up", PATIENCE, async || {
                corral.dead_jobs().await.len() == 1
            })
            .await;
            fetched(&second.path(&file("zip")), 0);
        }
    }
}

// The client goes on reading, and upstream sends only what is missing.
// acceptance: B13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_download_goes_on_where_it_stopped() {
    let upstream = upstream(3_000_000).await;
    let zip = file("zip");
    let whole = upstream.body(&zip);
    let breaks = [
        Answer::TruncateAt(1_000_000),
        Answer::ResetAt(1_000_000),
        Answer::StallAt(1_000_000),
    ];
    for broken in breaks {
        let corral = Setup::before(&upstream)
            .set("upstreams.stall_timeout", "700ms")
            .start()
            .await;
        let path = upstream.path(&zip);
        let before = (path.requests(), path.body_bytes_sent());
        path.heal().etag("\"one\"").next(1, broken.clone());
        corral.get(&zip).await.expect_body(&whole);
        fetched(&path, before.0 + 2);
        let sent = path.body_bytes_sent() - before.1;
        let again = sent.saturating_sub(whole.len() as u64);
        assert!(
            again <= 256 * 1024,
            "{broken:?}: {again} bytes were sent twice"
        );
        let log = upstream.log();
        let last = log.last().unwrap();
        assert!(
            last.header("range")
                .is_some_and(|range| range.starts_with("bytes="))
        );
        assert_eq!(last.header("if-range"), Some("\"one\""));
        assert_eq!(corral.metric("corral_fill_resumed_total", &[]).await, 1.0);
        corral.stored(&zip, &whole).await;
    }
}

// Nobody gets the beginning of one file with the end of another.
// acceptance: B13
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_never_goes_on_in_another_file() {
    let upstream = upstream(3_000_000).await;
    let other = FixtureUpstream::with([FixtureModule::new(M).version_sized(V, 2_500_000)]).await;
    let zip = file("zip");
    let corral = Setup::before(&upstream).start().await;
    let path = upstream.path(&zip);
    path.etag("\"one\"").next(1, Answer::TruncateAt(1_000_000));
    let gate = path.hold_body_at(500_000);
    let (addr, target) = (corral.addr(), zip.clone());
    let client = tokio::spawn(async move { client::get(addr, &target).await });
    gate.wait_arrivals(1).await;
    path.heal().etag("\"two\"");
    let new = other.body(&zip);
    upstream.put(&zip, "application/zip", new.clone());
    gate.release();
    let reply = client.await.unwrap();
    // Cut, or told, or all of the new one if it had nothing yet.
    assert!(!reply.whole_success() || reply.body == new);
    wait::until("the new file is served", PATIENCE, async || {
        corral.get(&zip).await.whole_success()
    })
    .await;
    corral.get(&zip).await.expect_body(&new);
}

// What a client was told of is on disk by then.
// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_survives_kill_9_right_after_the_answer() {
    let upstream = upstream(2000).await;
    let mut corral = one_try(&upstream).start().await;
    for kind in ["info", "mod", "zip"] {
        upstream.everywhere(Some(Answer::CloseBeforeHeaders));
        is_own_trouble(&corral.get(&file(kind)).await);
        corral.kill9().await;
        upstream.everywhere(None);
        corral = corral.restart().await;
        corral
            .stored(&file(kind), &upstream.body(&file(kind)))
            .await;
        corral.has_jobs(0).await;
    }
}

// acceptance: B16; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_runs_a_job_at_once_or_drops_it() {
    let upstream = upstream(2000).await;
    let corral = one_try(&upstream).start().await;
    upstream.everywhere(Some(Answer::retry_after(503, "closed", 600)));
    for kind in ["mod", "zip"] {
        is_own_trouble(&corral.get(&file(kind)).await);
    }
    let failures = corral.admin_items("/admin/v1/failures").await;
    assert_eq!(failures.len(), 2, "{failures:#?}");
    upstream.everywhere(None);
    let dropped = format!("/admin/v1/retries/{}", encoded(&unit(&file("mod"))));
    corral.order("DELETE", &dropped).await.expect_status(200);
    corral.run_job(&unit(&file("zip"))).await.expect_status(200);
    corral
        .stored(&file("zip"), &upstream.body(&file("zip")))
        .await;
    corral.has_jobs(0).await;
    fetched(&upstream.path(&file("mod")), 1);
    // An order about a job that is gone says so.
    is_gone(&corral.run_job(&unit(&file("zip"))).await);
}

#[track_caller]
fn is_gone(reply: &client::Reply) {
    assert_eq!(reply.status, 404, "{}", reply.text());
}

// Documents are asked for again by whoever wants them; no job is needed for that.
// acceptance: A16, A23
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_make_no_jobs() {
    let upstream = upstream(2000).await;
    let corral = one_try(&upstream).start().await;
    upstream.everywhere(Some(Answer::status(500, "broken")));
    let reply = corral.get(&list_path(M)).await;
    is_own_trouble(&reply);
    is_one_line(&reply);
    corral.idle().await;
    assert!(corral.jobs().await.is_empty());
}
