//! Failing upstreams: how often they are asked, what waiters are told, how long it is remembered.

use super::*;
use crate::config::OnFailure;
use crate::testing::soon;

/// Nothing tries again behind its back: these tests count what its clients cost.
fn instance_with_retries(scene: &Scene, retries: u32) -> Arc<Instance> {
    let builder = scene.instance("a").config(|config| {
        config.retries = retries;
        config.on_failure = OnFailure::Drop;
    });
    Arc::new(builder.start())
}

// acceptance: B13
// fault: 28
#[tokio::test(start_paused = true)]
async fn a_failing_upstream_is_asked_once_and_as_often_as_retries_say() {
    for retries in [0, 1, 5] {
        let scene = paused_scene();
        scene.upstream.serve(INFO_PATH, Reply::failure());
        let instance = instance_with_retries(&scene, retries);
        let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert_eq!(scene.upstream.fetches(INFO_PATH), 1 + retries as usize);
        instance.settled().await;
        scene.no_leases().await;
    }
}

// acceptance: B13
// fault: 28
#[tokio::test(start_paused = true)]
async fn the_last_retry_may_be_the_one_that_succeeds() {
    for retries in [0, 1, 5] {
        let scene = paused_scene();
        for _ in 0..retries {
            scene.upstream.serve_next(INFO_PATH, Reply::failure());
        }
        let instance = instance_with_retries(&scene, retries);
        assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
        assert_eq!(scene.upstream.fetches(INFO_PATH), 1 + retries as usize);
        instance.settled().await;
        assert!(records_of(&scene).await.is_empty());
    }
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_before_anybody_has_it_is_fetched_again() {
    let scene = paused_scene();
    scene
        .upstream
        .serve_next(ZIP_PATH, Reply::body(zip(MIB)).broken_at(0));
    scene
        .upstream
        .serve_next(MOD_PATH, Reply::body(MOD).broken_at(7));
    let instance = instance_with_retries(&scene, 1);
    assert_eq!(instance.read(&key(MOD_PATH)).await.unwrap(), MOD);
    assert_eq!(instance.read(&key(ZIP_PATH)).await.unwrap(), zip(MIB));
    let asked = scene.upstream.requests(ZIP_PATH);
    assert_eq!(asked.len(), 2);
    // The list of upstreams is told where it broke, to go past it.
    assert_eq!(asked[1].broken_at, [Arc::from("fake")]);
}

// protocol: E09
#[tokio::test(start_paused = true)]
async fn all_attempts_together_end_before_clients_give_up() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let builder = scene.instance("a").config(|config| {
        config.retries = 1_000;
        config.retry_delay = Duration::from_secs(2);
    });
    let (instance, began) = (builder.start(), tokio::time::Instant::now());
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    let took = began.elapsed();
    let first_byte_max = WarmerConfig::default().first_byte_max;
    // No delay is begun that would end behind the limit, and none is longer than 2 s.
    assert!(took <= first_byte_max, "{took:?}");
    assert!(took >= first_byte_max - Duration::from_secs(2), "{took:?}");
    let deadlines = scene.upstream.requests(INFO_PATH);
    let deadlines = deadlines.iter().map(|request| request.first_byte_deadline);
    assert!(
        deadlines
            .into_iter()
            .all(|at| at == Some(began + first_byte_max))
    );
}

// protocol: E09
#[tokio::test(start_paused = true)]
async fn a_later_attempts_silence_does_not_outlast_the_clients() {
    let scene = paused_scene();
    let silent = Gate::new();
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene
        .upstream
        .serve_next(INFO_PATH, Reply::body(INFO).held_at(10, &silent));
    let (instance, began) = (
        instance_with_retries(&scene, 1),
        tokio::time::Instant::now(),
    );
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(began.elapsed() <= WarmerConfig::default().first_byte_max);
    instance.settled().await;
    scene.no_leases().await;
    scene.upstream.idle().await;
}

// acceptance: B14
// protocol: D13
#[tokio::test(start_paused = true)]
async fn all_waiters_get_the_same_error_from_one_set_of_attempts() {
    let scene = paused_scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::failure().head_held(&gate));
    let instance = instance_with_retries(&scene, 2);
    let requests = crowd(&instance, &key(INFO_PATH), 100).await;
    gate.open();
    for end in ends(requests).await {
        let error = end.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert_eq!(error.to_string(), "upstream fake failed: status 500");
    }
    assert_eq!(scene.upstream.fetches(INFO_PATH), 3);
    // Those who come a moment later are told the same.
    let late = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(late.to_string(), "upstream fake failed: status 500");
    assert_eq!(scene.upstream.fetches(INFO_PATH), 3);
    assert_eq!(instance.count("corral_fills_total{outcome=\"failed\"}"), 2);
}

// fault: 27
// acceptance: A33
// protocol: E11
// protocol: D15
#[tokio::test]
async fn what_does_not_exist_is_remembered_for_its_ttl() {
    for (gone, kind, ttl_s) in [
        (false, ErrorKind::NotFound, 60),
        (true, ErrorKind::Gone, 300),
    ] {
        let (scene, clock) = scene();
        scene
            .upstream
            .serve(INFO_PATH, Reply::not_found(gone, "not found: no such tag"));
        let a = instance_with_retries(&scene, 3);
        let b = Arc::new(scene.instance("b").start());
        let ask = async |instance: &Instance| instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(ask(&a).await.kind(), kind);
        // Never retried, and told to whoever asks, on whichever instance.
        clock.advance(Duration::from_secs(ttl_s) * 89 / 100);
        for instance in [&a, &b] {
            let error = ask(instance).await;
            assert_eq!(error.kind(), kind);
            assert_eq!(error.to_string(), "not found: no such tag");
        }
        assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
        clock.advance(Duration::from_secs(ttl_s) * 22 / 100);
        scene.upstream.serve(INFO_PATH, Reply::body(INFO));
        assert_eq!(b.read(&key(INFO_PATH)).await.unwrap(), INFO);
        assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
    }
}

