//! One instance: ages, failing refreshes, and requests that ask for more or less.

use super::*;
use crate::store::{Fault, Faults, Operation};

// protocol: L04
// protocol: A03
// acceptance: A31
#[tokio::test]
async fn a_document_is_fresh_then_stale_then_asked_for() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Miss)
    );
    scene.upstream.serve(LIST, Reply::body("v1.0.0\nv1.1.0\n"));
    // Reading does not make it younger.
    for _ in 0..2 {
        clock.advance(FRESH / 2 - Duration::from_millis(1));
        assert_eq!(
            list(&instance).await.unwrap(),
            answer("v1.0.0\n", Verdict::HitStored)
        );
    }
    assert_eq!(scene.upstream.fetches(LIST), 1);
    clock.advance(Duration::from_secs(1));
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Stale)
    );
    scene.upstream.asked(2).await;
    instance.settled().await;
    let newer = "v1.0.0\nv1.1.0\n";
    assert_eq!(
        list(&instance).await.unwrap(),
        answer(newer, Verdict::HitStored)
    );
    // Too old for that: the request waits for upstream.
    scene.upstream.serve(LIST, Reply::body("v2.0.0\n"));
    clock.advance(STALE_IF_ERROR);
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v2.0.0\n", Verdict::Miss)
    );
    assert_eq!(scene.upstream.fetches(LIST), 3);
}

#[tokio::test]
async fn an_answer_says_how_fresh_it_is() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    list(&instance).await.unwrap();
    scene.upstream.serve(LIST, Reply::failure());
    let cache = async || instance.get(&key(LIST)).await.unwrap().cache;
    clock.advance(Duration::from_secs(20));
    let ttl = cache().await.ttl.unwrap();
    assert!(
        ttl <= Duration::from_secs(40) && ttl > Duration::from_secs(39),
        "{ttl:?}"
    );
    clock.advance(Duration::from_secs(60));
    let stale = cache().await;
    assert_eq!(
        (stale.verdict, stale.ttl),
        (Verdict::Stale, Some(Duration::ZERO))
    );
    assert_eq!(stale.stale_for.unwrap().as_secs(), 20);
}

// acceptance: A16
// protocol: L05
// protocol: L06
#[tokio::test]
async fn a_failing_refresh_neither_hides_nor_replaces_the_last_good_answer() {
    for failure in failures() {
        let (scene, clock) = scene();
        let instance = started(&scene);
        list(&instance).await.unwrap();
        instance.settled().await;
        let record = scene.records.get(LIST_RECORD).await.unwrap().unwrap().value;
        scene.upstream.serve(LIST, failure.clone());
        for age in [STALE_IF_ERROR, EXPIRED - STALE_IF_ERROR - STALE] {
            clock.advance(age);
            let told = list(&instance).await.unwrap();
            assert_eq!(
                told,
                answer("v1.0.0\n", Verdict::StaleIfError),
                "{failure:?}"
            );
        }
        assert_eq!(scene.upstream.fetches(LIST), 3, "{failure:?}");
        instance.settled().await;
        let stored = scene.store.lookup(LIST).await.unwrap().unwrap();
        assert_eq!(stored.body.read(100).await.unwrap(), "v1.0.0\n");
        let kept = scene.records.get(LIST_RECORD).await.unwrap().unwrap().value;
        assert_eq!(kept, record, "{failure:?}");
        assert_eq!(instance.count("corral_stale_if_error_total"), 2);
    }
}

// acceptance: A16
#[tokio::test]
async fn the_stale_copy_is_taken_before_upstream_is_asked() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    list(&instance).await.unwrap();
    instance.settled().await;
    clock.advance(STALE_IF_ERROR);
    let gate = Gate::new();
    scene
        .upstream
        .serve(LIST, Reply::failure().head_held(&gate));
    let asking = tokio::spawn({
        let instance = instance.clone();
        async move { list(&instance).await }
    });
    gate.reached(1).await;
    // Whatever becomes of the copies meanwhile, this one is in hand.
    scene.records.delete(LIST_RECORD).await.unwrap();
    scene.store.delete(LIST).await.unwrap();
    gate.open();
    let told = asking.await.unwrap().unwrap();
    assert_eq!(told, answer("v1.0.0\n", Verdict::StaleIfError));
}

