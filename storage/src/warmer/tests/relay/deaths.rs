//! Relays that break: who goes on, from where, and what clients see.

use lease::testing::{Fault, FaultyLeases};
use lease::{Acquire, LeaseKey, LocalLeases, TakeOver};
use tokio::time::Instant;

use super::*;
use crate::store;
use crate::testing::soon;

fn unit_of(path: &str) -> LeaseKey {
    LeaseKey::new(key(path).unit()).unwrap()
}

/// The lease of `path` ends as if its server had forgotten it; nobody is told.
async fn forget_lease(scene: &Scene, path: &str) {
    let (unit, query) = (unit_of(path), lease::LeaseQuery::default());
    let page = scene.leases.list(&query).await.unwrap();
    let lease = page.leases.iter().find(|lease| lease.key == unit).unwrap();
    let ttl = Duration::from_secs(6);
    let freed = scene.leases.take_over(&unit, &lease.token, ttl).await;
    assert_eq!(freed.unwrap(), TakeOver::Freed);
}

// fault: 3
// acceptance: B6
#[tokio::test(start_paused = true)]
async fn the_rest_is_asked_of_the_upstream_that_sent_the_begin() {
    let scene = paused_scene();
    let reply = Reply::body(zip(MIB)).etag("\"v1\"");
    scene.upstream.serve(ZIP_PATH, reply.clone());
    let (_a, b, answer, _never) = relayed_of(&scene, reply).await;
    scene.peers.set(A, PeerState::Refusing);
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    b.settled().await;
    let requests = scene.upstream.requests(ZIP_PATH);
    assert_eq!(requests.len(), 2);
    let resume = requests[1].resume.as_ref().unwrap();
    assert!(resume.offset >= (MIB / 2) as u64 - 64 * 1024, "{resume:?}");
    assert_eq!(b.count("corral_commit_total{result=\"created\"}"), 1);
    assert_eq!(b.count("corral_fills_total{outcome=\"stored\"}"), 1);
}

// fault: 5
#[tokio::test(start_paused = true)]
async fn a_holder_that_dies_behind_its_commit_leaves_the_rest_in_the_store() {
    let scene = paused_scene();
    let (_a, b, answer, _never) = relayed(&scene).await;
    // Its commit took effect, and it died before it told anybody.
    let path = layout::object_path(&key(ZIP_PATH));
    let created = scene.store.create(&path, crate::Source::Bytes(zip(MIB)));
    created.await.unwrap();
    scene.peers.set(A, PeerState::Refusing);
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    b.settled().await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    assert_eq!(b.count("corral_fills_total{outcome=\"relayed\"}"), 1);
    assert_eq!(
        b.get(&key(ZIP_PATH)).await.unwrap().cache.verdict,
        Verdict::HitMemory
    );
}

// fault: 26
// acceptance: C19
#[tokio::test(start_paused = true)]
async fn clients_with_other_bytes_than_upstream_sends_now_are_cut_and_the_fill_goes_on() {
    let scene = paused_scene();
    let (_a, b, answer, _never) = relayed(&scene).await;
    let other = module_zip("example.com/m", "v1.0.0", MIB + 1);
    scene.upstream.serve(ZIP_PATH, Reply::body(other.clone()));
    scene.peers.set(A, PeerState::Refusing);
    let error = ended(reading(answer)).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // Another client of the same instance is served what upstream has.
    assert!(
        b.read(&key(ZIP_PATH)).await.unwrap() == other,
        "other bytes"
    );
    b.settled().await;
    assert_eq!(b.count("corral_commit_total{result=\"created\"}"), 1);
}

// acceptance: G3
// fault: 18
#[tokio::test(start_paused = true)]
async fn a_second_take_over_within_the_ttl_is_refused_and_the_end_is_awaited() {
    let scene = paused_scene();
    let unit = unit_of(INFO_PATH);
    let ttl = Duration::from_secs(6);
    let dead = |name: &str| Holder {
        instance: name.into(),
        address: Some(A.into()),
    };
    scene.peers.set(A, PeerState::Refusing);
    // One holder was taken over a moment ago; so its successor, dead as well, may not be.
    let first = scene.leases.try_acquire(&unit, &dead("first"), ttl).await;
    let Acquire::Granted(first) = first.unwrap() else {
        panic!("somebody has it")
    };
    let freed = scene.leases.take_over(&unit, &first.token, ttl).await;
    assert_eq!(freed.unwrap(), TakeOver::Freed);
    let second = scene.leases.try_acquire(&unit, &dead("second"), ttl).await;
    assert!(matches!(second.unwrap(), Acquire::Granted(_)));
    let b = on_network(&scene, "b", B);
    let began = Instant::now();
    assert_eq!(b.read(&key(INFO_PATH)).await.unwrap(), INFO);
    let waited = began.elapsed();
    assert!(
        waited >= ttl - Duration::from_millis(10) && waited <= ttl + Duration::from_millis(250),
        "{waited:?}"
    );
    assert_eq!(
        b.count("corral_lease_take_over_total{result=\"refused\"}"),
        1
    );
    assert_eq!(b.count(FREED), 0);
}

