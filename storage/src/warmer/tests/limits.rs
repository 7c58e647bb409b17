//! Named limits: what is answered when one is reached, and that it counts.

use super::*;
use crate::testing::soon;

fn limit(name: &str) -> String {
    format!("corral_limit_reached_total{{limit=\"{name}\"}}")
}

fn overloaded(error: &Error, name: &str) {
    assert!(
        matches!(error, Error::Overloaded { limit } if *limit == name),
        "{error:?}"
    );
}

// fault: 34
#[tokio::test]
async fn a_full_spool_refuses_and_remembers_nothing() {
    let (scene, _clock) = scene();
    let instance = scene.instance("a").spool(MIB as u64 / 2).start();
    let error = instance.read(&key(ZIP_PATH)).await.unwrap_err();
    overloaded(&error, "spool.bytes_max");
    instance.settled().await;
    scene.no_leases().await;
    assert!(records_of(&scene).await.is_empty());
    assert_eq!(instance.count(&limit("spool.bytes_max")), 1);
    // Small files need no spool.
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
}

// fault: 34
#[tokio::test]
async fn a_spool_that_fills_up_cuts_the_body_short() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).unannounced().held_at(MIB / 3, &gate);
    scene.upstream.serve(ZIP_PATH, reply);
    let instance = scene.instance("a").spool(MIB as u64 / 2).start();
    let answer = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    gate.open();
    let error = soon("the end", read_answer(answer)).await.unwrap_err();
    overloaded(&error, "spool.bytes_max");
    instance.settled().await;
    scene.no_leases().await;
    assert!(records_of(&scene).await.is_empty());
    assert!(scene.store.lookup(ZIP_PATH).await.unwrap().is_none());
    assert_eq!(instance.count(&limit("spool.bytes_max")), 1);
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_spool_bytes"), 0);
}

// fault: 35
#[tokio::test]
async fn one_waiter_too_many_is_sent_away_and_the_others_are_served() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let builder = scene
        .instance("a")
        .config(|config| config.flights.waiters_max = 10);
    let instance = Arc::new(builder.start());
    let requests = crowd(&instance, &key(INFO_PATH), 10).await;
    for path in [INFO_PATH, MOD_PATH] {
        let error = instance.read(&key(path)).await.unwrap_err();
        overloaded(&error, "fill.waiters_max");
    }
    assert_eq!(instance.count(&limit("fill.waiters_max")), 2);
    gate.open();
    for end in ends(requests).await {
        assert_eq!(end.unwrap(), INFO);
    }
    assert_eq!(instance.read(&key(MOD_PATH)).await.unwrap(), MOD);
}

// fault: 35
// protocol: D16
#[tokio::test]
async fn one_flight_too_many_is_refused_and_running_ones_can_be_joined() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let builder = scene
        .instance("a")
        .config(|config| config.flights.flights_max = 1);
    let instance = Arc::new(builder.start());
    let requests = crowd(&instance, &key(INFO_PATH), 20).await;
    let error = instance.read(&key(MOD_PATH)).await.unwrap_err();
    overloaded(&error, "fill.concurrency_max");
    assert_eq!(instance.count(&limit("fill.concurrency_max")), 1);
    gate.open();
    for end in ends(requests).await {
        assert_eq!(end.unwrap(), INFO);
    }
    instance.settled().await;
    assert_eq!(instance.read(&key(MOD_PATH)).await.unwrap(), MOD);
}

// protocol: D16
// protocol: D17
#[tokio::test]
async fn different_files_are_fetched_side_by_side() {
    let (scene, _clock) = scene();
    let instance = Arc::new(scene.instance("a").start());
    let gate = Gate::new();
    let mut requests = Vec::new();
    for number in 0..64 {
        let path = format!("example.com/m{number}/@v/v1.0.0.info");
        scene
            .upstream
            .serve(&path, Reply::body(INFO).head_held(&gate));
        requests.extend(crowd(&instance, &key(&path), 2).await);
    }
    gate.reached(64).await;
    // None of them is in the way of one more.
    assert_eq!(instance.read(&key(MOD_PATH)).await.unwrap(), MOD);
    gate.open();
    for end in ends(requests).await {
        assert_eq!(end.unwrap(), INFO);
    }
    assert_eq!(scene.upstream.fetches_in_all(), 65);
}

// acceptance: B12
#[tokio::test(start_paused = true)]
async fn a_waiters_patience_ends_and_the_fill_goes_on() {
    let scene = paused_scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let patience = Duration::from_secs(5);
    let builder = scene
        .instance("a")
        .config(|config| config.wait_max = patience);
    let instance = builder.start();
    let began = tokio::time::Instant::now();
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitedTooLong);
    let waited = began.elapsed();
    assert!(
        waited >= patience && waited <= patience + Duration::from_millis(50),
        "{waited:?}"
    );
    assert_eq!(instance.warmer.flights().len(), 1);
    gate.open();
    instance.settled().await;
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// fault: 36
#[tokio::test(start_paused = true)]
async fn a_shutdown_lets_fills_end_and_gives_back_the_leases_of_the_rest() {
    let scene = paused_scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    scene
        .upstream
        .serve(MOD_PATH, Reply::body(MOD).head_held(&Gate::new()));
    let instance = Arc::new(scene.instance("a").start());
    let ending = crowd(&instance, &key(INFO_PATH), 1).await;
    let stuck = crowd(&instance, &key(MOD_PATH), 1).await;
    scene.upstream.asked(2).await;
    gate.open();
    let cancelled = instance.warmer.shutdown(Duration::from_secs(10)).await;
    assert_eq!(cancelled, 1);
    assert_eq!(ends(ending).await.remove(0).unwrap(), INFO);
    let error = ends(stuck).await.remove(0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    scene.no_leases().await;
    assert_eq!(scene.upstream.under_way(), 0);
    assert!(records_of(&scene).await.is_empty());
}
