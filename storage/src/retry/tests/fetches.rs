//! Jobs that fetch: from the failure that makes one to the end that settles it.

use lease::{JobState, NewJob};
use tokio::time::Instant;

use super::*;

// acceptance: B16; fault: 28
#[tokio::test(start_paused = true)]
async fn what_failed_is_fetched_without_any_request() {
    let scene = paused_scene();
    for _ in 0..3 {
        scene.upstream.serve_next(INFO_PATH, Reply::failure());
    }
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started(&scene, "a");
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    // The client's attempt, two of the job that failed, and the one that did not.
    assert_eq!(scene.upstream.fetches(INFO_PATH), 4);
    assert_eq!(
        (
            ran(&instance, "fetch", "failed"),
            ran(&instance, "fetch", "done")
        ),
        (2, 1)
    );
    assert_eq!(pushed(&instance, "queued"), 1);
    // Nothing is remembered of the failure: the next client has it at once.
    let answer = instance.get(&key(INFO_PATH)).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitMemory);
    assert_eq!(read_answer(answer).await.unwrap(), INFO);
    let records = scene.records.list("", None, 10).await.unwrap().records;
    assert!(records.is_empty(), "{records:?}");
    scene.no_leases().await;
}

// acceptance: B16
#[tokio::test]
async fn a_job_is_there_before_anybody_is_told() {
    let (scene, _clock) = still_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started(&scene, "a");
    let told = instance.read(&key(INFO_PATH)).await.unwrap_err();
    let job = job_of(&scene, INFO_PATH).await.unwrap();
    assert!(matches!(job.state, JobState::Queued { due_in } if due_in <= Duration::from_secs(1)));
    assert_eq!(&*job.info.kind, "fetch");
    assert_eq!(job.info.owner, None);
    // Those who are told of it again make no other job.
    assert!(!matches!(told, Error::Remembered(_)));
    let again = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert!(matches!(again, Error::Remembered(_)));
    assert_eq!(pushed(&instance, "queued"), 1);
    assert_eq!(pushed(&instance, "already_queued"), 0);
}

// acceptance: B16; fault: 27
#[tokio::test]
async fn what_trying_again_cannot_mend_makes_no_job() {
    let text = || "no".to_owned();
    let refused = Error::Refused {
        upstream: "fake".to_owned(),
        status: 401,
        text: text(),
    };
    for reply in [
        Reply::not_found(false, "no"),
        Reply::not_found(true, "no"),
        Reply::error(Error::Forbidden { text: text() }),
        Reply::error(refused),
    ] {
        let (scene, _clock) = still_scene();
        scene.upstream.serve(INFO_PATH, reply);
        let instance = started(&scene, "a");
        instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert!(jobs(&scene, false).await.is_empty());
    }
    // Nor does a limit that somebody has set; it may cost as much as is accepted each time.
    for reply in [Reply::body(zip(MIB)), Reply::body(zip(MIB)).unannounced()] {
        let (scene, _clock) = still_scene();
        scene.upstream.serve(ZIP_PATH, reply);
        let instance = started_with(&scene, "a", |config| {
            config.retries = 3;
            config.zip_bytes_max = MIB as u64 / 2;
        });
        let error = instance.read(&key(ZIP_PATH)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
        assert!(jobs(&scene, false).await.is_empty());
    }
    // Documents are asked for again by whoever wants them.
    let (scene, _clock) = still_scene();
    let list = "example.com/m/@v/list";
    scene.upstream.serve(list, Reply::failure());
    started(&scene, "a").read(&key(list)).await.unwrap_err();
    assert!(jobs(&scene, false).await.is_empty());
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn bad_bytes_and_broken_bodies_are_tried_again_too() {
    for reply in [
        Reply::body("<!DOCTYPE html><title>Sign in</title>"),
        Reply::body(zip(MIB)).broken_at(MIB / 2),
        Reply::body(zip(MIB)).short_at(MIB / 2),
        Reply::unreachable(),
    ] {
        let scene = paused_scene();
        scene.upstream.serve_next(ZIP_PATH, reply);
        scene.upstream.serve(ZIP_PATH, Reply::body(zip(MIB)));
        let instance = started(&scene, "a");
        instance.read(&key(ZIP_PATH)).await.unwrap_err();
        stored(&scene, ZIP_PATH).await;
        no_jobs(&scene).await;
        assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
        assert!(instance.read(&key(ZIP_PATH)).await.unwrap() == zip(MIB));
    }
}

// fault: 29
#[tokio::test(start_paused = true)]
async fn a_job_is_not_sooner_than_upstream_asked() {
    let scene = paused_scene();
    let asked = Duration::from_secs(40);
    scene.upstream.serve_next(INFO_PATH, throttled(asked));
    scene.upstream.serve_next(INFO_PATH, throttled(asked));
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started(&scene, "a");
    let began = Instant::now();
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(asked));
    scene.upstream.asked(2).await;
    assert!(began.elapsed() >= asked);
    // This waits longer than a test's patience is, on the same clock.
    while scene.store.lookup(INFO_PATH).await.unwrap().is_none() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < asked * 3);
    }
    assert!(began.elapsed() >= asked * 2);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 3);
}

