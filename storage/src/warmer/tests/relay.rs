//! Followers that stream from the holder, and what becomes of their clients when it dies.

mod deaths;
mod limits;

use futures::{FutureExt, StreamExt};
use lease::{Acquire, LeaseKey};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::*;
use crate::testing::soon;

const A: &str = "a.internal:1";
const B: &str = "b.internal:1";
const C: &str = "c.internal:1";
const HELD: &str = "corral_lease_acquire_total{result=\"held\"}";
const WHOLE: &str = "corral_relay_total{result=\"whole\"}";
const BROKEN: &str = "corral_relay_total{result=\"broken\"}";
const CORRUPT: &str = "corral_relay_total{result=\"corrupt\"}";
const FREED: &str = "corral_lease_take_over_total{result=\"freed\"}";

fn on_network(scene: &Scene, name: &str, address: &str) -> Arc<Instance> {
    let builder = scene.instance(name).config(|config| {
        config.retries = 0;
        config.relay_stall_timeout = Duration::from_secs(2);
    });
    Arc::new(builder.address(address).start())
}

/// Starts a request at `instance` for the zip; returns once its answer has begun.
async fn begun(instance: &Arc<Instance>) -> (Answer, Verdict) {
    let answer = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    let verdict = answer.cache.verdict;
    (answer, verdict)
}

/// Reads `answer` on a task of its own.
fn reading(answer: Answer) -> JoinHandle<Result<bytes::Bytes, Error>> {
    tokio::spawn(read_answer(answer))
}

async fn ended(reading: JoinHandle<Result<bytes::Bytes, Error>>) -> Result<bytes::Bytes, Error> {
    soon("the end of a body", reading).await.unwrap()
}

/// The lease of the zip, as anybody sees it.
async fn lease_of_zip(scene: &Scene) -> Option<lease::LeaseView> {
    let unit = LeaseKey::new(key(ZIP_PATH).unit()).unwrap();
    scene.leases.get(&unit).await.unwrap()
}

/// A holder on A and a follower on B whose client has the begin of a zip that waits in its middle.
async fn relayed(scene: &Scene) -> (Arc<Instance>, Arc<Instance>, Answer, Gate) {
    relayed_of(scene, Reply::body(zip(MIB))).await
}

/// The same with another body of that size.
async fn relayed_of(scene: &Scene, reply: Reply) -> (Arc<Instance>, Arc<Instance>, Answer, Gate) {
    let gate = Gate::new();
    scene
        .upstream
        .serve_next(ZIP_PATH, reply.held_at(MIB / 2, &gate));
    let (a, b) = (on_network(scene, "a", A), on_network(scene, "b", B));
    drop(begun(&a).await);
    gate.reached(1).await;
    let (answer, verdict) = begun(&b).await;
    assert_eq!(verdict, Verdict::Relayed);
    until("half of the body to be relayed", || {
        let flights = b.warmer.flights();
        flights
            .iter()
            .any(|flight| flight.bytes >= (MIB / 2) as u64 - 64 * 1024)
    })
    .await;
    (a, b, answer, gate)
}

// acceptance: F17
// acceptance: G1
// fault: 1
#[tokio::test]
async fn a_followers_client_reads_while_the_holder_still_fetches() {
    let (scene, _clock) = scene();
    let (a, b, answer, gate) = relayed(&scene).await;
    assert_eq!(scene.peers.relays(A), 1);
    assert!(answer.cache.collapsed);
    let AnswerBody::Arriving(arriving) = answer.body.clone() else {
        panic!("it does not arrive")
    };
    assert_eq!(arriving.announced_len(), Some(zip(MIB).len() as u64));
    // The first byte is here although upstream waits.
    let mut stream = arriving.stream(0..u64::MAX);
    let piece = soon("a piece", stream.next()).await.unwrap().unwrap();
    assert!(zip(MIB).starts_with(&piece));
    let flight = b.warmer.flights().remove(0);
    assert_eq!(flight.phase, crate::Phase::Following);
    gate.open();
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    a.settled().await;
    b.settled().await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    assert_eq!(b.count(WHOLE), 1);
    assert_eq!(b.count("corral_fills_total{outcome=\"relayed\"}"), 1);
    assert_eq!(b.count("corral_commit_total{result=\"created\"}"), 0);
    assert_eq!(
        b.get(&key(ZIP_PATH)).await.unwrap().cache.verdict,
        Verdict::HitMemory
    );
    scene.no_leases().await;
}

// fault: 3
// acceptance: F16
// acceptance: B6
// acceptance: G3
#[tokio::test(start_paused = true)]
async fn a_holders_death_is_no_interruption_for_its_followers_clients() {
    let scene = paused_scene();
    let (_a, b, answer, _never) = relayed(&scene).await;
    let c = on_network(&scene, "c", C);
    let (at_c, _) = begun(&c).await;
    let died = Instant::now();
    scene.peers.set(A, PeerState::Refusing);
    scene.upstream.asked(2).await;
    assert!(
        died.elapsed() <= Duration::from_secs(1),
        "{:?}",
        died.elapsed()
    );
    let (first, second) = (reading(answer), reading(at_c));
    assert!(
        ended(first).await.unwrap() == zip(MIB),
        "b's client has other bytes"
    );
    assert!(
        ended(second).await.unwrap() == zip(MIB),
        "c's client has other bytes"
    );
    b.settled().await;
    c.settled().await;
    let sum = |series| b.count(series) + c.count(series);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
    assert_eq!(sum("corral_commit_total{result=\"created\"}"), 1);
    assert_eq!(sum(FREED), 1);
}

