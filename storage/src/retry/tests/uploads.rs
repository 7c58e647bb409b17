//! Jobs that upload what the store did not take.

use lease::JobState;
use lease::testing::{Fault as QueueFault, FaultyQueue, QueueOp};
use tokio::time::Instant;

use super::*;
use crate::store::{Fault, Faults, Operation};

const UPLOADS: usize = 20;

/// An instance whose store takes nothing, and which keeps [`UPLOADS`] files for it.
async fn keeping(scene: &Scene, change: impl FnOnce(&mut WarmerConfig)) -> (Arc<Instance>, Faults) {
    let faults = Faults::new();
    faults.inject(Operation::Create, .., Fault::Refuse);
    let builder = scene.instance("a").config(change);
    let store = scene.store.with_faults(&faults);
    let instance = Arc::new(builder.store(store).start());
    for index in 0..UPLOADS {
        let (path, body) = info_of(&format!("m{index}"));
        scene.upstream.serve(&path, Reply::body(body));
        assert_eq!(instance.read(&key(&path)).await.unwrap(), body);
    }
    instance.settled().await;
    (instance, faults)
}

async fn all_stored(scene: &Scene) {
    for index in 0..UPLOADS {
        stored(scene, &info_of(&format!("m{index}")).0).await;
    }
}

// acceptance: G6; fault: 24
#[tokio::test(start_paused = true)]
async fn uploads_wait_for_the_store_and_the_first_that_succeeds_hurries_the_others() {
    let scene = paused_scene();
    let (instance, faults) = keeping(&scene, |config| config.retry.attempts_max = 2).await;
    // Far more failures than a fetch may have, and delays that have grown to their longest.
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(ran(&instance, "upload", "failed") > 2 * UPLOADS as u64);
    assert_eq!(ran(&instance, "upload", "dead"), 0);
    for job in jobs(&scene, false).await {
        assert!(job.info.id.as_str().starts_with("upload:"));
        if let JobState::Queued { due_in } = job.state {
            assert!(due_in <= Duration::from_secs(60));
        }
    }
    faults.heal();
    until("the first", || ran(&instance, "upload", "done") > 0).await;
    let first = Instant::now();
    until("all", || ran(&instance, "upload", "done") == UPLOADS as u64).await;
    assert!(
        first.elapsed() < Duration::from_secs(3),
        "{:?}",
        first.elapsed()
    );
    all_stored(&scene).await;
    no_jobs(&scene).await;
    // Nobody asked upstream for them again.
    assert_eq!(scene.upstream.fetches_in_all(), UPLOADS);
}

/// Waits until `count` uploads were done, however long their pauses are.
async fn uploaded(instance: &Instance, count: usize) {
    let began = Instant::now();
    while ran(instance, "upload", "done") < count as u64 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(began.elapsed() < Duration::from_secs(7_200));
    }
}

// acceptance: G6; fault: 24
#[tokio::test(start_paused = true)]
async fn uploads_that_fail_beside_one_that_succeeds_keep_their_pauses_for_a_while() {
    for fault in [None, Some(QueueFault::Hangs)] {
        let mut scene = paused_scene();
        let queue = Arc::new(FaultyQueue::new(scene.queue.clone(), scene.clock.clone()));
        scene.queue = queue.clone();
        let (instance, faults) = keeping(&scene, |_| {}).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let ordered = queue.calls(QueueOp::Order);
        if let Some(fault) = fault {
            queue.next(QueueOp::Order, 1, fault);
        }
        faults.heal();
        let calls = faults.calls(Operation::Create);
        for call in (calls + 1..calls + 1_000).filter(|call| call % 10 != 0) {
            faults.inject(Operation::Create, call..=call, Fault::Refuse);
        }
        uploaded(&instance, 1).await;
        tokio::time::sleep(Duration::from_secs(25)).await;
        // Each of the others once, although more have succeeded since.
        let hurried = queue.calls(QueueOp::Order) - ordered;
        assert!((1..UPLOADS as u64).contains(&hurried), "{hurried}");
        // A queue that does not answer costs nobody more than the hurry.
        uploaded(&instance, UPLOADS).await;
        no_jobs(&scene).await;
    }
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn an_upload_that_is_given_up_keeps_its_bytes_for_another_life() {
    let scene = paused_scene();
    let (instance, faults) = keeping(&scene, |config| {
        config.retry.deadline = Duration::from_secs(300);
    })
    .await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    assert_eq!(ran(&instance, "upload", "dead"), UPLOADS as u64);
    no_jobs(&scene).await;
    faults.heal();
    tokio::time::sleep(Duration::from_secs(400)).await;
    let (path, body) = info_of("m0");
    assert!(scene.store.lookup(&path).await.unwrap().is_none());
    assert_eq!(instance.read(&key(&path)).await.unwrap(), body);
    for job in jobs(&scene, true).await {
        scene.queue.requeue(&job.info.id).await.unwrap();
    }
    all_stored(&scene).await;
    assert_eq!(scene.upstream.fetches_in_all(), UPLOADS);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn a_fetch_whose_bytes_are_kept_is_done_for_its_job() {
    let scene = paused_scene();
    let faults = Faults::new();
    faults.inject(Operation::Create, .., Fault::Refuse);
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let builder = scene.instance("a").config(|config| config.retries = 0);
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    until("the job", || ran(&instance, "fetch", "done") == 1).await;
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
    faults.heal();
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// acceptance: B16; fault: 24
#[tokio::test(start_paused = true)]
async fn downloads_that_can_be_neither_stored_nor_kept_are_given_up() {
    let scene = paused_scene();
    let faults = Faults::new();
    faults.inject(Operation::Create, .., Fault::Refuse);
    scene.upstream.serve_next(ZIP_PATH, Reply::failure());
    scene.upstream.serve(ZIP_PATH, Reply::body(zip(MIB)));
    let builder = scene.instance("a").config(|config| {
        config.retries = 0;
        config.retry.attempts_max = 4;
    });
    let builder = builder.spool_limits(|limits| limits.kept_percent_max = 0);
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    instance.read(&key(ZIP_PATH)).await.unwrap_err();
    until("the job's end", || ran(&instance, "fetch", "dead") == 1).await;
    assert_eq!(ran(&instance, "fetch", "failed"), 3);
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1 + 4);
}

// acceptance: B16; fault: 24
#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_read_costs_a_job_no_life_and_upstream_nothing() {
    let scene = paused_scene();
    let faults = Faults::new();
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let builder = scene.instance("a").config(|config| {
        config.retries = 0;
        config.retry.attempts_max = 2;
    });
    let instance = builder.store(scene.store.with_faults(&faults)).start();
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    faults.inject(Operation::Lookup, .., Fault::Refuse);
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    assert!(ran(&instance, "fetch", "failed") > 60);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
    faults.heal();
    // It is looked at once a minute.
    tokio::time::sleep(Duration::from_secs(60)).await;
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(ran(&instance, "fetch", "dead"), 0);
}