// Clients that ask on while upstream is down neither cancel a job's back-off nor what upstream
// asked for, and so use up none of its attempts.
// acceptance: B16; fault: 28; fault: 29
#[tokio::test]
async fn a_clients_failure_leaves_a_jobs_back_off_alone() {
    let (scene, _clock) = still_scene();
    let payload = format!("{{\"v\":1,\"path\":\"{INFO_PATH}\"}}");
    let id = JobId::new(key(INFO_PATH).unit()).unwrap();
    let job = NewJob::new(id.clone(), "fetch", payload.into());
    scene.queue.push(&job).await.unwrap();
    let back_off = Duration::from_secs(1_800);
    for attempt in 1..=4 {
        scene.queue.run_now(&id).await.unwrap();
        let taken = scene.queue.take("another", 1, back_off).await.unwrap();
        assert_eq!(taken[0].info.attempts, attempt);
        let error = format!("#{attempt} status 500");
        let put_back = scene.queue.retry(&taken[0].receipt, back_off, &error);
        put_back.await.unwrap();
    }
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started(&scene, "a");
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(pushed(&instance, "already_queued"), 1);
    let job = job_of(&scene, INFO_PATH).await.unwrap();
    assert_eq!(job.info.attempts, 4);
    assert_eq!(job.state, JobState::Queued { due_in: back_off });
}

