//! A queue that does not answer, instances that stop, and several that share one queue.

use lease::JobState;
use lease::testing::{Fault, FaultyQueue, QueueOp};
use tokio::time::Instant;

use super::*;

fn faulty(scene: &mut Scene) -> Arc<FaultyQueue> {
    let queue = Arc::new(FaultyQueue::new(scene.queue.clone(), scene.clock.clone()));
    scene.queue = queue.clone();
    queue
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_queue_that_takes_nothing_delays_no_client_for_long_and_fails_none() {
    for fault in [Fault::Fails, Fault::Hangs, Fault::Garbles] {
        let mut scene = paused_scene();
        faulty(&mut scene).next(QueueOp::Push, 1, fault);
        scene.upstream.serve(INFO_PATH, Reply::failure());
        let instance = started(&scene, "a");
        let began = Instant::now();
        let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert_eq!(error.to_string(), "upstream fake failed: status 500");
        assert!(began.elapsed() <= Duration::from_millis(2_010));
        assert_eq!(pushed(&instance, "failed"), 1);
    }
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_queue_that_fails_now_and_then_loses_no_job() {
    let mut scene = paused_scene();
    let queue = faulty(&mut scene);
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started(&scene, "a");
    for op in [
        QueueOp::NextDue,
        QueueOp::Take,
        QueueOp::Retry,
        QueueOp::Ack,
    ] {
        queue.next(op, 2, Fault::Fails);
    }
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 3);
    assert_eq!(ran(&instance, "fetch", "done"), 1);
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn an_end_that_the_queue_never_heard_of_costs_a_look_and_no_fetch() {
    let mut scene = paused_scene();
    let queue = faulty(&mut scene);
    queue.next(QueueOp::Ack, 3, Fault::Fails);
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started(&scene, "a");
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    stored(&scene, INFO_PATH).await;
    // It comes back when its visibility timeout ends.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(scene.queue.stats().await.unwrap().taken, 1);
    tokio::time::sleep(Duration::from_secs(40)).await;
    no_jobs(&scene).await;
    assert_eq!(queue.calls(QueueOp::Ack), 4);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn an_idle_worker_asks_at_most_once_a_second() {
    let mut scene = paused_scene();
    let queue = faulty(&mut scene);
    let _instance = started(&scene, "a");
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = queue.calls(QueueOp::NextDue);
    assert!((55..=61).contains(&asked), "{asked}");
    assert_eq!(queue.calls(QueueOp::Take), 0);
    // One that does not answer is asked no more often.
    queue.always(Some(Fault::Fails));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(queue.calls(QueueOp::NextDue) <= asked + 61);
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_queue_that_never_answers_holds_up_no_shutdown() {
    for op in [QueueOp::NextDue, QueueOp::Take, QueueOp::Retry] {
        let mut scene = paused_scene();
        let queue = faulty(&mut scene);
        scene.upstream.serve(INFO_PATH, Reply::failure());
        let instance = started(&scene, "a");
        queue.next(op, usize::from(u16::MAX), Fault::Hangs);
        instance.read(&key(INFO_PATH)).await.unwrap_err();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let stopping = instance.warmer.shutdown(Duration::from_secs(1));
        let bound = Duration::from_secs(12);
        tokio::time::timeout(bound, stopping).await.unwrap();
    }
}

// acceptance: B16; fault: 8
#[tokio::test(start_paused = true)]
async fn a_long_job_is_kept_and_not_done_twice() {
    let scene = paused_scene();
    let gate = Gate::new();
    scene.upstream.serve_next(ZIP_PATH, Reply::failure());
    let reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
    scene.upstream.serve(ZIP_PATH, reply);
    let instances = [started(&scene, "a"), started(&scene, "b")];
    instances[0].read(&key(ZIP_PATH)).await.unwrap_err();
    scene.upstream.asked(2).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    let job = job_of(&scene, ZIP_PATH).await.unwrap();
    assert!(matches!(job.state, JobState::Taken { .. }));
    assert_eq!(job.info.attempts, 1);
    gate.open();
    no_jobs(&scene).await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
    let done: u64 = instances.iter().map(|i| ran(i, "fetch", "done")).sum();
    assert_eq!(done, 1);
}

// acceptance: B16, G6
#[tokio::test(start_paused = true)]
async fn an_instance_that_stops_gives_its_jobs_back_at_once_and_another_does_them() {
    let scene = paused_scene();
    let never = Gate::new();
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene
        .upstream
        .serve_next(INFO_PATH, Reply::body(INFO).head_held(&never));
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let a = started(&scene, "a");
    a.read(&key(INFO_PATH)).await.unwrap_err();
    scene.upstream.asked(2).await;
    let began = Instant::now();
    // Nobody but the job waits for that flight, so it does not use up the patience.
    a.warmer.shutdown(Duration::from_secs(10)).await;
    assert!(
        began.elapsed() < Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let job = job_of(&scene, INFO_PATH).await.unwrap();
    assert!(matches!(job.state, JobState::Queued { due_in } if due_in.is_zero()));
    assert_eq!(ran(&a, "fetch", "put_back"), 1);
    let b = started(&scene, "b");
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(ran(&b, "fetch", "done"), 1);
    scene.no_leases().await;
}

// fault: 36
#[tokio::test(start_paused = true)]
async fn a_fetch_that_a_shutdown_cuts_short_becomes_a_job() {
    let scene = paused_scene();
    let never = Gate::new();
    let reply = Reply::body(INFO).head_held(&never);
    scene.upstream.serve_next(INFO_PATH, reply);
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let a = started(&scene, "a");
    let client = {
        let a = a.clone();
        tokio::spawn(async move { a.read(&key(INFO_PATH)).await })
    };
    scene.upstream.asked(1).await;
    assert_eq!(a.warmer.shutdown(Duration::from_secs(1)).await, 1);
    assert_eq!(
        client.await.unwrap().unwrap_err().kind(),
        ErrorKind::Interrupted
    );
    assert_eq!(pushed(&a, "queued"), 1);
    let _b = started(&scene, "b");
    stored(&scene, INFO_PATH).await;
}

// fault: 36
#[tokio::test(start_paused = true)]
async fn a_shutdown_in_the_middle_of_a_push_loses_no_job() {
    let mut scene = paused_scene();
    let queue = faulty(&mut scene);
    queue.next(QueueOp::Push, 1, Fault::Hangs);
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started(&scene, "a");
    let client = {
        let instance = instance.clone();
        tokio::spawn(async move { instance.read(&key(INFO_PATH)).await })
    };
    until("the push", || queue.calls(QueueOp::Push) == 1).await;
    instance.warmer.shutdown(Duration::ZERO).await;
    client.await.unwrap().unwrap_err();
    assert_eq!(pushed(&instance, "queued"), 1);
    assert!(job_of(&scene, INFO_PATH).await.is_some());
}

// acceptance: B14, B16; fault: 28
#[tokio::test(start_paused = true)]
async fn a_fleet_makes_one_job_of_one_failure_and_one_instance_does_it() {
    let scene = paused_scene();
    let gate = Gate::new();
    let held = Reply::failure().head_held(&gate);
    scene.upstream.serve_next(INFO_PATH, held);
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let fleet: Vec<_> = ["a", "b", "c"].map(|name| started(&scene, name)).into();
    let clients: Vec<_> = (0..60)
        .map(|index| {
            let instance = fleet[index % 3].clone();
            tokio::spawn(async move { instance.read(&key(INFO_PATH)).await })
        })
        .collect();
    until("all to wait", || {
        let waiters = |i: &Arc<Instance>| i.warmer.flights().first().map_or(0, |f| f.waiters);
        fleet.iter().map(waiters).sum::<u64>() == 60
    })
    .await;
    gate.open();
    for client in clients {
        let error = client.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), "upstream fake failed: status 500");
    }
    // One attempt for the clients: the others were told.
    assert_eq!(jobs(&scene, false).await.len(), 1);
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 3);
    let runs = |outcome| fleet.iter().map(|i| ran(i, "fetch", outcome)).sum::<u64>();
    assert_eq!((runs("failed"), runs("done")), (1, 1));
}

// acceptance: B14; fault: 8
#[tokio::test(start_paused = true)]
async fn who_waits_for_a_fetch_that_hangs_for_its_longest_time_does_not_hang_as_long() {
    let scene = paused_scene();
    let never = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&never));
    let fleet = ["a", "b"].map(|name| {
        started_with(&scene, name, |config| {
            config.on_failure = OnFailure::Drop;
            config.wait_max = Duration::from_secs(300);
            config.fill_max = Duration::from_secs(60);
        })
    });
    let mut clients = Vec::new();
    for instance in fleet {
        clients.push(tokio::spawn(
            async move { instance.read(&key(INFO_PATH)).await },
        ));
        scene.upstream.asked(1).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
    }
    for client in clients {
        let error = client.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        assert!(error.to_string().contains("fill.max_duration"), "{error}");
    }
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);
    scene.no_leases().await;
}
