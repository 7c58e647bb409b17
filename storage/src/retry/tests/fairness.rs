//! Many jobs: that bad ones hold up nobody, and that clients never wait for them.

use lease::NewJob;
use lease::testing::{FaultyQueue, QueueOp};
use tokio::time::Instant;

use super::*;

/// Puts a job for `path` into the queue, due now.
async fn queue_job(scene: &Scene, path: &str) {
    let payload = format!("{{\"v\":1,\"path\":\"{path}\"}}");
    let id = JobId::new(key(path).unit()).unwrap();
    let job = NewJob::new(id, "fetch", payload.into());
    scene.queue.push(&job).await.unwrap();
}

/// Gives all jobs in the queue a failed attempt.
async fn fail_once(scene: &Scene) {
    let visibility = Duration::from_secs(60);
    for job in scene.queue.take("w", 1_000, visibility).await.unwrap() {
        let history = "#1 it hung";
        let back = scene.queue.retry(&job.receipt, Duration::ZERO, history);
        back.await.unwrap();
    }
}

// acceptance: B16; fault: 38
#[tokio::test(start_paused = true)]
async fn jobs_that_hang_hold_up_no_other_job() {
    let scene = paused_scene();
    let never = Gate::new();
    // More than wait for a slot, so some must be put back to find the good ones behind them.
    for index in 0..200 {
        let (path, body) = info_of(&format!("poison{index}"));
        queue_job(&scene, &path).await;
        scene
            .upstream
            .serve(&path, Reply::body(body).head_held(&never));
    }
    fail_once(&scene).await;
    for index in 0..50 {
        let (path, body) = info_of(&format!("good{index}"));
        queue_job(&scene, &path).await;
        scene.upstream.serve(&path, Reply::body(body));
    }
    let began = Instant::now();
    let instance = started(&scene, "a");
    soon("the good ones", async {
        while ran(&instance, "fetch", "done") < 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    // Far below the time that the hanging ones need to give up, and they have half of the slots.
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(scene.upstream.under_way(), 8);
    assert!(ran(&instance, "fetch", "put_back") > 0);
}

// fault: 38
#[tokio::test(start_paused = true)]
async fn panics_and_failures_hold_up_no_other_job() {
    let scene = paused_scene();
    for index in 0..40 {
        let (path, body) = info_of(&format!("m{index}"));
        queue_job(&scene, &path).await;
        let reply = match index % 4 {
            0 => Reply::panic(),
            1 => Reply::failure(),
            _ => Reply::body(body),
        };
        scene.upstream.serve(&path, reply);
    }
    let instance = started_with(&scene, "a", |config| {
        config.retry.attempts_max = 3;
        config.retry.concurrency_max = 2;
    });
    until("the bad ones' end", || {
        ran(&instance, "fetch", "dead") == 20
    })
    .await;
    assert_eq!(ran(&instance, "fetch", "done"), 20);
    no_jobs(&scene).await;
    assert_eq!(scene.queue.stats().await.unwrap().dead, 20);
    for index in 0..40 {
        let attempts = if index % 4 < 2 { 3 } else { 1 };
        let (path, _) = info_of(&format!("m{index}"));
        assert_eq!(scene.upstream.fetches(&path), attempts, "{path}");
    }
}

// acceptance: A23
#[tokio::test(start_paused = true)]
async fn no_client_waits_for_a_jobs_slot_and_jobs_have_few() {
    let scene = paused_scene();
    let never = Gate::new();
    for index in 0..20 {
        let (path, body) = info_of(&format!("job{index}"));
        queue_job(&scene, &path).await;
        scene
            .upstream
            .serve(&path, Reply::body(body).head_held(&never));
    }
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started_with(&scene, "a", |config| {
        config.retry.concurrency_max = 16;
        // A quarter of it is less than what is configured.
        config.flights.flights_max = 12;
    });
    scene.upstream.asked(3).await;
    let began = Instant::now();
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    assert!(began.elapsed() < Duration::from_secs(1));
    // The client's fetch and three jobs; the other jobs are not taken.
    assert_eq!(scene.upstream.fetches_in_all(), 4);
    assert_eq!(scene.queue.stats().await.unwrap().taken, 3);
}

// acceptance: A23
#[tokio::test(start_paused = true)]
async fn jobs_that_find_no_room_are_not_taken_again_and_again() {
    let mut scene = paused_scene();
    let queue = Arc::new(FaultyQueue::new(scene.queue.clone(), scene.clock.clone()));
    scene.queue = queue.clone();
    let gate = Gate::new();
    let instance = started_with(&scene, "a", |config| {
        config.flights.flights_max = 8;
        config.wait_max = Duration::from_secs(600);
    });
    let clients: Vec<_> = (0..8)
        .map(|index| {
            let (path, body) = info_of(&format!("client{index}"));
            let reply = Reply::body(body).head_held(&gate);
            scene.upstream.serve(&path, reply);
            let instance = instance.clone();
            tokio::spawn(async move { instance.read(&key(&path)).await })
        })
        .collect();
    scene.upstream.asked(8).await;
    for index in 0..100 {
        let (path, body) = info_of(&format!("job{index}"));
        scene.upstream.serve(&path, Reply::body(body));
        queue_job(&scene, &path).await;
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(ran(&instance, "fetch", "put_back") > 0);
    let taken = queue.calls(QueueOp::Take);
    assert!(taken <= 62, "{taken}");
    gate.open();
    for client in clients {
        client.await.unwrap().unwrap();
    }
    no_jobs(&scene).await;
    until("the jobs", || ran(&instance, "fetch", "done") == 100).await;
}

// acceptance: A23
#[tokio::test]
async fn a_full_queue_costs_a_counter_and_no_client() {
    let (mut scene, clock) = still_scene();
    let limits = lease::QueueLimits {
        jobs_max: 2,
        ..lease::QueueLimits::default()
    };
    scene.queue = Arc::new(lease::LocalQueue::in_memory(limits, Arc::new(clock)));
    let instance = started(&scene, "a");
    for index in 0..5 {
        let (path, _) = info_of(&format!("m{index}"));
        scene.upstream.serve(&path, Reply::failure());
        let error = instance.read(&key(&path)).await.unwrap_err();
        assert_eq!(error.to_string(), "upstream fake failed: status 500");
    }
    assert_eq!(
        (pushed(&instance, "queued"), pushed(&instance, "full")),
        (2, 3)
    );
    // What runs beside it goes on.
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn ten_thousand_jobs_drain_within_a_minute() {
    let scene = paused_scene();
    for index in 0..10_000 {
        let (path, body) = info_of(&format!("m{index}"));
        scene.upstream.serve(&path, Reply::body(body));
        queue_job(&scene, &path).await;
    }
    let began = Instant::now();
    let instance = started(&scene, "a");
    no_jobs(&scene).await;
    // By the paused clock, which runs only while all wait for something: for a poll, say.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    until("all to be counted", || {
        ran(&instance, "fetch", "done") == 10_000
    })
    .await;
    assert_eq!(scene.upstream.fetches_in_all(), 10_000);
}

// acceptance: G6
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_on_a_disk_drain_as_well_and_a_restart_finds_those_that_are_left() {
    const JOBS: usize = 1_000;
    let mut scene = Scene::on_disk(Arc::new(TokioClock));
    let file = scene.path("queue/queue.redb");
    let open = async || {
        let limits = lease::QueueLimits::default();
        let queue = lease::LocalQueue::open(file.clone(), limits, Arc::new(TokioClock));
        Arc::new(queue.await)
    };
    let queue = open().await;
    scene.queue = queue.clone();
    for index in 0..JOBS {
        let (path, body) = info_of(&format!("m{index}"));
        scene.upstream.serve(&path, Reply::body(body));
        queue_job(&scene, &path).await;
    }
    let began = Instant::now();
    let first = started(&scene, "a");
    until("half of them", || {
        ran(&first, "fetch", "done") >= JOBS as u64 / 2
    })
    .await;
    first.warmer.shutdown(Duration::ZERO).await;
    let done = ran(&first, "fetch", "done");
    queue.close().await;
    scene.queue = open().await;
    let stats = scene.queue.stats().await.unwrap();
    assert_eq!(stats.queued as u64, JOBS as u64 - done, "{stats:?}");
    let second = started(&scene, "a");
    // An end is counted a moment after the queue has heard of it.
    until("the others", || {
        done + ran(&second, "fetch", "done") == JOBS as u64
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(60));
    no_jobs(&scene).await;
    assert_eq!(scene.upstream.fetches_in_all(), JOBS);
}