// acceptance: B16; fault: 38
#[tokio::test(start_paused = true)]
async fn a_job_that_keeps_failing_is_given_up_and_stays_listed_with_its_history() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started_with(&scene, "a", |config| {
        config.retry.delay_max = Duration::from_secs(2);
    });
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    until("the job to be given up", || {
        ran(&instance, "fetch", "dead") == 1
    })
    .await;
    let attempts = instance.warmer.core().config.retry.attempts_max;
    assert_eq!(attempts, 10);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1 + 10);
    assert_eq!(ran(&instance, "fetch", "failed"), 9);
    let job = job_of(&scene, INFO_PATH).await.unwrap();
    assert!(matches!(job.state, JobState::Dead { .. }));
    assert_eq!(job.info.attempts, attempts);
    let history = job.info.last_error.unwrap();
    let first = "#10 upstream fake failed: status 500; #9 upstream fake failed";
    assert!(history.starts_with(first), "{history}");
    // Another failure makes no new job of it; an operator may give it another life.
    tokio::time::sleep(Duration::from_secs(60)).await;
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(pushed(&instance, "dead"), 1);
    // That life has attempts of its own.
    scene.queue.requeue(&job.info.id).await.unwrap();
    until("the job to be given up again", || {
        ran(&instance, "fetch", "dead") == 2
    })
    .await;
    assert_eq!(ran(&instance, "fetch", "failed"), 18);
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    scene.queue.requeue(&job.info.id).await.unwrap();
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(scene.queue.stats().await.unwrap().dead, 0);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn workers_that_were_killed_have_used_up_no_attempt() {
    let scene = paused_scene();
    let payload = format!("{{\"v\":1,\"path\":\"{INFO_PATH}\"}}");
    let id = JobId::new(key(INFO_PATH).unit()).unwrap();
    let job = NewJob::new(id, "fetch", payload.into());
    scene.queue.push(&job).await.unwrap();
    for _ in 0..25 {
        let taken = scene.queue.take("killed", 1, Duration::from_millis(1));
        assert_eq!(taken.await.unwrap().len(), 1);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started(&scene, "a");
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(ran(&instance, "fetch", "failed"), 1);
    assert_eq!(ran(&instance, "fetch", "done"), 1);
}

// fault: 38
#[tokio::test(start_paused = true)]
async fn a_job_ends_with_its_deadline() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started_with(&scene, "a", |config| {
        config.retry.attempts_max = u32::MAX;
        config.retry.delay_max = Duration::from_secs(2);
        config.retry.deadline = Duration::from_secs(30);
    });
    let began = Instant::now();
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    until("the job to be given up", || {
        ran(&instance, "fetch", "dead") == 1
    })
    .await;
    let took = began.elapsed();
    assert!(took <= Duration::from_secs(31), "{took:?}");
    assert!(took >= Duration::from_secs(27), "{took:?}");
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_job_whose_unit_turns_out_to_be_none_that_can_be_had_ends() {
    for (reply, outcome, dead) in [
        (Reply::not_found(false, "no such tag"), "absent", 0),
        (
            Reply::error(Error::Forbidden {
                text: "no".to_owned(),
            }),
            "dead",
            1,
        ),
        (
            Reply::error(Error::TooLarge {
                unit: "u".to_owned(),
                bytes_max: 10,
            }),
            "dead",
            1,
        ),
    ] {
        let scene = paused_scene();
        scene.upstream.serve_next(INFO_PATH, Reply::failure());
        scene.upstream.serve(INFO_PATH, reply);
        let instance = started(&scene, "a");
        instance.read(&key(INFO_PATH)).await.unwrap_err();
        until("the job's end", || ran(&instance, "fetch", outcome) == 1).await;
        no_jobs(&scene).await;
        assert_eq!(scene.queue.stats().await.unwrap().dead, dead);
        // Clients are told what upstream said last.
        let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
        assert!(matches!(error, Error::Remembered(_)), "{error:?}");
        assert!(!error.kind().is_transient());
        assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
    }
}

// fault: 8
#[tokio::test(start_paused = true)]
async fn a_fetch_that_hangs_until_its_longest_time_becomes_a_job() {
    let scene = paused_scene();
    let silent = Gate::new();
    for reply in [
        Reply::body(INFO).head_held(&silent),
        Reply::body(INFO).held_at(10, &silent),
    ] {
        scene.upstream.serve_next(INFO_PATH, reply);
    }
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started_with(&scene, "a", |config| {
        config.fill_max = Duration::from_secs(20);
    });
    let error = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(job_of(&scene, INFO_PATH).await.is_some());
    // The job's own flight hangs as well, and the lease is free again behind each.
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    scene.no_leases().await;
    scene.upstream.idle().await;
    assert_eq!(ran(&instance, "fetch", "failed"), 1);
}

// acceptance: B14, B16
#[tokio::test(start_paused = true)]
async fn clients_join_a_jobs_flight_and_share_its_end() {
    let scene = paused_scene();
    let gate = Gate::new();
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let instance = started_with(&scene, "a", |config| {
        config.failure_ttl = Duration::from_millis(1);
    });
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    scene.upstream.asked(2).await;
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let instance = instance.clone();
            tokio::spawn(async move { instance.read(&key(INFO_PATH)).await })
        })
        .collect();
    until("all to wait", || {
        let flights = instance.warmer.flights();
        flights.first().is_some_and(|flight| flight.waiters == 21)
    })
    .await;
    gate.open();
    for client in clients {
        assert_eq!(client.await.unwrap().unwrap(), INFO);
    }
    no_jobs(&scene).await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_clients_success_is_the_jobs() {
    let scene = paused_scene();
    scene
        .upstream
        .serve_next(INFO_PATH, throttled(Duration::from_secs(50)));
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started_with(&scene, "a", |config| {
        config.failure_ttl = Duration::from_millis(1);
    });
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    scene
        .records
        .delete("failure:example.com/m@v1.0.0.info")
        .await
        .unwrap();
    assert_eq!(instance.read(&key(INFO_PATH)).await.unwrap(), INFO);
    // Due after 50 s, it finds what it is for.
    soon("the job's end", async {
        while ran(&instance, "fetch", "done") == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// acceptance: G6
#[tokio::test(start_paused = true)]
async fn jobs_that_make_no_sense_are_buried_with_a_word_and_hold_up_nobody() {
    let scene = paused_scene();
    for (id, kind, payload) in [
        ("a", "fetch", r#"{"v":7}"#),
        ("b", "fetch", "not json"),
        ("c", "sweep", "{}"),
        ("d", "upload", r#"{"v":1,"path":"example.com/m/@v/list"}"#),
    ] {
        let job = NewJob::new(JobId::new(id).unwrap(), kind, payload.into());
        scene.queue.push(&job).await.unwrap();
    }
    scene.upstream.serve_next(INFO_PATH, Reply::failure());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    let instance = started(&scene, "a");
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    let dead = jobs(&scene, true).await;
    let told: Vec<_> = dead
        .iter()
        .map(|job| job.info.last_error.clone().unwrap())
        .collect();
    assert_eq!(dead.len(), 4);
    for (told, what) in
        told.iter()
            .zip(["version 7", "cannot be read", "\"sweep\"", "asked for anew"])
    {
        assert!(told.starts_with("#1 ") && told.contains(what), "{told}");
    }
    assert_eq!(ran(&instance, "unknown", "dead"), 1);
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_jobs_history_has_no_causes_that_only_the_log_may_have() {
    let scene = paused_scene();
    let cause = std::io::Error::other("/srv/secret/ca.pem: permission denied");
    let error = Error::Unreachable {
        upstream: "https://proxy.test".to_owned(),
        reason: "no connection".to_owned(),
        source: Some(Arc::new(cause)),
    };
    scene.upstream.serve(INFO_PATH, Reply::error(error));
    let instance = started_with(&scene, "a", |config| config.retry.attempts_max = 1);
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    let told = "upstream https://proxy.test cannot be reached: no connection";
    let reason = job_of(&scene, INFO_PATH).await.unwrap().info.last_error;
    assert_eq!(reason.as_deref(), Some(told));
    until("the job's end", || ran(&instance, "fetch", "dead") == 1).await;
    no_jobs(&scene).await;
    let history = job_of(&scene, INFO_PATH).await.unwrap().info.last_error;
    assert!(
        history
            .as_ref()
            .is_some_and(|history| history.starts_with("#1 "))
    );
    assert!(!history.unwrap().contains("secret"));
}
