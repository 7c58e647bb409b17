//! Two instances over one store: one fetch for both, whatever becomes of leases and events.

use lease::testing::{EventFaults, Fault, FaultyLeases, FaultyRecords, LeaseOp, LossyLeases};
use lease::{Acquire, ForceRelease, LeaseKey, LocalLeases, LocalRecords};
use tokio::time::Instant;

use super::*;
use crate::store::{self, Faults, Operation};
use crate::testing::soon;

const HELD: &str = "corral_lease_acquire_total{result=\"held\"}";
const BY_EVENT: &str = "corral_lease_wake_total{cause=\"event\"}";
const BY_POLL: &str = "corral_lease_wake_total{cause=\"poll\"}";
const BY_EXPIRY: &str = "corral_lease_wake_total{cause=\"expiry\"}";
const BY_RECONNECT: &str = "corral_lease_wake_total{cause=\"reconnect\"}";

fn started(scene: &Scene, name: &str) -> Arc<Instance> {
    let builder = scene.instance(name).config(|config| config.retries = 0);
    Arc::new(builder.start())
}

/// Starts a fill on `holder` that waits for `gate`, and a request on `follower` that waits for it.
async fn hold_and_follow(
    scene: &Scene,
    path: &str,
    reply: Reply,
    holder: &Arc<Instance>,
    follower: &Arc<Instance>,
) -> [tokio::task::JoinHandle<Result<bytes::Bytes, Error>>; 2] {
    scene.upstream.serve_next(path, reply);
    let mut first = crowd(holder, &key(path), 1).await;
    scene.upstream.asked(1).await;
    let mut second = crowd(follower, &key(path), 1).await;
    until("the follower to wait", || follower.count(HELD) > 0).await;
    [first.remove(0), second.remove(0)]
}

// acceptance: A27
// fault: 1
// protocol: X01
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_herd_on_two_instances_costs_one_fetch() {
    // The clock stands still, so no poll and no expiry can wake the follower: the event does.
    let (scene, _clock) = scene();
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
        let (a, b) = (started(&scene, "a"), started(&scene, "b"));
        let mut requests = crowd(&a, &key(path), 100).await;
        gate.reached(1).await;
        requests.extend(crowd(&b, &key(path), 100).await);
        until("the follower to wait", || b.count(HELD) > 0).await;
        gate.open();
        for end in ends(requests).await {
            assert!(end.unwrap() == body, "a client has other bytes");
        }
        assert_eq!(scene.upstream.fetches(path), 1);
        assert_eq!(b.count(BY_EVENT), 1);
        assert_eq!(b.count(BY_POLL) + b.count(BY_EXPIRY), 0);
        assert_eq!(a.count("corral_fills_total{outcome=\"stored\"}"), 1);
        assert_eq!(b.count("corral_fills_total{outcome=\"already_stored\"}"), 1);
        a.settled().await;
        scene.no_leases().await;
    }
}

// acceptance: A28
#[tokio::test]
async fn what_one_instance_stored_the_other_serves() {
    let (scene, _clock) = scene();
    let (a, b) = (started(&scene, "a"), started(&scene, "b"));
    a.read(&key(INFO_PATH)).await.unwrap();
    a.settled().await;
    let answer = b.get(&key(INFO_PATH)).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitStored);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// fault: 28
#[tokio::test]
async fn a_holders_failure_is_its_followers_failure_without_a_fetch() {
    for reply in [Reply::failure(), Reply::not_found(false, "no such tag")] {
        let (scene, _clock) = scene();
        let (a, b) = (started(&scene, "a"), started(&scene, "b"));
        let gate = Gate::new();
        let requests = hold_and_follow(&scene, INFO_PATH, reply.head_held(&gate), &a, &b).await;
        gate.open();
        let [first, second] = requests.map(|request| soon("an error", request));
        let (first, second) = (first.await.unwrap(), second.await.unwrap());
        let (first, second) = (first.unwrap_err(), second.unwrap_err());
        assert_eq!(first.to_string(), second.to_string());
        assert_eq!(first.kind(), second.kind());
        assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
        scene.no_leases().await;
    }
}

