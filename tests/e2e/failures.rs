//! Failed fills: told to everybody once, retried, never kept.

use std::time::Duration;

use e2e::client::{self, Request};
use e2e::proxy::{Corral, Setup};
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream};
use e2e::wait::{self, PATIENCE};

use crate::fixtures::{
    M, V, all_whole, fetched, file, impatient, is_own_trouble, none_whole, nothing_left_over,
    upstream,
};

// acceptance: B13; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inline_retries_are_as_many_as_configured() {
    let upstream = FixtureUpstream::start().await;
    for retries in [0, 1, 5] {
        let name = format!("example.com/r{retries}");
        let module = FixtureModule::new(&name).version(V);
        upstream.add(&module);
        let path = module.file_path(V, "mod");
        let setup = Setup::before(&upstream).set("fill.retries", &retries.to_string());
        let corral = setup.set("fill.on_failure", "drop").start().await;
        upstream
            .path(&path)
            .next(retries, Answer::status(500, "flaky"));
        corral.get(&path).await.expect_body(&upstream.body(&path));
        fetched(&upstream.path(&path), retries as u64 + 1);

        // One failure more than there are retries is an error, after exactly that many tries.
        let path = module.file_path(V, "info");
        upstream.path(&path).always(Answer::status(500, "broken"));
        is_own_trouble(&corral.get(&path).await);
        fetched(&upstream.path(&path), retries as u64 + 1);
    }
}

// acceptance: B14; fault: 28; protocol: D13, D14
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_failure_is_told_to_all_waiters() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream)
        .set("fill.retries", "1")
        .set("fill.on_failure", "drop");
    let corral = setup.start().await;
    let path = upstream.path(&file("zip"));
    path.always(Answer::status(500, "broken"));
    let gate = path.hold_headers();
    let addr = corral.addr();
    let requests = vec![Request::get(file("zip")); 100];
    let herd = tokio::spawn(client::herd_of(addr, requests));
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
    let spread = replies.iter().map(|reply| reply.elapsed).max().unwrap()
        - replies.iter().map(|reply| reply.elapsed).min().unwrap();
    assert!(spread < Duration::from_secs(2), "told over {spread:?}");
    fetched(&path, 2);
    // The failure record answers those who come later.
    is_own_trouble(&corral.get(&file("zip")).await);
    fetched(&path, 2);
}

// acceptance: A33, B15; protocol: E10, D21
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_forgotten_after_its_ttl() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream)
        .set("failure.ttl", "300ms")
        .set("fill.retries", "0");
    let corral = setup.set("fill.on_failure", "drop").start().await;
    upstream
        .path(&file("zip"))
        .next(1, Answer::status(502, "broken"));
    is_own_trouble(&corral.get(&file("zip")).await);
    wait::until("the zip is served", PATIENCE, async || {
        corral.get(&file("zip")).await.status == 200
    })
    .await;
    fetched(&upstream.path(&file("zip")), 2);
}

// Whatever follows a failure behind the clients' backs, the next of them gets the file once the
// failure is forgotten, and never two fetches at once.
// acceptance: B15; fault: 28
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_client_gets_the_file_whatever_follows_a_failure() {
    for policy in ["queue", "backoff", "drop"] {
        let upstream = upstream(2000).await;
        let setup = Setup::before(&upstream)
            .set("fill.retries", "0")
            .set("failure.ttl", "200ms");
        let corral = setup.set("fill.on_failure", policy).start().await;
        let zip = file("zip");
        upstream.path(&zip).next(1, Answer::status(500, "broken"));
        is_own_trouble(&corral.get(&zip).await);
        wait::until("the zip is served", PATIENCE, async || {
            corral.get(&zip).await.whole_success()
        })
        .await;
        fetched(&upstream.path(&zip), 2);
        assert_eq!(upstream.path(&zip).running_max(), 1, "{policy}");
    }
}

// acceptance: B15
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_failure_is_not_fetched_again_by_itself() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    upstream
        .path(&file("zip"))
        .next(1, Answer::status(500, "broken"));
    is_own_trouble(&corral.get(&file("zip")).await);
    let again = wait::holds_within(Duration::from_millis(1500), async || {
        upstream.path(&file("zip")).requests() > 1
    });
    assert!(!again.await, "fetched again although on_failure is drop");
}

// The first upstream breaks off; the next one of the list, or the same one again, brings the rest.
// acceptance: B16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_fill_goes_on_elsewhere() {
    let (first, second) = (upstream(400_000).await, upstream(400_000).await);
    let list = format!("{}|{}", first.url(), second.url());
    let corral = Setup::new().upstream(&list).start().await;
    for (kind, answer) in [
        ("mod", Answer::TruncateAt(4)),
        ("info", Answer::ResetBeforeHeaders),
        ("zip", Answer::status(502, "broken")),
    ] {
        let path = file(kind);
        first.path(&path).always(answer);
        corral.get(&path).await.expect_body(&second.body(&path));
        fetched(&second.path(&path), 1);
        assert!(first.path(&path).requests() >= 1, "{kind}");
    }
}

