//! A store that fails, hangs or lies: what clients get, and what is left behind.

use super::*;
use crate::store::{Fault, Faults, Operation};
use crate::testing::soon;

const FAILED: &str = "corral_commit_total{result=\"failed\"}";
const EXISTS_SAME: &str = "corral_commit_total{result=\"exists_same\"}";

fn faulty(scene: &Scene) -> (Arc<Instance>, Faults) {
    let faults = Faults::new();
    let builder = scene.instance("a").store(scene.store.with_faults(&faults));
    (Arc::new(builder.start()), faults)
}

// fault: 24
#[tokio::test]
async fn a_store_that_cannot_tell_is_no_empty_store() {
    // The first look is before the lease, the second behind it.
    for failing in [1, 2] {
        let (scene, _clock) = scene();
        let (instance, faults) = faulty(&scene);
        faults.inject(Operation::Lookup, failing.., Fault::Fail);
        let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        instance.settled().await;
        scene.no_leases().await;
        assert_eq!(scene.upstream.fetches_in_all(), 0);
        assert!(records_of(&scene).await.is_empty());
        faults.heal();
        assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    }
}

// fault: 24
#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_ends_the_wait_in_its_own_time() {
    let scene = paused_scene();
    let (instance, faults) = faulty(&scene);
    faults.inject(Operation::Lookup, .., Fault::Hang);
    let began = tokio::time::Instant::now();
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(began.elapsed() <= Duration::from_secs(11));
    assert_eq!(scene.upstream.fetches_in_all(), 0);
}

// fault: 2
#[tokio::test]
async fn a_request_that_comes_late_to_its_flight_finds_the_store() {
    // Nothing is kept in memory, so the second request goes all the way to a flight of its own.
    let (scene, _clock) = scene();
    let instance = scene.instance("a").hot(0, 0).start();
    instance.read(&key(INFO_PATH)).await.unwrap();
    instance.settled().await;
    let answer = instance.get(&key(INFO_PATH)).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitStored);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// fault: 2
#[tokio::test]
async fn a_flight_paused_before_its_look_finds_what_another_stored_meanwhile() {
    let (scene, _clock) = scene();
    let (paused, faults) = faulty(&scene);
    let gate = Arc::new(tokio::sync::Notify::new());
    faults.inject(Operation::Lookup, 1..=1, Fault::Gate(gate.clone()));
    let requests = crowd(&paused, &key(INFO_PATH), 3).await;
    until("the look to begin", || faults.calls(Operation::Lookup) == 1).await;
    let other = scene.instance("b").start();
    other.read(&key(INFO_PATH)).await.unwrap();
    other.settled().await;
    gate.notify_one();
    for end in ends(requests).await {
        assert_eq!(end.unwrap(), INFO);
    }
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// fault: 2
#[tokio::test]
async fn a_flight_paused_behind_its_look_looks_again_with_the_lease() {
    let (scene, _clock) = scene();
    let other = scene.instance("b").start();
    other.read(&key(INFO_PATH)).await.unwrap();
    other.settled().await;
    let (instance, faults) = faulty(&scene);
    // As if it had looked before the other stored.
    faults.inject(Operation::Lookup, 1..=1, Fault::Lie);
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert_eq!(
        instance.count("corral_lease_acquire_total{result=\"granted\"}"),
        1
    );
    assert_eq!(faults.calls(Operation::Lookup), 2);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
    scene.no_leases().await;
}

// fault: 25
#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_is_lost_or_late_has_succeeded() {
    for fault in [Fault::Lost, Fault::Late(Duration::from_secs(45))] {
        let scene = paused_scene();
        let (instance, faults) = faulty(&scene);
        faults.inject(Operation::Create, 1..=1, fault.clone());
        assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
        instance.settled().await;
        assert_eq!(instance.count(EXISTS_SAME), 1, "{fault:?}");
        assert_eq!(instance.count(FAILED), 0);
        assert!(scene.store.lookup(INFO_PATH).await.unwrap().is_some());
    }
}

