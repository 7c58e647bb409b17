//! Writes that fail: verified bytes are kept, served, uploaded later, and told to others.

use lease::{JobId, JobState};

use super::*;
use crate::store::{Fault, Faults, Operation};
use crate::testing::{Cut, KeptFaults, soon};
use crate::upload::Uploaded;

mod fleet;
mod limits;

const COMMITS_FAILED: &str = "corral_commit_total{result=\"failed\"}";
const SPOOLED: &str = "corral_fills_total{outcome=\"spooled\"}";

fn kept_total(result: &str) -> String {
    format!("corral_spool_kept_total{{result=\"{result}\"}}")
}

/// An instance whose store fails as the plan says.
fn failing(scene: &Scene, name: &str) -> (Arc<Instance>, Faults) {
    let faults = Faults::new();
    let builder = scene.instance(name);
    let store = scene.store.with_faults(&faults);
    (Arc::new(builder.store(store).start()), faults)
}

/// Reads `path` at an instance whose store refuses it, so that it is kept.
async fn keep(instance: &Arc<Instance>, faults: &Faults, path: &str) -> bytes::Bytes {
    faults.inject(Operation::Create, .., Fault::Refuse);
    let body = instance.read(&key(path)).await.unwrap();
    instance.settled().await;
    assert_eq!(instance.warmer.core().kept.files(), 1);
    body
}

/// Has a fill broken off while its first write hangs, once its bytes are kept.
async fn break_off(scene: &Scene, instance: &Arc<Instance>, faults: &Faults) {
    faults.inject(Operation::Create, 1..=1, Fault::Hang);
    instance.read(&key(INFO_PATH)).await.unwrap();
    let kept = &instance.warmer.core().kept;
    until("the bytes to be kept", || kept.files() == 1).await;
    break_lease(scene, INFO_PATH).await;
    instance.settled().await;
}

async fn job_of(scene: &Scene, path: &str) -> Option<lease::JobView> {
    let id = JobId::new(format!("upload:{}", key(path).unit())).unwrap();
    scene.queue.get(&id).await.unwrap()
}

