//! Jobs that get it from elsewhere: the list's other upstreams.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::testing::FakeUpstream;
use crate::upstream::{
    FetchObserver, GoProxyList, NoFetchObserver, Upstream, UpstreamConfig, UpstreamIdentity,
    UpstreamList, Via,
};

/// Puts `body` below `root` as a module proxy's file.
fn put(root: &Path, path: &str, body: &Bytes) {
    let file = root.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, body).unwrap();
}

/// An address where nobody listens any more.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn list(text: &str) -> Arc<UpstreamList> {
    let list = GoProxyList::parse(text, &[]).unwrap();
    let observer: Arc<dyn FetchObserver> = Arc::new(NoFetchObserver);
    let identity = UpstreamIdentity {
        via: Via::new("test").unwrap(),
        user_agent: "test".to_owned(),
    };
    let list = UpstreamList::new(&list, &UpstreamConfig::default(), &identity, &observer);
    Arc::new(list.unwrap())
}

/// What the job of `text`'s failure comes to.
async fn ran_on(scene: &Scene, text: &str, other_upstreams: bool) -> (Arc<Instance>, Error) {
    let builder = scene.instance("a").upstream(list(text)).config(|config| {
        config.retries = 0;
        config.retry.other_upstreams = other_upstreams;
        config.retry.attempts_max = 2;
        config.retry.delay_max = Duration::from_secs(1);
    });
    let instance = Arc::new(builder.start());
    let error = instance.read(&key(ZIP_PATH)).await.unwrap_err();
    until("the job's end", || {
        ran(&instance, "fetch", "done") + ran(&instance, "fetch", "dead") == 1
    })
    .await;
    (instance, error)
}

// acceptance: B16
#[tokio::test]
async fn a_job_goes_on_to_the_next_upstream_after_any_error_where_clients_may_not() {
    let scene = Scene::new(Arc::new(TokioClock));
    let (bad, good) = (scene.path("bad"), scene.path("good"));
    put(&bad, ZIP_PATH, &Bytes::from_static(b"<!DOCTYPE html>"));
    put(&good, ZIP_PATH, &zip(MIB));
    let first = [
        (format!("http://{}", nobody()), ErrorKind::Unreachable),
        (format!("file://{}", bad.display()), ErrorKind::Corrupt),
    ];
    for (first, kind) in first {
        let text = format!("{first},file://{}", good.display());
        scene.store.delete(ZIP_PATH).await.unwrap();
        let (instance, error) = ran_on(&scene, &text, false).await;
        assert_eq!(error.kind(), kind);
        assert_eq!(ran(&instance, "fetch", "dead"), 1, "{first}");
        instance.warmer.shutdown(Duration::ZERO).await;
        let id = JobId::new(key(ZIP_PATH).unit()).unwrap();
        scene.queue.drop_job(&id).await.unwrap();
        scene
            .records
            .delete(&format!("failure:{id}"))
            .await
            .unwrap();

        let (instance, error) = ran_on(&scene, &text, true).await;
        assert_eq!(error.kind(), kind);
        assert_eq!(ran(&instance, "fetch", "done"), 1, "{first}");
        assert_eq!(ran(&instance, "fetch", "failed"), 0, "{first}");
        assert!(
            instance.read(&key(ZIP_PATH)).await.unwrap() == zip(MIB),
            "other bytes"
        );
        instance.warmer.shutdown(Duration::ZERO).await;
        scene
            .records
            .delete(&format!("failure:{id}"))
            .await
            .unwrap();
    }
}