// fault: 25
#[tokio::test(start_paused = true)]
async fn a_commit_is_repeated_while_another_write_is_in_progress() {
    let scene = paused_scene();
    let (instance, faults) = faulty(&scene);
    faults.inject(Operation::Create, 1..=3, Fault::Lie);
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    instance.settled().await;
    assert_eq!(faults.calls(Operation::Create), 4);
    assert_eq!(instance.count("corral_commit_total{result=\"created\"}"), 1);
}

// fault: 24
// fault: 25
#[tokio::test]
async fn a_commit_that_fails_costs_no_client_a_byte() {
    let (scene, _clock) = scene();
    let (instance, faults) = faulty(&scene);
    faults.inject(Operation::Create, .., Fault::Refuse);
    for path in [INFO_PATH, ZIP_PATH] {
        let gate = Gate::new();
        let body = if path == ZIP_PATH {
            zip(MIB)
        } else {
            INFO.into()
        };
        scene
            .upstream
            .serve(path, Reply::body(body.clone()).head_held(&gate));
        let requests = crowd(&instance, &key(path), 10).await;
        gate.open();
        for end in ends(requests).await {
            assert!(end.unwrap() == body, "a client has other bytes");
        }
        instance.settled().await;
        // Verified, so it goes on being served from memory.
        let again = instance.get(&key(path)).await.unwrap();
        assert_eq!(again.cache.verdict, Verdict::HitMemory);
        assert!(read_answer(again).await.unwrap() == body);
        assert_eq!(scene.upstream.fetches(path), 1);
    }
    assert_eq!(instance.count(FAILED), 2);
    assert_eq!(instance.count("corral_fills_total{outcome=\"spooled\"}"), 2);
    // Not upstream's failure: nobody is told that the files cannot be had.
    assert!(records_of(&scene).await.is_empty());
    scene.no_leases().await;
}

// protocol: D22
#[tokio::test]
async fn nobody_waits_for_the_store_once_the_bytes_are_verified() {
    let (scene, _clock) = scene();
    let (instance, faults) = faulty(&scene);
    let gate = Arc::new(tokio::sync::Notify::new());
    faults.inject(Operation::Create, .., Fault::Gate(gate.clone()));
    for path in [INFO_PATH, ZIP_PATH] {
        let body = if path == ZIP_PATH {
            zip(MIB)
        } else {
            INFO.into()
        };
        for _ in 0..3 {
            let read = soon("an answer", instance.read(&key(path))).await;
            assert!(read.unwrap() == body);
        }
        until("the commit to begin", || {
            instance
                .warmer
                .flights()
                .iter()
                .all(|flight| flight.phase == crate::flight::Phase::Committing)
        })
        .await;
        assert_eq!(scene.upstream.fetches(path), 1);
        gate.notify_one();
        instance.settled().await;
        assert!(scene.store.lookup(path).await.unwrap().is_some());
    }
}

// protocol: D22
#[tokio::test]
async fn whoever_comes_during_the_commit_shares_the_flight_when_memory_keeps_nothing() {
    let (scene, _clock) = scene();
    let faults = Faults::new();
    let gate = Arc::new(tokio::sync::Notify::new());
    faults.inject(Operation::Create, .., Fault::Gate(gate.clone()));
    let builder = scene.instance("a").hot(0, 0);
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    for _ in 0..3 {
        let read = soon("an answer", instance.read(&key(ZIP_PATH))).await;
        assert!(read.unwrap() == zip(MIB));
    }
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    gate.notify_one();
    instance.settled().await;
}

// Found by the simulation: another instance may have stored other bytes by then, and this one
// would have gone on to serve its own.
// fault: 26
#[tokio::test(start_paused = true)]
async fn a_fill_that_is_broken_off_before_its_commit_leaves_nothing_in_memory() {
    let scene = paused_scene();
    let (instance, faults) = faulty(&scene);
    faults.inject(Operation::Create, .., Fault::Hang);
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert!(instance.warmer.hot(&key(INFO_PATH)).is_some());
    let unit = lease::LeaseKey::new(key(INFO_PATH).unit()).unwrap();
    let held = scene.leases.get(&unit).await.unwrap().unwrap();
    let broken = scene.leases.force_release(&unit, &held.token).await;
    assert_eq!(broken.unwrap(), lease::ForceRelease::Forced);
    instance.settled().await;
    assert!(instance.warmer.hot(&key(INFO_PATH)).is_none());
}