/// Waits until the store has `path`.
async fn stored(scene: &Scene, path: &str) {
    soon("the object", async {
        while scene.store.lookup(path).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

fn cached_only() -> GetOptions {
    GetOptions {
        only_if_cached: true,
        ..GetOptions::default()
    }
}

// acceptance: G6
// fault: 24
#[tokio::test]
async fn what_the_store_does_not_take_is_kept_served_and_uploaded_later() {
    for path in [INFO_PATH, ZIP_PATH] {
        let (scene, _clock) = scene();
        let (instance, faults) = failing(&scene, "a");
        let body = keep(&instance, &faults, path).await;
        assert_eq!(instance.count(COMMITS_FAILED), 1);
        assert_eq!(instance.count(SPOOLED), 1);
        assert_eq!(instance.count(&kept_total("kept")), 1);
        let job = job_of(&scene, path).await.unwrap();
        assert_eq!(job.info.owner.as_deref(), Some("a"));
        assert!(matches!(job.state, JobState::Queued { .. }));
        scene.no_leases().await;
        assert!(records_of(&scene).await.is_empty());
        instance.warmer.sample_flights();
        assert_eq!(instance.count("corral_spool_kept_files"), 1);
        assert_eq!(instance.count("corral_spool_kept_bytes"), body.len() as u64);

        // While the store fails in every way: served, from here.
        faults.inject(Operation::Lookup, .., Fault::Fail);
        instance.warmer.core().hot.remove(&key(path));
        let answer = instance.get(&key(path)).await.unwrap();
        assert_eq!(answer.cache.verdict, Verdict::HitStored);
        assert!(read_answer(answer).await.unwrap() == body);
        instance.warmer.core().hot.remove(&key(path));
        let answer = instance.warmer.get(&key(path), cached_only()).await;
        assert!(read_answer(answer.unwrap()).await.unwrap() == body);
        assert_eq!(scene.upstream.fetches(path), 1);

        let core = instance.warmer.core();
        let error = core.upload(&key(path)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert_eq!(core.kept.files(), 1);

        faults.heal();
        assert_eq!(core.upload(&key(path)).await.unwrap(), Uploaded::Stored);
        assert_eq!(core.upload(&key(path)).await.unwrap(), Uploaded::Gone);
        assert_eq!((core.kept.files(), core.kept.bytes()), (0, 0));
        let stored = scene.store.lookup(path).await.unwrap().unwrap();
        assert!(stored.body.read(u64::MAX).await.unwrap() == body);
        assert!(instance.read(&key(path)).await.unwrap() == body);
        assert_eq!(scene.upstream.fetches(path), 1);
        assert_eq!(instance.count(&kept_total("uploaded")), 1);
    }
}

// acceptance: G6
#[tokio::test]
async fn a_restart_finds_what_was_kept_and_its_job() {
    for path in [INFO_PATH, ZIP_PATH] {
        let (scene, _clock) = scene();
        let (instance, faults) = failing(&scene, "a");
        let body = keep(&instance, &faults, path).await;
        instance.warmer.shutdown(Duration::ZERO).await;
        drop(instance);
        // As if the queue had lost it.
        let id = JobId::new(format!("upload:{}", key(path).unit())).unwrap();
        scene.queue.drop_job(&id).await.unwrap();

        let (instance, faults) = failing(&scene, "a");
        faults.inject(Operation::Lookup, .., Fault::Fail);
        assert!(instance.read(&key(path)).await.unwrap() == body);
        assert_eq!(scene.upstream.fetches(path), 1);
        soon("a job", async {
            while job_of(&scene, path).await.is_none() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(instance.count(&kept_total("recovered")), 1);
        faults.heal();
        let uploaded = instance.warmer.core().upload(&key(path)).await.unwrap();
        assert_eq!(uploaded, Uploaded::Stored);
        assert!(scene.store.lookup(path).await.unwrap().is_some());
    }
}

// acceptance: G6
#[tokio::test]
async fn a_job_that_nobody_would_take_is_replaced() {
    let (scene, _clock) = scene();
    let (instance, faults) = failing(&scene, "a");
    keep(&instance, &faults, INFO_PATH).await;
    instance.warmer.shutdown(Duration::ZERO).await;
    drop(instance);
    let before = job_of(&scene, INFO_PATH).await.unwrap().info;
    scene.queue.drop_job(&before.id).await.unwrap();
    let other = lease::NewJob {
        owner: Some("somebody else".into()),
        ..lease::NewJob::new(before.id.clone(), "upload", bytes::Bytes::new())
    };
    scene.queue.push(&other).await.unwrap();
    let _instance = failing(&scene, "a");
    soon("a job of ours", async {
        loop {
            let job = job_of(&scene, INFO_PATH).await;
            if job.is_some_and(|job| job.info.owner.as_deref() == Some("a")) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

// acceptance: G6
#[tokio::test]
async fn damage_found_after_a_restart_has_the_artifact_fetched_again() {
    let (scene, _clock) = scene();
    let (instance, faults) = failing(&scene, "a");
    keep(&instance, &faults, ZIP_PATH).await;
    instance.warmer.shutdown(Duration::ZERO).await;
    drop(instance);
    for entry in std::fs::read_dir(scene.kept_dir("a")).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "body")
        {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[MIB / 2] ^= 1;
            std::fs::write(&path, bytes).unwrap();
        }
    }
    let (instance, _faults) = failing(&scene, "a");
    let id = JobId::new(key(ZIP_PATH).unit()).unwrap();
    soon("a job that fetches it", async {
        while scene.queue.get(&id).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(instance.count(&kept_total("lost")), 1);
    assert_eq!(instance.warmer.core().kept.files(), 0);
    // Nothing half was served: it comes from upstream, whole.
    assert!(instance.read(&key(ZIP_PATH)).await.unwrap() == zip(MIB));
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn a_write_that_takes_long_is_kept_meanwhile() {
    let scene = paused_scene();
    let (instance, faults) = failing(&scene, "a");
    faults.inject(
        Operation::Create,
        1..=1,
        Fault::Delay(Duration::from_secs(20)),
    );
    instance.read(&key(INFO_PATH)).await.unwrap();
    let kept = &instance.warmer.core().kept;
    until("the bytes to be kept", || kept.files() == 1).await;
    // It may still be stored: others, who may store something else, must not be contradicted.
    instance.warmer.core().hot.remove(&key(INFO_PATH));
    assert!(kept.get(&key(INFO_PATH)).await.is_none());
    instance.settled().await;
    assert_eq!(kept.files(), 0);
    assert_eq!(instance.count("corral_commit_total{result=\"created\"}"), 1);
    assert!(job_of(&scene, INFO_PATH).await.is_none());
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn a_fill_that_is_broken_off_during_its_write_leaves_a_job() {
    let scene = paused_scene();
    let (instance, faults) = failing(&scene, "a");
    break_off(&scene, &instance, &faults).await;
    let kept = &instance.warmer.core().kept;
    assert!(kept.get(&key(INFO_PATH)).await.is_none());
    stored(&scene, INFO_PATH).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn what_a_broken_off_fill_kept_is_served_while_the_store_goes_on_failing() {
    let scene = paused_scene();
    let (instance, faults) = failing(&scene, "a");
    faults.inject(Operation::Create, 2.., Fault::Refuse);
    break_off(&scene, &instance, &faults).await;
    let kept = &instance.warmer.core().kept;
    until("a failed upload", || instance.count(COMMITS_FAILED) > 0).await;
    soon("the bytes", async {
        while kept.get(&key(INFO_PATH)).await.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn an_upload_whose_bytes_cannot_be_read_for_a_moment_is_no_upload_that_is_done() {
    let scene = paused_scene();
    let (faults, disk) = (Faults::new(), KeptFaults::default());
    let builder = scene.instance("a").kept(&disk);
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    let instance = Arc::new(instance);
    keep(&instance, &faults, INFO_PATH).await;
    faults.heal();
    disk.fail_reads(0, rustix::io::Errno::MFILE.raw_os_error());
    let core = instance.warmer.core();
    let error = core.upload(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    // The job comes again, and again, and the bytes are not taken for dropped.
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(core.kept.files(), 1);
    assert!(job_of(&scene, INFO_PATH).await.is_some());
    disk.heal_reads();
    stored(&scene, INFO_PATH).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
    assert_eq!(instance.count(&kept_total("uploaded")), 1);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn an_upload_waits_until_it_is_known_what_is_kept() {
    let scene = paused_scene();
    let (instance, faults) = failing(&scene, "a");
    keep(&instance, &faults, INFO_PATH).await;
    instance.warmer.shutdown(Duration::ZERO).await;
    drop(instance);
    let disk = KeptFaults::default();
    disk.hold_reads(true);
    let instance = scene.instance("a").kept(&disk).start();
    let core = instance.warmer.core().clone();
    let uploading = tokio::spawn(async move { core.upload(&key(INFO_PATH)).await });
    for _ in 0..10 {
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    let is_early = uploading.is_finished();
    // In any case: a thread that is held up would hold up the end of a test that fails.
    disk.hold_reads(false);
    assert!(!is_early);
    let uploaded = soon("an end", uploading).await.unwrap().unwrap();
    // The job of the earlier run may have been quicker.
    assert!(uploaded == Uploaded::Stored || instance.count(&kept_total("uploaded")) == 1);
    stored(&scene, INFO_PATH).await;
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn everything_is_stored_without_any_request_once_the_store_works() {
    let scene = paused_scene();
    let (instance, faults) = failing(&scene, "a");
    faults.inject(Operation::Create, .., Fault::Refuse);
    for path in [INFO_PATH, MOD_PATH, ZIP_PATH] {
        instance.read(&key(path)).await.unwrap();
    }
    instance.settled().await;
    // Many attempts, whose number is no limit for uploads.
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let failed = instance.count("corral_retry_attempts_total{kind=\"upload\",outcome=\"failed\"}");
    assert!(failed > 3 * 10, "{failed} attempts");
    assert_eq!(instance.warmer.core().kept.files(), 3);
    faults.heal();
    for path in [INFO_PATH, MOD_PATH, ZIP_PATH] {
        stored(&scene, path).await;
        assert_eq!(scene.upstream.fetches(path), 1);
    }
    until("nothing to be kept", || {
        instance.warmer.core().kept.files() == 0
    })
    .await;
    assert_eq!(instance.count(&kept_total("uploaded")), 3);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn dead_uploads_keep_their_bytes_until_somebody_wants_them_again() {
    let scene = paused_scene();
    let faults = Faults::new();
    let builder = scene
        .instance("a")
        .config(|config| config.retry.deadline = Duration::from_secs(600));
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    let instance = Arc::new(instance);
    keep(&instance, &faults, INFO_PATH).await;
    tokio::time::sleep(Duration::from_secs(1_200)).await;
    let job = job_of(&scene, INFO_PATH).await.unwrap();
    assert!(matches!(job.state, JobState::Dead { .. }), "{job:?}");
    assert_eq!(instance.warmer.core().kept.files(), 1);
    instance.warmer.core().hot.remove(&key(INFO_PATH));
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    faults.heal();
    scene.queue.requeue(&job.info.id).await.unwrap();
    stored(&scene, INFO_PATH).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
}

// fault: 26
#[tokio::test]
async fn kept_bytes_that_contradict_the_store_are_set_aside() {
    let (scene, _clock) = scene();
    let (instance, faults) = failing(&scene, "a");
    keep(&instance, &faults, INFO_PATH).await;
    faults.heal();
    let other = r#"{"Version":"v1.0.0","Time":"2025-02-03T04:05:06Z"}"#;
    let source = crate::Source::Bytes(other.into());
    scene.store.create(INFO_PATH, source).await.unwrap();
    let core = instance.warmer.core();
    let uploaded = core.upload(&key(INFO_PATH)).await.unwrap();
    assert_eq!(uploaded, Uploaded::Conflict);
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), other);
    assert_eq!(instance.count(&kept_total("conflict")), 1);
    let aside = scene.kept_dir("a").join("conflicts");
    assert_eq!(std::fs::read_dir(aside).unwrap().count(), 2);
    assert_eq!(core.upload(&key(INFO_PATH)).await.unwrap(), Uploaded::Gone);
}

// acceptance: G6
#[tokio::test]
async fn what_cannot_be_kept_either_is_forgotten_and_fetched_again() {
    let (scene, _clock) = scene();
    let (faults, disk) = (Faults::new(), KeptFaults::default());
    let builder = scene.instance("a").kept(&disk);
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    faults.inject(Operation::Create, .., Fault::Refuse);
    // Behind the three steps of noting it.
    disk.cut_at(3, Cut::Fail);
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    instance.settled().await;
    assert_eq!(instance.count(&kept_total("failed")), 1);
    assert_eq!(
        instance.count("corral_fills_total{outcome=\"uncommitted\"}"),
        1
    );
    assert!(instance.warmer.hot(&key(INFO_PATH)).is_none());
    scene.no_leases().await;
    let id = JobId::new(key(INFO_PATH).unit()).unwrap();
    let job = scene.queue.get(&id).await.unwrap().unwrap();
    assert_eq!(&*job.info.kind, "fetch");
    faults.heal();
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn bytes_whose_job_an_operator_drops_go_with_it() {
    let scene = paused_scene();
    let (instance, faults) = failing(&scene, "a");
    keep(&instance, &faults, INFO_PATH).await;
    let job = job_of(&scene, INFO_PATH).await.unwrap();
    scene.queue.drop_job(&job.info.id).await.unwrap();
    let kept = &instance.warmer.core().kept;
    until("the bytes to go", || kept.files() == 0).await;
    assert_eq!(instance.count(&kept_total("dropped")), 1);
    assert!(job_of(&scene, INFO_PATH).await.is_none());
    assert_eq!(std::fs::read_dir(scene.kept_dir("a")).unwrap().count(), 0);
}
