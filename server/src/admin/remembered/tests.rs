//! What an operator's client gets, over the records of one process.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use actix_web::test::TestRequest;
use serde_json::Value;
use storage::{ErrorKind, FailureRecord};

use super::*;
use crate::admin::auth::ACTION_HEADER;
use crate::admin::testing::{Scene, scene};

const UNIT: &str = "example.com/!upper/m@v1.0.0+incompatible.zip";

async fn remember(scene: &Scene, unit: &str, kind: ErrorKind) {
    let record = FailureRecord {
        kind,
        text: "no such tag".to_owned(),
        retry_after_ms: (kind == ErrorKind::Throttled).then_some(2_000),
    };
    let value = serde_json::to_vec(&record).unwrap().into();
    let key = format!("failure:{unit}");
    let records = scene.state.warmer.records();
    records
        .set(&key, value, Duration::from_secs(60))
        .await
        .unwrap();
}

fn post(target: &str, body: Value) -> TestRequest {
    TestRequest::post()
        .uri(target)
        .insert_header((ACTION_HEADER, "1"))
        .set_json(body)
}

async fn units(scene: &Scene, target: &str) -> (String, Value) {
    let (status, page) = scene.get(target).await;
    assert_eq!(status, 200, "{target}: {page}");
    let items = page["items"].as_array().unwrap();
    let units: Vec<_> = items
        .iter()
        .map(|item| item["unit"].as_str().unwrap())
        .collect();
    (units.join(" "), page["next"].clone())
}

#[actix_web::test]
async fn absences_and_failures_are_listed_apart() {
    let scene = scene().await;
    let empty = json!({ "scope": "instance", "items": [], "next": null });
    for target in ["/admin/v1/negatives", "/admin/v1/failures"] {
        assert_eq!(scene.get(target).await, (200, empty.clone()), "{target}");
    }
    remember(&scene, "a@v1.info", ErrorKind::NotFound).await;
    remember(&scene, "b@v1.info", ErrorKind::Gone).await;
    remember(&scene, "c@v1.info", ErrorKind::Throttled).await;
    remember(&scene, UNIT, ErrorKind::TimedOut).await;
    let (first, next) = units(&scene, "/admin/v1/negatives?limit=1").await;
    assert_eq!(first, "a@v1.info");
    let next = next.as_str().unwrap();
    let rest = units(&scene, &format!("/admin/v1/negatives?after={next}")).await;
    assert_eq!(rest, ("b@v1.info".to_owned(), Value::Null));
    let failures = units(&scene, "/admin/v1/failures").await;
    assert_eq!(failures, (format!("c@v1.info {UNIT}"), Value::Null));
    assert_eq!(
        units(&scene, "/admin/v1/failures?filter=upper").await.0,
        UNIT
    );

    let (status, mut one) = scene.get(&format!("/admin/v1/failures/{UNIT}")).await;
    assert_eq!(status, 200, "{one}");
    assert!((1..=60_000).contains(&one["expires_in_ms"].take().as_u64().unwrap()));
    assert_eq!(
        one,
        json!({
            "scope": "instance",
            "unit": UNIT,
            "kind": "timed_out",
            "text": "no such tag",
            "retry_after_ms": null,
            "address": null,
            "bytes": null,
            "expires_in_ms": null,
        })
    );
    let (_, one) = scene.get("/admin/v1/failures/c@v1.info").await;
    assert_eq!(one["retry_after_ms"], 2_000, "{one}");
    for (path, status, part) in [
        ("negatives/z@v1.info", 404, "not remembered"),
        ("failures/z@v1.info", 404, "no failure"),
        ("failures/a@v1.info", 404, "corral negatives"),
        ("negatives/c@v1.info", 404, "corral failures"),
        ("negatives/%FF", 400, "UTF-8"),
        ("failures/a%0Ab", 400, "control"),
        ("failures?after=%00", 400, "control"),
        ("negatives?limit=x", 400, "query"),
    ] {
        let (answered, body) = scene.get(&format!("/admin/v1/{path}")).await;
        assert_eq!(answered, status, "{path}: {body}");
        assert!(
            body["error"].as_str().unwrap().contains(part),
            "{path}: {body}"
        );
    }
}

// acceptance: A21
#[actix_web::test]
async fn an_order_that_fails_forgets_nothing() {
    let scene = scene().await;
    remember(&scene, UNIT, ErrorKind::NotFound).await;
    remember(&scene, "f@v1.zip", ErrorKind::TimedOut).await;
    let item = format!("/admin/v1/negatives/{UNIT}");
    let forget = "/admin/v1/negatives/forget";
    let refused = [
        // Without the header that no page can send.
        (TestRequest::delete().uri(&item), 403),
        (
            TestRequest::post()
                .uri(forget)
                .set_json(json!({ "unit": UNIT })),
            403,
        ),
        // Without saying which.
        (post(forget, json!({})), 400),
        (post(forget, json!({ "filter": "" })), 400),
        (post(forget, json!({ "unit": UNIT, "all": true })), 400),
        (post(forget, json!({ "id": UNIT })), 400),
        (post(forget, json!({ "unit": "a\u{1}" })), 400),
        // Something else, or of the other list.
        (post(forget, json!({ "unit": "z@v1.zip" })), 404),
        (
            post("/admin/v1/failures/forget", json!({ "unit": UNIT })),
            404,
        ),
        (
            post("/admin/v1/failures/forget", json!({ "filter": "!upper" })),
            200,
        ),
        (post(forget, json!({ "filter": "f@v1" })), 200),
    ];
    for (i, (request, status)) in refused.into_iter().enumerate() {
        let (answered, body) = scene.json(request).await;
        assert_eq!(answered, status, "case {i}: {body}");
    }
    assert_eq!(units(&scene, "/admin/v1/negatives").await.0, UNIT);
    assert_eq!(units(&scene, "/admin/v1/failures").await.0, "f@v1.zip");

    let delete = || {
        TestRequest::delete()
            .uri(&item)
            .insert_header((ACTION_HEADER, "1"))
    };
    let answer = scene.json(delete()).await;
    assert_eq!(
        answer,
        (200, json!({ "outcome": "forgotten", "unit": UNIT }))
    );
    assert_eq!(scene.json(delete()).await.0, 404);
    assert_eq!(units(&scene, "/admin/v1/negatives").await.0, "");
}

#[actix_web::test]
async fn many_are_forgotten_at_once() {
    let scene = scene().await;
    for i in 0..1_203 {
        let kind = if i % 3 == 0 {
            ErrorKind::NotFound
        } else {
            ErrorKind::Unreachable
        };
        remember(&scene, &format!("m{i:04}@v1.zip"), kind).await;
    }
    let request = post("/admin/v1/negatives/forget", json!({ "filter": "m00" }));
    let done = json!({ "changed": 34, "skipped": 0, "next": null });
    assert_eq!(scene.json(request).await, (200, done));
    let request = post("/admin/v1/failures/forget", json!({ "all": true }));
    let done = json!({ "changed": 802, "skipped": 0, "next": null });
    assert_eq!(scene.json(request).await, (200, done));
    let request = post(
        "/admin/v1/negatives/forget",
        json!({ "all": true, "after": "m1000" }),
    );
    let done = json!({ "changed": 67, "skipped": 0, "next": null });
    assert_eq!(scene.json(request).await, (200, done));
}
