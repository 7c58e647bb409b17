//! Herds, queues and fleets: one refresh for all, and nobody waits for another's.

use lease::testing::{Fault, FaultyRecords};
use lease::{Clock, LocalRecords};

use super::*;

/// Starts `count` requests for the list.
fn herd(
    instance: &Arc<Instance>,
    count: usize,
) -> Vec<tokio::task::JoinHandle<Result<(String, Verdict), Error>>> {
    (0..count)
        .map(|_| {
            let instance = instance.clone();
            tokio::spawn(async move { list(&instance).await })
        })
        .collect()
}

// protocol: D02
// fault: 39
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_herd_at_a_cold_list_costs_one_fetch() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(LIST, Reply::body("v1.0.0\n").head_held(&gate));
    let (a, b) = (started(&scene), started(&scene));
    let mut requests = herd(&a, 100);
    gate.reached(1).await;
    requests.extend(herd(&b, 100));
    let held = "corral_lease_acquire_total{result=\"held\"}";
    until("the follower to wait", || b.count(held) > 0).await;
    gate.open();
    for request in requests {
        let told = soon("an answer", request).await.unwrap().unwrap();
        assert_eq!(told.0, "v1.0.0\n");
    }
    assert_eq!(scene.upstream.fetches(LIST), 1);
}

// fault: 39
// acceptance: F15
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_herd_at_a_stale_list_is_served_at_once_and_costs_one_fetch() {
    let (scene, clock) = scene();
    let instance = started(&scene);
    list(&instance).await.unwrap();
    instance.settled().await;
    clock.advance(STALE);
    let gate = Gate::new();
    scene
        .upstream
        .serve(LIST, Reply::body("v1.0.0\nv1.1.0\n").head_held(&gate));
    for request in herd(&instance, 1_000) {
        let told = soon("an answer", request).await.unwrap().unwrap();
        assert_eq!(told, answer("v1.0.0\n", Verdict::Stale));
    }
    gate.reached(1).await;
    gate.open();
    instance.settled().await;
    assert_eq!(scene.upstream.fetches(LIST), 2);
    assert_eq!(list(&instance).await.unwrap().0, "v1.0.0\nv1.1.0\n");
}

// acceptance: A23
#[tokio::test]
async fn a_full_queue_of_refreshes_drops_and_counts_and_delays_nobody() {
    let (scene, clock) = scene();
    let path = |number| format!("example.com/m{number}/@v/list");
    let gate = Gate::new();
    let builder = scene
        .instance("a")
        .config(|config| config.revalidations_max = 2);
    let instance = builder.start();
    let ask = async |number| {
        let told = asked(&instance, &path(number), GetOptions::default()).await;
        told.unwrap().1
    };
    for number in 0..5 {
        scene.upstream.serve(&path(number), Reply::body("v1.0.0\n"));
        ask(number).await;
    }
    instance.settled().await;
    clock.advance(STALE);
    let held = Reply::body("v1.0.0\n").head_held(&gate);
    scene.upstream.serve(&path(0), held);
    // The one worker has the first in hand, two wait, and there is no room for more.
    assert_eq!(ask(0).await, Verdict::Stale);
    gate.reached(1).await;
    for number in 1..5 {
        assert_eq!(ask(number).await, Verdict::Stale);
        assert_eq!(ask(number).await, Verdict::Stale);
    }
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_reval_queue_depth"), 2);
    assert_eq!(instance.count("corral_reval_dropped_total"), 4);
    gate.open();
    scene.upstream.asked(8).await;
    instance.settled().await;
    // What was dropped is refreshed on the next occasion.
    assert_eq!(ask(4).await, Verdict::Stale);
    scene.upstream.asked(9).await;
    let fetches = [0, 1, 2, 3, 4].map(|number| scene.upstream.fetches(&path(number)));
    assert_eq!(fetches, [2, 2, 2, 1, 2]);
}

// fault: 28
#[tokio::test]
async fn a_herds_failing_refresh_costs_one_set_of_attempts() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(LIST, Reply::failure().head_held(&gate));
    let (a, b) = (started(&scene), started(&scene));
    let mut requests = herd(&a, 50);
    gate.reached(1).await;
    requests.extend(herd(&b, 50));
    let held = "corral_lease_acquire_total{result=\"held\"}";
    until("the follower to wait", || b.count(held) > 0).await;
    gate.open();
    for request in requests {
        let error = soon("an answer", request).await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "upstream fake failed: status 500");
    }
    assert_eq!(scene.upstream.fetches(LIST), 1);
}

// fault: 22
#[tokio::test]
async fn hosts_whose_clocks_differ_share_a_refresh_all_the_same() {
    for ahead in [Duration::from_secs(2), Duration::from_secs(30)] {
        let (scene, clock) = scene();
        let gate = Gate::new();
        scene
            .upstream
            .serve(LIST, Reply::body("v1.0.0\n").head_held(&gate));
        let a = started(&scene);
        let skewed = ManualClock::new();
        skewed.set_wall(clock.wall() + ahead);
        let b = Arc::new(scene.instance("b").clock(Arc::new(skewed)).start());
        let mut requests = herd(&a, 5);
        gate.reached(1).await;
        requests.extend(herd(&b, 5));
        let held = "corral_lease_acquire_total{result=\"held\"}";
        until("the follower to wait", || b.count(held) > 0).await;
        gate.open();
        for request in requests {
            let told = soon("an answer", request).await.unwrap().unwrap();
            assert_eq!(told.0, "v1.0.0\n");
        }
        assert_eq!(scene.upstream.fetches(LIST), 1);
    }
}

// fault: 10
// acceptance: A24
#[tokio::test]
async fn without_records_the_store_keeps_documents() {
    let (scene, clock) = scene();
    let local = Arc::new(LocalRecords::new(scene.clock.clone()));
    let records = FaultyRecords::new(local, scene.clock.clone());
    records.always(Some(Fault::Fails));
    let builder = scene.instance("a").config(|config| config.retries = 0);
    let instance = builder.records(Arc::new(records)).start();
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Miss)
    );
    instance.settled().await;
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::HitStored)
    );
    assert_eq!(scene.upstream.fetches(LIST), 1);
    scene.upstream.serve(LIST, Reply::failure());
    clock.advance(STALE);
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::StaleIfError)
    );
}

// fault: 30
#[tokio::test]
async fn a_panic_in_a_refresh_is_an_error_and_the_next_works() {
    let (scene, _clock) = scene();
    scene.upstream.serve_next(LIST, Reply::panic());
    let instance = started(&scene);
    assert_eq!(
        list(&instance).await.unwrap_err().kind(),
        ErrorKind::Internal
    );
    assert!(instance.warmer.flights().is_empty());
    assert_eq!(
        list(&instance).await.unwrap(),
        answer("v1.0.0\n", Verdict::Miss)
    );
}