// fault: 6
// fault: 7
#[tokio::test(start_paused = true)]
async fn a_silent_holder_keeps_its_lease_until_it_ends() {
    let scene = paused_scene();
    let unit = LeaseKey::new(key(ZIP_PATH).unit()).unwrap();
    let silent = Holder {
        instance: "silent".into(),
        address: Some(A.into()),
    };
    scene.peers.set(A, PeerState::Silent);
    let ttl = Duration::from_secs(6);
    let granted = scene.leases.try_acquire(&unit, &silent, ttl).await.unwrap();
    assert!(matches!(granted, Acquire::Granted(_)));
    let b = on_network(&scene, "b", B);
    let began = Instant::now();
    let (answer, verdict) = begun(&b).await;
    let waited = began.elapsed();
    assert_eq!(verdict, Verdict::Miss);
    assert!(
        waited >= ttl && waited <= ttl + Duration::from_millis(250),
        "{waited:?}"
    );
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    assert!(scene.peers.questions(A) > 2);
    for result in ["freed", "refused", "gone", "moved", "failed"] {
        let series = format!("corral_lease_take_over_total{{result=\"{result}\"}}");
        assert_eq!(b.count(&series), 0, "{series}");
    }
}

// fault: 6
#[tokio::test(start_paused = true)]
async fn a_holder_that_falls_silent_in_the_middle_costs_the_ttl_and_no_client() {
    let scene = paused_scene();
    let (a, b, answer, gate) = relayed(&scene).await;
    scene.peers.set(A, PeerState::Silent);
    // Its lease ends: a paused process renews nothing.
    let held = lease_of_zip(&scene).await.unwrap();
    let unit = LeaseKey::new(key(ZIP_PATH).unit()).unwrap();
    scene
        .leases
        .force_release(&unit, &held.token)
        .await
        .unwrap();
    assert!(
        ended(reading(answer)).await.unwrap() == zip(MIB),
        "other bytes"
    );
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
    gate.open();
    a.settled().await;
    b.settled().await;
    assert_eq!(b.count("corral_commit_total{result=\"created\"}"), 1);
}

// fault: 18
#[tokio::test(start_paused = true)]
async fn a_holder_that_forgot_its_grant_loses_it_after_two_answers() {
    let scene = paused_scene();
    let unit = LeaseKey::new(key(INFO_PATH).unit()).unwrap();
    let restarted = Holder {
        instance: "restarted".into(),
        address: Some(A.into()),
    };
    scene.peers.set(A, PeerState::Forgetful);
    let ttl = Duration::from_secs(6);
    scene
        .leases
        .try_acquire(&unit, &restarted, ttl)
        .await
        .unwrap();
    let b = on_network(&scene, "b", B);
    let began = Instant::now();
    assert_eq!(b.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert!(
        began.elapsed() <= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!((b.count(FREED), scene.peers.questions(A)), (1, 2));
}

// fault: 33
// acceptance: G5
#[tokio::test]
async fn wrong_bytes_from_a_relay_reach_neither_the_store_nor_a_whole_body() {
    let (scene, _clock) = scene();
    scene.peers.set(A, PeerState::Corrupting);
    let (a, b, answer, gate) = relayed(&scene).await;
    gate.open();
    ended(reading(answer)).await.map(drop).unwrap_err();
    a.settled().await;
    b.settled().await;
    assert_eq!(b.count(CORRUPT), 1);
    let stored = b.read(&key(ZIP_PATH)).await.unwrap();
    assert!(stored == zip(MIB), "other bytes were stored");
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    assert!(records_of(&scene).await.is_empty());
}

// acceptance: F17
#[tokio::test]
async fn small_files_come_from_the_holder_before_they_are_stored() {
    let (scene, _clock) = scene();
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
    until("the follower to wait", || b.count(HELD) > 0).await;
    gate.open();
    for end in ends(first).await.into_iter().chain(ends(second).await) {
        assert_eq!(end.unwrap(), INFO);
    }
    assert!(lease_is_held(&scene, INFO_PATH).await);
    stores.notify_one();
    a.settled().await;
    b.settled().await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

async fn lease_is_held(scene: &Scene, path: &str) -> bool {
    let unit = LeaseKey::new(key(path).unit()).unwrap();
    scene.leases.get(&unit).await.unwrap().is_some()
}

// acceptance: A1
#[tokio::test]
async fn without_relay_followers_wait_for_the_release() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve_next(ZIP_PATH, reply);
    let a = on_network(&scene, "a", A);
    let b = scene.instance("b").config(|config| config.relay = false);
    let b = Arc::new(b.address(B).start());
    drop(begun(&a).await);
    gate.reached(1).await;
    let zip_key = key(ZIP_PATH);
    let mut waiting = Box::pin(b.get(&zip_key));
    assert!((&mut waiting).now_or_never().is_none());
    until("the follower to wait", || b.count(HELD) > 0).await;
    gate.open();
    let answer = soon("the release", waiting).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitStored);
    assert_eq!((scene.peers.relays(A), b.count(BROKEN)), (0, 0));
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}