// acceptance: A16
#[tokio::test]
async fn an_answer_too_old_for_any_use_is_not_used() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    list(&instance).await.unwrap();
    scene.upstream.serve(LIST, Reply::failure());
    clock.advance(EXPIRED);
    let error = list(&instance).await.unwrap_err();
    // Not 404, which would send the client elsewhere.
    assert_eq!(error.kind(), ErrorKind::Transient);
}

// protocol: L03
// protocol: A02
#[tokio::test]
async fn what_upstream_says_does_not_exist_does_not_exist() {
    for gone in [false, true] {
        let (scene, clock) = scene();
        let instance = started(&scene);
        list(&instance).await.unwrap();
        scene
            .upstream
            .serve(LIST, Reply::not_found(gone, "not found: withdrawn"));
        clock.advance(STALE_IF_ERROR);
        for _ in 0..2 {
            let error = list(&instance).await.unwrap_err();
            assert!(matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::Gone
            ));
            assert_eq!(error.to_string(), "not found: withdrawn");
        }
        assert_eq!(scene.upstream.fetches(LIST), 2);
    }
}

// protocol: L02
#[tokio::test]
async fn a_list_without_versions_is_an_answer() {
    let (scene, _clock) = scene();
    scene.upstream.serve(LIST, Reply::body(""));
    let instance = started(&scene);
    assert_eq!(list(&instance).await.unwrap(), answer("", Verdict::Miss));
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("", Verdict::HitStored)
    );
}

// acceptance: A17
// protocol: H16
#[tokio::test]
async fn requests_that_forbid_a_fetch_get_what_may_be_used() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    let kind = |error: Error| error.kind();
    let ask = async |options| asked(&instance, LIST, options).await.map_err(kind);
    assert_eq!(ask(ONLY_IF_CACHED).await, Err(ErrorKind::NotStored));
    assert_eq!(ask(FETCH_DISABLED).await, Err(ErrorKind::FetchDisabled));
    assert_eq!(scene.upstream.fetches(LIST), 0);
    list(&instance).await.unwrap();
    instance.settled().await;
    for (advance, only_if_cached) in [
        (
            Duration::from_secs(1),
            Ok(answer("v1.0.0\n", Verdict::HitStored)),
        ),
        (STALE, Ok(answer("v1.0.0\n", Verdict::Stale))),
        (STALE_IF_ERROR, Err(ErrorKind::NotStored)),
    ] {
        clock.advance(advance);
        assert_eq!(ask(ONLY_IF_CACHED).await, only_if_cached);
        // Stored content of any age.
        assert_eq!(ask(FETCH_DISABLED).await.unwrap().0, "v1.0.0\n");
    }
    // None of it asked upstream, not even behind the answer.
    instance.settled().await;
    assert_eq!(scene.upstream.fetches(LIST), 1);
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_reval_queue_depth"), 0);
}

// acceptance: A20
#[tokio::test]
async fn an_upstream_that_forbids_stale_use_is_obeyed() {
    let no_cache = CacheControl {
        no_cache: true,
        ..CacheControl::default()
    };
    let body = || Reply::body("v1.0.0\n");
    for reply in [body().must_revalidate(), body().cache_control(no_cache)] {
        let (scene, clock) = scene();
        let gate = Gate::new();
        scene.upstream.serve(LIST, reply.clone());
        let instance = started(&scene);
        list(&instance).await.unwrap();
        assert_eq!(list(&instance).await.unwrap().1, Verdict::HitStored);
        clock.advance(STALE);
        assert_eq!(
            asked(&instance, LIST, ONLY_IF_CACHED)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::NotStored
        );
        // Stale: everybody waits for the one request to upstream.
        scene.upstream.serve(LIST, reply.head_held(&gate));
        let requests: Vec<_> = (0..50)
            .map(|_| {
                let instance = instance.clone();
                tokio::spawn(async move { list(&instance).await })
            })
            .collect();
        until("all to wait", || {
            let flights = instance.warmer.flights();
            flights.first().is_some_and(|flight| flight.waiters == 50)
        })
        .await;
        gate.open();
        for request in requests {
            let told = soon("an answer", request).await.unwrap().unwrap();
            assert_eq!(told, answer("v1.0.0\n", Verdict::Miss));
        }
        assert_eq!(scene.upstream.fetches(LIST), 2);
        // And when upstream fails there is no answer at all.
        instance.settled().await;
        scene.upstream.serve(LIST, Reply::failure());
        clock.advance(STALE);
        assert_eq!(
            list(&instance).await.unwrap_err().kind(),
            ErrorKind::Transient
        );
    }
}

