//! Bodies that are read while they arrive, and those that arrive badly.

use futures::StreamExt;

use super::*;
use crate::spool::HELD_BACK_BYTES;
use crate::testing::soon;

fn started(scene: &Scene) -> Arc<Instance> {
    let builder = scene.instance("a").config(|config| config.retries = 0);
    Arc::new(builder.start())
}

/// Reads what comes until the end, and says what the end was.
async fn read_to_the_end(answer: Answer) -> (usize, Result<(), Error>) {
    let AnswerBody::Arriving(arriving) = answer.body else {
        panic!("the body is not arriving: {answer:?}")
    };
    let mut pieces = arriving.stream(0..u64::MAX);
    let mut bytes = 0;
    loop {
        match soon("a piece", pieces.next()).await {
            None => return (bytes, Ok(())),
            Some(Ok(piece)) => bytes += piece.len(),
            Some(Err(error)) => return (bytes, Err(error)),
        }
    }
}

/// Nothing of a failed fill is left, and the lease is free.
async fn nothing_is_left(scene: &Scene, instance: &Instance, path: &str) {
    instance.settled().await;
    scene.no_leases().await;
    scene.upstream.idle().await;
    assert!(
        scene.store.lookup(path).await.unwrap().is_none(),
        "{path} is stored"
    );
    assert!(
        instance.warmer.hot(&key(path)).is_none(),
        "{path} is in memory"
    );
    instance.warmer.sample_flights();
    assert_eq!(instance.count("corral_spool_bytes"), 0);
}

// acceptance: B3
// acceptance: G1
#[tokio::test]
async fn clients_have_the_first_bytes_before_upstream_sends_the_last() {
    for announced in [true, false] {
        let (scene, _clock) = scene();
        let gate = Gate::new();
        let mut reply = Reply::body(zip(MIB)).held_at(MIB / 2, &gate);
        if !announced {
            reply = reply.unannounced();
        }
        scene.upstream.serve(ZIP_PATH, reply);
        let instance = started(&scene);
        let answer = soon("the head", instance.get(&key(ZIP_PATH)))
            .await
            .unwrap();
        let AnswerBody::Arriving(arriving) = answer.body else {
            panic!("the body is not arriving")
        };
        assert_eq!(arriving.announced_len().is_some(), announced);
        let mut pieces = arriving.stream(0..u64::MAX);
        let mut body = Vec::new();
        while body.len() < MIB / 2 - HELD_BACK_BYTES as usize {
            body.extend(soon("a piece", pieces.next()).await.unwrap().unwrap());
        }
        gate.reached(1).await;
        gate.open();
        while let Some(piece) = soon("a piece", pieces.next()).await {
            body.extend(piece.unwrap());
        }
        assert!(body == zip(MIB), "the body is another");
        instance.settled().await;
    }
}

// acceptance: B2
#[tokio::test]
async fn without_streaming_clients_get_the_body_when_it_is_whole() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).held_at(MIB - 1, &gate));
    let builder = scene.instance("a").config(|config| config.stream = false);
    let instance = Arc::new(builder.start());
    let requests = crowd(&instance, &key(ZIP_PATH), 20).await;
    gate.reached(1).await;
    until("the bytes to be spooled", || {
        instance.warmer.flights()[0].bytes == MIB as u64 - 1
    })
    .await;
    assert!(requests.iter().all(|request| !request.is_finished()));
    gate.open();
    for end in ends(requests).await {
        assert!(end.unwrap() == zip(MIB), "a client has other bytes");
    }
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}

// acceptance: B2
#[tokio::test(start_paused = true)]
async fn without_streaming_a_broken_body_is_fetched_again() {
    let scene = paused_scene();
    scene
        .upstream
        .serve_next(ZIP_PATH, Reply::body(zip(MIB)).broken_at(MIB / 2));
    let builder = scene.instance("a").config(|config| config.stream = false);
    let instance = builder.start();
    assert!(instance.read(&key(ZIP_PATH)).await.unwrap() == zip(MIB));
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
}

