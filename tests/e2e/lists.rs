//! Version lists: protocol rows L01 to L03.

use e2e::proxy::Corral;
use e2e::upstream::{Answer, FixtureModule, FixtureUpstream, list_path};

use crate::fixtures::{M, V, impatient, upstream};

// protocol: L01
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_passed_on_unchanged() {
    let texts = [
        "v1.0.0\nv1.1.0\n",
        "v1.1.0\nv1.0.0",
        "v1.0.0 2024-01-02T03:04:05Z\nv0.0.0-20191109021931-daa7c04131f5\n",
        "v1.0.0\r\n\nnot a version\nv2.0.0+incompatible\n",
    ];
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    for (i, text) in texts.iter().enumerate() {
        let name = format!("example.com/list{i}");
        upstream.add(&FixtureModule::new(&name).list(text));
        let path = list_path(&name);
        let reply = corral.get(&path).await.expect_body(text.as_bytes());
        assert!(
            reply
                .header("content-type")
                .unwrap_or_default()
                .starts_with("text/plain")
        );
    }
}

// protocol: L02
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_without_tags_has_an_empty_list() {
    let upstream = FixtureUpstream::with([FixtureModule::new(M)]).await;
    let corral = Corral::before(&upstream).await;
    for _ in 0..2 {
        corral.get(&list_path(M)).await.expect_body(b"");
    }
    assert_eq!(upstream.path(&list_path(M)).requests(), 1);
}

// protocol: L03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_does_not_exist_has_no_list() {
    let upstream = FixtureUpstream::start().await;
    let corral = Corral::before(&upstream).await;
    corral.get(&list_path(M)).await.expect_status(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_is_no_list() {
    let upstream = upstream(2000).await;
    let corral = impatient(&upstream).start().await;
    upstream.path(&list_path(M)).next(1, Answer::html());
    let reply = corral.get(&list_path(M)).await;
    assert!(
        (502..=504).contains(&reply.status),
        "{}: {}",
        reply.status,
        reply.text()
    );
    corral
        .get(&list_path(M))
        .await
        .expect_body(format!("{V}\n").as_bytes());
}

// A retracted version is in the list and is served like any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retraction_is_the_clients_business() {
    let retracting = e2e::upstream::FixtureVersion::new("v1.1.0")
        .go_mod("module example.com/m\n\nretract v1.0.0\n");
    let module = FixtureModule::new(M).version(V).with(retracting);
    let upstream = FixtureUpstream::with([module]).await;
    let corral = Corral::before(&upstream).await;
    corral
        .get(&list_path(M))
        .await
        .expect_body(b"v1.0.0\nv1.1.0\n");
    for kind in ["info", "mod", "zip"] {
        let path = crate::fixtures::file(kind);
        corral.get(&path).await.expect_body(&upstream.body(&path));
    }
}