#[tokio::test]
async fn no_cache_asks_upstream_at_most_once_in_five_seconds() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    let ask = async || asked(&instance, LIST, NO_CACHE).await.unwrap().1;
    assert_eq!(ask().await, Verdict::Miss);
    for round in 2..5 {
        clock.advance(REVALIDATE_AT_MOST_EVERY - Duration::from_millis(10));
        assert_eq!(ask().await, Verdict::HitStored);
        assert_eq!(scene.upstream.fetches(LIST), round - 1);
        clock.advance(Duration::from_millis(10));
        assert_eq!(ask().await, Verdict::Miss);
        assert_eq!(ask().await, Verdict::HitStored);
        assert_eq!(scene.upstream.fetches(LIST), round);
    }
    // A failure does not make the answer that is fresh unusable.
    scene.upstream.serve(LIST, Reply::failure());
    clock.advance(REVALIDATE_AT_MOST_EVERY);
    for _ in 0..3 {
        assert_eq!(
            asked(&instance, LIST, NO_CACHE).await.unwrap().0,
            "v1.0.0\n"
        );
    }
    assert_eq!(scene.upstream.fetches(LIST), 5);
}

#[tokio::test]
async fn an_unchanged_document_is_not_sent_again() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    let reply = Reply::body("v1.0.0\n").etag("\"one\"");
    scene.upstream.serve(LIST, reply.clone());
    list(&instance).await.unwrap();
    instance.settled().await;
    clock.advance(STALE_IF_ERROR);
    // A body that would show: an answer of 304 brings none.
    scene
        .upstream
        .serve(LIST, Reply::body("v9.9.9\n").etag("\"one\""));
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Miss)
    );
    instance.settled().await;
    let requests = scene.upstream.requests(LIST);
    let sent = requests[1].validators.as_ref().unwrap();
    assert_eq!(sent.etag.as_deref(), Some("\"one\""));
    assert_eq!(sent.upstream.as_deref(), Some("fake"));
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::HitStored)
    );
    // It goes on being known by its tag.
    clock.advance(STALE_IF_ERROR);
    scene
        .upstream
        .serve(LIST, Reply::body("v2.0.0\n").etag("\"two\""));
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v2.0.0\n", Verdict::Miss)
    );
    assert!(scene.upstream.requests(LIST)[2].validators.is_some());
}

// acceptance: A18
#[tokio::test]
async fn a_record_that_makes_no_sense_is_no_record() {
    let header = br#"{"v":1,"received_ms":18446744073709551615}"#;
    let mut far_future = (header.len() as u32).to_be_bytes().to_vec();
    far_future.extend_from_slice(header);
    let garbage: [&[u8]; 7] = [
        b"",
        b"\0\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xffv1.0.0\n",
        b"\0\0\0\x02{}v9.9.9\n",
        b"\0\0\0\x14{\"v\":2,\"received_ms\":0}",
        &far_future,
    ];
    for record in garbage {
        let (scene, _clock) = scene();
        let instance = started(&scene);
        for path in [LIST_RECORD, "failure:example.com/m@list"] {
            let value = Bytes::copy_from_slice(record);
            scene.records.set(path, value, EXPIRED).await.unwrap();
        }
        assert_eq!(
            list(&instance).await.unwrap(),
            answer("v1.0.0\n", Verdict::Miss),
            "{record:?}"
        );
        assert_eq!(
            list(&instance).await.unwrap(),
            answer("v1.0.0\n", Verdict::HitStored)
        );
    }
}

// fault: 24
#[tokio::test]
async fn a_store_that_fails_costs_no_document_that_is_known() {
    let (scene, clock) = scene();
    let faults = Faults::new();
    let builder = scene.instance("a").config(|config| config.retries = 0);
    let store = scene.store.with_faults(&faults);
    let instance = builder.store(store).start();
    for operation in [Operation::Lookup, Operation::Replace] {
        faults.inject(operation, .., Fault::Fail);
    }
    // Whether there is a last good answer cannot be told: no failure of upstream's.
    let error = list(&instance).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(
        scene
            .records
            .list("", None, 10)
            .await
            .unwrap()
            .records
            .is_empty()
    );
    faults.heal();
    faults.inject(Operation::Replace, .., Fault::Fail);
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Miss)
    );
    instance.settled().await;
    assert_eq!(instance.count("corral_commit_total{result=\"failed\"}"), 1);
    // Records have it, so it is served while the store is out of reach.
    faults.inject(Operation::Lookup, .., Fault::Fail);
    scene.upstream.serve(LIST, Reply::failure());
    for (age, verdict) in [
        (Duration::ZERO, Verdict::HitStored),
        (STALE, Verdict::Stale),
        (STALE_IF_ERROR, Verdict::StaleIfError),
    ] {
        clock.advance(age);
        assert_eq!(list(&instance).await.unwrap(), answer("v1.0.0\n", verdict));
    }
}

