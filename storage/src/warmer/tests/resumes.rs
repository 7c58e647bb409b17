//! Bodies that break off: who goes on from where, and that clients notice nothing or are cut.

use tokio::time::Instant;

use super::*;
use crate::config::OnFailure;
use crate::testing::soon;

const RESUMED: &str = "corral_fill_resumed_total";
const TAG: &str = "\"v1\"";

/// An instance whose fills make `retries` more attempts, and that tries nothing again behind them.
fn started(scene: &Scene, retries: u32) -> Arc<Instance> {
    let builder = scene.instance("a").config(|config| {
        config.retries = retries;
        config.on_failure = OnFailure::Drop;
    });
    Arc::new(builder.start())
}

/// The zip, which breaks off after `position` bytes, once clients could begin to read it and the
/// gate is open.
fn breaking(position: usize) -> (Reply, Gate) {
    let gate = Gate::new();
    let reply = Reply::body(zip(MIB)).held_at(position / 2, &gate);
    (reply.broken_at(position), gate)
}

/// Breaks the next body off after `position` bytes; its `ETag` is `tag`.
fn break_next(scene: &Scene, position: usize, tag: &str) -> Gate {
    let (reply, gate) = breaking(position);
    scene.upstream.serve_next(ZIP_PATH, reply.etag(tag));
    gate
}

/// A client that has the begin of the zip before it reads on.
async fn begun(instance: &Arc<Instance>) -> Answer {
    let answer = soon("the head", instance.get(&key(ZIP_PATH)))
        .await
        .unwrap();
    assert!(matches!(answer.body, AnswerBody::Arriving(_)));
    answer
}

/// Reads `answer` to its end, from the moment that `gate` opens.
async fn end_of(answer: Answer, gate: &Gate) -> Result<(), Error> {
    gate.open();
    let body = soon("the end", read_answer(answer)).await?;
    assert!(body == zip(MIB), "other bytes");
    Ok(())
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn a_download_goes_on_where_it_broke_off_and_its_clients_notice_nothing() {
    let scene = paused_scene();
    let gate = break_next(&scene, MIB / 4, TAG);
    break_next(&scene, MIB / 2, TAG).open();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).etag(TAG));
    let instance = started(&scene, 2);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(begun(&instance).await);
    }
    for client in clients {
        end_of(client, &gate).await.unwrap();
    }
    instance.settled().await;
    let asked = scene.upstream.requests(ZIP_PATH);
    let offsets: Vec<_> = asked
        .iter()
        .map(|request| request.resume.as_ref().map(|from| from.offset))
        .collect();
    assert_eq!(
        offsets,
        [None, Some((MIB / 4) as u64), Some((MIB / 2) as u64)]
    );
    // It is asked itself for the rest, before others are for the whole.
    assert!(asked.iter().all(|request| request.broken_at.is_empty()));
    assert_eq!(instance.count(RESUMED), 2);
    assert_eq!(instance.count("corral_commit_total{result=\"created\"}"), 1);
    scene.no_leases().await;
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn a_body_without_a_name_is_not_asked_for_again_once_clients_have_some_of_it() {
    for tag in [None, Some("W/\"v1\"")] {
        let scene = paused_scene();
        let (mut reply, gate) = breaking(MIB / 2);
        if let Some(tag) = tag {
            reply = reply.etag(tag);
        }
        scene.upstream.serve_next(ZIP_PATH, reply);
        let instance = started(&scene, 5);
        let answer = begun(&instance).await;
        let error = end_of(answer, &gate).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert_eq!(scene.upstream.fetches(ZIP_PATH), 1);
        assert_eq!(instance.count(RESUMED), 0);
    }
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn the_whole_is_compared_where_the_rest_cannot_be_had() {
    let scene = paused_scene();
    let gate = break_next(&scene, MIB / 2, TAG);
    let renamed = Reply::body(zip(MIB)).etag("\"v2\"");
    scene.upstream.serve(ZIP_PATH, renamed);
    let instance = started(&scene, 1);
    let answer = begun(&instance).await;
    end_of(answer, &gate).await.unwrap();
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
    assert_eq!(instance.count(RESUMED), 0);
}

// acceptance: C19; fault: 26
#[tokio::test(start_paused = true)]
async fn clients_are_cut_where_the_second_part_is_of_other_bytes() {
    let scene = paused_scene();
    let gate = break_next(&scene, MIB / 2, TAG);
    let other = module_zip("example.com/m", "v1.0.0", MIB + 1);
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(other.clone()).etag("\"v2\""));
    let instance = started(&scene, 2);
    let answer = begun(&instance).await;
    let error = end_of(answer, &gate).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    // Who comes now gets what upstream has.
    assert!(
        instance.read(&key(ZIP_PATH)).await.unwrap() == other,
        "other bytes"
    );
}

