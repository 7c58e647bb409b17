//! Others relay from the instance that keeps what the store did not take.

use super::*;

const A: &str = "a.internal:1";
const B: &str = "b.internal:1";
const WHOLE: &str = "corral_relay_total{result=\"whole\"}";

/// An instance on the network whose store fails as the plan says.
fn on_network(scene: &Scene, name: &str, address: &str) -> (Arc<Instance>, Faults) {
    let faults = Faults::new();
    let builder = scene.instance(name).address(address);
    let store = scene.store.with_faults(&faults);
    (Arc::new(builder.store(store).start()), faults)
}

// acceptance: G6
// fault: 24
#[tokio::test]
async fn another_instance_relays_from_the_one_that_keeps_it() {
    for path in [INFO_PATH, ZIP_PATH] {
        let (scene, _clock) = scene();
        let (a, faults) = on_network(&scene, "a", A);
        let (b, faults_of_b) = on_network(&scene, "b", B);
        let body = keep(&a, &faults, path).await;
        let records = records_of(&scene).await;
        assert_eq!(records.len(), 1);
        assert!(
            records[0]
                .1
                .starts_with(r#"{"kind":"spooled","address":"a.internal:1""#),
            "{records:?}"
        );
        // Also when its own look at the store fails.
        faults_of_b.inject(Operation::Lookup, .., Fault::Fail);
        let answer = soon("an answer", b.get(&key(path))).await.unwrap();
        assert!(read_answer(answer).await.unwrap() == body);
        b.settled().await;
        assert_eq!(scene.upstream.fetches(path), 1);
        assert_eq!(b.count(WHOLE), 1);
        let again = b.get(&key(path)).await.unwrap();
        assert_eq!(again.cache.verdict, Verdict::HitMemory);
        // It stores nothing itself.
        assert_eq!(faults_of_b.calls(Operation::Create), 0);
        assert_eq!(b.warmer.core().kept.files(), 0);
        scene.no_leases().await;

        faults.heal();
        faults_of_b.heal();
        let uploaded = a.warmer.core().upload(&key(path)).await;
        assert_eq!(uploaded.unwrap(), Uploaded::Stored);
        assert!(records_of(&scene).await.is_empty());
        b.warmer.core().hot.remove(&key(path));
        let answer = b.get(&key(path)).await.unwrap();
        assert_eq!(answer.cache.verdict, Verdict::HitStored);
    }
}

// acceptance: G6
#[tokio::test]
async fn followers_who_wait_are_told_and_have_it_all() {
    let (scene, _clock) = scene();
    let (a, faults) = on_network(&scene, "a", A);
    let (b, faults_of_b) = on_network(&scene, "b", B);
    faults.inject(Operation::Create, .., Fault::Refuse);
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve(ZIP_PATH, reply);
    let at_a = crowd(&a, &key(ZIP_PATH), 3).await;
    gate.reached(1).await;
    let at_b = crowd(&b, &key(ZIP_PATH), 3).await;
    gate.open();
    for end in ends(at_a).await.into_iter().chain(ends(at_b).await) {
        assert!(end.unwrap() == zip(MIB));
    }
    a.settled().await;
    b.settled().await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    assert_eq!(faults_of_b.calls(Operation::Create), 0);
    assert!(b.warmer.hot(&key(ZIP_PATH)).is_some());
    scene.no_leases().await;
}

// acceptance: G6
#[tokio::test]
async fn an_instance_that_does_not_answer_is_as_if_it_had_kept_nothing() {
    for state in [PeerState::Refusing, PeerState::Forgetful] {
        let (scene, _clock) = scene();
        let (a, faults) = on_network(&scene, "a", A);
        let (b, _) = on_network(&scene, "b", B);
        let body = keep(&a, &faults, ZIP_PATH).await;
        scene.peers.set(A, state);
        assert!(soon("an answer", b.read(&key(ZIP_PATH))).await.unwrap() == body);
        b.settled().await;
        assert_eq!(scene.upstream.fetches(ZIP_PATH), 2, "{state:?}");
        assert!(scene.store.lookup(ZIP_PATH).await.unwrap().is_some());
        // The one that kept it finds it stored.
        faults.heal();
        let uploaded = a.warmer.core().upload(&key(ZIP_PATH)).await;
        assert_eq!(uploaded.unwrap(), Uploaded::Stored);
        scene.no_leases().await;
    }
}

// acceptance: G6
#[tokio::test]
async fn an_absence_does_not_hide_what_an_instance_keeps() {
    let (scene, _clock) = scene();
    let (a, faults) = on_network(&scene, "a", A);
    let (b, _) = on_network(&scene, "b", B);
    let body = keep(&a, &faults, ZIP_PATH).await;
    // Upstream no longer has it, and whoever asks cannot reach the keeper for a moment.
    scene
        .upstream
        .serve(ZIP_PATH, Reply::not_found(false, "no such version"));
    scene.peers.set(A, PeerState::Refusing);
    let error = soon("an answer", b.read(&key(ZIP_PATH))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    b.settled().await;
    scene.peers.set(A, PeerState::Up);
    let (c, _) = on_network(&scene, "c", "c.internal:1");
    assert!(soon("an answer", c.read(&key(ZIP_PATH))).await.unwrap() == body);
}

// acceptance: G6
#[tokio::test]
async fn bytes_that_arrive_wrong_are_not_believed() {
    let (scene, _clock) = scene();
    let (a, faults) = on_network(&scene, "a", A);
    let (b, _) = on_network(&scene, "b", B);
    keep(&a, &faults, MOD_PATH).await;
    keep_zip_too(&a).await;
    scene.peers.set(A, PeerState::Corrupting);
    // Clients who had some of it are cut; the next one has it from upstream.
    let _ = soon("an end", b.read(&key(ZIP_PATH))).await;
    b.settled().await;
    assert_eq!(b.count("corral_relay_total{result=\"corrupt\"}"), 1);
    assert!(soon("an answer", b.read(&key(ZIP_PATH))).await.unwrap() == zip(MIB));
    b.settled().await;
    scene.no_leases().await;
}

async fn keep_zip_too(instance: &Arc<Instance>) {
    instance.read(&key(ZIP_PATH)).await.unwrap();
    instance.settled().await;
    assert_eq!(instance.warmer.core().kept.files(), 2);
}

// acceptance: G6
#[tokio::test]
async fn a_restarted_instance_tells_its_new_address() {
    const A_AGAIN: &str = "a.internal:2";
    let (scene, _clock) = scene();
    let (a, faults) = on_network(&scene, "a", A);
    let body = keep(&a, &faults, ZIP_PATH).await;
    a.warmer.shutdown(Duration::ZERO).await;
    drop(a);
    scene.peers.set(A, PeerState::Refusing);
    let (_a, faults) = on_network(&scene, "a", A_AGAIN);
    faults.inject(Operation::Create, .., Fault::Refuse);
    soon("the new record", async {
        while !records_of(&scene).await[0].1.contains(A_AGAIN) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (b, _) = on_network(&scene, "b", B);
    assert!(soon("an answer", b.read(&key(ZIP_PATH))).await.unwrap() == body);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}