// fault: 21
// acceptance: G1
#[tokio::test]
async fn a_lease_that_is_lost_while_the_relay_moves_costs_no_second_fetch() {
    let (scene, _clock) = scene();
    let (a, b, answer, gate) = relayed(&scene).await;
    forget_lease(&scene, ZIP_PATH).await;
    until("the follower to have the lease", || {
        b.count("corral_lease_acquire_total{result=\"granted\"}") == 1
    })
    .await;
    gate.open();
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    a.settled().await;
    b.settled().await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}

// fault: 12
// acceptance: G1
#[tokio::test]
async fn leases_out_of_reach_in_the_middle_of_a_relay_cost_no_second_fetch() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve_next(ZIP_PATH, reply);
    let local = Arc::new(LocalLeases::new(scene.clock.clone()));
    let leases = Arc::new(FaultyLeases::new(local.clone(), scene.clock.clone()));
    let a = Arc::new(scene.instance("a").address(A).leases(local.clone()).start());
    let b = scene.instance("b").address(B).leases(leases.clone());
    let b = Arc::new(b.start());
    drop(begun(&a).await);
    gate.reached(1).await;
    let (answer, verdict) = begun(&b).await;
    assert_eq!(verdict, Verdict::Relayed);
    leases.always(Some(Fault::Fails));
    // The connection to the server broke.
    local.fanout().wake_all();
    until("the follower to notice", || {
        b.count("corral_lease_acquire_total{result=\"unavailable\"}") == 1
    })
    .await;
    gate.open();
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    a.settled().await;
    b.settled().await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}

// fault: 25
#[tokio::test]
async fn what_the_holder_could_neither_store_nor_keep_its_follower_stores() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve_next(ZIP_PATH, reply);
    let faults = store::Faults::new();
    faults.inject(store::Operation::Create, 1..=1, store::Fault::Refuse);
    let a = scene.instance("a").address(A);
    let a = a.spool_limits(|limits| limits.kept_percent_max = 0);
    let a = Arc::new(a.store(scene.store.with_faults(&faults)).start());
    let b = on_network(&scene, "b", B);
    drop(begun(&a).await);
    gate.reached(1).await;
    let (answer, _) = begun(&b).await;
    gate.open();
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    a.settled().await;
    b.settled().await;
    assert_eq!(a.count("corral_commit_total{result=\"failed\"}"), 1);
    assert_eq!(b.count("corral_commit_total{result=\"created\"}"), 1);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    scene.no_leases().await;
}

// fault: 28
// acceptance: G2
#[tokio::test(start_paused = true)]
async fn a_failure_costs_the_fleet_one_set_of_attempts() {
    let scene = paused_scene();
    scene.upstream.serve(ZIP_PATH, Reply::failure());
    let instances: Vec<_> = [("a", A), ("b", B), ("c", C)]
        .map(|(name, address)| {
            let builder = scene.instance(name).config(|config| config.retries = 2);
            Arc::new(builder.address(address).start())
        })
        .into();
    let mut requests = Vec::new();
    for instance in &instances {
        for _ in 0..30 {
            let instance = instance.clone();
            requests.push(tokio::spawn(
                async move { instance.read(&key(ZIP_PATH)).await },
            ));
        }
    }
    let mut lines = std::collections::BTreeSet::new();
    for request in requests {
        let error = soon("an error", request).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        lines.insert(error.to_string());
    }
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 3);
}

// fault: 33
#[tokio::test]
async fn a_holders_bad_body_ends_its_followers_bodies_too() {
    let (scene, _clock) = scene();
    let mut bad = zip(MIB).to_vec();
    // Its directory is missing.
    let tail = bad.len() - 300;
    bad[tail..].fill(0);
    let (a, b, answer, gate) = relayed_of(&scene, Reply::body(bad)).await;
    gate.open();
    ended(reading(answer)).await.map(drop).unwrap_err();
    a.settled().await;
    b.settled().await;
    // The failure is told from the record, on both.
    for instance in [&a, &b] {
        let error = instance.read(&key(ZIP_PATH)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}