/// An instance whose jobs have two attempts, and the members of its list, which has a comma.
fn started_on_two(scene: &Scene) -> (Arc<Instance>, Arc<FakeUpstream>, Arc<FakeUpstream>) {
    let (first, second) = (FakeUpstream::new("first"), FakeUpstream::new("second"));
    let members = [("first", &first), ("second", &second)]
        .map(|(name, upstream)| (name, upstream.clone() as Arc<dyn Upstream>));
    let list = Arc::new(UpstreamList::of(members));
    let builder = scene.instance("a").upstream(list).config(|config| {
        config.retries = 0;
        config.retry.attempts_max = 2;
    });
    (Arc::new(builder.start()), first, second)
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn a_body_that_could_be_gone_on_with_is_had_from_another_upstream_by_a_job() {
    for (body, asked) in [
        (zip(MIB), 1),
        // Not the bytes that clients of the job could have seen: those are cut, and it begins anew.
        (zip(2 * MIB), 2),
    ] {
        let scene = paused_scene();
        let (instance, first, second) = started_on_two(&scene);
        let breaks = Reply::body(zip(MIB)).etag("\"v1\"").broken_at(MIB / 2);
        first.serve(ZIP_PATH, breaks);
        second.serve(ZIP_PATH, Reply::body(body.clone()));
        assert!(instance.read(&key(ZIP_PATH)).await.is_err());
        no_jobs(&scene).await;
        assert_eq!(ran(&instance, "fetch", "done"), 1);
        assert_eq!(ran(&instance, "fetch", "failed"), 0);
        assert!(instance.read(&key(ZIP_PATH)).await.unwrap() == body);
        // The client's request and one of the job.
        assert_eq!(first.fetches(ZIP_PATH), 2);
        assert_eq!(second.fetches(ZIP_PATH), asked);
    }
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn bad_bytes_that_clients_have_begun_to_read_are_not_what_another_upstream_must_agree_with() {
    let scene = paused_scene();
    let (instance, first, second) = started_on_two(&scene);
    let mut bad = zip(MIB).to_vec();
    let in_the_directory = bad.len() - 30;
    bad[in_the_directory] ^= 0xff;
    first.serve(ZIP_PATH, Reply::body(bad));
    second.serve(ZIP_PATH, Reply::body(zip(MIB)));
    assert!(instance.read(&key(ZIP_PATH)).await.is_err());
    no_jobs(&scene).await;
    assert_eq!(ran(&instance, "fetch", "failed"), 0);
    assert_eq!(ran(&instance, "fetch", "done"), 1);
    assert_eq!((first.fetches(ZIP_PATH), second.fetches(ZIP_PATH)), (2, 1));
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn another_upstream_has_time_to_answer_behind_a_long_body() {
    let scene = paused_scene();
    let (instance, first, second) = started_on_two(&scene);
    let gate = Gate::new();
    let breaks = Reply::body(zip(MIB)).held_at(MIB / 4, &gate);
    first.serve_next(ZIP_PATH, Reply::failure());
    first.serve(ZIP_PATH, breaks.broken_at(MIB / 2));
    second.serve(ZIP_PATH, Reply::body(zip(MIB)));
    instance.read(&key(ZIP_PATH)).await.unwrap_err();
    gate.reached(1).await;
    tokio::time::sleep(WarmerConfig::default().first_byte_max * 2).await;
    let broke = Instant::now();
    gate.open();
    no_jobs(&scene).await;
    assert_eq!(ran(&instance, "fetch", "done"), 1);
    let asked = second.requests(ZIP_PATH);
    assert!(asked[0].first_byte_deadline.unwrap() > broke);
}

// acceptance: B16
#[tokio::test(start_paused = true)]
async fn an_upstream_that_serves_other_modules_only_ends_no_job_of_one_in_trouble() {
    let scene = paused_scene();
    let (instance, first, second) = started_on_two(&scene);
    let no = Error::Forbidden {
        text: "not here".to_owned(),
    };
    second.serve(INFO_PATH, Reply::error(no));
    first.serve_next(INFO_PATH, Reply::failure());
    first.serve_next(INFO_PATH, Reply::failure());
    first.serve(INFO_PATH, Reply::body(INFO));
    instance.read(&key(INFO_PATH)).await.unwrap_err();
    until("a run", || ran(&instance, "fetch", "failed") == 1).await;
    // Clients are told what their own list would have told them.
    let told = instance.read(&key(INFO_PATH)).await.unwrap_err();
    assert_eq!(told.to_string(), "upstream fake failed: status 500");
    stored(&scene, INFO_PATH).await;
    no_jobs(&scene).await;
    assert_eq!(ran(&instance, "fetch", "done"), 1);
}
