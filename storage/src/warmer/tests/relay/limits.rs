//! What relays cost, and what bounds them.

use lease::testing::{FaultyLeases, FaultyRecords, LeaseOp, RecordOp};

use super::*;
use crate::testing::soon;

/// Calls to leases and records by one instance; release and progress are leases' too.
struct Counted {
    leases: Arc<FaultyLeases>,
    records: Arc<FaultyRecords>,
}

impl Counted {
    fn new(scene: &Scene) -> Self {
        Self {
            leases: Arc::new(FaultyLeases::new(scene.leases.clone(), scene.clock.clone())),
            records: Arc::new(FaultyRecords::new(
                scene.records.clone(),
                scene.clock.clone(),
            )),
        }
    }

    /// The most commands that these calls cost; an acquire that finds somebody costs two.
    fn commands(&self, acquires_held: u64) -> u64 {
        let leases = [
            LeaseOp::TryAcquire,
            LeaseOp::Renew,
            LeaseOp::Release,
            LeaseOp::TakeOver,
        ];
        let records = [RecordOp::Get, RecordOp::Set, RecordOp::Delete];
        let leases: u64 = leases.map(|op| self.leases.calls(op)).iter().sum();
        let records: u64 = records.map(|op| self.records.calls(op)).iter().sum();
        leases + records + acquires_held
    }
}

// acceptance: G1
// acceptance: A27
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_fill_costs_few_commands() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve(ZIP_PATH, reply);
    let counted: Vec<_> = (0..3).map(|_| Counted::new(&scene)).collect();
    let instances: Vec<_> = counted
        .iter()
        .zip([("a", A), ("b", B), ("c", C)])
        .map(|(counted, (name, address))| {
            let builder = scene.instance(name).address(address);
            let builder = builder.leases(counted.leases.clone());
            Arc::new(builder.records(counted.records.clone()).start())
        })
        .collect();
    let mut requests = Vec::new();
    for instance in &instances {
        requests.extend(crowd(instance, &key(ZIP_PATH), 50).await);
        gate.reached(1).await;
    }
    until("the followers to relay", || {
        instances[1..].iter().all(|instance| {
            let flights = instance.warmer.flights();
            flights.iter().any(|flight| flight.bytes > 0)
        })
    })
    .await;
    gate.open();
    for end in ends(requests).await {
        assert!(end.unwrap() == zip(MIB), "a client has other bytes");
    }
    for instance in &instances {
        instance.settled().await;
    }
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    assert_eq!(counted[0].commands(0), 4);
    for (instance, counted) in instances.iter().zip(&counted).skip(1) {
        let commands = counted.commands(instance.count(HELD));
        assert!(commands <= 5, "{commands}");
    }
}

// fault: 35
#[tokio::test]
async fn a_holder_with_no_room_for_readers_is_waited_for() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve_next(ZIP_PATH, reply);
    let builder = scene.instance("a").address(A);
    let a = Arc::new(
        builder
            .config(|config| config.flights.waiters_max = 1)
            .start(),
    );
    let b = on_network(&scene, "b", B);
    let (_reader, _) = begun(&a).await;
    gate.reached(1).await;
    let zip_key = key(ZIP_PATH);
    let mut waiting = Box::pin(b.get(&zip_key));
    assert!((&mut waiting).now_or_never().is_none());
    until("the relay to be refused", || scene.peers.relays(A) > 0).await;
    gate.open();
    let answer = soon("the release", waiting).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitStored);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}

// fault: 34
#[tokio::test]
async fn a_follower_without_room_in_its_spool_waits_for_the_store() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve_next(ZIP_PATH, reply);
    let a = on_network(&scene, "a", A);
    let b = Arc::new(scene.instance("b").address(B).spool(1_000).start());
    drop(begun(&a).await);
    gate.reached(1).await;
    let zip_key = key(ZIP_PATH);
    let mut waiting = Box::pin(b.get(&zip_key));
    assert!((&mut waiting).now_or_never().is_none());
    until("the relay to end", || {
        b.count("corral_relay_total{result=\"stopped\"}") == 1
    })
    .await;
    gate.open();
    let answer = soon("the release", waiting).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitStored);
    assert!(
        read_answer(answer).await.unwrap() == zip(MIB),
        "other bytes"
    );
}

#[tokio::test]
async fn a_grant_that_relayed_bad_bytes_is_not_relayed_again() {
    let (scene, _clock) = scene();
    scene.peers.set(A, PeerState::Corrupting);
    let gate = Gate::new();
    scene
        .upstream
        .serve_next(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let faults = crate::store::Faults::new();
    let stores = Arc::new(tokio::sync::Notify::new());
    let held = crate::store::Fault::Gate(stores.clone());
    faults.inject(crate::store::Operation::Create, 1..=1, held);
    let a = scene.instance("a").address(A);
    let a = Arc::new(a.store(scene.store.with_faults(&faults)).start());
    let b = on_network(&scene, "b", B);
    let first = crowd(&a, &key(INFO_PATH), 1).await;
    gate.reached(1).await;
    let second = crowd(&b, &key(INFO_PATH), 1).await;
    gate.open();
    until("the relay to be thrown away", || b.count(CORRUPT) == 1).await;
    assert!(second.iter().all(|request| !request.is_finished()));
    stores.notify_one();
    for end in ends(first).await.into_iter().chain(ends(second).await) {
        assert_eq!(end.unwrap(), INFO);
    }
    assert_eq!((scene.peers.relays(A), b.count(CORRUPT)), (1, 1));
}

// fault: 8
#[tokio::test(start_paused = true)]
async fn a_holder_whose_upstream_is_slow_is_asked_again() {
    let scene = paused_scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).head_held(&gate);
    scene.upstream.serve_next(ZIP_PATH, reply);
    let (a, b) = (on_network(&scene, "a", A), on_network(&scene, "b", B));
    let first = crowd(&a, &key(ZIP_PATH), 1).await;
    gate.reached(1).await;
    let second = crowd(&b, &key(ZIP_PATH), 1).await;
    until("three questions", || scene.peers.relays(A) == 3).await;
    gate.open();
    for end in ends(first).await.into_iter().chain(ends(second).await) {
        assert!(end.unwrap() == zip(MIB), "a client has other bytes");
    }
    assert_eq!(b.count(WHOLE), 1);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}

// fault: 10
#[tokio::test(start_paused = true)]
async fn a_relay_that_stalls_is_opened_once_more_and_then_given_up() {
    let scene = paused_scene();
    let (_a, b, answer, gate) = relayed(&scene).await;
    // The holder lives and renews, and its upstream says nothing more.
    until("the relay to be given up", || b.count(BROKEN) == 1).await;
    assert_eq!(scene.peers.relays(A), 2);
    gate.open();
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}