// fault: 8
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_upstream_is_an_error_in_time() {
    let upstream = upstream(300_000).await;
    let corral = impatient(&upstream).start().await;
    upstream.path(&file("mod")).next(1, Answer::Silent);
    let reply = corral.get(&file("mod")).await;
    is_own_trouble(&reply);
    assert_eq!(reply.status, 504, "{}", reply.text());
    // A body that stalls: the client has got bytes, so its connection is cut.
    upstream
        .path(&file("zip"))
        .next(1, Answer::StallAt(200_000));
    let reply = corral.get(&file("zip")).await;
    assert!(!reply.whole_success(), "a stalled body was served as whole");
    // Both are free at once.
    for kind in ["mod", "zip"] {
        corral
            .get(&file(kind))
            .await
            .expect_body(&upstream.body(&file(kind)));
    }
    corral.idle().await;
}

// The defaults: a client gives up after half a minute, so an answer must have come by then.
// protocol: E09
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_of_every_kind_is_an_error_within_thirty_seconds() {
    let upstream = upstream(300_000).await;
    let corral = Corral::before(&upstream).await;
    let list = e2e::upstream::list_path(M);
    let silences = [
        (file("zip"), Answer::Silent),
        (file("mod"), Answer::StallAt(0)),
        (file("info"), Answer::StallAt(5)),
        (list, Answer::Silent),
    ];
    for (path, silence) in &silences {
        upstream.path(path).always(silence.clone());
    }
    let requests = silences
        .iter()
        .map(|(path, _)| Request::get(path))
        .collect();
    for reply in client::herd_of(corral.addr(), requests).await {
        is_own_trouble(&reply);
        assert!(
            reply.elapsed < Duration::from_secs(30),
            "{:?}",
            reply.elapsed
        );
    }
}

// fault: 33; protocol: D19, D20, D21; acceptance: G5
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_body_is_never_whole_and_never_kept() {
    let upstream = upstream(400_000).await;
    let corral = impatient(&upstream).start().await;
    let bad = [
        Answer::TruncateAt(300_000),
        Answer::TruncateChunkedAt(300_000),
        Answer::ResetAt(300_000),
        Answer::TruncateAt(0),
        Answer::TruncateAt(399_999),
        Answer::html(),
        Answer::Body {
            content_type: "application/zip".to_owned(),
            body: vec![7; 400_000].into(),
        },
        Answer::Body {
            content_type: "application/zip".to_owned(),
            body: Vec::new().into(),
        },
    ];
    let zip = file("zip");
    for answer in bad {
        upstream.path(&zip).heal().always(answer.clone());
        let outcomes = corral.herd(10, &zip).await;
        none_whole(&outcomes);
        for outcome in outcomes {
            // Cut, or an error of our own; never "does not exist".
            let own_error = (502..=504).contains(&outcome.status);
            assert!(
                own_error || (outcome.status == 200 && !outcome.finished),
                "{answer:?} {outcome:?}"
            );
        }
        corral.idle().await;
        assert!(!corral.store_path(&zip).exists(), "{answer:?} was stored");
    }
    upstream.path(&zip).heal();
    all_whole(&corral.herd(10, &zip).await, &upstream.body(&zip));
    corral.idle().await;
    nothing_left_over(&corral).await;
}

// protocol: D20
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_small_answers_are_errors_too() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    let list = e2e::upstream::list_path(M);
    let latest = e2e::upstream::latest_path(M);
    for path in [file("mod"), file("info"), list, latest] {
        for answer in [
            Answer::TruncateAt(4),
            Answer::TruncateChunkedAt(4),
            Answer::ResetAt(4),
        ] {
            upstream.path(&path).heal().always(answer.clone());
            let reply = corral.get(&path).await;
            assert!(
                !reply.whole_success(),
                "{path} {answer:?}: {}",
                reply.text()
            );
            assert!(
                ![404, 410].contains(&reply.status),
                "{path} {answer:?}: {}",
                reply.status
            );
        }
        upstream.path(&path).heal();
        corral.get(&path).await.expect_body(&upstream.body(&path));
    }
}

// fault: 29
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_honoured_and_passed_on() {
    let upstream = upstream(2000).await;
    let corral = Corral::before(&upstream).await;
    let path = upstream.path(&file("zip"));
    path.always(Answer::retry_after(429, "slow down", 30));
    let reply = corral.get(&file("zip")).await;
    is_own_trouble(&reply);
    let seconds: u64 = reply
        .header("retry-after")
        .unwrap()
        .parse()
        .expect("seconds");
    assert!((1..=60).contains(&seconds), "{seconds}");
    let asked = path.requests();
    for _ in 0..5 {
        is_own_trouble(&corral.get(&file("zip")).await);
    }
    fetched(&path, asked);
}

