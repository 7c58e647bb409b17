//! What operators find and forget, over records that a fleet shares.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use lease::testing::{Fault, FaultyRecords, RecordOp};
use lease::{FallbackRecords, LocalRecords, ManualClock, NoValkeyObserver, OnGetError, Records};

use super::*;
use crate::artifact::ArtifactKey;
use crate::error::ErrorKind;
use crate::layout;
use crate::testing::{Reply, Scene};

const INFO_PATH: &str = "example.com/m/@v/v1.0.0.info";
const UNIT: &str = "example.com/m@v1.0.0.info";
const NOT_FOUND: &str = r#"{"kind":"not_found","text":"no such tag"}"#;
const TIMED_OUT: &str = r#"{"kind":"timed_out","text":"too slow","retry_after_ms":2000}"#;

fn key() -> ArtifactKey {
    layout::parse_path(INFO_PATH).unwrap()
}

fn query(class: RememberedClass) -> RememberedQuery {
    RememberedQuery {
        class,
        contains: None,
        after: None,
        limit: 100,
    }
}

async fn write(scene: &Scene, unit: &str, value: &str) {
    let (key, ttl) = (failure_record(unit), Duration::from_secs(60));
    let value = Bytes::copy_from_slice(value.as_bytes());
    scene.records.set(&key, value, ttl).await.unwrap();
}

/// The units of all pages, and how many pages that took.
async fn all(warmer: &Warmer, mut query: RememberedQuery) -> (Vec<String>, usize) {
    let (mut units, mut pages) = (Vec::new(), 0);
    loop {
        let page = warmer.remembered(&query).await.unwrap();
        assert!(page.items.len() <= query.limit.clamp(1, PAGE_LIMIT_MAX));
        pages += 1;
        units.extend(page.items.into_iter().map(|item| item.unit));
        match page.next {
            Some(next) => {
                assert!(query.after.is_none_or(|after| next > after), "no progress");
                query.after = Some(next);
            }
            None => return (units, pages),
        }
    }
}