// fault: 8
#[tokio::test]
async fn a_refresh_that_never_ends_is_ended_by_its_longest_time() {
    let (scene, clock) = scene();
    let fill_max = Duration::from_secs(90);
    let builder = scene.instance("a").config(|config| {
        config.retries = 0;
        config.wait_max = Duration::from_secs(100_000);
        config.fill_max = fill_max;
    });
    let instance = Arc::new(builder.start());
    list(&instance).await.unwrap();
    instance.settled().await;
    clock.advance(STALE_IF_ERROR);
    let gate = Gate::new();
    scene
        .upstream
        .serve(LIST, Reply::body("v1.0.0\n").held_at(3, &gate));
    let asking = tokio::spawn({
        let instance = instance.clone();
        async move { list(&instance).await }
    });
    gate.reached(1).await;
    let mut waited = Duration::ZERO;
    // In small steps, so that the lease is renewed meanwhile.
    until("the refresh to end", || {
        let step = Duration::from_millis(500);
        clock.advance(step);
        waited += step;
        assert!(waited < 10 * fill_max, "the refresh goes on for ever");
        asking.is_finished()
    })
    .await;
    let told = asking.await.unwrap().unwrap();
    assert_eq!(told, answer("v1.0.0\n", Verdict::StaleIfError));
    scene.upstream.idle().await;
}

// acceptance: A33
// protocol: E10
#[tokio::test]
async fn a_failure_without_a_last_good_answer_is_told_for_ten_seconds() {
    let (scene, clock) = scene();
    scene.upstream.serve_next(LIST, Reply::failure());
    let instance = started(&scene);
    assert_eq!(
        list(&instance).await.unwrap_err().kind(),
        ErrorKind::Transient
    );
    clock.advance(Duration::from_millis(9_999));
    assert_eq!(
        list(&instance).await.unwrap_err().kind(),
        ErrorKind::Transient
    );
    assert_eq!(scene.upstream.fetches(LIST), 1);
    clock.advance(Duration::from_millis(1));
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Miss)
    );
}

// protocol: V05
// protocol: V09
#[tokio::test]
async fn what_a_query_resolves_to_is_stored_as_that_versions_info() {
    let (scene, clock) = scene();
    let info = r#"{"Version":"v1.2.3","Time":"2024-02-03T04:05:06Z"}"#;
    scene.upstream.serve(MASTER, Reply::body(info));
    let instance = started(&scene);
    let told = asked(&instance, MASTER, GetOptions::default())
        .await
        .unwrap();
    assert_eq!(told, answer(info, Verdict::Miss));
    instance.settled().await;
    let canonical = "example.com/m/@v/v1.2.3.info";
    let told = asked(&instance, canonical, GetOptions::default())
        .await
        .unwrap();
    assert_eq!(told, answer(info, Verdict::HitStored));
    assert_eq!(scene.upstream.fetches(canonical), 0);
    // The branch moves on; the version does not change.
    let later = r#"{"Version":"v1.3.0"}"#;
    scene.upstream.serve(MASTER, Reply::body(later));
    clock.advance(STALE_IF_ERROR);
    let told = asked(&instance, MASTER, GetOptions::default())
        .await
        .unwrap();
    assert_eq!(told, answer(later, Verdict::Miss));
    instance.settled().await;
    let told = asked(&instance, canonical, GetOptions::default())
        .await
        .unwrap();
    assert_eq!(told.0, info);
}

// protocol: A01
#[tokio::test]
async fn a_latest_that_names_no_version_of_the_module_is_refused() {
    for body in [
        r#"{"Version":"v2.0.0"}"#,
        r#"{"Version":"master"}"#,
        "{}",
        "v1.0.0",
    ] {
        let (scene, _clock) = scene();
        scene.upstream.serve(LATEST, Reply::body(body));
        let instance = started(&scene);
        let error = asked(&instance, LATEST, GetOptions::default())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{body}");
        instance.settled().await;
        assert!(scene.store.lookup(LATEST).await.unwrap().is_none());
    }
}