// acceptance: B12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_gives_up_by_itself_and_the_fill_goes_on() {
    let upstream = upstream(2000).await;
    let corral = Corral::before(&upstream).await;
    let gate = upstream.path(&file("zip")).hold_headers();
    let hasty = Request::get(file("zip")).time_limit(Duration::from_millis(200));
    let reply = corral.send(&hasty).await;
    assert_eq!(reply.ending, client::Ending::TimedOut);
    gate.release();
    corral
        .stored(&file("zip"), &upstream.body(&file("zip")))
        .await;
    fetched(&upstream.path(&file("zip")), 1);
}

// acceptance: B12
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiters_patience_ends_and_the_fill_goes_on() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream).set("fill.wait_max", "500ms");
    let corral = setup.start().await;
    let zip = file("zip");
    let gate = upstream.path(&zip).hold_headers();
    for reply in client::herd_of(corral.addr(), vec![Request::get(&zip); 5]).await {
        is_own_trouble(&reply);
        assert_eq!(reply.status, 504, "{}", reply.text());
        let waited = reply.elapsed;
        assert!(
            (Duration::from_millis(500)..Duration::from_secs(3)).contains(&waited),
            "{waited:?}"
        );
    }
    gate.release();
    corral.stored(&zip, &upstream.body(&zip)).await;
    corral.get(&zip).await.expect_body(&upstream.body(&zip));
    fetched(&upstream.path(&zip), 1);
}

// protocol: D16
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_module_blocks_no_other() {
    let upstream = upstream(2000).await;
    let other = FixtureModule::new("example.com/lively").version_sized(V, 50_000);
    upstream.add(&other);
    let corral = Corral::before(&upstream).await;
    let gate = upstream.path(&file("zip")).hold_headers();
    let addr = corral.addr();
    let waiting = tokio::spawn(async move { client::herd(addr, 50, &file("zip")).await });
    corral.boarded(50).await;
    let zip = other.file_path(V, "zip");
    all_whole(&corral.herd(50, &zip).await, &upstream.body(&zip));
    gate.release();
    all_whole(&waiting.await.unwrap(), &upstream.body(&file("zip")));
}

// fault: 35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn caps_answer_503_with_retry_after() {
    let upstream = FixtureUpstream::start().await;
    let modules: Vec<_> = (0..8).map(|i| format!("example.com/cap{i}")).collect();
    let path = |name: &str| e2e::upstream::file_path(name, V, "mod");
    for name in &modules {
        upstream.add(&FixtureModule::new(name).version(V));
    }
    // One fill at most may wait for ever; waiters beyond the cap are sent away at once.
    let setup = Setup::before(&upstream).set("fill.waiters_max", "3");
    let corral = setup.set("fill.on_failure", "drop").start().await;
    let gate = upstream.path(&path(&modules[0])).hold_headers();
    let addr = corral.addr();
    let target = path(&modules[0]);
    let herd = tokio::spawn(client::herd_of(addr, vec![Request::get(target); 20]));
    gate.wait_arrivals(1).await;
    gate.release();
    let replies = herd.await.unwrap();
    let (whole, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|r| r.whole_success());
    assert!(!whole.is_empty());
    for reply in refused {
        assert_eq!(reply.status, 503, "{}", reply.text());
        is_own_trouble(&reply);
    }
    corral.get(&path(&modules[1])).await.expect_status(200);
    assert_eq!(corral.metric("corral_flight_waiters", &[]).await, 0.0);
}

// fault: 35
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fills_beyond_the_cap_are_refused_and_others_are_not() {
    let upstream = upstream(2000).await;
    let setup = Setup::before(&upstream).set("fill.concurrency_max", "1");
    let corral = setup.start().await;
    corral.get(&file("info")).await.expect_status(200);
    corral.idle().await;
    let gate = upstream.path(&file("zip")).hold_headers();
    let (addr, zip) = (corral.addr(), file("zip"));
    let herd = tokio::spawn(async move { client::herd(addr, 20, &zip).await });
    gate.wait_arrivals(1).await;
    let reply = corral.get(&file("mod")).await;
    is_own_trouble(&reply);
    assert_eq!(reply.status, 503, "{}", reply.text());
    let cap = [("limit", "fill.concurrency_max")];
    assert_eq!(corral.metric("corral_limit_reached_total", &cap).await, 1.0);
    // What is stored needs no fill.
    corral.get(&file("info")).await.expect_status(200);
    gate.release();
    all_whole(&herd.await.unwrap(), &upstream.body(&file("zip")));
    corral.idle().await;
    corral.get(&file("mod")).await.expect_status(200);
}