// fault: 13
// fault: 14
// acceptance: B8
#[tokio::test(start_paused = true)]
async fn a_follower_that_hears_nothing_finds_the_file_by_polling() {
    let scene = paused_scene();
    let deaf = LossyLeases::new(
        scene.leases.clone(),
        scene.clock.clone(),
        EventFaults::DEAF,
        1,
    );
    let a = started(&scene, "a");
    let b = Arc::new(scene.instance("b").leases(Arc::new(deaf)).start());
    let gate = Gate::new();
    let reply = Reply::body(INFO).head_held(&gate);
    let requests = hold_and_follow(&scene, INFO_PATH, reply, &a, &b).await;
    let began = Instant::now();
    gate.open();
    for request in requests {
        assert_eq!(soon("an answer", request).await.unwrap().unwrap(), INFO);
    }
    assert!(
        began.elapsed() <= Duration::from_millis(2_100),
        "{:?}",
        began.elapsed()
    );
    assert_eq!((b.count(BY_POLL), b.count(BY_EVENT)), (1, 0));
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// fault: 18
#[tokio::test]
async fn false_alarms_wake_and_change_nothing() {
    let (scene, _clock) = scene();
    let doubled = EventFaults {
        lost: 0.0,
        doubled: 1.0,
        late: 0.0,
        late_max: Duration::ZERO,
    };
    let local = Arc::new(LocalLeases::new(scene.clock.clone()));
    let lossy: Arc<dyn lease::LeaseTable> = Arc::new(LossyLeases::new(
        local.clone(),
        scene.clock.clone(),
        doubled,
        1,
    ));
    let instance = |name| {
        let builder = scene.instance(name).leases(lossy.clone());
        Arc::new(builder.start())
    };
    let (a, b) = (instance("a"), instance("b"));
    let gate = Gate::new();
    let reply = Reply::body(INFO).head_held(&gate);
    let requests = hold_and_follow(&scene, INFO_PATH, reply, &a, &b).await;
    let unit = LeaseKey::new(key(INFO_PATH).unit()).unwrap();
    for alarms in 1..=20 {
        local.fanout().publish(&lease::ReleaseEvent {
            key: unit.clone(),
            token: lease::LeaseToken::random(),
            outcome: lease::Outcome::Stored,
        });
        until("the alarm to be heard", || b.count(BY_EVENT) >= 2 * alarms).await;
    }
    // A reconnect tells that anything may have happened.
    local.fanout().wake_all();
    until("the reconnect to be heard", || b.count(BY_RECONNECT) == 1).await;
    assert!(requests.iter().all(|request| !request.is_finished()));
    gate.open();
    for request in requests {
        assert_eq!(soon("an answer", request).await.unwrap().unwrap(), INFO);
    }
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// acceptance: B6
// acceptance: B8
// fault: 3
#[tokio::test(start_paused = true)]
async fn a_dead_holders_work_is_taken_up_when_its_lease_ends() {
    let scene = paused_scene();
    let unit = LeaseKey::new(key(INFO_PATH).unit()).unwrap();
    let dead = Holder {
        instance: "dead".into(),
        address: None,
    };
    let ttl = Duration::from_secs(6);
    let granted = scene.leases.try_acquire(&unit, &dead, ttl).await.unwrap();
    assert!(matches!(granted, Acquire::Granted(_)));
    // Only the lease's own end is left to wake it.
    let builder = scene
        .instance("b")
        .config(|config| config.follow_poll = Duration::from_secs(3_600));
    let b = builder.start();
    let began = Instant::now();
    assert_eq!(b.read(&key(INFO_PATH)).await.unwrap(), INFO);
    let waited = began.elapsed();
    assert!(
        waited >= ttl && waited <= ttl + Duration::from_millis(260),
        "{waited:?}"
    );
    assert_eq!(
        (b.count(BY_EXPIRY), scene.upstream.fetches(INFO_PATH)),
        (1, 1)
    );
}

// fault: 23
// fault: 9
#[tokio::test]
async fn without_leases_each_instance_fetches_and_the_store_decides() {
    let (scene, _clock) = scene();
    let unavailable = |fault| {
        let leases = FaultyLeases::new(scene.leases.clone(), scene.clock.clone());
        leases.always(Some(fault));
        Arc::new(leases)
    };
    let a = scene
        .instance("a")
        .leases(unavailable(Fault::Fails))
        .start();
    let b = scene
        .instance("b")
        .leases(unavailable(Fault::Garbles))
        .start();
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let (info, opens) = (key(INFO_PATH), async {
        gate.reached(2).await;
        gate.open();
    });
    let (first, second, ()) = soon("both", async {
        tokio::join!(a.read(&info), b.read(&info), opens)
    })
    .await;
    assert_eq!(
        (first.unwrap(), second.unwrap()),
        (INFO.into(), INFO.into())
    );
    a.settled().await;
    b.settled().await;
    let sum = |series| a.count(series) + b.count(series);
    assert_eq!(sum("corral_lease_acquire_total{result=\"unavailable\"}"), 2);
    assert_eq!(sum("corral_commit_total{result=\"created\"}"), 1);
    assert_eq!(sum("corral_commit_total{result=\"exists_same\"}"), 1);
}

// fault: 26
// acceptance: C19
#[tokio::test]
async fn of_two_different_bodies_the_first_is_kept_and_both_serve_it() {
    let (scene, _clock) = scene();
    let other = r#"{"Version":"v1.0.0","Time":"2025-01-01T00:00:00Z"}"#;
    scene.upstream.serve_next(INFO_PATH, Reply::body(INFO));
    scene.upstream.serve_next(INFO_PATH, Reply::body(other));
    let a = started(&scene, "a");
    assert_eq!(a.read(&key(INFO_PATH)).await.unwrap(), INFO);
    a.settled().await;
    // B looks before A has stored, as it seems to it, and its upstream says something else.
    let faults = Faults::new();
    faults.inject(Operation::Lookup, 1..=2, store::Fault::Lie);
    let store = scene.store.with_faults(&faults);
    let b = Arc::new(scene.instance("b").store(store).start());
    b.read(&key(INFO_PATH)).await.unwrap();
    b.settled().await;
    assert_eq!(b.count("corral_commit_total{result=\"conflict\"}"), 1);
    for instance in [&a, &b] {
        assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    }
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// fault: 40
// acceptance: E14
#[tokio::test]
async fn an_instance_on_its_own_costs_one_more_fetch_and_no_wrong_byte() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).head_held(&gate));
    let alone = scene
        .instance("alone")
        .leases(Arc::new(LocalLeases::new(scene.clock.clone())))
        .records(Arc::new(LocalRecords::new(scene.clock.clone())));
    let instances = [
        started(&scene, "a"),
        started(&scene, "b"),
        Arc::new(alone.start()),
    ];
    let mut requests = Vec::new();
    for instance in &instances {
        requests.extend(crowd(instance, &key(ZIP_PATH), 10).await);
    }
    gate.reached(2).await;
    gate.open();
    for end in ends(requests).await {
        assert!(end.unwrap() == zip(MIB), "a client has other bytes");
    }
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
}