// fault: 33
// protocol: D19
#[tokio::test]
async fn a_bad_zip_is_never_whole_and_never_kept() {
    let whole = zip(MIB);
    let mut flipped = whole.to_vec();
    let in_the_directory = flipped.len() - 30;
    flipped[in_the_directory] ^= 0xff;
    let broken_at = |position| Reply::body(whole.clone()).broken_at(position);
    let cases = [
        (
            "a break in the middle",
            broken_at(MIB / 2),
            ErrorKind::Transient,
        ),
        (
            "a break at the end",
            broken_at(whole.len()),
            ErrorKind::Transient,
        ),
        (
            "a short body",
            Reply::body(whole.clone()).short_at(MIB / 2),
            ErrorKind::Corrupt,
        ),
        (
            "another module's zip",
            Reply::body(module_zip("example.com/x", "v1.0.0", MIB)),
            ErrorKind::Corrupt,
        ),
        ("a flipped byte", Reply::body(flipped), ErrorKind::Corrupt),
    ];
    for (what, reply, kind) in cases {
        // Without a length the end comes as a surprise, and is held back all the same.
        for reply in [reply.clone(), reply.unannounced()] {
            let (scene, _clock) = scene();
            let gate = Gate::new();
            scene
                .upstream
                .serve_next(ZIP_PATH, reply.held_at(MIB / 3, &gate));
            let instance = started(&scene);
            let answer = soon("the head", instance.get(&key(ZIP_PATH))).await;
            gate.open();
            let (bytes, end) = read_to_the_end(answer.unwrap()).await;
            assert_eq!(end.unwrap_err().kind(), kind, "{what}");
            let shown_max = whole.len() - HELD_BACK_BYTES as usize;
            assert!(bytes > 0 && bytes <= shown_max, "{what}: {bytes}");
            nothing_is_left(&scene, &instance, ZIP_PATH).await;
        }
    }
}

// fault: 33
// protocol: D20
#[tokio::test]
async fn a_small_file_that_breaks_off_is_never_whole_and_never_kept() {
    let long = long_mod();
    for broken_at in [0, 50, long.len()] {
        let (scene, _clock) = scene();
        let reply = Reply::body(long.clone()).broken_at(broken_at);
        scene.upstream.serve_next(MOD_PATH, reply);
        let instance = started(&scene);
        let error = instance.read(&key(MOD_PATH)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{broken_at}");
        nothing_is_left(&scene, &instance, MOD_PATH).await;
    }
}

fn long_mod() -> String {
    let requirement = "require example.com/n v1.0.0\n";
    format!("module example.com/m\n\n{}", requirement.repeat(100))
}

// fault: 33
// protocol: D20
#[tokio::test]
async fn a_small_file_shorter_than_announced_is_never_whole_and_never_kept() {
    let (scene, _clock) = scene();
    let reply = Reply::body(long_mod()).short_at(50);
    scene.upstream.serve_next(MOD_PATH, reply);
    let instance = started(&scene);
    let error = instance.read(&key(MOD_PATH)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    nothing_is_left(&scene, &instance, MOD_PATH).await;
}

// fault: 31
// protocol: D10
// protocol: D12
#[tokio::test]
async fn a_client_that_leaves_stops_nothing() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).held_at(MIB / 2, &gate));
    let instance = started(&scene);
    // The leader leaves in the middle of its body, another before it has any answer.
    let leader = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    let other = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    assert!(other.cache.collapsed && !leader.cache.collapsed);
    drop(leader);
    gate.open();
    let (bytes, end) = read_to_the_end(other).await;
    end.unwrap();
    assert_eq!(bytes, zip(MIB).len());
    instance.settled().await;
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
    // The only client leaves before the head: the file is stored for the next.
    let gate = Gate::new();
    scene
        .upstream
        .serve(INFO_PATH, Reply::body(INFO).head_held(&gate));
    let mut requests = crowd(&instance, &key(INFO_PATH), 1).await;
    gate.reached(1).await;
    requests.remove(0).abort();
    until("the client to be gone", || {
        instance.warmer.flights()[0].waiters == 0
    })
    .await;
    gate.open();
    instance.settled().await;
    assert!(scene.store.lookup(INFO_PATH).await.unwrap().is_some());
}

// fault: 32
// protocol: D18
#[tokio::test]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let (scene, _clock) = scene();
    let gate = Gate::new();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(4 * MIB)).held_at(MIB, &gate));
    let instance = started(&scene);
    let slow = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    let fast = crowd_of_streams(&instance, 20).await;
    gate.open();
    for answer in fast {
        let (bytes, end) = read_to_the_end(answer).await;
        end.unwrap();
        assert_eq!(bytes, zip(4 * MIB).len());
    }
    instance.settled().await;
    // The slow one gets it all the same, long after the fill.
    assert!(read_answer(slow).await.unwrap() == zip(4 * MIB));
}

async fn crowd_of_streams(instance: &Instance, count: usize) -> Vec<Answer> {
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        answers.push(
            soon("the head", instance.get(&key(ZIP_PATH)))
                .await
                .unwrap(),
        );
    }
    answers
}

// acceptance: F14
#[tokio::test]
async fn a_store_on_disk_takes_the_spooled_file_itself() {
    let clock = ManualClock::new();
    let scene = Scene::on_disk(Arc::new(clock));
    stock(&scene);
    let instance = started(&scene);
    assert!(instance.read(&key(ZIP_PATH)).await.unwrap() == zip(MIB));
    instance.settled().await;
    let restarted = scene.instance("b").start();
    let answer = restarted.get(&key(ZIP_PATH)).await.unwrap();
    assert_eq!(answer.cache.verdict, Verdict::HitStored);
    assert!(read_answer(answer).await.unwrap() == zip(MIB));
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
}
