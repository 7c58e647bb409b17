//! Memory, store, upstream: what is asked when, and what is kept where.

use prometheus_client::registry::Registry;

use super::*;
use crate::store::StoreOptions;

// acceptance: E1, E11
#[tokio::test]
async fn each_tier_answers_before_the_next_and_is_filled_from_it() {
    let (scene, _clock) = scene();
    let verdict = async |instance: &Instance| {
        let answer = instance.get(&key(MOD_PATH)).await.unwrap();
        assert_eq!(read_answer(answer.clone()).await.unwrap(), MOD);
        instance.settled().await;
        answer.cache.verdict
    };
    let a = scene.instance("a").start();
    assert_eq!(verdict(&a).await, Verdict::Miss);
    assert_eq!(verdict(&a).await, Verdict::HitMemory);
    let restarted = scene.instance("a").start();
    assert_eq!(verdict(&restarted).await, Verdict::HitStored);
    assert_eq!(verdict(&restarted).await, Verdict::HitMemory);
    assert_eq!(scene.upstream.fetches(MOD_PATH), 1);
}

// acceptance: A22
#[tokio::test]
async fn an_entry_too_large_for_memory_counts_and_is_served_all_the_same() {
    let (scene, _clock) = scene();
    let instance = scene.instance("a").hot(MIB as u64, 30).start();
    for verdict in [Verdict::Miss, Verdict::HitStored, Verdict::HitStored] {
        let answer = instance.get(&key(INFO_PATH)).await.unwrap();
        assert_eq!(answer.cache.verdict, verdict);
        assert_eq!(read_answer(answer).await.unwrap(), INFO);
        instance.settled().await;
    }
    assert_eq!(instance.count("corral_lru_oversized_total"), 3);
    assert!(instance.warmer.hot(&key(INFO_PATH)).is_none());
    // One that fits stands beside it.
    instance.read(&key(MOD_PATH)).await.unwrap();
    assert!(instance.warmer.hot(&key(MOD_PATH)).is_some());
}

// acceptance: A10
#[tokio::test]
async fn the_bytes_in_memory_are_sampled_at_the_interval_without_any_eviction() {
    let (scene, clock) = scene();
    let instance = scene.instance("a").start();
    let series = "corral_lru_bytes";
    // The sampler has taken its first sample and sleeps.
    tokio::task::yield_now().await;
    instance.read(&key(INFO_PATH)).await.unwrap();
    instance.settled().await;
    clock.advance(Duration::from_millis(9_999));
    tokio::task::yield_now().await;
    assert_eq!(instance.count(series), 0);
    clock.advance(Duration::from_millis(1));
    until("a sample", || instance.count(series) > INFO.len() as u64).await;
    assert_eq!(instance.count("corral_lru_eviction_total"), 0);
}

#[tokio::test]
async fn what_memory_has_no_room_for_is_evicted_and_counted() {
    let (scene, _clock) = scene();
    let instance = scene.instance("a").hot(16 << 10, 16 << 10).start();
    for number in 0..200 {
        let path = format!("example.com/m/@v/v1.{number}.0.mod");
        scene.upstream.serve(&path, Reply::body(MOD));
        instance.read(&key(&path)).await.unwrap();
    }
    instance.settled().await;
    assert!(instance.count("corral_lru_eviction_total") > 0);
}

// acceptance: A17
// acceptance: F5
// protocol: H16
#[tokio::test]
async fn without_leave_to_fetch_only_what_is_stored_is_served() {
    let (scene, _clock) = scene();
    let instance = scene.instance("a").start();
    let offline = scene
        .instance("offline")
        .config(|config| config.offline = true)
        .start();
    let only_if_cached = GetOptions {
        only_if_cached: true,
        ..GetOptions::default()
    };
    let fetch_disabled = GetOptions {
        fetch_disabled: true,
        ..GetOptions::default()
    };
    let asked = [
        (&instance, only_if_cached, ErrorKind::NotStored),
        (&instance, fetch_disabled, ErrorKind::FetchDisabled),
        (&offline, GetOptions::default(), ErrorKind::FetchDisabled),
    ];
    for (instance, options, kind) in &asked {
        let error = instance.warmer.get(&key(MOD_PATH), *options).await;
        assert_eq!(error.unwrap_err().kind(), *kind);
    }
    assert_eq!(scene.upstream.fetches_in_all(), 0);
    scene
        .instance("b")
        .start()
        .read(&key(MOD_PATH))
        .await
        .unwrap();
    scene.no_leases().await;
    for (instance, options, _) in &asked {
        let answer = instance.warmer.get(&key(MOD_PATH), *options).await;
        assert_eq!(read_answer(answer.unwrap()).await.unwrap(), MOD);
    }
    assert_eq!(scene.upstream.fetches_in_all(), 1);
}

// acceptance: A15
#[tokio::test(flavor = "multi_thread")]
async fn an_embedder_makes_a_warmer_from_parts_of_its_own() {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock);
    let mut registry = Registry::with_prefix("corral");
    let metrics = StorageMetrics::new(&mut registry);
    let dir = tempfile::tempdir().unwrap();
    let upstream = FakeUpstream::new("own");
    upstream.serve(INFO_PATH, Reply::body(INFO));
    let limits = crate::SpoolLimits::default();
    let spool = Spool::open(&dir.path().join("spool"), limits).unwrap();
    let parts = WarmerParts {
        store: Arc::new(ArtifactStore::open("memory://", StoreOptions::default()).unwrap()),
        upstream,
        kept: Kept::open(dir.path().join("kept"), &spool),
        spool,
        keeper: LeaseKeeper::unobserved(
            Arc::new(lease::LocalLeases::new(clock.clone())),
            clock.clone(),
            lease::LeaseConfig::default(),
            Handle::current(),
        )
        .unwrap(),
        records: Arc::new(lease::LocalRecords::new(clock.clone())),
        queue: Arc::new(lease::LocalQueue::in_memory(
            lease::QueueLimits::default(),
            clock.clone(),
        )),
        worker: "embedder".into(),
        holder: Holder {
            instance: "embedder".into(),
            address: None,
        },
        peers: Arc::new(crate::NoPeers),
        clock,
        metrics: metrics.clone(),
        runtime: Handle::current(),
    };
    let hot = HotTier::new(1 << 20, 1 << 18, &metrics);
    let artifacts: Arc<dyn Artifacts> = Arc::new(Warmer::new(parts, WarmerConfig::default(), hot));
    let answer = artifacts.get(&key(INFO_PATH), GetOptions::default()).await;
    assert_eq!(read_answer(answer.unwrap()).await.unwrap(), INFO);
}

// protocol: M02
// protocol: M03
// acceptance: G7
#[tokio::test]
async fn one_file_neither_waits_for_another_nor_fails_with_it() {
    let (scene, _clock) = scene();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).head_held(&Gate::new()));
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let builder = scene.instance("a").config(|config| config.retries = 0);
    let instance = Arc::new(builder.start());
    let waiting = crowd(&instance, &key(ZIP_PATH), 1).await;
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(instance.read(&key(MOD_PATH)).await.unwrap(), MOD);
    assert!(!waiting[0].is_finished());
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}