#[tokio::test]
async fn absences_and_failures_are_told_apart() {
    let scene = Scene::new(Arc::new(ManualClock::new()));
    let instance = scene.instance("a").start();
    write(&scene, "a@v1.info", NOT_FOUND).await;
    write(&scene, "b@v1.info", TIMED_OUT).await;
    write(&scene, "c@v1.zip", r#"{"kind":"gone","text":"retracted"}"#).await;
    let kept = r#"{"kind":"spooled","address":"10.0.0.7:8072","token":"t","len":7}"#;
    write(&scene, "d@v1.zip", kept).await;
    write(&scene, "e@v1.zip", "\u{1}no JSON").await;
    // Another sort of record, whose key is none of ours.
    let ttl = Duration::from_secs(60);
    let other = scene.records.set("document:x", Bytes::new(), ttl);
    other.await.unwrap();

    let warmer = &instance.warmer;
    let (units, _) = all(warmer, query(RememberedClass::Negative)).await;
    assert_eq!(units, ["a@v1.info", "c@v1.zip"]);
    let page = warmer.remembered(&query(RememberedClass::Failure)).await;
    let items = page.unwrap().items;
    let kinds: Vec<_> = items
        .iter()
        .map(|item| (&*item.unit, &*item.kind))
        .collect();
    assert_eq!(
        kinds,
        [
            ("b@v1.info", "timed_out"),
            ("d@v1.zip", "spooled"),
            ("e@v1.zip", "unreadable")
        ]
    );
    assert_eq!(items[0].text, "too slow");
    assert_eq!(items[0].retry_after, Some(Duration::from_secs(2)));
    assert_eq!(items[1].address.as_deref(), Some("10.0.0.7:8072"));
    assert_eq!(items[1].bytes, Some(7));

    let one = warmer.remembered_of("a@v1.info").await.unwrap().unwrap();
    assert_eq!(one.class, RememberedClass::Negative);
    assert_eq!(one.expires_in, Duration::from_secs(60));
    assert_eq!(warmer.remembered_of("z").await.unwrap(), None);
    assert!(warmer.remembered_of("a\nb").await.is_err());
}

#[tokio::test]
async fn no_page_leaves_anything_out() {
    let scene = Scene::new(Arc::new(ManualClock::new()));
    let instance = scene.instance("a").start();
    // One in ten does not exist; one in a thousand has the text.
    for i in 0..6_500 {
        let value = if i % 10 == 0 { NOT_FOUND } else { TIMED_OUT };
        let text = if i % 1_000 == 0 { "rare" } else { "m" };
        write(&scene, &format!("{i:04}/{text}@v1.zip"), value).await;
    }
    for limit in [1, 7, 100, 1_000] {
        let mut wanted = query(RememberedClass::Negative);
        wanted.limit = limit;
        let (units, _) = all(&instance.warmer, wanted.clone()).await;
        assert_eq!(units.len(), 650, "limit {limit}");
        assert!(units.is_sorted());
        wanted.contains = Some("rare".to_owned());
        let (units, pages) = all(&instance.warmer, wanted.clone()).await;
        assert_eq!(units.len(), 7, "limit {limit}");
        assert!(pages >= 2, "a page looked at all of them");
        // A text, not a pattern.
        wanted.contains = Some("r.re".to_owned());
        assert_eq!(all(&instance.warmer, wanted).await.0.len(), 0);
    }
}

// acceptance: A21; fault: 27
#[tokio::test]
async fn what_is_forgotten_is_asked_for_again_on_every_instance() {
    let scene = Scene::new(Arc::new(ManualClock::new()));
    let reply = Reply::not_found(false, "no such tag");
    scene.upstream.serve(INFO_PATH, reply);
    let (a, b) = (scene.instance("a").start(), scene.instance("b").start());
    for instance in [&a, &b, &a, &b] {
        let error = instance.read(&key()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        instance.settled().await;
    }
    assert_eq!(scene.upstream.fetches(INFO_PATH), 1);

    let info = r#"{"Version":"v1.0.0","Time":"2024-02-03T04:05:06Z"}"#;
    scene.upstream.serve(INFO_PATH, Reply::body(info));
    assert!(!b.warmer.forget("example.com/n@v1.0.0.info").await.unwrap());
    assert!(b.warmer.forget("a\nb").await.is_err());
    assert!(
        a.read(&key()).await.is_err(),
        "something else was forgotten"
    );

    assert!(b.warmer.forget(UNIT).await.unwrap());
    assert!(!b.warmer.forget(UNIT).await.unwrap());
    assert_eq!(a.read(&key()).await.unwrap(), info);
    assert_eq!(b.read(&key()).await.unwrap(), info);
    assert_eq!(scene.upstream.fetches(INFO_PATH), 2);
}

#[tokio::test]
async fn what_is_forgotten_is_in_no_copy_of_ours_either() {
    let clock = Arc::new(ManualClock::new());
    let scene = Scene::new(clock.clone());
    scene
        .upstream
        .serve(INFO_PATH, Reply::not_found(false, "no such tag"));
    let shared = Arc::new(FaultyRecords::new(scene.records.clone(), clock.clone()));
    let records = Arc::new(FallbackRecords::new(
        shared.clone(),
        LocalRecords::new(clock.clone()),
        Duration::from_secs(60),
        OnGetError::L1,
        Arc::new(NoValkeyObserver),
        clock,
    ));
    let instance = scene.instance("a").records(records.clone()).start();
    instance.read(&key()).await.unwrap_err();
    instance.settled().await;
    let copy = async || records.local().get(&failure_record(UNIT)).await.unwrap();
    assert!(copy().await.is_some(), "no copy to begin with");
    assert!(instance.warmer.forget(UNIT).await.unwrap());
    assert_eq!(copy().await, None);
    // Nor does it come back while the shared records cannot be read.
    shared.next(RecordOp::Get, 1, Fault::Fails);
    let found = instance.warmer.remembered_of(UNIT).await.unwrap();
    assert_eq!(found, None);
}