// fault: 10
// fault: 23
// acceptance: A24
#[tokio::test]
async fn without_records_files_and_documents_are_served_all_the_same() {
    let (scene, _clock) = scene();
    scene
        .upstream
        .serve("example.com/m/@v/list", Reply::body("v1.0.0\n"));
    scene
        .upstream
        .serve("example.com/n/@v/v1.0.0.info", Reply::failure());
    let records = FaultyRecords::new(scene.records.clone(), scene.clock.clone());
    records.always(Some(Fault::Fails));
    let builder = scene.instance("a").config(|config| config.retries = 0);
    let a = builder.records(Arc::new(records)).start();
    for _ in 0..2 {
        assert_eq!(a.read(&key(INFO_PATH)).await.unwrap(), INFO);
        let list = a.read(&key("example.com/m/@v/list")).await.unwrap();
        assert_eq!(list, "v1.0.0\n");
        let failing = a.read(&key("example.com/n/@v/v1.0.0.info")).await;
        assert_eq!(failing.unwrap_err().kind(), ErrorKind::Transient);
    }
    a.settled().await;
    scene.no_leases().await;
}

// acceptance: G4
#[tokio::test]
async fn an_operators_break_ends_the_holders_fill() {
    let (scene, clock) = scene();
    let a = started(&scene, "a");
    scene.upstream.serve_next(
        ZIP_PATH,
        Reply::body(zip(MIB)).held_at(MIB / 2, &Gate::new()),
    );
    let answer = soon("the head", a.get(&key(ZIP_PATH))).await.unwrap();
    let unit = LeaseKey::new(key(ZIP_PATH).unit()).unwrap();
    let held = scene.leases.get(&unit).await.unwrap().unwrap();
    assert_eq!(&*held.holder.instance, "a");
    let broken = scene
        .leases
        .force_release(&unit, &held.token)
        .await
        .unwrap();
    assert_eq!(broken, ForceRelease::Forced);
    // The next renewal tells the holder. The renewal's task may not sleep yet.
    let reading = tokio::spawn(read_answer(answer));
    until("the fill to end", || {
        clock.advance(Duration::from_millis(500));
        reading.is_finished()
    })
    .await;
    let error = reading.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(a.count("corral_lease_lost_total{reason=\"forced\"}"), 1);
    scene.upstream.idle().await;
    a.settled().await;
    // Nobody's failure: the next request fetches at once.
    assert!(records_of(&scene).await.is_empty());
    assert_eq!(a.read(&key(ZIP_PATH)).await.unwrap(), zip(MIB));
}