// acceptance: C19; fault: 26
#[tokio::test(start_paused = true)]
async fn a_fill_whose_clients_were_cut_late_has_time_to_begin_anew() {
    let scene = paused_scene();
    let gate = break_next(&scene, MIB / 2, TAG);
    let mut other = zip(MIB).to_vec();
    other[MIB / 3] ^= 1;
    let late = Gate::new();
    let other = Reply::body(other).etag("\"v2\"").held_at(MIB / 4, &late);
    scene.upstream.serve_next(ZIP_PATH, other);
    let instance = started(&scene, 1);
    let answer = begun(&instance).await;
    gate.open();
    late.reached(1).await;
    tokio::time::sleep(WarmerConfig::default().first_byte_max * 2).await;
    let cut = Instant::now();
    end_of(answer, &late).await.unwrap_err();
    until("the fill's end", || {
        instance.count("corral_commit_total{result=\"created\"}") == 1
    })
    .await;
    let asked = scene.upstream.requests(ZIP_PATH);
    assert_eq!(asked.len(), 3);
    assert!(asked[2].first_byte_deadline.unwrap() > cut);
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn a_body_that_always_breaks_off_costs_one_attempt_and_as_many_more_as_retries_say() {
    for retries in [0, 1, 5] {
        let scene = paused_scene();
        let (reply, gate) = breaking(MIB / 2);
        scene.upstream.serve(ZIP_PATH, reply.etag(TAG));
        let instance = started(&scene, retries);
        let answer = begun(&instance).await;
        let error = end_of(answer, &gate).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert_eq!(scene.upstream.fetches(ZIP_PATH), 1 + retries as usize);
        instance.settled().await;
        scene.no_leases().await;
    }
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn a_download_that_breaks_off_late_has_time_to_go_on() {
    let scene = paused_scene();
    let gate = break_next(&scene, MIB / 2, TAG);
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).etag(TAG));
    let instance = started(&scene, 1);
    let answer = begun(&instance).await;
    // Longer than all attempts together have to bring a first byte.
    tokio::time::sleep(WarmerConfig::default().first_byte_max * 2).await;
    end_of(answer, &gate).await.unwrap();
    assert_eq!(scene.upstream.fetches(ZIP_PATH), 2);
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn what_arrives_in_one_moment_with_its_end_is_not_fetched_again() {
    let scene = paused_scene();
    break_next(&scene, MIB / 2, TAG).open();
    scene
        .upstream
        .serve(ZIP_PATH, Reply::body(zip(MIB)).etag(TAG));
    let instance = started(&scene, 1);
    let body = instance.read(&key(ZIP_PATH)).await.unwrap();
    assert!(body == zip(MIB), "other bytes");
    let asked = scene.upstream.requests(ZIP_PATH);
    let offset = asked[1].resume.as_ref().map(|from| from.offset);
    assert_eq!(offset, Some((MIB / 2) as u64));
}

// acceptance: B13
#[tokio::test(start_paused = true)]
async fn what_nobody_has_seen_is_kept_as_well_where_it_has_a_name() {
    for (tag, resumed) in [(TAG, 1), ("W/\"v1\"", 0)] {
        let scene = paused_scene();
        let gate = break_next(&scene, MIB / 2, tag);
        scene
            .upstream
            .serve(ZIP_PATH, Reply::body(zip(MIB)).etag(tag));
        let builder = scene.instance("a").config(|config| config.stream = false);
        let instance = Arc::new(builder.start());
        let client = crowd(&instance, &key(ZIP_PATH), 1).await;
        gate.reached(1).await;
        gate.open();
        for body in ends(client).await {
            assert!(body.unwrap() == zip(MIB), "other bytes");
        }
        let asked = scene.upstream.requests(ZIP_PATH);
        assert_eq!(asked.len(), 2);
        let offset = asked[1].resume.as_ref().map(|from| from.offset);
        assert_eq!(offset, (resumed == 1).then_some((MIB / 2) as u64));
        assert_eq!(instance.count(RESUMED), resumed);
    }
}
