//! `fill.on_failure`: queue, backoff, drop.

use super::*;

// acceptance: B15
#[tokio::test(start_paused = true)]
async fn a_failure_that_is_dropped_is_told_for_its_time_and_then_asked_anew() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started_with(&scene, "a", |config| config.on_failure = OnFailure::Drop);
    for round in 1..=2 {
        for _ in 0..5 {
            instance.read(&key(INFO_PATH)).await.unwrap_err();
        }
        assert_eq!(scene.upstream.fetches(INFO_PATH), round);
        assert!(jobs(&scene, false).await.is_empty());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    // Nobody asked meanwhile, so upstream was not.
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

// acceptance: B15
#[tokio::test(start_paused = true)]
async fn with_backoff_the_pause_grows_with_each_failure_in_a_row_until_a_success() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let second = Duration::from_secs(1);
    let instance = started_with(&scene, "a", |config| {
        config.on_failure = OnFailure::Backoff;
        config.retries = 2;
        config.retry.first_delay = second;
        config.retry.delay_max = 600 * second;
    });
    let other = started_with(&scene, "b", |config| config.on_failure = OnFailure::Backoff);
    let mut asked = 0;
    for failure in 0..12_u32 {
        for client in [&instance, &other] {
            client.read(&key(INFO_PATH)).await.unwrap_err();
        }
        // The first has its inline retries; each later one is one attempt.
        asked += if failure == 0 { 3 } else { 1 };
        let record = scene.records.get("failure:example.com/m@v1.0.0.info");
        let record = record.await.unwrap().unwrap();
        assert_eq!(scene.upstream.fetches(INFO_PATH), asked, "{failure}");
        let bound = (second * 2_u32.pow(failure)).min(600 * second);
        // Not from nothing on, or followers could find nothing and each ask for themselves.
        let pauses = bound * 9 / 20..=bound;
        assert!(
            pauses.contains(&record.expires_in),
            "{failure}: {:?}",
            record.expires_in
        );
        // Whoever asks is told how long that is.
        let told = other.read(&key(INFO_PATH)).await.unwrap_err();
        let wait = told.retry_after().unwrap();
        assert!(wait <= record.expires_in && wait + second >= record.expires_in);
        tokio::time::sleep(record.expires_in + Duration::from_millis(1)).await;
    }
    assert!(jobs(&scene, false).await.is_empty());
    scene.upstream.serve(INFO_PATH, Reply::body(INFO));
    // Whatever is left of the last pause.
    tokio::time::sleep(600 * second).await;
    assert_eq!(other.read(&key(INFO_PATH)).await.unwrap(), INFO);
    other.settled().await;
    let records = scene.records.list("", None, 10).await.unwrap().records;
    assert!(records.is_empty(), "{records:?}");
}

// acceptance: B15
#[tokio::test(start_paused = true)]
async fn failures_in_a_row_are_forgotten_with_the_deadline() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started_with(&scene, "a", |config| {
        config.on_failure = OnFailure::Backoff;
        config.retry.deadline = Duration::from_secs(60);
    });
    let count = async || {
        scene
            .records
            .get("backoff:example.com/m@v1.0.0.info")
            .await
            .unwrap()
    };
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(30)).await;
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    let record = count().await.unwrap();
    assert_eq!(&record.value[..], br#"{"failures":2}"#);
    // From the first failure on, not from the last.
    assert!(record.expires_in <= Duration::from_secs(30));
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(count().await.is_none());
}

// acceptance: B15
#[tokio::test(start_paused = true)]
async fn what_an_operator_forgets_has_not_failed_before() {
    let scene = paused_scene();
    scene.upstream.serve(INFO_PATH, Reply::failure());
    let instance = started_with(&scene, "a", |config| {
        config.on_failure = OnFailure::Backoff;
        config.retries = 2;
    });
    for round in 1..=2 {
        instance.read(&key(INFO_PATH)).await.unwrap_err();
        // A first failure has its inline retries.
        assert_eq!(scene.upstream.fetches(INFO_PATH), 3 * round);
        let unit = key(INFO_PATH).unit();
        assert!(instance.warmer.forget(&unit).await.unwrap());
        let records = scene.records.list("", None, 10).await.unwrap().records;
        assert!(records.is_empty(), "{records:?}");
    }
}
