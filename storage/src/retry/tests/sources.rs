//! Jobs that get it from elsewhere: the list's other upstreams.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::upstream::{
    FetchObserver, GoProxyList, NoFetchObserver, UpstreamConfig, UpstreamIdentity, UpstreamList,
    Via,
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