// acceptance: G4
#[tokio::test]
async fn a_follower_takes_up_what_an_operator_broke() {
    let (scene, clock) = scene();
    let (a, b) = (started(&scene, "a"), started(&scene, "b"));
    let reply = Reply::body(INFO).head_held(&Gate::new());
    let [first, second] = hold_and_follow(&scene, INFO_PATH, reply, &a, &b).await;
    break_lease(&scene, INFO_PATH).await;
    // The event alone brings the follower forward: the clock stands still.
    assert_eq!(soon("an answer", second).await.unwrap().unwrap(), INFO);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
    until("the holder to be told", || {
        clock.advance(Duration::from_millis(500));
        first.is_finished()
    })
    .await;
    let error = first.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
}

// fault: 36
#[tokio::test(start_paused = true)]
async fn a_follower_takes_up_what_a_shutdown_cut_off() {
    let scene = paused_scene();
    let (a, b) = (started(&scene, "a"), started(&scene, "b"));
    let reply = Reply::body(INFO).head_held(&Gate::new());
    let [first, second] = hold_and_follow(&scene, INFO_PATH, reply, &a, &b).await;
    assert_eq!(a.warmer.shutdown(Duration::ZERO).await, 1);
    let error = soon("an error", first).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    assert_eq!(soon("an answer", second).await.unwrap().unwrap(), INFO);
    assert_eq!(
        (scene.upstream.fetches(INFO_PATH), b.count(BY_EVENT)),
        (2, 1)
    );
}

// fault: 20
// fault: 21
#[tokio::test]
async fn two_holders_of_one_lease_store_once_and_serve_the_same() {
    let (scene, _clock) = scene();
    // The server forgot A's grant, so B got one too.
    let leases = Arc::new(LocalLeases::new(scene.clock.clone()));
    let a = started(&scene, "a");
    let b = Arc::new(scene.instance("b").leases(leases).start());
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).head_held(&gate);
    scene.upstream.serve(ZIP_PATH, reply);
    let mut requests = crowd(&a, &key(ZIP_PATH), 10).await;
    requests.extend(crowd(&b, &key(ZIP_PATH), 10).await);
    gate.reached(2).await;
    gate.open();
    for end in ends(requests).await {
        assert!(end.unwrap() == zip(MIB), "a client has other bytes");
    }
    a.settled().await;
    b.settled().await;
    let sum = |series| a.count(series) + b.count(series);
    assert_eq!(sum("corral_commit_total{result=\"created\"}"), 1);
    assert_eq!(sum("corral_commit_total{result=\"exists_same\"}"), 1);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
}