// acceptance: A33
// protocol: E10
// protocol: D21
#[tokio::test]
async fn a_failure_is_remembered_for_ten_seconds_and_no_longer() {
    let (scene, clock) = scene();
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    let instance = instance_with_retries(&scene, 0);
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    clock.advance(Duration::from_millis(9_999));
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert!(matches!(error, Error::Remembered(_)), "{error:?}");
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
}

// fault: 29
// acceptance: A33
#[tokio::test]
async fn an_upstream_that_asks_for_patience_gets_it_up_to_a_minute() {
    for (asked_s, given_s) in [(30, 30), (600, 60)] {
        let (scene, clock) = scene();
        scene.upstream.serve_next(
            INFO_PATH,
            Reply::error(Error::Throttled {
                upstream: "fake".to_owned(),
                status: 429,
                retry_after: Some(Duration::from_secs(asked_s)),
            }),
        );
        let instance = instance_with_retries(&scene, 3);
        let first = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(first.retry_after(), Some(Duration::from_secs(asked_s)));
        clock.advance(Duration::from_secs(given_s) - Duration::from_millis(1));
        let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Throttled);
        assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
        clock.advance(Duration::from_millis(1));
        assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    }
}

// protocol: E05
#[tokio::test]
async fn a_gatekeepers_no_and_bad_credentials_are_not_tried_again() {
    let refused = Error::Refused {
        upstream: "fake".to_owned(),
        status: 401,
        text: "who are you".to_owned(),
    };
    let forbidden = Error::Forbidden {
        text: "not for you".to_owned(),
    };
    for error in [refused, forbidden] {
        let (scene, _clock) = scene();
        scene.upstream.serve(INFO_PATH, Reply::error(error.clone()));
        let instance = instance_with_retries(&scene, 3);
        let told = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(told.kind(), error.kind());
        assert_eq!(told.to_string(), error.to_string());
        assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
        assert_eq!(instance.count("corral_fills_total{outcome=\"refused\"}"), 1);
    }
}

// protocol: I03
// protocol: I04
// protocol: Z03
#[tokio::test]
async fn bytes_that_are_something_else_are_neither_served_nor_kept() {
    let page = "<!DOCTYPE html><title>Sign in</title>";
    for (path, body) in [
        (INFO_PATH, r#"{"Version":"v1.0.1"}"#),
        (INFO_PATH, page),
        (MOD_PATH, page),
        (ZIP_PATH, page),
    ] {
        let (scene, _clock) = scene();
        scene.upstream.serve(path, Reply::body(body));
        let instance = instance_with_retries(&scene, 0);
        let error = instance.read(&key(path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{path}: {error}");
        instance.settled().await;
        assert!(scene.store.lookup(path).await.unwrap().is_none());
        assert!(instance.warmer.hot(&key(path)).is_none());
        assert_eq!(instance.count("corral_fills_total{outcome=\"corrupt\"}"), 1);
    }
}

// fault: 30
#[tokio::test]
async fn a_panic_is_an_error_for_all_and_the_next_request_works() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve_next(INFO_PATH, Reply::panic().head_held(&gate));
    let instance = instance_with_retries(&scene, 3);
    let requests = crowd(&instance, &key(INFO_PATH), 50).await;
    gate.open();
    for end in ends(requests).await {
        assert_eq!(end.unwrap_err().kind(), ErrorKind::Internal);
    }
    assert!(instance.warmer.flights().is_empty());
    // Given back by the guard, not left to expire: this clock stands still.
    scene.no_leases().await;
    assert!(records_of(&scene).await.is_empty());
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// fault: 30
#[tokio::test]
async fn a_panic_behind_the_first_bytes_cuts_the_body_short() {
    let (scene, _clock) = scene();
    scene
        .upstream
        .serve_next(ZIP_PATH, Reply::body(zip(MIB)).panic_at(MIB / 2));
    let instance = instance_with_retries(&scene, 3);
    let answer = instance.get(&key(ZIP_PATH)).await;
    let end = match answer {
        Ok(answer) => soon("the end", read_answer(answer)).await,
        Err(error) => Err(error),
    };
    end.unwrap_err();
    instance.settled().await;
    scene.no_leases().await;
    assert!(scene.store.lookup(ZIP_PATH).await.unwrap().is_none());
    assert_eq!(instance.read(&key(ZIP_PATH)).await.unwrap(), zip(MIB));
}

// fault: 8
#[tokio::test]
async fn a_fill_that_never_ends_is_ended_by_its_longest_time() {
    let (scene, clock) = scene();
    scene.upstream.serve_next(
        ZIP_PATH,
        Reply::body(zip(MIB)).held_at(MIB / 2, &Gate::new()),
    );
    let builder = scene.instance("a").config(|config| {
        config.retries = 0;
        config.fill_max = Duration::from_secs(90);
    });
    let instance = Arc::new(builder.start());
    let answer = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    clock.advance(Duration::from_secs(90));
    let error = soon("the end", read_answer(answer)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    instance.settled().await;
    scene.no_leases().await;
    scene.upstream.idle().await;
}