// fault: 6
// fault: 12
#[tokio::test]
async fn a_lost_lease_stops_the_renewals_and_not_the_download() {
    let (scene, clock) = scene();
    let a = started(&scene, "a");
    let gate = Gate::new();
    scene
        .upstream
        .serve_next(ZIP_PATH, Reply::body(zip(MIB)).held_at(MIB / 2, &gate));
    let answer = soon("the head", a.get(&key(ZIP_PATH))).await.unwrap();
    let unit = LeaseKey::new(key(ZIP_PATH).unit()).unwrap();
    let held = scene.leases.get(&unit).await.unwrap().unwrap();
    let ttl = Duration::from_secs(6);
    scene
        .leases
        .take_over(&unit, &held.token, ttl)
        .await
        .unwrap();
    let lost = "corral_lease_lost_total{reason=\"not_owner\"}";
    until("the loss to be noticed", || {
        clock.advance(Duration::from_millis(500));
        a.count(lost) == 1
    })
    .await;
    // Meanwhile somebody else has it, and keeps it when the first is through.
    let taker = Holder {
        instance: "taker".into(),
        address: None,
    };
    let taken = scene.leases.try_acquire(&unit, &taker, ttl).await.unwrap();
    gate.open();
    let body = soon("the end", read_answer(answer)).await.unwrap();
    assert!(body == zip(MIB), "the body is another");
    a.settled().await;
    assert_eq!(a.count("corral_commit_total{result=\"created\"}"), 1);
    assert_eq!(
        a.count("corral_lease_release_total{result=\"not_owner\"}"),
        1
    );
    let Acquire::Granted(taken) = taken else {
        panic!("the taker was refused")
    };
    let still = scene.leases.get(&unit).await.unwrap().unwrap();
    assert_eq!(still.token, taken.token);
}

// fault: 5
// fault: 13
#[tokio::test(start_paused = true)]
async fn a_release_that_fails_is_no_clients_concern() {
    let scene = paused_scene();
    let leases = Arc::new(FaultyLeases::new(scene.leases.clone(), scene.clock.clone()));
    leases.next(LeaseOp::Release, 1, Fault::Fails);
    let a = Arc::new(scene.instance("a").leases(leases).start());
    let b = started(&scene, "b");
    let gate = Gate::new();
    let reply = Reply::body(INFO).head_held(&gate);
    let requests = hold_and_follow(&scene, INFO_PATH, reply, &a, &b).await;
    let began = Instant::now();
    gate.open();
    for request in requests {
        assert_eq!(soon("an answer", request).await.unwrap().unwrap(), INFO);
    }
    assert!(
        began.elapsed() <= Duration::from_millis(2_100),
        "{:?}",
        began.elapsed()
    );
    a.settled().await;
    assert_eq!(a.count("corral_lease_release_total{result=\"failed\"}"), 1);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// acceptance: A13
#[tokio::test]
async fn two_instances_in_one_process_share_no_counter() {
    let (scene, _clock) = scene();
    let (a, b) = (started(&scene, "a"), started(&scene, "b"));
    a.read(&key(INFO_PATH)).await.unwrap();
    a.settled().await;
    for series in [
        "corral_fills_total{outcome=\"stored\"}",
        "corral_commit_total{result=\"created\"}",
        "corral_lease_acquire_total{result=\"granted\"}",
    ] {
        assert_eq!((a.count(series), b.count(series)), (1, 0), "{series}");
    }
}
